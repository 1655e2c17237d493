#include "prune/structured/targets.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int64_t kMillion = 1'000'000;

Error usage(std::string option, std::string what, std::string got, std::string limit = {}) {
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = std::move(option),
               .where = {},
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

Error emptied(Structure structure) {
  return Error{.exit = Exit::numeric,
               .rule = "NU15",
               .path = "--sparsity",
               .where = std::string(structure_name(structure)),
               .what = "nothing would be left",
               .got = "0",
               .limit = "at least 1",
               .limit_label = "need"};
}

bool asks(const TargetRequest& request, Structure structure) {
  return std::find(request.structures.begin(), request.structures.end(), structure) !=
         request.structures.end();
}

// `share` of every structure that is asked for, sizes snapped; always at least one unit.
ModelShape shrunk(const ModelShape& before, const TargetRequest& request, double share) {
  ModelShape shape = before;
  const auto left = [&](int64_t count) { return std::max<int64_t>(1, count - units_removed(share, count)); };
  if (asks(request, Structure::layers)) shape.layers = left(before.layers);
  if (asks(request, Structure::hidden))
    shape.hidden = snapped(left(before.hidden), before.hidden, request.multiple);
  if (asks(request, Structure::mlp))
    shape.intermediate = snapped(left(before.intermediate), before.intermediate, request.multiple);
  if (asks(request, Structure::heads)) {
    const int64_t queries = before.heads / before.kv_heads;
    if (request.head_units == HeadUnits::groups) {
      shape.kv_heads = left(before.kv_heads);
      shape.heads = shape.kv_heads * queries;
    } else {
      shape.heads = before.kv_heads * left(queries);
    }
  }
  if (asks(request, Structure::experts))
    shape.experts = std::max(before.experts_per_token, left(before.experts));
  return shape;
}

// The share that removes the first unit of a structure, for the message.
std::string first_share(const ModelShape& before, const TargetRequest& request, Structure structure) {
  for (int64_t micro = 1; micro < kMillion; micro += 1000) {
    TargetRequest one = request;
    one.structures = {structure};
    const double share = double(micro) / double(kMillion);
    if (shrunk(before, one, share) != before) return fmt::format("{:.3f}", share + 0.0005);
  }
  return "a smaller --multiple";
}

Result<ModelShape> by_share(const ModelShape& before, const TargetRequest& request) {
  const double share = *request.sparsity;
  if (!(share >= 0.0) || share > 1.0)
    return usage("--sparsity", "not a share", fmt::format("{}", share), "0 to 1");
  const auto count_of = [&](Structure structure) {
    switch (structure) {
      case Structure::layers:
        return before.layers;
      case Structure::hidden:
        return before.hidden;
      case Structure::mlp:
        return before.intermediate;
      case Structure::experts:
        return before.experts;
      default:
        return request.head_units == HeadUnits::groups ? before.kv_heads : before.heads / before.kv_heads;
    }
  };
  for (const Structure structure : request.structures) {
    if (structure == Structure::vocabulary) continue;
    const int64_t removed = units_removed(share, count_of(structure));
    if (structure == Structure::experts && before.experts - removed < before.experts_per_token) {
      return usage("--sparsity", "leaves fewer experts than every token takes",
                   fmt::format("{} of {}", before.experts - removed, before.experts),
                   fmt::format("at least {}", before.experts_per_token));
    }
    if (units_removed(share, count_of(structure)) >= count_of(structure)) return emptied(structure);
    TargetRequest one = request;
    one.structures = {structure};
    if (share > 0.0 && shrunk(before, one, share) == before) {
      return usage(
          "--sparsity",
          fmt::format("removes no unit of {} ({} of them)", structure_name(structure), count_of(structure)),
          fmt::format("{}", share), "at least " + first_share(before, one, structure));
    }
  }
  return shrunk(before, request, share);
}

Status take_size(const std::optional<int64_t>& asked, int64_t before, const char* option, int64_t& size) {
  if (!asked) return {};
  if (*asked < 1 || *asked > before)
    return usage(option, "not a size of a smaller model", std::to_string(*asked),
                 fmt::format("1 to {}", before));
  size = *asked;
  return {};
}

Status take_heads(const ModelShape& before, const TargetRequest& request, ModelShape& shape) {
  if (!request.heads && !request.kv_heads) return {};
  PARE_CHECK(take_size(request.heads, before.heads, "--heads", shape.heads));
  PARE_CHECK(take_size(request.kv_heads, before.kv_heads, "--kv-heads", shape.kv_heads));
  const int64_t queries = before.heads / before.kv_heads;
  if (!request.heads) shape.heads = shape.kv_heads * queries;
  if (!request.kv_heads && request.head_units == HeadUnits::groups && shape.heads % queries == 0)
    shape.kv_heads = shape.heads / queries;
  if (shape.heads % shape.kv_heads == 0 && shape.heads / shape.kv_heads <= queries) return {};
  return usage(
      "--heads",
      fmt::format("does not fit {} key/value heads with up to {} queries each", shape.kv_heads, queries),
      std::to_string(shape.heads), fmt::format("a multiple of {}", shape.kv_heads));
}

bool has_sizes(const TargetRequest& request) {
  return request.hidden || request.intermediate || request.layers || request.heads || request.kv_heads ||
         request.experts;
}

// Grows a shape step by step, the sizes that cost quality least to keep last, while `fits` says so.
Result<ModelShape> grown(ModelShape shape, const ModelShape& before, const TargetRequest& request,
                         const std::function<Result<bool>(const ModelShape&)>& fits) {
  const int64_t queries = before.heads / before.kv_heads;
  const auto larger = [&](Structure structure) {
    ModelShape next = shape;
    switch (structure) {
      case Structure::layers:
        next.layers = std::min(before.layers, shape.layers + 1);
        break;
      case Structure::hidden:
        next.hidden = std::min(before.hidden, shape.hidden + request.multiple);
        break;
      case Structure::mlp:
        next.intermediate = std::min(before.intermediate, shape.intermediate + request.multiple);
        break;
      case Structure::heads:
        if (request.head_units == HeadUnits::groups) {
          next.kv_heads = std::min(before.kv_heads, shape.kv_heads + 1);
          next.heads = next.kv_heads * queries;
        } else {
          next.heads = std::min(before.heads, shape.heads + shape.kv_heads);
        }
        break;
      case Structure::experts:
        next.experts = std::min(before.experts, shape.experts + 1);
        break;
      default:
        break;
    }
    return next;
  };
  for (bool has_grown = true; has_grown;) {
    has_grown = false;
    for (const Structure structure :
         {Structure::hidden, Structure::layers, Structure::experts, Structure::heads, Structure::mlp}) {
      if (!asks(request, structure)) continue;
      const ModelShape next = larger(structure);
      if (next == shape) continue;
      PARE_TRY(const bool does_fit, fits(next));
      if (!does_fit) continue;
      shape = next;
      has_grown = true;
    }
  }
  return shape;
}

// The least share at which `fits` says so, then filled up again.
Result<ModelShape> search(const ModelShape& before, const TargetRequest& request, const char* option,
                          const std::string& asked,
                          const std::function<Result<bool>(const ModelShape&)>& fits) {
  int64_t low = 0, high = kMillion;  // fits at high, not below low
  PARE_TRY(const bool is_done, fits(before));
  if (is_done) return before;
  PARE_TRY(const bool reachable, fits(shrunk(before, request, 1.0)));
  if (!reachable)
    return usage(option, "beyond what these structures can give", asked, "more structures, or less");
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    PARE_TRY(const bool does_fit, fits(shrunk(before, request, double(middle) / double(kMillion))));
    (does_fit ? high : low) = middle;
  }
  return grown(shrunk(before, request, double(high) / double(kMillion)), before, request, fits);
}

}  // namespace

int64_t units_removed(double share, int64_t count) {
  const int64_t micro = std::clamp<int64_t>(std::llround(share * double(kMillion)), 0, kMillion);
  // Without wrapping: count < 2^43.
  return (count / kMillion) * micro + (count % kMillion) * micro / kMillion;
}

int64_t snapped(int64_t size, int64_t before, int64_t multiple) {
  if (size >= before || multiple <= 1) return std::min(size, before);
  const int64_t below = size / multiple * multiple, above = below + multiple;
  int64_t best = before;
  for (const int64_t candidate : {above, below}) {
    if (candidate < 1 || candidate > before) continue;
    if (std::abs(candidate - size) < std::abs(best - size)) best = candidate;
  }
  return best;
}

Result<double> token_time(const Architecture& family, const ModelConfig& config, const LinearTime& time) {
  std::map<std::pair<int64_t, int64_t>, int64_t> shapes;  // and how often
  for (const TensorSpec& spec : family.describe(config, family.prefixes.front()))
    if (is_used_by_token(config, spec)) ++shapes[{spec.out(), spec.in()}];
  if (config.tied_head) ++shapes[{config.vocabulary_size, config.hidden_size}];
  double total = 0.0;
  for (const auto& [shape, count] : shapes) {
    PARE_TRY(const double seconds, time(shape.first, shape.second));
    total += double(count) * seconds;
  }
  return total;
}

Result<ModelShape> plan_shape(const Architecture& family, const ModelConfig& config,
                              const TargetRequest& request, const LinearTime& time) {
  PARE_TRY(const ModelShape before, shape_of(config, "model"));
  const int targets = (request.sparsity ? 1 : 0) + (request.parameters ? 1 : 0) + (request.latency ? 1 : 0) +
                      (has_sizes(request) ? 1 : 0);
  if (targets > 1)
    return usage("--sparsity", "one target at a time: --sparsity, --params, --latency, or sizes",
                 std::to_string(targets));
  if (request.multiple < 1)
    return usage("--multiple", "not a size", std::to_string(request.multiple), "at least 1");
  if (request.sparsity) return by_share(before, request);
  if (request.parameters) {
    return search(before, request, "--params",
                  format_count(uint64_t(std::max<int64_t>(0, *request.parameters))),
                  [&](const ModelShape& shape) -> Result<bool> {
                    return cost_of(family, resized(config, shape)).parameters <= *request.parameters;
                  });
  }
  if (request.latency) {
    PARE_TRY(const double whole, token_time(family, config, time));
    const double allowed = whole * *request.latency;
    return search(before, request, "--latency", fmt::format("{}x", *request.latency),
                  [&](const ModelShape& shape) -> Result<bool> {
                    PARE_TRY(const double seconds, token_time(family, resized(config, shape), time));
                    return seconds <= allowed;
                  });
  }
  ModelShape shape = before;
  PARE_CHECK(take_size(request.layers, before.layers, "--layers", shape.layers));
  PARE_CHECK(take_size(request.hidden, before.hidden, "--hidden", shape.hidden));
  PARE_CHECK(take_size(request.intermediate, before.intermediate, "--intermediate", shape.intermediate));
  PARE_CHECK(take_heads(before, request, shape));
  PARE_CHECK(take_size(request.experts, before.experts, "--experts", shape.experts));
  if (shape.experts < before.experts_per_token)
    return usage("--experts", "fewer experts than every token takes", std::to_string(shape.experts),
                 fmt::format("at least {}", before.experts_per_token));
  return shape;
}

}  // namespace pare
