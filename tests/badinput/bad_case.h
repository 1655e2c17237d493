// tests/badinput/bad_case.h: one row of docs/bad-input.md as a value: how to make the files, and what must
// come of it. Areas add a list of cases and a line in badinput_test.cpp.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/error.h"
#include "formats/open_model.h"

namespace pare::test {

struct BadCase {
  std::string id;    // "ST19", the row
  std::string name;  // which of the row's inputs
  // Makes the files in an empty folder; returns the path that is used.
  std::function<std::string(const std::string& folder)> make;
  Exit exit = Exit::malformed;           // Exit::ok: the input must be accepted
  std::vector<std::string> words;        // terms that the error line must contain
  std::optional<std::string> rule = {};  // rule of the error when it is not `id`
  OpenOptions options = {};
  // What is done with the input; empty: open_model and load every tensor.
  std::function<std::optional<Error>(const std::string& path)> use = {};
};

std::vector<BadCase> safetensors_cases();  // ST
std::vector<BadCase> index_cases();        // IX
std::vector<BadCase> config_cases();       // CF01 to CF03, CF15, TK18
std::vector<BadCase> container_cases();    // PK
std::vector<BadCase> refused_cases();      // RF
std::vector<BadCase> gguf_cases();         // GG

// --- files
// --------------------------------------------------------------------------------------------------------------

// 8 bytes of length, the header, the data.
std::string safetensors_bytes(const std::string& header, const std::string& data);
// One f32 tensor "w" of two elements.
std::string good_safetensors();
// A folder with config.json and whatever `files` holds; returns its path.
std::string model_folder(const std::string& folder,
                         const std::vector<std::pair<std::string, std::string>>& files);

}  // namespace pare::test
