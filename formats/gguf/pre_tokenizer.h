// formats/gguf/pre_tokenizer.h: the names of tokenizer.ggml.pre and what they mean in a tokenizer.json;
// internal to formats.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "engine/core/json.h"

namespace pare {

struct PreTokenizerRow {
  std::string_view name;  // "llama-bpe"
  bool ignore_merges;     // a piece that is a token is that token
  bool adds_bos;          // unless tokenizer.ggml.add_bos_token says otherwise
  bool is_nfc;            // the published tokenizers normalise; files of this kind do not say so
};

// nullptr: unknown, never replaced by a default (GG37). Other names of the same rule are accepted.
const PreTokenizerRow* find_pre_tokenizer(std::string_view name);

// "pre_tokenizer" of tokenizer.json for a row of the table.
Json pre_tokenizer_json(const PreTokenizerRow& row);

// The row that a tokenizer.json stands for; nullptr when it is none of them. `root`: the whole document.
const PreTokenizerRow* recognise_pre_tokenizer(const Json& root);

// "gpt-2, llama-bpe, ..." for messages.
std::string known_pre_tokenizers();

}  // namespace pare
