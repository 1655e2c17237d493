#include "engine/backends/cpu/sparse/sample.h"

#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare::cpu {
namespace {

const Random& draws() {
  static const Random random(11, RandomPurpose::test_data);
  return random;
}

// n of the m bits from `first` on, each choice as likely as any other.
void keep_n_of_m(uint8_t* row, int64_t first, int64_t width, int64_t kept, uint64_t counter) {
  for (int64_t left = width; left > 0 && kept > 0; --left) {
    if (int64_t(draws().below(uint64_t(left), counter + uint64_t(left), 1)) >= kept) continue;
    const int64_t column = first + left - 1;
    row[column / 8] |= uint8_t(1u << (column % 8));
    --kept;
  }
}

}  // namespace

Result<Tensor> sample_values(DType dtype, int64_t out, int64_t in) {
  PARE_TRY(Tensor dense, Tensor::allocate(dtype, {out, in}));
  parallel_ranges(out * in, 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float value = 2.0f * draws().uniform(uint64_t(i)) - 1.0f;
      if (dtype == DType::f32) {
        dense.mutable_data<float>()[i] = value;
      } else {
        dense.mutable_data<uint16_t>()[i] = dtype == DType::bf16 ? float_to_bf16(value) : float_to_f16(value);
      }
    }
  });
  return dense;
}

Result<QuantizedTensor> sample_codes(const QuantScheme& scheme, int64_t out, int64_t in) {
  PARE_TRY(QuantizedTensor codes, QuantizedTensor::allocate(scheme, out, in));
  auto* bytes = codes.codes.mutable_data<uint8_t>();
  parallel_ranges(codes.codes.numel(), 65536, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) bytes[i] = uint8_t(1 + draws().below(255, uint64_t(i), 2));
  });
  for (int64_t i = 0; i < codes.scales.numel(); ++i)
    codes.scales.mutable_data<uint16_t>()[i] = float_to_f16(0.01f + 0.01f * draws().uniform(uint64_t(i), 3));
  return codes;
}

Result<Mask> sample_mask(const SparsityPattern& pattern, double density, int64_t out, int64_t in) {
  using Kind = SparsityPattern::Kind;
  const int64_t row_bytes = (in + 7) / 8;
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {out, row_bytes}));
  uint8_t* bytes = bits.mutable_data<uint8_t>();
  parallel_ranges(out, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      uint8_t* target = bytes + row * row_bytes;
      if (pattern.kind == Kind::n_of_m) {
        for (int64_t first = 0; first < in; first += pattern.m) {
          const int64_t width = std::min<int64_t>(pattern.m, in - first);
          const int64_t kept = width - (pattern.m - pattern.n) * width / pattern.m;
          keep_n_of_m(target, first, width, kept, uint64_t(row * in + first) * 32);
        }
        continue;
      }
      const bool blocks = pattern.kind == Kind::block;
      const int64_t top = blocks ? row / pattern.block_rows : row, step = blocks ? pattern.block_columns : 1;
      for (int64_t column = 0; column < in; ++column) {
        if (double(draws().uniform(uint64_t(top * in + column / step), 4)) < density)
          target[column / 8] |= uint8_t(1u << (column % 8));
      }
    }
  });
  return Mask(std::move(bits), out, in);
}

}  // namespace pare::cpu
