// The state of a run, out and in.
#include <fmt/format.h>

#include "distill/trainer_parts.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// The bits of the mask in the state of rank 0, on every rank. Bytes travel as floats, which hold them
// exactly.
Result<Tensor> mask_everywhere(const TrainerState& state, const std::string& name, const Shape& shape,
                               GradientExchange& exchange) {
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, shape));
  std::vector<float> bytes(size_t(bits.numel()));
  if (exchange.is_first()) {
    PARE_TRY(const Tensor stored, state.tensor(name, DType::u8, shape));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = float(stored.data<uint8_t>()[i]);
  }
  PARE_CHECK(exchange.broadcast(bytes, 0));
  for (size_t i = 0; i < bytes.size(); ++i) bits.mutable_data<uint8_t>()[i] = uint8_t(bytes[i]);
  return bits;
}

}  // namespace

Status Trainer::save(TrainerState& out) {
  State& state = *state_;
  out = {};
  if (state.exchange.is_first()) {
    out.json["batches"] = state.batches;
    out.json["bad_steps"] = state.bad_steps;
    out.json["loss_scale"] = state.scale.scale;
    out.json["good_steps"] = state.scale.good_steps;
    for (const auto& parameter : state.optimizer->parameters()) {
      PARE_TRY(const Tensor value, in_host_memory(parameter->value));
      out.tensors.push_back({fmt::format("w:{}", parameter->name), value});
      if (state.options.update_masks && parameter->mask)
        out.tensors.push_back({fmt::format("mask:{}", parameter->name), parameter->mask->bits()});
    }
    if (state.intermediate) state.intermediate->save(out);
  }
  return state.optimizer->save(out);
}

Status Trainer::restore(const TrainerState& in) {
  State& state = *state_;
  double numbers[] = {0.0, 0.0, 0.0, 0.0};
  if (state.exchange.is_first()) {
    PARE_TRY(const int64_t batches, in.integer("batches"));
    PARE_TRY(const int64_t bad_steps, in.integer("bad_steps"));
    PARE_TRY(numbers[2], in.real("loss_scale"));
    PARE_TRY(const int64_t good_steps, in.integer("good_steps"));
    numbers[0] = double(batches);
    numbers[1] = double(bad_steps);
    numbers[3] = double(good_steps);
  }
  PARE_CHECK(state.exchange.sum(std::span<double>(numbers)));
  state.reader.reset();
  state.batches = int64_t(numbers[0]);
  state.bad_steps = int64_t(numbers[1]);
  state.scale.scale = numbers[2];
  state.scale.good_steps = int64_t(numbers[3]);
  for (const auto& parameter : state.optimizer->parameters()) {
    PARE_TRY(const Tensor value, restored_everywhere(in, fmt::format("w:{}", parameter->name),
                                                     parameter->value.shape(), state.exchange));
    PARE_CHECK(copy_into(value, parameter->value));
    // Which parameters have masks is the same in the saved run: the callback of the same options gave them.
    const std::string mask = fmt::format("mask:{}", parameter->name);
    double has_mask = 0.0;
    if (state.options.update_masks && state.exchange.is_first())
      for (const NamedTensor& entry : in.tensors) has_mask += double(entry.name == mask);
    PARE_CHECK(state.exchange.sum(std::span<double>(&has_mask, 1)));
    if (has_mask == 0.0) continue;
    const int64_t rows = parameter->value.size(0), columns = parameter->value.size(1);
    PARE_TRY(Tensor bits, mask_everywhere(in, mask, {rows, (columns + 7) / 8}, state.exchange));
    parameter->mask = std::make_shared<const Mask>(std::move(bits), rows, columns);
  }
  PARE_CHECK(state.optimizer->restore(in));
  if (state.intermediate) PARE_CHECK(state.intermediate->restore(in, state.exchange));
  return state.student.refresh();
}

}  // namespace pare
