#include "bench/model_case.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "engine/tokenizer/tokenizer.h"
#include "evaluate/evaluate.h"
#include "formats/open_model.h"
#include "formats/tokenizer_files.h"

namespace pare::bench {

namespace {
std::function<void(const std::string&)>& give_up_listener() {
  static std::function<void(const std::string&)> listener;
  return listener;
}
}  // namespace

void on_give_up(std::function<void(const std::string&)> listener) {
  give_up_listener() = std::move(listener);
}

void give_up(const Error& error) {
  if (give_up_listener()) give_up_listener()(format_error(error));
  const std::string line = format_error(error) + "\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
  std::exit(int(error.exit));
}

std::string base_name(const std::string& path) {
  std::string_view name = path;
  while (name.size() > 1 && name.back() == '/') name.remove_suffix(1);
  return std::string(name.substr(name.rfind('/') + 1));
}

std::string stem(const std::string& path) {
  std::string name = base_name(path);
  name.resize(std::min(name.size(), name.rfind('.')));
  return name;
}

std::string weights_name(const WeightSource& source) {
  const auto& tensors = source.tensors();
  const auto largest = std::ranges::max_element(tensors, {}, [](const StoredTensor& t) {
    return t.name.find("embed") == std::string::npos ? t.bytes : 0;
  });
  if (largest == tensors.end()) return "empty";
  if (largest->scheme) return largest->scheme->text();
  std::string name(dtype_name(largest->dtype));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
  return name;
}

std::shared_ptr<const WeightSource> open_source(const std::string& model, bool verify_checksums) {
  OpenOptions options;
  options.verify_checksums = verify_checksums;
  return require(open_model(model, options));
}

std::unique_ptr<Model> load_model(std::shared_ptr<const WeightSource> source, Device device) {
  std::unique_ptr<Model> model = require(Model::open(std::move(source), device));
  require(model->load_all());
  return model;
}

std::vector<int32_t> token_ids(const WeightSource& source, const std::string& text_path) {
  const auto tokenizer = require(Tokenizer::load(require(tokenizer_files(source))));
  const std::string text = require(read_text_file(text_path, limits::kTextLineBytes));
  return require(tokenizer->encode(text));
}

double bytes_per_token(const Model& model) {
  double bytes = 0.0;
  for (const TensorSpec& spec : model.description().tensors) {
    if (spec.role == Role::positions || (spec.role == Role::embedding && !model.config().tied_head)) continue;
    if (const StoredTensor* stored = model.source().find(spec.name)) bytes += double(stored->bytes);
  }
  return bytes;
}

double operations(const Model& model, const Batch& batch) {
  const ModelConfig& config = model.config();
  const auto tokens = double(batch.tokens()), length = double(batch.tokens_per_sequence);
  double weights = double(config.vocabulary_size) * double(config.hidden_size), attention = 0.0;
  for (const TensorSpec& spec : model.description().tensors)
    if (spec.is_linear) weights += double(spec.out()) * double(spec.in());
  for (const BlockConfig& block : config.blocks) attention += double(block.heads) * double(block.head_dim);
  return 2.0 * weights * tokens + 2.0 * length * attention * tokens;
}

double logits_error(Model& model, std::span<const int32_t> ids) {
  Tensor batch = require(Tensor::allocate(DType::i32, {1, int64_t(ids.size())}));
  std::ranges::copy(ids, batch.mutable_data<int32_t>());
  const std::shared_ptr<const WeightSource> source(std::shared_ptr<const WeightSource>(), &model.source());
  const auto exact_model = load_model(source, Device::reference());
  const Tensor exact = require(all_logits(*exact_model, batch, {}));
  const Tensor ours = require(all_logits(model, batch, {}));
  double difference = 0.0, largest = 0.0;
  for (int64_t i = 0; i < exact.numel(); ++i) {
    const double value = double(exact.data<float>()[i]);
    largest = std::max(largest, std::fabs(value));
    difference = std::max(difference, std::fabs(double(ours.data<float>()[i]) - value));
  }
  return difference / (1e-4 * largest);
}

}  // namespace pare::bench
