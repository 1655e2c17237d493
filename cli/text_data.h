// cli/text_data.h: text and JSONL files as documents, with everything checked that can be wrong with them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare::cli {

struct TextData {
  std::vector<std::string> documents;  // one for plain text; one per line for JSONL
  bool has_unk_marker =
      false;  // "<unk>" occurs: the tokenised variant of WikiText, whose values do not compare
  std::string joined() const;  // documents with an empty line between them
};

// `path` is "-" for stdin. Names ending in .jsonl hold one object per line with a string `text`. A UTF-8 mark
// at the start is dropped. Rules DT01 to DT12: 3 malformed or empty, 4 a compressed or columnar file, 5
// unreadable, 6 a line over the cap.
Result<TextData> read_text_data(const std::string& path);

// Exit 4 (DT08) when the first bytes are those of a compressed or columnar file.
Status refuse_binary(std::string_view bytes, const std::string& path);

}  // namespace pare::cli
