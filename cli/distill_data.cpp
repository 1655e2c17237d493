#include "cli/distill_data.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cli/calibration_data.h"
#include "cli/model_argument.h"
#include "distill/token_cache.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"

namespace pare::cli {
namespace {

struct LoadedFile {
  TrainingStream stream;
  int32_t bos = -1;
};

// What decides the ids of a text beside the text: the tokenizer and, for conversations, the template.
Hash128 tokenizer_hash(const WeightSource& source) {
  Xxh3Stream hash;
  for (const Asset& asset : source.assets()) {
    const bool decides = asset.name.find("token") != std::string::npos ||
                         asset.name.find("chat_template") != std::string::npos ||
                         asset.name.find("vocab") != std::string::npos || asset.name == "merges.txt";
    if (!decides) continue;
    hash.update(std::as_bytes(std::span(asset.name)));
    hash.update(std::as_bytes(std::span(asset.bytes)));
  }
  return hash.digest();
}

Result<Hash128> file_hash(const std::string& path) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  PARE_TRY(const auto mapped, MappedFile::map(file));
  return xxh3_128(mapped->bytes());
}

Result<LoadedFile> load_file(const DistillArguments& arguments, const WeightedFile& file,
                             const WeightSource& source, const ModelConfig& config) {
  const CalibrationDataOptions options{.path = file.path,
                                       .bos = arguments.bos,
                                       .chat_template = arguments.chat_template,
                                       .parse_special = arguments.parse_special};
  LoadedFile loaded;
  loaded.stream.name = file.path;
  loaded.stream.weight = file.weight;
  const auto make = [&]() -> Result<TokenStream> {
    PARE_TRY(DataStream data, load_data_stream(options, source, config));
    loaded.bos = data.bos;
    return std::move(data.stream);
  };
  const bool is_text = !file.path.ends_with(".safetensors");
  if (arguments.token_cache.empty() || !is_text) {
    PARE_TRY(TokenStream stream, make());
    loaded.stream.tokens = std::make_shared<const TokenStream>(std::move(stream));
    return loaded;
  }
  TokenCacheKey key;
  PARE_TRY(key.text, file_hash(file.path));
  key.tokenizer = tokenizer_hash(source);
  key.rules = fmt::format("documents separated, records={} special={} template={}",
                          file.path.ends_with(".jsonl") ? 1 : 0, arguments.parse_special ? 1 : 0,
                          arguments.chat_template);
  PARE_TRY(TokenStream stream, cached_tokens(arguments.token_cache, key, OnBadCache::remake, make));
  loaded.stream.tokens = std::make_shared<const TokenStream>(std::move(stream));
  // Of windows, not of the stream; a stream from its cache has not asked.
  PARE_TRY(loaded.bos, window_bos_of(options, source));
  return loaded;
}

// The beginning of a stream; a cache of a teacher then holds no more than what is trained on.
void cut(TrainingStream& stream, int64_t tokens) {
  if (int64_t(stream.tokens->ids.size()) <= tokens) return;
  TokenStream shorter = *stream.tokens;
  shorter.ids.resize(size_t(tokens));
  std::erase_if(shorter.document_starts, [&](int64_t start) { return start >= tokens; });
  shorter.token_hash = token_hash(shorter.ids);
  stream.tokens = std::make_shared<const TokenStream>(std::move(shorter));
}

// The first windows of a part, for the damage report.
Result<CalibrationWindows> report_windows(const TrainingData& data, int64_t windows) {
  CalibrationWindows report;
  report.context = data.context();
  report.samples = windows;
  PARE_TRY(const TrainingBatch batch, data.batch(0, windows));
  const int32_t* ids = batch.ids.data<int32_t>();
  report.ids.assign(ids, ids + batch.tokens);
  return report;
}

}  // namespace

Result<DistillData> load_distill_data(const DistillArguments& arguments, const WeightSource& source,
                                      const ModelConfig& config, uint64_t seed) {
  std::vector<TrainingStream> streams;
  int32_t bos = -1;
  for (const std::string& text : arguments.files) {
    PARE_TRY(const WeightedFile file, parse_weighted_file(text));
    PARE_TRY(LoadedFile loaded, load_file(arguments, file, source, config));
    if (!streams.empty() && loaded.bos != bos)
      return contradiction(
          "--data", "token files begin without BOS, texts with it; say --bos always or never", file.path);
    bos = loaded.bos;
    if (arguments.max_tokens) cut(loaded.stream, *arguments.max_tokens);
    streams.push_back(std::move(loaded.stream));
  }
  TrainingDataOptions options{.context = arguments.context > 0 ? arguments.context : default_context(config),
                              .seed = seed,
                              .shuffle = !arguments.no_shuffle,
                              .mask_document_starts = arguments.mask_document_starts,
                              .bos_id = bos,
                              .held_out_share = arguments.validate.empty() ? arguments.validation_share : 0.0,
                              .vocabulary = config.vocabulary_size};
  DistillData data;
  PARE_TRY(TrainingData training, TrainingData::create(streams, options));
  data.training = std::make_shared<TrainingData>(std::move(training));
  data.description = data.training->to_json();
  if (!arguments.validate.empty()) {
    const WeightedFile file{.path = arguments.validate};
    PARE_TRY(LoadedFile loaded, load_file(arguments, file, source, config));
    TrainingDataOptions whole = options;
    whole.shuffle = false;
    whole.bos_id = loaded.bos;
    PARE_TRY(data.validation, TrainingData::create({std::move(loaded.stream)}, whole, DataPart::all));
    data.description["validation"] = data.validation->to_json();
  } else if (options.held_out_share > 0.0) {
    PARE_TRY(data.validation, TrainingData::create(streams, options, DataPart::held_out));
    data.validation_is_held_out = true;
  }
  if (data.validation) {
    const int64_t wanted = std::max<int64_t>(1, arguments.validation_tokens / options.context);
    data.validation_windows = std::min(wanted, data.validation->windows());
    data.description["validation_windows"] = data.validation_windows;
  }
  data.report.context = options.context;
  data.report.samples = 0;
  if (arguments.no_report || !arguments.report_data.empty()) return data;
  const int64_t wanted = std::max<int64_t>(1, arguments.report_tokens / options.context);
  if (data.validation) {
    PARE_TRY(data.report, report_windows(*data.validation, std::min(wanted, data.validation->windows())));
    data.report_source =
        data.validation_is_held_out ? "held-out part of the data" : short_name(arguments.validate);
    return data;
  }
  PARE_TRY(data.report, report_windows(*data.training, std::min(wanted, data.training->windows())));
  data.report_source = "training data";
  return data;
}

}  // namespace pare::cli
