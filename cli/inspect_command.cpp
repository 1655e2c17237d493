#include <CLI/CLI.hpp>
#include <map>

#include "cli/commands.h"
#include "cli/model_argument.h"
#include "cli/recipe.h"
#include "cli/sparse_kernels.h"
#include "cli/tuning.h"
#include "engine/backends/cpu/isa.h"
#include "engine/core/manifest.h"
#include "engine/core/text.h"
#include "quantize/selection.h"
#include "quantize/stream.h"

namespace pare::cli {
namespace {

struct InspectOptions {
  std::string model;
  bool tensors = false;
  bool recipe = false;
};

// Sums of one part of the model.
struct Part {
  int64_t tensors = 0, parameters = 0;
  uint64_t bytes = 0;
  int64_t kept = 0;  // weights that are there
};

const char* part_name(const TensorSpec& spec) {
  switch (spec.role) {
    case Role::embedding:
    case Role::positions:
      return "embedding";
    case Role::lm_head:
      return "head";
    case Role::query:
    case Role::key:
    case Role::value:
    case Role::qkv:
    case Role::attention_output:
      return "attention";
    case Role::gate:
    case Role::up:
    case Role::gate_up:
    case Role::down:
      return spec.expert < 0 ? "mlp" : "experts";
    case Role::router:
      return "routers";
    default:
      return "norms and biases";
  }
}

// Share of the weights that are there, of a tensor with a pattern.
std::optional<double> kept_share(const StoredTensor& tensor) {
  if (!tensor.kept || tensor.shape.numel() == 0) return std::nullopt;
  return double(*tensor.kept) / double(tensor.shape.numel());
}

std::string kept_text(const StoredTensor& tensor) {
  const auto share = kept_share(tensor);
  return share ? formatted(100.0 * *share, "%.1f %%") : "";
}

// What plain rounding would give, for the table "what would compress".
struct Estimate {
  std::string scheme;
  QuantizePlan plan;
};

Result<std::vector<Estimate>> estimates(const WeightSource& source, const ModelDescription& model) {
  std::vector<Estimate> result;
  for (const char* name : {"int8-ch", "int4-g128", "int4-g64", "int4-g64-asym"}) {
    Selection selection;
    PARE_TRY(selection.scheme, QuantScheme::parse(name));
    PARE_TRY(const auto schemes, select_schemes(model, selection));
    result.push_back({selection.scheme.text(), plan_quantization(source, model, schemes)});
  }
  return result;
}

struct Facts {
  ModelDescription model;
  std::map<std::string, Part> parts;
  std::map<std::string, Part> forms;
  Part total;
  std::string tokenizer;
  std::vector<Estimate> estimates;
  bool is_quantized = false;
};

Result<Facts> gather(const WeightSource& source) {
  Facts facts;
  PARE_TRY(facts.model, describe_model(source));
  for (const TensorSpec& spec : facts.model.tensors) {
    const StoredTensor* stored = source.find(spec.name);
    for (Part* part : {&facts.parts[part_name(spec)], &facts.forms[stored->form_text()], &facts.total}) {
      ++part->tensors;
      part->parameters += spec.shape.numel();
      part->bytes += stored->bytes;
      part->kept += stored->is_sparse() && stored->kept ? *stored->kept : spec.shape.numel();
    }
    facts.is_quantized = facts.is_quantized || stored->scheme.has_value() || stored->is_low_rank();
  }
  if (source.asset("tokenizer.json") != nullptr) {
    PARE_TRY(const auto tokenizer, load_tokenizer(source));
    facts.tokenizer = tokenizer->description();
  }
  if (!facts.is_quantized) {
    PARE_TRY(facts.estimates, estimates(source, facts.model));
  }
  return facts;
}

double bits_per_weight(const Part& part) {
  return 8.0 * double(part.bytes) / double(std::max<int64_t>(1, part.parameters));
}

Json part_json(const Part& part) {
  Json json = Json::object();
  json["tensors"] = Json(part.tensors);
  json["parameters"] = Json(part.parameters);
  json["bytes"] = Json(part.bytes);
  json["kept"] = Json(part.kept);
  json["bits_per_weight"] = bits_per_weight(part);
  return json;
}

Json config_json(const ModelConfig& config) {
  Json json = Json::object();
  json["architecture"] = config.architecture;
  json["blocks"] = Json(config.block_count());
  json["hidden_size"] = Json(config.hidden_size);
  json["intermediate_size"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].intermediate_size);
  json["heads"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].heads);
  json["kv_heads"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].kv_heads);
  json["head_dim"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].head_dim);
  json["experts"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].experts);
  json["experts_per_token"] = Json(config.blocks.empty() ? int64_t(0) : config.blocks[0].experts_per_token);
  json["vocabulary_size"] = Json(config.vocabulary_size);
  json["context"] = Json(config.max_positions);
  json["tied_head"] = config.tied_head;
  return json;
}

Json tensor_json(const StoredTensor& tensor) {
  Json json = Json::object();
  json["name"] = sanitize(tensor.name);
  json["form"] = tensor.form_text();
  json["kind"] = tensor.form_name();
  if (const std::string kernel = sparse_kernel_text(tensor); !kernel.empty()) json["kernel"] = kernel;
  Json shape = Json::array();
  for (int64_t size : tensor.shape.sizes()) shape.push_back(Json(size));
  json["shape"] = std::move(shape);
  json["bytes"] = Json(tensor.bytes);
  json["bits_per_weight"] = 8.0 * double(tensor.bytes) / double(std::max<int64_t>(1, tensor.shape.numel()));
  if (!tensor.pattern.empty()) json["pattern"] = tensor.pattern;
  if (const auto share = kept_share(tensor)) json["kept_share"] = *share;
  if (tensor.rank) json["rank"] = Json(*tensor.rank);
  return json;
}

Json to_json(const WeightSource& source, const Facts& facts) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["model"] = source.path();
  json["format"] = source.format_name();
  json["config"] = config_json(facts.model.config);
  json["parameters"] = Json(facts.total.parameters);
  json["bytes"] = Json(facts.total.bytes);
  json["bits_per_weight"] = bits_per_weight(facts.total);
  json["tokenizer"] = facts.tokenizer.empty() ? Json() : Json(facts.tokenizer);
  Json parts = Json::object(), forms = Json::object(), estimates = Json::array(), tensors = Json::array();
  for (const auto& [name, part] : facts.parts) parts[name] = part_json(part);
  for (const auto& [name, part] : facts.forms) forms[name] = part_json(part);
  for (const Estimate& estimate : facts.estimates) {
    Json row = Json::object();
    row["scheme"] = estimate.scheme;
    row["output_bytes"] = Json(estimate.plan.output_bytes);
    row["bits_per_weight"] = estimate.plan.bits_per_weight;
    estimates.push_back(std::move(row));
  }
  for (const StoredTensor& tensor : source.tensors()) tensors.push_back(tensor_json(tensor));
  json["parts"] = std::move(parts);
  json["forms"] = std::move(forms);
  json["estimates"] = std::move(estimates);
  json["manifest"] = source.manifest() != nullptr ? source.manifest()->to_json() : Json();
  json["tensors"] = std::move(tensors);
  return json;
}

void print_shape(const ModelConfig& config) {
  print_line("  architecture  " + config.architecture);
  if (!config.blocks.empty()) {
    const BlockConfig& block = config.blocks[0];
    print_line("  shape         " + std::to_string(config.block_count()) + " blocks, hidden " +
               std::to_string(config.hidden_size) + ", " +
               (block.is_mixture() ? std::to_string(block.experts) + " experts of " : "MLP ") +
               std::to_string(block.intermediate_size) +
               (block.is_mixture() ? ", " + std::to_string(block.experts_per_token) + " per token" : "") +
               ", " + std::to_string(block.heads) + " heads of " + std::to_string(block.head_dim) + ", " +
               std::to_string(block.kv_heads) + " KV heads");
  }
  print_line("  vocabulary    " + format_count(uint64_t(config.vocabulary_size)) +
             (config.tied_head ? ", head tied to the embedding" : ", separate head"));
  print_line("  context       " + format_count(uint64_t(config.max_positions)) + " tokens");
}

void print_parts(const Facts& facts) {
  Table parts({"part", ">tensors", ">parameters", ">bytes", ">share"});
  for (const auto& [name, part] : facts.parts) {
    parts.row({name, std::to_string(part.tensors), format_count(uint64_t(part.parameters)),
               format_bytes(part.bytes),
               formatted(100.0 * double(part.bytes) / double(std::max<uint64_t>(1, facts.total.bytes)),
                         "%.1f %%")});
  }
  print_line("");
  print(parts.text());
  Table forms({"stored as", ">tensors", ">parameters", ">kept", ">bytes", ">bits/weight"});
  for (const auto& [name, part] : facts.forms) {
    forms.row(
        {name, std::to_string(part.tensors), format_count(uint64_t(part.parameters)),
         formatted(100.0 * double(part.kept) / double(std::max<int64_t>(1, part.parameters)), "%.1f %%"),
         format_bytes(part.bytes), formatted(bits_per_weight(part), "%.3f")});
  }
  print_line("");
  print(forms.text());
}

void print_estimates(const Facts& facts) {
  Table table({"pare quantize --scheme", ">weights become", ">smaller", ">bits/weight"});
  for (const Estimate& estimate : facts.estimates) {
    table.row(
        {estimate.scheme, format_bytes(estimate.plan.output_bytes),
         formatted(double(facts.total.bytes) / double(std::max<uint64_t>(1, estimate.plan.output_bytes)),
                   "%.2fx"),
         formatted(estimate.plan.bits_per_weight, "%.3f")});
  }
  print_line("");
  print(table.text());
  print_line(
      "  (embedding and head kept as they are; --embedding SCHEME and --head SCHEME compress them too)");
}

void print_manifest(const Manifest& manifest) {
  print_line("");
  print_line("  made by       pare " + sanitize(manifest.program_version) + " " + sanitize(manifest.command) +
             ", " + std::to_string(manifest.fallbacks()) + " fallbacks");
  const TensorRecord* worst = nullptr;
  for (const TensorRecord& record : manifest.tensors)
    if (record.relative_error && (worst == nullptr || *record.relative_error > *worst->relative_error))
      worst = &record;
  if (worst != nullptr) {
    print_line("  worst tensor  " + sanitize(worst->name) + ", relative error " +
               formatted(*worst->relative_error, "%.4f"));
  }
}

// "  sparse        120 tensors: 2:4 bf16: sparse kernel 2.31x of dense"
void print_sparse_kernels(const WeightSource& source) {
  const auto counts = sparse_kernel_counts(source);
  if (counts.empty()) return;
  print_line("");
  for (const auto& [text, count] : counts)
    print_line("  runs here     " + std::to_string(count) + (count == 1 ? " tensor, " : " tensors, ") + text);
}

// What `pare compress --recipe` takes to make this model again.
Status print_recipe(const WeightSource& source) {
  const Manifest* manifest = source.manifest();
  if (manifest == nullptr || manifest->command != "compress") {
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = source.path(),
                 .where = "recipe",
                 .what = "not made by pare compress",
                 .got = manifest == nullptr ? "no manifest" : quote(manifest->command),
                 .limit = {}};
  }
  const Json* hash = manifest->options.find("data_hash");
  print(recipe_yaml(manifest->seed, hash != nullptr && hash->is_string() ? hash->as_string() : "",
                    manifest->recipe));
  return {};
}

Result<Exit> run_inspect(const InspectOptions& options, const CommonOptions& common) {
  load_tuning(cpu::best_isa());
  PARE_TRY(const auto source, open_source(options.model, common));
  if (options.recipe) {
    PARE_CHECK(print_recipe(*source));
    return Exit::ok;
  }
  PARE_TRY(const Facts facts, gather(*source));
  if (common.json) {
    print_json(to_json(*source, facts));
    return Exit::ok;
  }
  print_line(options.model + ": " + std::string(source->format_name()) + ", " +
             format_count(uint64_t(facts.total.parameters)) + " parameters, " +
             format_bytes(facts.total.bytes));
  print_shape(facts.model.config);
  print_line("  tokenizer     " + (facts.tokenizer.empty() ? std::string("none") : facts.tokenizer));
  print_parts(facts);
  print_sparse_kernels(*source);
  if (!facts.estimates.empty()) print_estimates(facts);
  if (source->manifest() != nullptr) print_manifest(*source->manifest());
  if (options.tensors) {
    Table table({"tensor", "stored as", "shape", ">kept", ">bytes"});
    for (const StoredTensor& tensor : source->tensors()) {
      table.row({sanitize(tensor.name), tensor.form_text(), tensor.shape.text(), kept_text(tensor),
                 format_count(tensor.bytes)});
    }
    print_line("");
    print(table.text());
  }
  return Exit::ok;
}

}  // namespace

void add_inspect(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* verb = app.add_subcommand("inspect", "what is in a model, and what compressing it would give");
  verb->add_option("MODEL", options->model,
                   "directory, .safetensors, .pare, or org/name from the local cache")
      ->required();
  verb->add_flag("--recipe", options->recipe, "print the recipe of a compressed model, to be repeated");
  verb->add_flag("--tensors", options->tensors, "list every tensor");
  add_common(verb, commands, false);
  commands.on(verb, [options, &commands] { return run_inspect(*options, commands.common()); });
}

}  // namespace pare::cli
