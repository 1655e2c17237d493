#include "calibrate/weight_gradients.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int64_t kPiece = 1 << 16;  // weights of a piece of work

void add_moment(GradientMoment moment, const float* gradient, float* sums, int64_t count) {
  parallel_ranges(count, kPiece, [&](int64_t begin, int64_t end) {
    switch (moment) {
      case GradientMoment::mean:
        for (int64_t i = begin; i < end; ++i) sums[i] += gradient[i];
        break;
      case GradientMoment::absolute:
        for (int64_t i = begin; i < end; ++i) sums[i] += std::abs(gradient[i]);
        break;
      case GradientMoment::square:
        for (int64_t i = begin; i < end; ++i) sums[i] += gradient[i] * gradient[i];
        break;
    }
  });
}

}  // namespace

WeightGradients::WeightGradients(const ModelDescription& model, const std::vector<std::string>& names,
                                 std::vector<GradientMoment> moments)
    : moments_(std::move(moments)) {
  for (const std::string& name : names) {
    const TensorSpec* spec = model.find(name);
    PARE_ASSERT(spec != nullptr && spec->shape.rank() == 2, "[gradients] {} is no matrix", name);
    places_[name] = {.shape = {spec->out(), spec->in()}, .offset = 0, .sums = {}};
  }
  for (auto& [name, place] : places_) {
    place.offset = floats_;
    floats_ += uint64_t(place.shape.numel()) * moments_.size();
  }
}

Status WeightGradients::start() {
  for (auto& [name, place] : places_) {
    for (size_t i = 0; i < moments_.size(); ++i) {
      PARE_TRY(Tensor sums, Tensor::allocate(DType::f32, place.shape));
      std::memset(sums.mutable_raw(), 0, sums.size_bytes());
      place.sums.push_back(std::move(sums));
    }
  }
  return {};
}

uint64_t WeightGradients::size_bytes() const {
  return floats_ * sizeof(float);
}

void WeightGradients::add(const ParameterList& parameters) {
  size_t seen = 0;
  for (const auto& parameter : parameters) {
    const auto found = places_.find(parameter->name);
    if (found == places_.end()) continue;
    Place& place = found->second;
    PARE_ASSERT(parameter->gradient.shape() == place.shape, "[gradients] {} is {}", parameter->name,
                parameter->gradient.shape().text());
    for (size_t i = 0; i < moments_.size(); ++i)
      add_moment(moments_[i], parameter->gradient.data<float>(), place.sums[i].mutable_data<float>(),
                 place.shape.numel());
    ++seen;
  }
  PARE_ASSERT(seen == places_.size(), "[gradients] {} of {} matrices have gradients", seen, places_.size());
}

std::vector<std::span<std::byte>> WeightGradients::state() {
  std::vector<std::span<std::byte>> parts;
  for (auto& [name, place] : places_)
    for (Tensor& sums : place.sums) parts.push_back({sums.mutable_raw(), sums.size_bytes()});
  return parts;
}

Status WeightGradients::finish(int64_t windows) {
  for (auto& [name, place] : places_) {
    for (Tensor& sums : place.sums) {
      float* values = sums.mutable_data<float>();
      parallel_ranges(sums.numel(), kPiece, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) values[i] = float(double(values[i]) / double(windows));
      });
      if (std::all_of(values, values + sums.numel(), [](float value) { return std::isfinite(value); }))
        continue;
      return Error{.exit = Exit::numeric,
                   .rule = "NU14",
                   .path = {},
                   .where = quote(name),
                   .what = "gradient is not finite",
                   .got = {},
                   .limit = {}};
    }
  }
  return {};
}

Result<Tensor> WeightGradients::read(const LossGradients& values, std::string_view name,
                                     GradientMoment moment) const {
  const auto found = places_.find(name);
  const auto kept = std::find(moments_.begin(), moments_.end(), moment);
  PARE_ASSERT(found != places_.end() && kept != moments_.end(), "[gradients] {} has no such moment", name);
  const Place& place = found->second;
  const uint64_t offset =
      (place.offset + uint64_t(kept - moments_.begin()) * uint64_t(place.shape.numel())) * sizeof(float);
  PARE_TRY(Tensor tensor, Tensor::allocate(DType::f32, place.shape));
  PARE_ASSERT(offset + tensor.size_bytes() <= values.values->bytes().size(), "[gradients] {} lies outside",
              name);
  std::memcpy(tensor.mutable_raw(), values.values->bytes().data() + offset, tensor.size_bytes());
  values.values->drop(offset, tensor.size_bytes());
  return tensor;
}

}  // namespace pare
