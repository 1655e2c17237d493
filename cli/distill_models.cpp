#include "cli/distill_models.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

#include "calibrate/input_check.h"
#include "cli/model_argument.h"
#include "distill/fresh_source.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// A matrix with this share of zeros was pruned; a few zeros are chance.
constexpr double kPrunedShare = 0.01;

Result<std::shared_ptr<const WeightSource>> open_fresh(const std::string& path, const WeightSource& teacher,
                                                       uint64_t seed) {
  PARE_TRY(std::string text, read_text_file(path, limits::kConfigBytes));
  std::vector<Asset> assets;
  for (const Asset& asset : teacher.assets()) {
    const bool is_text = asset.name.find("token") != std::string::npos || asset.name.find("vocab") == 0 ||
                         asset.name == "merges.txt" || asset.name.find("chat_template") == 0 ||
                         asset.name == "generation_config.json";
    if (is_text) assets.push_back(asset);
  }
  PARE_TRY(auto source, FreshSource::create(path, std::move(text), std::move(assets), seed));
  return std::shared_ptr<const WeightSource>(std::move(source));
}

Error differs(const DistillArguments& arguments, std::string where, std::string got, std::string expected) {
  return Error{.exit = Exit::malformed,
               .rule = "TK21",
               .path = arguments.model.empty() ? arguments.student_config : arguments.model,
               .where = std::move(where),
               .what = "not the teacher's; student and teacher must share one",
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

// Ids that both models have must mean the same; a vocabulary may be padded further than the other.
Status check_same_tokens(const DistillArguments& arguments, const DistillModels& models) {
  PARE_TRY(const auto student, load_tokenizer(*models.student));
  PARE_TRY(const auto teacher, load_tokenizer(*models.teacher));
  if (student->hash() == teacher->hash()) return {};
  const int64_t both = std::min(student->vocabulary_size(), teacher->vocabulary_size());
  for (int64_t id = 0; id < both; ++id) {
    const std::string mine = student->token_text(int32_t(id)), its = teacher->token_text(int32_t(id));
    if (mine != its) return differs(arguments, fmt::format("tokenizer: id {}", id), quote(mine), quote(its));
  }
  if (student->vocabulary_size() != teacher->vocabulary_size())
    return differs(arguments, "tokenizer: tokens", fmt::format("{}", student->vocabulary_size()),
                   fmt::format("{}", teacher->vocabulary_size()));
  if (student->description() != teacher->description())
    return differs(arguments, "tokenizer", student->description(), teacher->description());
  return {};
}

// Weight files by their checksums.
void collect_sums(const Json& inputs, std::set<std::string>& sums) {
  if (!inputs.is_array()) return;
  for (const Json& input : inputs.items()) {
    const Json *name = input.find("name"), *sum = input.find("xxh3_128");
    if (name == nullptr || !name->is_string() || sum == nullptr || !sum->is_string()) continue;
    const std::string& file = name->as_string();
    if (file.ends_with(".safetensors") || file.ends_with(".pare") || file.ends_with(".gguf"))
      sums.insert(sum->as_string());
  }
}

bool was_cut_from(const WeightSource& student, const Json& teacher_inputs) {
  const Manifest* manifest = student.manifest();
  if (manifest == nullptr) return false;
  std::set<std::string> mine, its;
  collect_sums(manifest->inputs, mine);
  for (const Json& earlier : manifest->history)
    if (const Json* inputs = earlier.find("inputs")) collect_sums(*inputs, mine);
  collect_sums(teacher_inputs, its);
  return std::any_of(its.begin(), its.end(), [&](const std::string& sum) { return mine.contains(sum); });
}

// Whether a matrix of a block has lost weights.
Result<bool> has_removed_weights(const WeightSource& source, const ModelDescription& model) {
  for (const TensorSpec& spec : model.tensors) {
    if (!spec.is_linear) continue;
    const StoredTensor& stored = *source.find(spec.name);
    if (stored.is_sparse()) return true;
    if (!stored.is_dense()) continue;
    PARE_TRY(const WeightData data, source.load(spec.name));
    PARE_TRY(const Tensor values, converted(data.dense(), DType::f32));
    source.release(spec.name);
    const float* weight = values.data<float>();
    const int64_t zeros = std::count(weight, weight + values.numel(), 0.0f);
    if (double(zeros) >= kPrunedShare * double(values.numel())) return true;
  }
  return false;
}

// Codes have no gradient; two factors beside them do.
Status refuse_codes(const DistillArguments& arguments, const WeightSource& source,
                    const ModelDescription& model) {
  if (arguments.lora > 0) return {};
  for (const TensorSpec& spec : model.tensors) {
    const StoredTensor& stored = *source.find(spec.name);
    if (stored.is_low_rank() || !stored.scheme) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "CF12",
                 .path = source.path(),
                 .where = quote(spec.name),
                 .what =
                     "codes cannot be trained; train the float model with --qat, or factors beside them "
                     "with --lora",
                 .got = stored.form_text()};
  }
  return {};
}

}  // namespace

Result<DistillModels> open_distill_models(const DistillArguments& arguments, const CommonOptions& common) {
  DistillModels models;
  if (arguments.is_distill) {
    PARE_TRY(models.teacher, open_source(arguments.teacher, common));
    PARE_TRY(models.teacher_model, describe_model(*models.teacher));
  }
  models.origin.is_fresh = !arguments.student_config.empty();
  if (models.origin.is_fresh) {
    PARE_TRY(models.student, open_fresh(arguments.student_config, *models.teacher, common.seed));
  } else if (arguments.model.empty()) {
    models.student = models.teacher;
  } else {
    PARE_TRY(models.student, open_source(arguments.model, common));
  }
  PARE_TRY(models.student_model, describe_model(*models.student));
  if (!models.student_model.config.is_causal)
    return Error{.exit = Exit::unsupported,
                 .path = models.student->path(),
                 .what = "only models that foretell the next token are trained",
                 .got = models.student_model.config.architecture};
  PARE_CHECK(refuse_codes(arguments, *models.student, models.student_model));
  if (models.teacher != nullptr && !models.is_own_teacher()) PARE_CHECK(check_same_tokens(arguments, models));
  if (models.teacher != nullptr) {
    PARE_TRY(models.teacher_inputs, models.teacher->hash_inputs());
    models.teacher_hash = xxh3_128(models.teacher_inputs.dump_sorted()).hex();
    models.origin.is_cut_from_teacher =
        models.is_own_teacher() || was_cut_from(*models.student, models.teacher_inputs);
  }
  if (models.origin.is_fresh) return models;
  PARE_CHECK(check_inputs(*models.student, models.student_model, {}));
  PARE_TRY(models.origin.has_zeros, has_removed_weights(*models.student, models.student_model));
  return models;
}

uint64_t training_weight_bytes(const DistillArguments& arguments, const ModelDescription& model) {
  const uint64_t moments = arguments.optimizer == "adamw" ? 8 : arguments.momentum > 0.0 ? 4 : 0;
  const uint64_t copies = arguments.multiplies_masters() ? 0 : 2;
  // A transform has its result and the gradient of it.
  const uint64_t rounded = arguments.qat.empty() ? 0 : arguments.multiplies_masters() ? 8 : 12;
  uint64_t bytes = 0;
  for (const TensorSpec& spec : model.tensors) {
    const auto weights = uint64_t(spec.shape.numel());
    if (arguments.lora > 0) {
      bytes += 4 * weights;
      if (spec.is_linear) bytes += uint64_t(arguments.lora * (spec.out() + spec.in())) * (8 + moments);
      continue;
    }
    bytes += weights * (8 + moments + (spec.shape.rank() == 2 ? copies : 0) + (spec.is_linear ? rounded : 0));
  }
  return bytes;
}

}  // namespace pare::cli
