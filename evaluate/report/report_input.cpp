#include "evaluate/report/report_input.h"

#include <map>

#include "engine/models/architecture.h"

namespace pare {
namespace {

const char* part_of(Role role) {
  switch (role) {
    case Role::embedding:
      return "embedding";
    case Role::positions:
      return "positions";
    case Role::lm_head:
      return "head";
    case Role::query:
      return "q";
    case Role::key:
      return "k";
    case Role::value:
      return "v";
    case Role::qkv:
      return "qkv";
    case Role::attention_output:
      return "o";
    case Role::gate:
      return "gate";
    case Role::up:
      return "up";
    case Role::gate_up:
      return "gate_up";
    case Role::down:
      return "down";
    case Role::router:
      return "router";
    default:
      return "";
  }
}

std::string last_component(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

Result<ReportInput> report_input(const WeightSource& source, const std::string& output,
                                 uint64_t output_bytes) {
  if (source.manifest() == nullptr) {
    return Error{.exit = Exit::unsupported,
                 .rule = "RP07",
                 .path = output,
                 .where = "manifest",
                 .what = "missing: only what pare wrote can be reported",
                 .got = {},
                 .limit = {}};
  }
  ReportInput input;
  input.name = last_component(output);
  input.format = source.format_name();
  input.output_bytes = output_bytes;
  input.manifest = *source.manifest();
  PARE_TRY(const ModelDescription model, describe_model(source));
  input.blocks = int(model.config.block_count());
  std::map<std::string_view, const TensorRecord*> records;
  for (const TensorRecord& record : input.manifest.tensors) records.emplace(record.name, &record);
  for (const TensorSpec& spec : model.tensors) {
    const StoredTensor* stored = source.find(spec.name);
    const auto record = records.find(spec.name);
    input.tensors.push_back({.name = spec.name,
                             .block = spec.block,
                             .expert = spec.expert,
                             .part = part_of(spec.role),
                             .site = spec.is_linear ? std::string(site_name(spec.site)) : std::string(),
                             .bytes = stored != nullptr ? stored->bytes : 0,
                             .elements = spec.shape.numel(),
                             .record = record == records.end() ? nullptr : record->second});
  }
  PARE_TRY(input.run, read_run_report(output));
  if (input.run && !input.run->manifest_hash.empty())
    input.run_is_stale = input.run->manifest_hash != manifest_hash(input.manifest);
  return input;
}

}  // namespace pare
