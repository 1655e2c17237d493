#include "engine/tensor/mask.h"

#include <bit>

namespace pare {

Mask::Mask(Tensor bits, int64_t out, int64_t in) : bits_(std::move(bits)), out_(out), in_(in) {
  PARE_ASSERT(bits_.defined() && bits_.dtype() == DType::u8 && bits_.shape() == Shape({out, (in + 7) / 8}),
              "[mask] bits {} for [{}, {}]", bits_.shape().text(), out, in);
  PARE_ASSERT(bits_.is_contiguous(), "[mask] bits with gaps");
}

Result<Mask> Mask::all_kept(int64_t out, int64_t in) {
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {out, (in + 7) / 8}));
  uint8_t* data = bits.mutable_data<uint8_t>();
  const int64_t row_bytes = (in + 7) / 8;
  for (int64_t row = 0; row < out && in > 0; ++row) {
    for (int64_t i = 0; i < row_bytes; ++i) data[row * row_bytes + i] = 0xff;
    if (in % 8 != 0) data[row * row_bytes + row_bytes - 1] = uint8_t((1 << (in % 8)) - 1);
  }
  return Mask(std::move(bits), out, in);
}

bool Mask::kept(int64_t row, int64_t column) const {
  const uint8_t byte = bits_.data<uint8_t>()[row * ((in_ + 7) / 8) + column / 8];
  return ((byte >> (column % 8)) & 1) != 0;
}

void Mask::set(int64_t row, int64_t column, bool kept) {
  PARE_ASSERT(row >= 0 && row < out_ && column >= 0 && column < in_, "[mask] [{}, {}] of [{}, {}]", row,
              column, out_, in_);
  uint8_t& byte = bits_.mutable_data<uint8_t>()[row * ((in_ + 7) / 8) + column / 8];
  const auto bit = uint8_t(1 << (column % 8));
  byte = kept ? uint8_t(byte | bit) : uint8_t(byte & ~bit);
}

int64_t Mask::kept_count() const {
  const uint8_t* data = bits_.data<uint8_t>();
  int64_t count = 0;
  for (int64_t i = 0; i < bits_.numel(); ++i) count += std::popcount(data[i]);
  return count;
}

double Mask::sparsity() const {
  const int64_t total = out_ * in_;
  return total == 0 ? 0.0 : double(total - kept_count()) / double(total);
}

void Mask::apply(Tensor& weight) const {
  PARE_ASSERT(weight.shape() == Shape({out_, in_}), "[mask] weight {}, mask [{}, {}]", weight.shape().text(),
              out_, in_);
  const auto zero_removed = [&](auto* data) {
    for (int64_t row = 0; row < out_; ++row) {
      for (int64_t column = 0; column < in_; ++column) {
        if (!kept(row, column)) data[row * weight.row_stride() + column] = {};
      }
    }
  };
  switch (weight.dtype()) {
    case DType::f32:
      return zero_removed(weight.mutable_data<float>());
    case DType::bf16:
    case DType::f16:
      return zero_removed(weight.mutable_data<uint16_t>());
    default:
      PARE_ASSERT(false, "[mask] weight of type {}", dtype_name(weight.dtype()));
  }
}

}  // namespace pare
