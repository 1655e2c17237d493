#include "distill/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "distill/parameter_pieces.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

Error bad_value(const char* where, const char* what, double got, const char* limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "optimizer",
               .where = where,
               .what = what,
               .got = fmt::format("{}", got),
               .limit = limit};
}

bool is_share(double value) {
  return value >= 0.0 && value < 1.0;
}

}  // namespace

std::string_view optimizer_kind_name(OptimizerKind kind) {
  return kind == OptimizerKind::adamw ? "adamw" : "sgd";
}

Result<OptimizerKind> optimizer_kind_from_name(std::string_view name) {
  if (name == "adamw") return OptimizerKind::adamw;
  if (name == "sgd") return OptimizerKind::sgd;
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "optimizer",
               .where = "kind",
               .what = "no such optimizer",
               .got = std::string(name),
               .limit = "adamw, sgd"};
}

Status OptimizerConfig::validate() const {
  if (!is_share(beta1)) return bad_value("beta1", "outside its range", beta1, "at least 0, below 1");
  if (!is_share(beta2)) return bad_value("beta2", "outside its range", beta2, "at least 0, below 1");
  if (!(eps > 0.0 && eps <= 1.0)) return bad_value("eps", "outside its range", eps, "above 0, at most 1");
  if (!is_share(momentum)) return bad_value("momentum", "outside its range", momentum, "at least 0, below 1");
  if (!(decay >= 0.0 && decay <= 10.0)) return bad_value("decay", "outside its range", decay, "0 to 10");
  if (!(step_rate > 0.0 && step_rate <= 1e6))
    return bad_value("step_rate", "outside its range", step_rate, "above 0, at most 1e6");
  if (!(clip_norm >= 0.0 && std::isfinite(clip_norm)))
    return bad_value("clip_norm", "outside its range", clip_norm, "0 (off) or above");
  return {};
}

Json OptimizerConfig::to_json() const {
  Json json = Json::object();
  json["kind"] = optimizer_kind_name(kind);
  if (kind == OptimizerKind::adamw) {
    json["beta1"] = beta1;
    json["beta2"] = beta2;
    json["eps"] = eps;
  } else {
    json["momentum"] = momentum;
  }
  json["decay"] = decay;
  json["decays_embeddings"] = decays_embeddings;
  json["step_rate"] = step_rate;
  json["clip_norm"] = clip_norm;
  return json;
}

double clip_factor(double norm, double clip) {
  return clip > 0.0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
}

struct Optimizer::State {
  // The moments of one piece, on its owner.
  struct Moments {
    Tensor first, second;
  };
  // The mask of one piece where its values are. A new mask is a new object.
  struct PieceMask {
    std::shared_ptr<const Mask> source;  // of the parameter
    std::optional<Mask> mask;
  };
  ParameterList parameters;
  OptimizerConfig config;
  GradientExchange* exchange = nullptr;
  std::vector<ParameterPiece> pieces;
  std::vector<Moments> moments;  // of pieces
  std::vector<PieceMask> masks;  // of pieces
  int64_t steps = 0;

  bool owns(const ParameterPiece& piece) const {
    return !config.shards_states || piece.owner == exchange->rank();
  }
  bool has_first() const { return config.kind == OptimizerKind::adamw || config.momentum > 0.0; }
  bool has_second() const { return config.kind == OptimizerKind::adamw; }
  Status refresh_masks();
  const Mask* mask_of(size_t piece) const { return masks[piece].mask ? &*masks[piece].mask : nullptr; }
  void update(double lr, double scale);
  Status save(TrainerState& state, const char* prefix, Tensor Moments::*which);
  Status restore(const TrainerState& state, const char* prefix, Tensor Moments::*which);
};

Optimizer::Optimizer() : state_(std::make_unique<State>()) {}
Optimizer::~Optimizer() = default;

Result<std::unique_ptr<Optimizer>> Optimizer::make(ParameterList parameters, const OptimizerConfig& config,
                                                   GradientExchange& exchange) {
  PARE_CHECK(config.validate());
  std::unique_ptr<Optimizer> optimizer(new Optimizer);
  State& state = *optimizer->state_;
  state.parameters = std::move(parameters);
  state.config = config;
  state.exchange = &exchange;
  state.pieces = cut_parameters(state.parameters, config.shards_states ? exchange.size() : 1);
  for (const ParameterPiece& piece : state.pieces) {
    State::Moments moments;
    if (state.owns(piece)) {
      const Tensor value = piece.value();
      if (state.has_first()) {
        PARE_TRY(moments.first, Tensor::allocate(DType::f32, value.shape(), value.device()));
      }
      if (state.has_second()) {
        PARE_TRY(moments.second, Tensor::allocate(DType::f32, value.shape(), value.device()));
      }
    }
    state.moments.push_back(std::move(moments));
  }
  state.masks.resize(state.pieces.size());
  PARE_CHECK(state.refresh_masks());
  return optimizer;
}

uint64_t Optimizer::planned_bytes(const ParameterList& parameters, const OptimizerConfig& config, int size) {
  uint64_t elements = 0;
  for (const auto& parameter : parameters) elements += uint64_t(parameter->value.numel());
  const uint64_t tensors = config.kind == OptimizerKind::adamw ? 2 : config.momentum > 0.0 ? 1 : 0;
  const auto shares = uint64_t(config.shards_states ? size : 1);
  return (elements + shares - 1) / shares * tensors * sizeof(float);
}

const OptimizerConfig& Optimizer::config() const {
  return state_->config;
}
int64_t Optimizer::steps() const {
  return state_->steps;
}
const ParameterList& Optimizer::parameters() const {
  return state_->parameters;
}

Status Optimizer::State::refresh_masks() {
  for (size_t i = 0; i < pieces.size(); ++i) {
    PieceMask& known = masks[i];
    if (known.source == pieces[i].parameter->mask) continue;
    known.mask = pieces[i].mask();
    const Device device = pieces[i].parameter->value.device();
    if (known.mask && !device.is_host()) {
      PARE_TRY(Tensor bits, moved(known.mask->bits(), device));
      known.mask.emplace(std::move(bits), known.mask->out(), known.mask->in());
    }
    known.source = pieces[i].parameter->mask;
  }
  return {};
}

Result<double> Optimizer::gradient_norm(double scale) {
  State& state = *state_;
  PARE_CHECK(state.refresh_masks());
  for (size_t i = 0; i < state.pieces.size(); ++i) {
    Tensor gradient = state.pieces[i].gradient();
    if (const Mask* mask = state.mask_of(i)) ops::apply_mask(*mask, gradient);
  }
  std::vector<Tensor> gradients;
  gradients.reserve(state.parameters.size());
  for (const auto& parameter : state.parameters) gradients.push_back(parameter->gradient);
  return std::sqrt(ops::sum_of_squares(gradients)) * std::abs(scale);
}

// AdamW of all pieces in one call, which is one launch on a GPU.
void Optimizer::State::update(double lr, double scale) {
  using Kind = Parameter::Kind;
  std::vector<ops::AdamWItem> items;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (!owns(pieces[i])) continue;
    const Kind kind = pieces[i].parameter->kind;
    const bool decays = kind == Kind::matrix || kind == Kind::adapter ||
                        (kind == Kind::embedding && config.decays_embeddings);
    const double rate = kind == Kind::step ? lr * config.step_rate : lr;
    const float decay = decays ? float(config.decay) : 0.0f;
    Tensor value = pieces[i].value();
    if (config.kind == OptimizerKind::sgd) {
      ops::sgd(value, moments[i].first, pieces[i].gradient(), mask_of(i),
               {.gradient_scale = float(scale),
                .lr = float(rate),
                .momentum = float(config.momentum),
                .decay = decay});
      continue;
    }
    items.push_back({.w = value,
                     .m = moments[i].first,
                     .v = moments[i].second,
                     .gradient = pieces[i].gradient(),
                     .mask = mask_of(i),
                     .step = {.gradient_scale = float(scale),
                              .lr = float(rate),
                              .beta1 = float(config.beta1),
                              .beta2 = float(config.beta2),
                              .eps = float(config.eps),
                              .decay = decay,
                              .step = steps}});
  }
  ops::adamw_list(items);
}

Status Optimizer::step(double lr, double scale) {
  State& state = *state_;
  PARE_CHECK(state.refresh_masks());
  ++state.steps;
  state.update(lr, scale);
  if (!state.config.shards_states || state.exchange->size() == 1) return {};
  for (const ParameterPiece& piece : state.pieces) {
    PARE_CHECK(state.exchange->broadcast(floats_of(piece.value()), piece.owner));
  }
  return {};
}

Status Optimizer::apply_masks() {
  State& state = *state_;
  PARE_CHECK(state.refresh_masks());
  for (size_t i = 0; i < state.pieces.size(); ++i) {
    const Mask* mask = state.mask_of(i);
    if (mask == nullptr) continue;
    Tensor value = state.pieces[i].value();
    ops::apply_mask(*mask, value);
    for (Tensor* tensor : {&state.moments[i].first, &state.moments[i].second})
      if (tensor->defined()) ops::apply_mask(*mask, *tensor);
  }
  return {};
}

// Pieces of one parameter follow each other, so that it can be put together before the next begins.
Status Optimizer::State::save(TrainerState& state, const char* prefix, Tensor Moments::*which) {
  const bool collects = config.shards_states && exchange->size() > 1;
  for (size_t i = 0; i < pieces.size();) {
    const auto& parameter = pieces[i].parameter;
    const std::string name = fmt::format("{}:{}", prefix, parameter->name);
    if (!collects) {
      if (exchange->is_first()) {
        PARE_TRY(const Tensor whole, in_host_memory(moments[i].*which));
        state.tensors.push_back({name, whole.reshaped(parameter->value.shape())});
      }
      ++i;
      continue;
    }
    PARE_TRY(Tensor whole, Tensor::allocate(DType::f32, parameter->value.shape()));
    for (; i < pieces.size() && pieces[i].parameter == parameter; ++i) {
      const Tensor part = pieces[i].slice_of(whole);
      if (owns(pieces[i])) PARE_CHECK(copy_into(moments[i].*which, part));
      PARE_CHECK(exchange->broadcast(floats_of(part), pieces[i].owner));
    }
    if (exchange->is_first()) state.tensors.push_back({name, std::move(whole)});
  }
  return {};
}

Status Optimizer::save(TrainerState& state) {
  if (state_->exchange->is_first()) state.json["optimizer_steps"] = state_->steps;
  if (state_->has_first()) PARE_CHECK(state_->save(state, "m", &State::Moments::first));
  if (state_->has_second()) PARE_CHECK(state_->save(state, "v", &State::Moments::second));
  return {};
}

Status Optimizer::State::restore(const TrainerState& state, const char* prefix, Tensor Moments::*which) {
  for (size_t i = 0; i < pieces.size();) {
    const auto& parameter = pieces[i].parameter;
    PARE_TRY(const Tensor whole, restored_everywhere(state, fmt::format("{}:{}", prefix, parameter->name),
                                                     parameter->value.shape(), *exchange));
    for (; i < pieces.size() && pieces[i].parameter == parameter; ++i) {
      if (!owns(pieces[i])) continue;
      PARE_CHECK(copy_into(pieces[i].slice_of(whole), moments[i].*which));
    }
  }
  return {};
}

Status Optimizer::restore(const TrainerState& state) {
  double steps = 0.0;
  if (state_->exchange->is_first()) {
    PARE_TRY(const int64_t stored, state.integer("optimizer_steps"));
    steps = double(stored);
  }
  PARE_CHECK(state_->exchange->sum(std::span<double>(&steps, 1)));
  state_->steps = int64_t(steps);
  if (state_->has_first()) PARE_CHECK(state_->restore(state, "m", &State::Moments::first));
  if (state_->has_second()) PARE_CHECK(state_->restore(state, "v", &State::Moments::second));
  return {};
}

}  // namespace pare
