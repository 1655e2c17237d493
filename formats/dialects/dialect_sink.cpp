#include "formats/dialects/dialect_sink.h"

#include <map>
#include <optional>
#include <vector>

#include "engine/core/text.h"
#include "formats/config_edit.h"
#include "formats/dialects/dialect.h"
#include "formats/dialects/manifest_records.h"
#include "formats/dialects/module_names.h"
#include "formats/directory_sink.h"
#include "formats/directory_source.h"
#include "formats/fault.h"
#include "formats/self_check.h"

namespace pare {
namespace {

// What a quantized matrix stood for when it was handed in.
struct Handed {
  std::string name;
  Hash128 values;
  bool transposed = false;
  std::optional<ActivationQuant> activation;
};

class DialectSink : public WeightSink {
 public:
  DialectSink(std::string path, DialectPlan plan) : path_(std::move(path)), plan_(std::move(plan)) {}

  Status open(const CreateOptions& options) {
    CreateOptions inner = options;
    inner.config_text = with_member(options.config_text, "quantization_config", plan_.settings.dump(2));
    inner.made_files = plan_.files;
    PARE_TRY(inner_,
             create_directory(path_, inner, [this](const std::string& folder) { return check(folder); }));
    return {};
  }

  Status put(std::string_view name, const WeightData& weight) override {
    if (weight.is_sparse() && weight.sparse()->has_codes()) {
      PARE_CHECK(weight.validate(path_, name));
      PARE_TRY(const QuantizedTensor whole, weight.sparse()->to_quantized(path_, name));
      return put_codes(name, whole, weight.transposed);
    }
    if (!weight.is_quantized()) return inner_->put(name, weight);
    return put_codes(name, *weight.quantized(), weight.transposed);
  }

  Status put_codes(std::string_view name, const QuantizedTensor& tensor, bool is_transposed) {
    PARE_CHECK(tensor.validate(path_, name));
    PARE_CHECK(check_dequantized_finite(tensor, name, path_));
    PARE_TRY(const NamedTensors parts, plan_.encode(module_of(name), tensor));
    for (const auto& [part, values] : parts) PARE_CHECK(inner_->put(part, WeightData{.form = values}));
    first_parts_[std::string(name)] = parts.front().first;
    handed_.push_back({std::string(name), dequantized_sum(tensor), is_transposed, tensor.activation});
    return {};
  }

  Status finish(const Manifest& manifest) override {
    return inner_->finish(records_of_parts(manifest, first_parts_));
  }
  uint64_t bytes_written() const override { return inner_->bytes_written(); }

 private:
  // Before anything appears under the final name: read as a foreign model, every matrix has the values it was
  // handed in with.
  Status check(const std::string& folder) const {
    PARE_TRY(const auto source, open_directory(path_, folder, {}));
    for (const Handed& handed : handed_) {
      PARE_TRY(const WeightData found, source->load(handed.name));
      const bool equal = found.is_quantized() && found.transposed == handed.transposed &&
                         found.quantized()->activation == handed.activation &&
                         dequantized_sum(*found.quantized()) == handed.values;
      source->release(handed.name);
      if (equal) continue;
      return fault(Exit::numeric, "NU12", path_, quote(handed.name),
                   "self-check: re-opened matrix differs from what was handed in");
    }
    return {};
  }

  std::string path_;
  DialectPlan plan_;
  std::unique_ptr<WeightSink> inner_;
  std::vector<Handed> handed_;
  std::map<std::string, std::string> first_parts_;
};

}  // namespace

Result<std::unique_ptr<WeightSink>> create_dialect_sink(const std::string& path, const CreateOptions& options,
                                                        DialectPlan plan) {
  auto sink = std::make_unique<DialectSink>(path, std::move(plan));
  PARE_CHECK(sink->open(options));
  return std::unique_ptr<WeightSink>(std::move(sink));
}

}  // namespace pare
