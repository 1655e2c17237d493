#include "cli/calibration_data.h"

#include <fmt/core.h>

#include <algorithm>

#include "cli/conversation.h"
#include "cli/line_reader.h"
#include "cli/model_argument.h"
#include "cli/text_data.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tokenizer/token_windows.h"
#include "formats/safetensors.h"

namespace pare::cli {
namespace {

Error data_error(Exit exit, const char* rule, const std::string& path, std::string where, std::string what,
                 std::string got = {}, std::string limit = {}, const char* label = "limit") {
  return Error{exit, rule, path, std::move(where), std::move(what), std::move(got), std::move(limit), label};
}

// Documents as they are read, encoded some at a time.
class StreamBuilder {
 public:
  StreamBuilder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // `is_rendered`: from a chat template, so its special tokens count and it frames itself.
  Status add(std::string text, bool is_rendered, const std::string& where) {
    bytes_ += text.size();
    pending_.push_back({std::move(text), where, is_rendered});
    constexpr size_t kDocumentsAtOnce = 1024, kBytesAtOnce = 16 << 20;
    return pending_.size() >= kDocumentsAtOnce || bytes_ >= kBytesAtOnce ? flush() : Status();
  }

  Status flush() {
    std::vector<std::vector<int32_t>> encoded(pending_.size());
    std::vector<std::optional<Error>> errors(pending_.size());
    const auto encode = [&](int64_t item) {
      const Document& document = pending_[size_t(item)];
      auto ids =
          tokenizer_.encode(document.text, {.add_special = false, .parse_special = document.is_rendered});
      if (ids) {
        encoded[size_t(item)] = *std::move(ids);
      } else {
        errors[size_t(item)] = ids.error();
      }
    };
    // A single long text is cut up by the tokenizer itself.
    if (pending_.size() == 1) {
      encode(0);
    } else {
      parallel_for(int64_t(pending_.size()), encode);
    }
    for (size_t i = 0; i < pending_.size(); ++i) {
      if (errors[i]) {
        if (!pending_[i].where.empty()) errors[i]->where = pending_[i].where + ": " + errors[i]->where;
        return *std::move(errors[i]);
      }
      append(pending_[i], encoded[i]);
    }
    pending_.clear();
    bytes_ = 0;
    return {};
  }

  int64_t documents() const { return documents_; }
  bool has_rendered() const { return has_rendered_; }

  TokenStream finish() {
    TokenStream stream;
    stream.ids = std::move(ids_);
    stream.token_hash = token_hash(stream.ids);
    stream.text_hash = text_sha_.hex();
    stream.documents = documents_;
    stream.document_starts = std::move(starts_);
    return stream;
  }

 private:
  struct Document {
    std::string text, where;
    bool is_rendered;
  };

  void append(const Document& document, const std::vector<int32_t>& ids) {
    std::array<std::byte, 8> length;
    for (size_t i = 0; i < length.size(); ++i)
      length[i] = std::byte(uint64_t(document.text.size()) >> (8 * i));
    text_sha_.update(length);
    text_sha_.update(std::as_bytes(std::span(document.text.data(), document.text.size())));
    const auto separator = tokenizer_.eos_id();
    const bool frames_itself = document.is_rendered || last_rendered_;
    if (documents_ > 0 && separator && !frames_itself && !(!ids_.empty() && ids_.back() == *separator)) {
      ids_.push_back(*separator);
    }
    starts_.push_back(int64_t(ids_.size()));
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    last_rendered_ = document.is_rendered;
    has_rendered_ = has_rendered_ || document.is_rendered;
    ++documents_;
  }

  const Tokenizer& tokenizer_;
  std::vector<Document> pending_;
  size_t bytes_ = 0;
  std::vector<int32_t> ids_;
  std::vector<int64_t> starts_;  // of documents
  Sha256 text_sha_;
  int64_t documents_ = 0;
  bool last_rendered_ = false, has_rendered_ = false;
};

// One record per line; only the tokens are kept.
Status read_records(const CalibrationDataOptions& options, const WeightSource& source,
                    const Tokenizer& tokenizer, StreamBuilder& builder) {
  PARE_TRY(LineReader reader, LineReader::open(options.path));
  std::optional<Conversation> conversation;
  for (std::string line;;) {
    PARE_TRY(const bool more, reader.next(line));
    if (!more) break;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}", reader.number());
    auto record = parse_json(line, options.path, {.max_bytes = limits::kTextLineBytes}, "DT02");
    if (!record) {
      record.error().where = where + ":" + record.error().where;
      return record.error();
    }
    if (const Json* text = record->find("text"); text != nullptr && text->is_string()) {
      if (text->as_string().find('\0') != std::string::npos) {
        return data_error(Exit::malformed, "DT04", options.path, where + ":text", "NUL byte in text");
      }
      PARE_CHECK(builder.add(text->as_string(), false, where));
      continue;
    }
    if (record->find("messages") == nullptr) {
      const Json* text = record->find("text");
      return data_error(Exit::malformed, "DT03", options.path, where + ":text",
                        text == nullptr ? "neither text nor messages" : "not a string",
                        text == nullptr ? "" : text->kind_name());
    }
    if (!conversation) {
      PARE_TRY(conversation, Conversation::open(source, tokenizer,
                                                {options.chat_template, options.now, options.parse_special}));
    }
    PARE_TRY(std::string text, conversation->render(*record, options.path, where));
    PARE_CHECK(builder.add(std::move(text), true, where));
  }
  PARE_CHECK(builder.flush());
  if (builder.documents() > 0) return {};
  return data_error(Exit::malformed, "DT01", options.path, {}, "no usable text", "0 samples");
}

Error too_few(const CalibrationDataOptions& options, std::string what, int64_t got, int64_t need) {
  return data_error(Exit::malformed, "DT07", options.path, "tokens", std::move(what), fmt::format("{}", got),
                    fmt::format("{}", need), "need");
}

Result<int32_t> window_bos(const CalibrationDataOptions& options, const Tokenizer& tokenizer) {
  const bool wanted = options.bos == "always" || (options.bos == "auto" && tokenizer.adds_bos());
  if (!wanted) return -1;
  if (tokenizer.bos_id()) return *tokenizer.bos_id();
  return data_error(Exit::usage, "CL13", "--bos", {}, "this model has no BOS token");
}

// Random windows of the stream, BOS in front where it belongs.
Result<CalibrationData> cut(const CalibrationDataOptions& options, TokenStream stream, int64_t context,
                            int32_t bos) {
  CalibrationData data;
  data.stream_tokens = int64_t(stream.ids.size());
  data.documents = stream.documents;
  data.has_bos = bos >= 0;
  CalibrationWindows& windows = data.windows;
  windows.context = context;
  windows.token_hash = stream.token_hash;
  windows.text_hash = stream.text_hash;
  const std::vector<TokenWindow> drawn =
      random_windows(data.stream_tokens, context, options.samples, options.seed);
  if (drawn.empty()) {
    return too_few(options, "fewer than one window; lower --context", data.stream_tokens, context);
  }
  if (data.stream_tokens < options.samples * context) {
    log_warning(fmt::format("{} windows of {} tokens are drawn from {} tokens: they overlap", options.samples,
                            context, format_count(uint64_t(data.stream_tokens))));
  }
  for (const TokenWindow& window : drawn) {
    const std::vector<int32_t> ids = window_ids(stream, window, bos >= 0 ? std::optional(bos) : std::nullopt);
    windows.ids.insert(windows.ids.end(), ids.begin(), ids.end());
  }
  windows.samples = int64_t(drawn.size());
  return data;
}

Result<std::vector<int32_t>> checked_ids(const Tensor& tensor, const ModelConfig& config,
                                         const std::string& path) {
  std::vector<int32_t> ids;
  ids.reserve(size_t(tensor.numel()));
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    const int64_t id = tensor.dtype() == DType::i64 ? tensor.data<int64_t>()[i] : tensor.data<int32_t>()[i];
    if (id < 0 || id >= config.vocabulary_size) {
      return data_error(Exit::malformed, "DT14", path, fmt::format("\"input_ids\"[{}]", i),
                        "not a token of this model", fmt::format("{}", id),
                        fmt::format("{}", config.vocabulary_size - 1));
    }
    ids.push_back(int32_t(id));
  }
  return ids;
}

// Padding would enter every statistic.
Status refuse_padding(const SafetensorsFile& file) {
  if (file.find("attention_mask") == nullptr) return {};
  PARE_TRY(const Tensor mask, file.load("attention_mask"));
  const std::span<const std::byte> bytes(mask.raw(), mask.size_bytes());
  const int64_t width = std::max<int64_t>(dtype_bytes(mask.dtype()), 1);
  for (int64_t i = 0; i < mask.numel(); ++i) {
    const auto one = bytes.subspan(size_t(i * width), size_t(width));
    if (std::any_of(one.begin(), one.end(), [](std::byte b) { return b != std::byte(0); })) continue;
    return data_error(Exit::unsupported, "DT15", file.path(), fmt::format("\"attention_mask\"[{}]", i),
                      "padded tokens are not supported; give rows of equal length");
  }
  return {};
}

// The ids of a token file as they stand, and its shape.
struct TokenFile {
  TokenStream stream;
  int64_t rows = -1, length = 0;  // rows -1: one stream
  int32_t bos = -1;
};

Result<TokenFile> read_token_file(const CalibrationDataOptions& options, const WeightSource& source,
                                  const ModelConfig& config) {
  PARE_TRY(const auto file, SafetensorsFile::open(options.path));
  PARE_TRY(const Tensor tensor, file->load("input_ids"));
  const int rank = tensor.shape().rank();
  if ((tensor.dtype() != DType::i32 && tensor.dtype() != DType::i64) || rank < 1 || rank > 2) {
    return data_error(Exit::malformed, "DT14", options.path, "\"input_ids\"", "wrong type or shape",
                      fmt::format("{} {}", dtype_name(tensor.dtype()), tensor.shape().text()),
                      "I32 or I64, [tokens] or [rows, tokens]", "expected");
  }
  PARE_CHECK(refuse_padding(*file));
  TokenFile tokens;
  TokenStream& stream = tokens.stream;
  PARE_TRY(stream.ids, checked_ids(tensor, config, options.path));
  stream.token_hash = token_hash(stream.ids);
  stream.text_hash = stream.token_hash;  // there is no text
  stream.documents = rank == 1 ? 1 : tensor.size(0);
  if (rank == 2) {
    tokens.rows = tensor.size(0);
    tokens.length = tensor.size(1);
  }
  if (options.bos == "always") {
    PARE_TRY(const auto tokenizer, load_tokenizer(source));
    PARE_TRY(tokens.bos, window_bos(options, *tokenizer));
  }
  return tokens;
}

Result<CalibrationData> read_tokens(const CalibrationDataOptions& options, const WeightSource& source,
                                    const ModelConfig& config) {
  PARE_TRY(TokenFile tokens, read_token_file(options, source, config));
  const TokenStream& stream = tokens.stream;
  const int32_t bos = tokens.bos;
  if (tokens.rows < 0) {
    return cut(options, std::move(tokens.stream),
               options.context > 0 ? options.context : default_context(config), bos);
  }
  // Rows are windows already, from the first on.
  const int64_t rows = tokens.rows, length = tokens.length;
  const int64_t context = options.context > 0 ? options.context : std::min(length, default_context(config));
  if (rows < options.samples) return too_few(options, "fewer rows than --samples", rows, options.samples);
  if (length < context || context == 0)
    return too_few(options, "rows are shorter than --context", length, std::max<int64_t>(context, 1));
  CalibrationData data;
  data.stream_tokens = int64_t(stream.ids.size());
  data.documents = rows;
  data.has_bos = bos >= 0;
  data.windows.samples = options.samples;
  data.windows.context = context;
  data.windows.token_hash = stream.token_hash;
  data.windows.text_hash = stream.text_hash;
  for (int64_t row = 0; row < options.samples; ++row) {
    const std::vector<int32_t> ids =
        window_ids(stream, {row * length, context}, bos >= 0 ? std::optional(bos) : std::nullopt);
    data.windows.ids.insert(data.windows.ids.end(), ids.begin(), ids.end());
  }
  return data;
}

// Text and records as one stream, and its kind.
Result<DataStream> read_texts(const CalibrationDataOptions& options, const WeightSource& source) {
  PARE_TRY(const auto tokenizer, load_tokenizer(source));
  DataStream data;
  PARE_TRY(data.bos, window_bos(options, *tokenizer));
  StreamBuilder builder(*tokenizer);
  const bool is_records = options.path.ends_with(".jsonl");
  if (is_records) {
    PARE_CHECK(read_records(options, source, *tokenizer, builder));
  } else {
    // One document: tokens may reach over line ends, so it cannot be cut at them.
    PARE_TRY(TextData text, read_text_data(options.path));
    for (std::string& document : text.documents) PARE_CHECK(builder.add(std::move(document), false, {}));
    PARE_CHECK(builder.flush());
  }
  data.kind = builder.has_rendered() ? "messages" : is_records ? "jsonl" : "text";
  data.stream = builder.finish();
  return data;
}

Status refuse_raw_tokens(const CalibrationDataOptions& options) {
  if (!options.path.ends_with(".bin") && !options.path.ends_with(".npy")) return {};
  return data_error(Exit::unsupported, "DT08", options.path, {},
                    "raw token files do not say their type; write safetensors with input_ids (I32 or I64)",
                    options.path.substr(options.path.rfind('.')));
}

}  // namespace

Result<int32_t> window_bos_of(const CalibrationDataOptions& options, const WeightSource& source) {
  PARE_TRY(const auto tokenizer, load_tokenizer(source));
  return window_bos(options, *tokenizer);
}

int64_t default_context(const ModelConfig& config) {
  constexpr int64_t kDefault = 2048;
  return config.max_positions > 0 ? std::min(kDefault, config.max_positions) : kDefault;
}

Result<CalibrationData> load_calibration_data(const CalibrationDataOptions& options,
                                              const WeightSource& source, const ModelConfig& config) {
  if (options.path.ends_with(".safetensors")) {
    PARE_TRY(CalibrationData data, read_tokens(options, source, config));
    data.kind = "tokens";
    return data;
  }
  PARE_CHECK(refuse_raw_tokens(options));
  PARE_TRY(DataStream texts, read_texts(options, source));
  const int64_t context = options.context > 0 ? options.context : default_context(config);
  PARE_TRY(CalibrationData data, cut(options, std::move(texts.stream), context, texts.bos));
  data.kind = texts.kind;
  return data;
}

Result<DataStream> load_data_stream(const CalibrationDataOptions& options, const WeightSource& source,
                                    const ModelConfig& config) {
  if (!options.path.ends_with(".safetensors")) {
    PARE_CHECK(refuse_raw_tokens(options));
    return read_texts(options, source);
  }
  PARE_TRY(TokenFile tokens, read_token_file(options, source, config));
  DataStream data{.stream = std::move(tokens.stream), .kind = "tokens", .bos = tokens.bos};
  for (int64_t row = 0; row < tokens.rows; ++row) data.stream.document_starts.push_back(row * tokens.length);
  return data;
}

Json CalibrationData::to_json() const {
  Json json = Json::object();
  json["kind"] = kind;
  json["documents"] = Json(documents);
  json["stream_tokens"] = Json(stream_tokens);
  json["samples"] = Json(windows.samples);
  json["context"] = Json(windows.context);
  json["bos"] = Json(has_bos);
  json["token_hash"] = windows.token_hash;
  json["text_hash"] = windows.text_hash;
  return json;
}

WindowRange part_range(int64_t samples, int64_t part, int64_t parts) {
  return {samples * part / parts, samples * (part + 1) / parts};
}

CalibrationWindows windows_of(const CalibrationWindows& all, const WindowRange& range) {
  CalibrationWindows part = all;
  part.samples = range.end - range.begin;
  part.ids.assign(all.ids.begin() + range.begin * all.context, all.ids.begin() + range.end * all.context);
  return part;
}

}  // namespace pare::cli
