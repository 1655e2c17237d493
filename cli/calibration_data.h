// cli/calibration_data.h: from --data to equally long windows of tokens.
//
//   text       one document (a .txt or any other name)
//   JSONL      one record per line: `text`, or `messages`, rendered by the model's chat template
//   tokens     safetensors with `input_ids`, I32 or I64: [rows, tokens] gives its rows, [tokens] is a stream
//
// Documents are tokenised one by one and joined with the end-of-text token; windows are cut at offsets drawn
// from the seed. Every window begins with BOS where the tokenizer adds one. Rendered conversations bring
// their own special tokens and are joined as they are.
#pragma once

#include <optional>
#include <string>

#include "calibrate/block_pipeline.h"
#include "engine/core/json.h"
#include "engine/models/weight_source.h"
#include "engine/tokenizer/token_windows.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare::cli {

struct CalibrationDataOptions {
  std::string path{};  // "-": stdin, as text
  int64_t samples = 128;
  int64_t context = 0;  // 0: 2048, or what the model takes
  uint64_t seed = 0;
  std::string bos =
      "auto";  // auto: where the tokenizer adds it; always; never. Token files: never unless always
  std::string chat_template = "default";
  std::optional<std::string> now{};  // for templates that ask for the date
  bool parse_special = false;        // messages may hold the text of special tokens
};

struct CalibrationData {
  CalibrationWindows windows;
  std::string kind;           // "text", "jsonl", "messages", "tokens"
  int64_t stream_tokens = 0;  // that windows were cut from
  int64_t documents = 0;
  bool has_bos = false;  // windows begin with BOS
  Json to_json() const;  // for manifests: hashes, counts, rules; no paths
};

// Errors: DT01 to DT12 and DT07 (3) too few tokens, 4 (CT15) messages without a template, CT02 to CT14 of the
// template with the line of the record, CT10 (3) a special token within a message, DT14 (3) ids outside the
// vocabulary, 4 (DT08) raw token files.
Result<CalibrationData> load_calibration_data(const CalibrationDataOptions& options,
                                              const WeightSource& source, const ModelConfig& config);

// All of it as one stream, for training: documents one after another, the rows of a token file as documents.
struct DataStream {
  TokenStream stream;
  std::string kind;  // as above
  int32_t bos = -1;  // that windows shall begin with; -1: none
};
// options.samples, context and seed have no part. Errors as above.
Result<DataStream> load_data_stream(const CalibrationDataOptions& options, const WeightSource& source,
                                    const ModelConfig& config);

// The BOS of windows of a text by options.bos, -1: none. Exit 2 (CL13) when it is wanted and the model has
// none.
Result<int32_t> window_bos_of(const CalibrationDataOptions& options, const WeightSource& source);

// 2048, or what the model takes if that is less.
int64_t default_context(const ModelConfig& config);

// Windows [samples * part / parts, samples * (part + 1) / parts) of all.
WindowRange part_range(int64_t samples, int64_t part, int64_t parts);
CalibrationWindows windows_of(const CalibrationWindows& all, const WindowRange& range);

}  // namespace pare::cli
