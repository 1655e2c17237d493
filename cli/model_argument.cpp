#include "cli/model_argument.h"

#include "engine/core/log.h"
#include "engine/core/text.h"
#include "engine/models/weight.h"
#include "formats/open_model.h"
#include "formats/tokenizer_files.h"

namespace pare::cli {

Result<std::shared_ptr<const WeightSource>> open_source(const std::string& model,
                                                        const CommonOptions& common) {
  OpenOptions options;
  options.follow_symlinks = common.follow_symlinks;
  options.allow_unindexed = common.allow_unindexed;
  options.strict = common.strict;
  options.weights_only = common.ignore_activation_quant;
  options.weights_file = common.weights;
  return open_model(model, options);
}

Result<std::shared_ptr<const Tokenizer>> load_tokenizer(const WeightSource& source) {
  PARE_TRY(const TokenizerFiles files, tokenizer_files(source));
  return Tokenizer::load(files);
}

void warn_of_missing_rows(const Tokenizer& tokenizer, const ModelConfig& config) {
  if (tokenizer.vocabulary_size() <= config.vocabulary_size) return;
  log_warning("tokenizer has " + format_count(uint64_t(tokenizer.vocabulary_size())) +
              " ids, the embedding " + format_count(uint64_t(config.vocabulary_size)) +
              " rows; text that needs the others is rejected");
}

std::string short_name(const std::string& path) {
  std::string_view name = path;
  while (name.size() > 1 && name.back() == '/') name.remove_suffix(1);
  const size_t slash = name.rfind('/');
  return std::string(slash == std::string_view::npos ? name : name.substr(slash + 1));
}

uint64_t running_bytes(const WeightSource& source) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : source.tensors()) bytes += Weight::planned_bytes(tensor);
  return bytes;
}

uint64_t stored_bytes(const WeightSource& source) {
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : source.tensors()) bytes += tensor.bytes;
  return bytes;
}

}  // namespace pare::cli
