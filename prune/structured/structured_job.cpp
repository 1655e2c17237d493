#include "prune/structured/structured_job.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "calibrate/input_check.h"
#include "engine/core/assert.h"
#include "engine/core/memory.h"
#include "engine/core/signals.h"
#include "engine/tensor/tensor_scan.h"
#include "prune/structured/experts.h"
#include "prune/structured/hidden_choice.h"
#include "prune/structured/layer_choice.h"
#include "prune/structured/select.h"
#include "prune/structured/sliced_source.h"
#include "prune/structured/unit_gradients.h"
#include "prune/structured/vocabulary_files.h"

namespace pare {
namespace {

constexpr const char* kKey = "structured";

struct SizeKey {
  const char* name;
  int64_t ModelShape::*size;
};
constexpr std::array kSizeKeys = {
    SizeKey{"layers", &ModelShape::layers},
    SizeKey{"hidden", &ModelShape::hidden},
    SizeKey{"heads", &ModelShape::heads},
    SizeKey{"kv_heads", &ModelShape::kv_heads},
    SizeKey{"head_dim", &ModelShape::head_dim},
    SizeKey{"intermediate", &ModelShape::intermediate},
    SizeKey{"vocabulary", &ModelShape::vocabulary},
    SizeKey{"experts", &ModelShape::experts},
    SizeKey{"experts_per_token", &ModelShape::experts_per_token},
};

Error damaged(const JobFolder& folder) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = folder.path(),
               .where = "position.decision",
               .what = "not the choices of a structured job; --restart begins anew",
               .got = {},
               .limit = {}};
}

// What decide_units() has committed.
struct Choices {
  ModelShape sizes;
  std::vector<int64_t> layers, hidden, vocabulary;  // kept
  std::vector<std::vector<int64_t>> experts;        // of each kept layer
  std::vector<double> norm_factors;
  Json details;  // scores, for reports
};

Json to_json(const Choices& choices, const ModelConfig& config) {
  Json json = Json::object();
  Json& sizes = json["sizes"] = Json::object();
  for (const SizeKey& key : kSizeKeys) sizes[key.name] = Json(choices.sizes.*key.size);
  json["layers"] = mask_text(choices.layers, config.block_count());
  json["hidden"] = mask_text(choices.hidden, config.hidden_size);
  json["vocabulary"] = mask_text(choices.vocabulary, config.vocabulary_size);
  Json& experts = json["experts"] = Json::array();
  for (size_t i = 0; i < choices.experts.size(); ++i)
    experts.push_back(mask_text(choices.experts[i], config.blocks[size_t(choices.layers[i])].experts));
  Json factors = Json::array();
  for (const double factor : choices.norm_factors) factors.push_back(Json(factor));
  json["norm_factors"] = std::move(factors);
  json["details"] = choices.details;
  Json decision = Json::object();
  decision[kKey] = std::move(json);
  return decision;
}

Result<Choices> read_choices(const JobFolder& folder, const ModelConfig& config) {
  PARE_TRY(const Json decision, job_decision(folder));
  const Json* json = decision.find(kKey);
  const Json* sizes = json != nullptr ? json->find("sizes") : nullptr;
  const Json* factors = json != nullptr ? json->find("norm_factors") : nullptr;
  const Json* details = json != nullptr ? json->find("details") : nullptr;
  if (sizes == nullptr || factors == nullptr || !factors->is_array() || details == nullptr)
    return damaged(folder);
  Choices choices;
  for (const SizeKey& key : kSizeKeys) {
    const Json* size = sizes->find(key.name);
    if (size == nullptr || size->kind() != Json::Kind::integer) return damaged(folder);
    choices.sizes.*key.size = size->as_int();
  }
  const auto mask = [&](const char* key, int64_t count, std::vector<int64_t>& into) {
    const Json* text = json->find(key);
    auto units =
        text != nullptr && text->is_string() ? units_of_mask(text->as_string(), count) : std::nullopt;
    if (units) into = *std::move(units);
    return units.has_value();
  };
  if (!mask("layers", config.block_count(), choices.layers) ||
      !mask("hidden", config.hidden_size, choices.hidden) ||
      !mask("vocabulary", config.vocabulary_size, choices.vocabulary))
    return damaged(folder);
  const Json* experts = json->find("experts");
  if (experts == nullptr || !experts->is_array() || experts->size() != choices.layers.size())
    return damaged(folder);
  for (size_t i = 0; i < choices.layers.size(); ++i) {
    const Json& text = (*experts)[i];
    auto units = text.is_string()
                     ? units_of_mask(text.as_string(), config.blocks[size_t(choices.layers[i])].experts)
                     : std::nullopt;
    if (!units) return damaged(folder);
    choices.experts.push_back(*std::move(units));
  }
  for (const Json& factor : factors->items()) {
    if (!factor.is_number()) return damaged(folder);
    choices.norm_factors.push_back(factor.as_double());
  }
  choices.details = *details;
  return choices;
}

// The models that the choices leave, one on the other.
struct Stages {
  std::shared_ptr<const WeightSource> shallow;  // without the dropped layers
  ModelDescription shallow_model;
  std::shared_ptr<const WeightSource>
      narrow;  // and without the dropped dimensions (gains corrected), experts
  ModelDescription narrow_model;
};

Result<Stages> make_stages(const StructuredJob& job, const Choices& choices) {
  Stages stages;
  KeptUnits kept = all_units(job.model.config);
  stages.shallow = job.source;
  stages.shallow_model = job.model;
  if (kept.layers != choices.layers) {
    kept.layers = choices.layers;
    PARE_TRY(stages.shallow, SlicedSource::create(job.source, job.model, kept));
    PARE_TRY(stages.shallow_model, describe_model(*stages.shallow));
  }
  stages.narrow = stages.shallow;
  stages.narrow_model = stages.shallow_model;
  kept = all_units(stages.shallow_model.config);
  const bool is_narrower = kept.hidden != choices.hidden;
  if (!is_narrower && kept.experts == choices.experts) return stages;
  kept.hidden = choices.hidden;
  kept.experts = choices.experts;
  PARE_TRY(const auto sliced_model, SlicedSource::create(stages.shallow, stages.shallow_model, kept));
  PARE_TRY(stages.narrow_model, describe_model(*sliced_model));
  stages.narrow = sliced_model;
  if (!is_narrower) return stages;
  const auto corrected = std::make_shared<EditedSource>(sliced_model);
  PARE_CHECK(scale_norms(*corrected, stages.narrow_model, choices.norm_factors));
  stages.narrow = corrected;
  return stages;
}

// Sums for what is chosen by gradients; nothing when nothing is.
std::optional<UnitGradients> unit_gradients(const StructuredJob& job) {
  const StructuredOptions& options = job.options;
  const std::vector<Structure> structures = chosen_by_gradients(options, job.model.config);
  if (structures.empty()) return std::nullopt;
  const auto score_of = [&](Structure structure) {
    return structure == Structure::layers    ? options.layer_score
           : structure == Structure::hidden  ? options.hidden_score
           : structure == Structure::experts ? options.expert_score
           : structure == Structure::heads   ? options.head_score
                                             : options.mlp_score;
  };
  for (const Structure structure : structures)
    PARE_ASSERT(score_of(structure) == score_of(structures.front()), "[structured] {} by another score",
                structure_name(structure));
  return UnitGradients(job.model, structures, score_of(structures.front()));
}

Result<StepOptions> step_options(const StructuredJob& job, const JobFolder& folder, const Choices& choices,
                                 const Stages& stages) {
  const StructuredOptions& options = job.options;
  const ModelShape& sizes = choices.sizes;
  const bool is_narrower = sizes.hidden < job.model.config.hidden_size;
  StepOptions step;
  step.channels = sizes.intermediate;
  step.kv_heads = sizes.kv_heads;
  step.queries_per_group = sizes.heads / sizes.kv_heads;
  step.mlp_score = options.mlp_score;
  step.head_score = options.head_score;
  step.damping = options.damping;
  step.has_data = job.saved_statistics || job.windows.samples > 0;
  step.repair = options.repair && step.has_data;
  const bool cuts_inside = sizes.intermediate < job.model.config.blocks.front().intermediate_size ||
                           sizes.heads < job.model.config.blocks.front().heads;
  step.match_original = options.match_original && (cuts_inside || is_narrower) && !job.saved_statistics;
  if (is_narrower && step.repair) {
    step.wide = stages.shallow;
    step.hidden = choices.hidden;
  }
  if (const auto sums = unit_gradients(job)) {
    PARE_TRY(const LossGradients values, measured_gradients(folder, sums->size_bytes()));
    step.measured = [sums = *sums, values, layers = choices.layers](UnitSum kind, int block) {
      return sums.read(values, kind, int(layers[size_t(block)]));
    };
  }
  return step;
}

// The blocks of the model that the choices leave.
BlockJob block_job(const StructuredJob& job, const Choices& choices, const Stages& stages) {
  BlockJob inner = job;
  inner.source = stages.narrow;
  inner.model = stages.narrow_model;
  inner.original = stages.shallow;
  if (job.saved_statistics) {
    inner.saved_statistics = [read = job.saved_statistics, layers = choices.layers](int block, Site site,
                                                                                    StatisticSet wanted) {
      return read(int(layers[size_t(block)]), site, wanted);
    };
  }
  return inner;
}

PipelineOptions pipeline_options(const StructuredJob& job, const JobFolder& folder) {
  PipelineOptions options;
  options.memory_limit = job.memory_limit;
  options.device = job.device;
  options.device_limit = job.device_limit;
  options.spill_folder = folder.path();
  options.advance = job.advance;
  return options;
}

Json list_of(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(Json(value));
  return list;
}

Error without_data(const StructuredJob& job, Structure structure, UnitScore score) {
  return Error{.exit = Exit::usage,
               .rule = "CL13",
               .path = job.saved_statistics ? "--statistics" : "--data",
               .where = std::string(structure_name(structure)),
               .what = "the importance runs the model; give --data",
               .got = std::string(unit_score_name(score)),
               .limit = {}};
}

Status choose_layers(const StructuredJob& job, const JobFolder& folder, Choices& choices) {
  const StructuredOptions& options = job.options;
  const int64_t layers = job.model.config.block_count(), keep = options.sizes.layers;
  if (options.dropped_layers) {
    choices.layers = others(*options.dropped_layers, layers);
    return {};
  }
  if (keep == layers) return {};
  const bool by_gradients = uses_gradients(options.layer_score);
  if (options.layer_score != UnitScore::influence && options.layer_score != UnitScore::loss &&
      options.layer_score != UnitScore::weight && !by_gradients)
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = "--importance",
                 .where = "layers",
                 .what = "not a score of layers",
                 .got = std::string(unit_score_name(options.layer_score)),
                 .limit = "influence, loss, weight, taylor, fisher",
                 .limit_label = "expected"};
  std::vector<int64_t> candidates = layer_candidates(layers, options.keep_first, options.keep_last);
  std::vector<double> scores;
  if (by_gradients) {
    PARE_TRY(const LossGradients values, measured_gradients(folder, unit_gradients(job)->size_bytes()));
    for (int layer = 0; layer < int(layers); ++layer)
      scores.push_back(unit_gradients(job)->read(values, UnitSum::layer, layer).front());
  } else if (options.layer_score == UnitScore::weight) {
    for (const TensorSpec& spec : job.model.tensors) {
      if (spec.block < 0 || spec.block >= int(layers) || !spec.is_linear) continue;
      scores.resize(size_t(layers), 0.0);
      PARE_TRY(const WeightData data, job.source->load(spec.name));
      PARE_TRY(const Tensor values, converted(data.dense(), DType::f32));
      for (int64_t i = 0; i < values.numel(); ++i)
        scores[size_t(spec.block)] += double(values.data<float>()[i]) * double(values.data<float>()[i]);
      job.source->release(spec.name);
    }
  } else {
    if (job.windows.samples == 0) return without_data(job, Structure::layers, options.layer_score);
    PARE_TRY(scores, block_influence(job.source, job.windows, pipeline_options(job, folder)));
  }
  choices.details["layer_scores"] = list_of(scores);
  if (options.layer_score != UnitScore::loss) {
    PARE_TRY(choices.layers, keep_layers(scores, candidates, keep));
    return {};
  }
  // Measured among the third that influences least, or as many as have to go.
  const int64_t removed = layers - keep;
  const int64_t measured = std::min(int64_t(candidates.size()), std::max(removed, (layers + 2) / 3));
  PARE_TRY(const std::vector<int64_t> spared, keep_layers(scores, candidates, layers - measured));
  candidates = others(spared, layers);
  PARE_TRY(const LossRemoval removal,
           remove_layers_by_loss(job.source, job.windows, candidates, keep, job.advance, job.device));
  choices.layers = removal.kept;
  choices.details["loss_before"] = removal.loss_before;
  Json steps = Json::array();
  for (const auto& [layer, loss] : removal.removed) {
    Json one = Json::object();
    one["layer"] = Json(layer);
    one["loss"] = loss;
    steps.push_back(std::move(one));
  }
  choices.details["removed"] = std::move(steps);
  return {};
}

Status choose_hidden(const StructuredJob& job, const JobFolder& folder, Choices& choices) {
  const StructuredOptions& options = job.options;
  if (options.sizes.hidden == job.model.config.hidden_size) return {};
  const bool has_data = job.saved_statistics || job.windows.samples > 0;
  if (options.hidden_score != UnitScore::weight && !has_data)
    return without_data(job, Structure::hidden, options.hidden_score);
  if (options.repair && job.windows.samples == 0)
    return without_data(job, Structure::hidden, options.hidden_score);
  PARE_TRY(const Stages stages, make_stages(job, choices));
  BlockJob inner = block_job(job, choices, stages);
  const bool by_gradients = uses_gradients(options.hidden_score);
  // The walk is needed for the energies all the same.
  PARE_TRY(HiddenScores scores,
           score_hidden(inner, by_gradients ? UnitScore::activation : options.hidden_score, options.damping,
                        pipeline_options(job, folder)));
  if (by_gradients) {
    PARE_TRY(const LossGradients values, measured_gradients(folder, unit_gradients(job)->size_bytes()));
    scores.scores = unit_gradients(job)->read(values, UnitSum::hidden, -1);
  }
  choices.hidden = best_units(scores.scores, options.sizes.hidden);
  if (options.correct_norms) choices.norm_factors = norm_corrections(scores, choices.hidden);
  Json& summary = choices.details["hidden"] = Json::object();
  summary["least"] = *std::min_element(scores.scores.begin(), scores.scores.end());
  summary["greatest"] = *std::max_element(scores.scores.begin(), scores.scores.end());
  return {};
}

Status choose_experts(const StructuredJob& job, const JobFolder& folder, Choices& choices) {
  const StructuredOptions& options = job.options;
  if (options.sizes.experts == job.model.config.blocks.front().experts) return {};
  if (options.expert_score == UnitScore::activation && job.windows.samples == 0)
    return without_data(job, Structure::experts, options.expert_score);
  std::vector<ExpertScores> scores;
  if (uses_gradients(options.expert_score)) {
    PARE_TRY(const LossGradients values, measured_gradients(folder, unit_gradients(job)->size_bytes()));
    for (const int64_t layer : choices.layers)
      scores.push_back(
          {.scores = unit_gradients(job)->read(values, UnitSum::expert, int(layer)), .tokens = {}});
  } else {
    PARE_TRY(const Stages stages, make_stages(job, choices));
    PARE_TRY(scores, score_experts(stages.narrow, stages.narrow_model, options.expert_score, job.windows,
                                   pipeline_options(job, folder)));
  }
  choices.experts = keep_experts(scores, options.sizes.experts);
  choices.details["experts"] = expert_summary(scores);
  return {};
}

}  // namespace

bool needs_data(const StructuredOptions& options, const ModelConfig& config) {
  const BlockConfig& block = config.blocks.front();
  const bool cuts_mlp = options.sizes.intermediate < block.intermediate_size;
  const bool cuts_heads = options.sizes.heads < block.heads;
  const bool cuts_hidden = options.sizes.hidden < config.hidden_size;
  if (options.sizes.experts < block.experts && options.expert_score != UnitScore::weight) return true;
  if (options.repair && (cuts_mlp || cuts_heads || cuts_hidden)) return true;
  const bool scores_layers = options.sizes.layers < config.block_count() && !options.dropped_layers &&
                             options.layer_score != UnitScore::weight;
  return scores_layers || (cuts_mlp && options.mlp_score != UnitScore::weight) ||
         (cuts_heads && options.head_score != UnitScore::weight) ||
         (cuts_hidden && options.hidden_score != UnitScore::weight);
}

std::vector<Structure> chosen_by_gradients(const StructuredOptions& options, const ModelConfig& config) {
  const BlockConfig& block = config.blocks.front();
  const ModelShape& sizes = options.sizes;
  std::vector<Structure> structures;
  const auto consider = [&](Structure structure, bool is_cut, UnitScore score) {
    if (is_cut && uses_gradients(score)) structures.push_back(structure);
  };
  consider(Structure::layers, sizes.layers < config.block_count() && !options.dropped_layers,
           options.layer_score);
  consider(Structure::hidden, sizes.hidden < config.hidden_size, options.hidden_score);
  consider(Structure::experts, sizes.experts < block.experts, options.expert_score);
  consider(Structure::heads, sizes.heads < block.heads, options.head_score);
  consider(Structure::mlp, sizes.intermediate < block.intermediate_size, options.mlp_score);
  return structures;
}

Result<uint64_t> gradient_bytes(const StructuredJob& job, int64_t context) {
  const auto sums = unit_gradients(job);
  if (!sums) return uint64_t{0};
  return loss_gradient_bytes(job.source, job.model, context, *sums);
}

Status decide_units(StructuredJob& job, JobFolder& folder) {
  PARE_TRY(const Json decision, job_decision(folder));
  if (!decision.is_null()) {
    PARE_TRY(const Choices found, read_choices(folder, job.model.config));
    job.options.sizes = found.sizes;
    return {};
  }
  PARE_CHECK(check_inputs(*job.source, job.model, {}));
  const StructuredOptions& options = job.options;
  if (auto sums = unit_gradients(job)) {
    const Structure first = chosen_by_gradients(options, job.model.config).front();
    if (job.windows.samples == 0)
      return without_data(job, first, first == Structure::layers ? options.layer_score : options.mlp_score);
    PARE_TRY(const LossGradients values, measure_loss_gradients(job, options.gradients, *sums, folder));
    static_cast<void>(values);
  }
  Choices choices;
  choices.details = Json::object();
  const KeptUnits whole = all_units(job.model.config);
  choices.layers = whole.layers;
  choices.hidden = whole.hidden;
  choices.vocabulary = whole.vocabulary;
  PARE_CHECK(choose_layers(job, folder, choices));
  for (const int64_t layer : choices.layers)
    choices.experts.push_back(all_units(job.model.config.blocks[size_t(layer)].experts));
  PARE_CHECK(choose_hidden(job, folder, choices));
  PARE_CHECK(choose_experts(job, folder, choices));
  if (options.cut_vocabulary) {
    PARE_TRY(choices.vocabulary,
             choose_vocabulary(*job.source, job.model.config.vocabulary_size, options.token_counts,
                               options.min_count, options.multiple));
  }
  choices.sizes = options.sizes;
  choices.sizes.layers = int64_t(choices.layers.size());
  choices.sizes.vocabulary = int64_t(choices.vocabulary.size());
  job.options.sizes = choices.sizes;
  PARE_CHECK(commit_decision(folder, to_json(choices, job.model.config)));
  if (interrupted()) return folder.interrupted_error();
  return {};
}

Result<BlockJobResult> run_structured(const StructuredJob& job, JobFolder& folder) {
  PARE_TRY(const Choices choices, read_choices(folder, job.model.config));
  PARE_TRY(const Stages stages, make_stages(job, choices));
  const BlockJob inner = block_job(job, choices, stages);
  PARE_TRY(StepOptions options, step_options(job, folder, choices, stages));
  StructuredStep step(inner.model, stages.shallow, std::move(options));
  return run_blocks(inner, step, folder);
}

namespace {

Result<std::vector<BlockUnits>> block_units(const std::vector<Json>& notes, const ModelConfig& config,
                                            const JobFolder& folder) {
  if (int64_t(notes.size()) != config.block_count()) return damaged(folder);
  std::vector<BlockUnits> blocks;
  for (size_t block = 0; block < notes.size(); ++block) {
    PARE_TRY(BlockUnits units, units_of_note(notes[block], config.blocks[block], folder.path()));
    blocks.push_back(std::move(units));
  }
  return blocks;
}

}  // namespace

Result<std::shared_ptr<const WeightSource>> structured_model(const StructuredJob& job,
                                                             const JobFolder& folder) {
  PARE_TRY(const Choices choices, read_choices(folder, job.model.config));
  PARE_TRY(const Stages stages, make_stages(job, choices));
  const BlockJob inner = block_job(job, choices, stages);
  PARE_TRY(const std::vector<Json> notes, block_notes(folder));
  PARE_TRY(const std::shared_ptr<EditedSource> edited, finished_source(inner, folder));
  KeptUnits kept = all_units(inner.model.config);
  kept.vocabulary = choices.vocabulary;
  PARE_TRY(kept.blocks, block_units(notes, inner.model.config, folder));
  PARE_TRY(auto model, SlicedSource::create(edited, inner.model, std::move(kept)));
  return std::shared_ptr<const WeightSource>(std::move(model));
}

Result<Json> structured_summary(const StructuredJob& job, const JobFolder& folder) {
  PARE_TRY(const Choices choices, read_choices(folder, job.model.config));
  PARE_TRY(const std::vector<Json> notes, block_notes(folder));
  Json json = Json::object();
  Json& sizes = json["sizes"] = Json::object();
  for (const SizeKey& key : kSizeKeys) sizes[key.name] = Json(choices.sizes.*key.size);
  Json dropped = Json::array();
  for (const int64_t layer : others(choices.layers, job.model.config.block_count()))
    dropped.push_back(Json(layer));
  json["dropped_layers"] = std::move(dropped);
  json["choices"] = choices.details;
  Json blocks = Json::array();
  for (const Json& note : notes) {
    const Json* scores = note.find("scores");
    blocks.push_back(scores != nullptr ? *scores : Json());
  }
  json["blocks"] = std::move(blocks);
  return json;
}

Status write_structured(const StructuredJob& job, const JobFolder& folder, const WeightSource& model,
                        WeightSink& sink, Manifest& manifest) {
  PARE_TRY(const Choices choices, read_choices(folder, job.model.config));
  PARE_TRY(const ModelDescription description, describe_model(model));
  PARE_TRY(const std::vector<Json> notes, block_notes(folder));
  for (const TensorSpec& spec : description.tensors) {
    const StoredTensor* stored = model.find(spec.name);
    PARE_TRY(const WeightData data, model.load(spec.name));
    PARE_CHECK(require_finite(data.dense(), spec.name, model.path()));
    TensorRecord record = copied_record(*stored);
    record.shape = {stored->shape.sizes().begin(), stored->shape.sizes().end()};
    // Names of blocks are those of the final model: a note has them too.
    const bool has_note = spec.block >= 0 && spec.block < int(notes.size());
    const Json* tensors = has_note ? notes[size_t(spec.block)].find("tensors") : nullptr;
    const Json* extra = tensors != nullptr ? tensors->find(spec.name) : nullptr;
    const int old_block = spec.block < 0                            ? -1
                          : spec.block < int(choices.layers.size()) ? int(choices.layers[size_t(spec.block)])
                                                                    : int(job.model.config.block_count());
    const Role role = spec.role;
    const auto before =
        std::find_if(job.model.tensors.begin(), job.model.tensors.end(), [&](const TensorSpec& old) {
          return old.block == old_block && old.role == role && (role != Role::bias || old.shape.rank() == 1);
        });
    const bool is_smaller =
        role != Role::bias && before != job.model.tensors.end() && !(before->shape == spec.shape);
    if (is_smaller || extra != nullptr) record.method_asked = record.method_applied = "structured";
    if (spec.expert >= 0 && choices.sizes.experts < job.model.config.blocks.front().experts)
      record.extra["expert_before"] = Json(choices.experts[size_t(spec.block)][size_t(spec.expert)]);
    if (is_smaller) record.extra["rows_before"] = Json(before->shape[0]);
    if (is_smaller && before->shape.rank() == 2) record.extra["columns_before"] = Json(before->shape[1]);
    if (extra != nullptr)
      for (const auto& [key, value] : extra->members()) record.extra[key] = value;
    if (role == Role::embedding && choices.sizes.vocabulary < job.model.config.vocabulary_size)
      record.extra["kept_ids"] = mask_text(choices.vocabulary, job.model.config.vocabulary_size);
    PARE_CHECK(sink.put(spec.name, data));
    manifest.tensors.push_back(std::move(record));
    model.release(spec.name);
    sample_private_bytes();
  }
  return model.check_unchanged();
}

}  // namespace pare
