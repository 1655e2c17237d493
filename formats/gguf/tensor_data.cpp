#include "formats/gguf/tensor_data.h"

#include <fmt/core.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "formats/fault.h"
#include "formats/gguf/block_layout.h"

namespace pare {
namespace {

using Offset = QuantScheme::Offset;

enum class Fault : uint8_t { none, not_finite, not_a_code };
struct RowFault {
  Fault fault = Fault::none;
  int64_t block = 0;  // of the whole tensor
};

// One block into the row of a QuantizedTensor.
class BlockWriter {
 public:
  BlockWriter(GgufType type, QuantizedTensor& to)
      : type_(type), info_(gguf_type_info(type)), blocks_(*info_.blocks), to_(to) {}

  // `bytes`: the stored row that becomes row `row`.
  RowFault write_row(int64_t row, const std::byte* bytes) const {
    const int64_t in = to_.in(), count = in / blocks_.block, groups = in / blocks_.group;
    std::vector<uint8_t> codes(static_cast<size_t>(in));
    BlockCodes block;
    for (int64_t b = 0; b < count; ++b) {
      unpack_gguf_block(type_, bytes + static_cast<size_t>(b) * info_.block_bytes, block);
      for (int g = 0; g < blocks_.groups(); ++g) {
        const int64_t group = b * blocks_.groups() + g;
        const Fault fault = write_group(block, g, row * groups + group, codes.data() + group * blocks_.group);
        if (fault != Fault::none) return {fault, b};
      }
    }
    pack_codes(codes.data(), in, to_.scheme.bits,
               to_.codes.mutable_data<uint8_t>() + row * to_.scheme.row_bytes(in));
    return {};
  }

 private:
  Fault write_group(const BlockCodes& block, int g, int64_t index, uint8_t* codes) const {
    const GroupValues values = group_values(blocks_, block, g);
    if (!std::isfinite(values.scale) || !std::isfinite(values.minimum)) return Fault::not_finite;
    const uint8_t* from = block.codes.data() + g * blocks_.group;
    const auto zero = static_cast<uint8_t>(blocks_.code_of_zero());
    float scale = values.scale;
    if (scale == 0.0f) {  // every code stands for the same value
      std::memset(codes, zero, static_cast<size_t>(blocks_.group));
      scale = 1.0f;
    } else {
      std::memcpy(codes, from, static_cast<size_t>(blocks_.group));
    }
    switch (to_.scheme.offset) {
      case Offset::minimum:
        store(to_.minimums, index, values.minimum);
        break;
      case Offset::zero_point:
        to_.zero_points.mutable_data<uint8_t>()[index] = scale < 0.0f ? uint8_t(zero - 1) : zero;
        // d (c - 8) = -d ((15 - c) - 7)
        for (int i = 0; scale < 0.0f && i < blocks_.group; ++i)
          codes[i] = uint8_t(blocks_.highest_code() - codes[i]);
        scale = std::abs(scale);
        break;
      case Offset::none:
        for (int i = 0; scale < 0.0f && i < blocks_.group; ++i) {
          if (codes[i] == 0) return Fault::not_a_code;
          codes[i] = uint8_t(2 * zero - codes[i]);
        }
        scale = std::abs(scale);
        break;
    }
    store(to_.scales, index, scale);
    return Fault::none;
  }

  static void store(Tensor& target, int64_t index, float value) {
    if (target.dtype() == DType::f32) {
      target.mutable_data<float>()[index] = value;
    } else {
      target.mutable_data<uint16_t>()[index] = float_to_f16(value);  // one that came from f16
    }
  }

  GgufType type_;
  const GgufTypeInfo& info_;
  const BlockScheme& blocks_;
  QuantizedTensor& to_;
};

Error fault_error(const RowFault& fault, int64_t row, const GgufTensor& tensor, std::string_view path) {
  const std::string where = fmt::format("tensor {} row {} block {}", quote(tensor.name), row, fault.block);
  if (fault.fault == Fault::not_finite)
    return pare::fault(Exit::numeric, "GG36", path, where, "scale of the block is not finite");
  return unsupported("GG36", path, where, "code -128 with a negative scale is not supported");
}

Result<WeightData> load_blocks(const GgufTensor& tensor, std::span<const std::byte> bytes,
                               const GgufLoad& load, std::string_view path) {
  const int64_t out = tensor.shape[0], in = tensor.shape[1];
  auto quantized = std::make_shared<QuantizedTensor>();
  PARE_TRY(*quantized, QuantizedTensor::allocate(*gguf_scheme(tensor.type), out, in));
  const BlockWriter writer(tensor.type, *quantized);
  const size_t row_bytes = out == 0 ? 0 : bytes.size() / static_cast<size_t>(out);
  constexpr int64_t kRowsPerItem = 16;
  std::vector<RowFault> faults(static_cast<size_t>(out));
  parallel_ranges(out, kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t stored = load.change == GgufChange::permuted ? permuted_row(row, load.head_dim) : row;
      faults[static_cast<size_t>(row)] =
          writer.write_row(row, bytes.data() + static_cast<size_t>(stored) * row_bytes);
    }
  });
  for (int64_t row = 0; row < out; ++row) {
    if (faults[static_cast<size_t>(row)].fault != Fault::none)
      return fault_error(faults[static_cast<size_t>(row)], row, tensor, path);
  }
  return WeightData{.form = std::shared_ptr<const QuantizedTensor>(std::move(quantized)),
                    .transposed = load.change == GgufChange::transposed};
}

Result<Tensor> copied(const Tensor& view) {
  PARE_TRY(Tensor copy, Tensor::allocate(view.dtype(), view.shape()));
  if (view.size_bytes() > 0) std::memcpy(copy.mutable_raw(), view.raw(), view.size_bytes());
  return copy;
}

Result<Tensor> unpermuted(const Tensor& view, int64_t head_dim) {
  PARE_TRY(Tensor copy, Tensor::allocate(view.dtype(), view.shape()));
  const int64_t rows = view.size(0);
  const size_t row_bytes = rows == 0 ? 0 : view.size_bytes() / static_cast<size_t>(rows);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(copy.mutable_raw() + static_cast<size_t>(row) * row_bytes,
                view.raw() + static_cast<size_t>(permuted_row(row, head_dim)) * row_bytes, row_bytes);
  }
  return copy;
}

}  // namespace

std::optional<QuantScheme> gguf_scheme(GgufType type) {
  const std::optional<BlockScheme>& blocks = gguf_type_info(type).blocks;
  if (!blocks) return std::nullopt;
  QuantScheme scheme;
  scheme.kind = QuantScheme::Kind::integer;
  scheme.bits = blocks->bits;
  scheme.granularity = QuantScheme::Granularity::group;
  scheme.group_size = blocks->group;
  scheme.scale_dtype = blocks->has_two_levels() ? DType::f32 : DType::f16;
  scheme.offset = blocks->has_minimum ? Offset::minimum : Offset::zero_point;
  scheme.range = QuantScheme::Range::narrow;
  if (type == GgufType::q8_0) {
    scheme.offset = Offset::none;
    scheme.range = QuantScheme::Range::full;
  }
  return scheme;
}

Result<WeightData> load_gguf_tensor(const GgufTensor& tensor, std::span<const std::byte> bytes,
                                    const std::shared_ptr<const void>& owner, const GgufLoad& load,
                                    std::string_view path) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  if (!info.dtype) return load_blocks(tensor, bytes, load, path);
  const auto storage = Storage::borrow(bytes.data(), bytes.size(), owner, Device::cpu());
  const Tensor view(storage, 0, *info.dtype, tensor.shape);
  if (load.change == GgufChange::permuted) {
    PARE_TRY(Tensor values, unpermuted(view, load.head_dim));
    return WeightData{.form = std::move(values), .transposed = false};
  }
  if (load.change == GgufChange::transposed) {
    PARE_TRY(Tensor values, transposed(view));
    return WeightData{.form = std::move(values), .transposed = false};
  }
  const bool aligned = reinterpret_cast<uintptr_t>(bytes.data()) % info.block_bytes == 0;
  if (aligned) return WeightData{.form = view, .transposed = false};
  PARE_TRY(Tensor values, copied(view));
  return WeightData{.form = std::move(values), .transposed = false};
}

}  // namespace pare
