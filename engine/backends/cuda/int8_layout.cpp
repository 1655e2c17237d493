#include "engine/backends/cuda/int8_layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare::cuda {
namespace {

constexpr int64_t kRowsPerItem = 16;

bool is_nibbles(const QuantScheme& scheme) {
  return scheme.bits <= 4;
}

PackedLayout layout_of(const QuantScheme& scheme) {
  return {.name = is_nibbles(scheme) ? "cuda-int4x8" : "cuda-int8", .row_tile = 1, .column_tile = kInt8Step};
}

// c - c'
int shift_of(const QuantScheme& scheme) {
  return is_nibbles(scheme) ? 0 : scheme.symmetric_zero_point();
}

int64_t row_bytes(const QuantScheme& scheme, const Int8Segments& segments) {
  return is_nibbles(scheme) ? segments.padded() / 2 : segments.padded();
}

// The padded column of column k.
int64_t place_of(const Int8Segments& segments, int64_t k) {
  return k / segments.group_width * segments.group_steps * kInt8Step + k % segments.group_width;
}

// Byte of a padded column within its row, and how far up the code stands in it.
struct Place {
  int64_t byte;
  int shift;
};
Place nibble_place(int64_t column) {
  const int64_t step = column / kInt8Step, within = column % kInt8Step;
  return {step * (kInt8Step / 2) + within % 16, within < 16 ? 0 : 4};
}

float load_scale(const Tensor& scales, int64_t index) {
  switch (scales.dtype()) {
    case DType::f32:
      return scales.data<float>()[index];
    case DType::bf16:
      return bf16_to_float(scales.data<uint16_t>()[index]);
    default:
      return f16_to_float(scales.data<uint16_t>()[index]);
  }
}

// Exact: the value came from this type.
void store_scale(const Tensor& scales, int64_t index, float value) {
  switch (scales.dtype()) {
    case DType::f32:
      scales.mutable_data<float>()[index] = value;
      return;
    case DType::bf16:
      scales.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      return;
    default:
      scales.mutable_data<uint16_t>()[index] = float_to_f16(value);
  }
}

int64_t grid_index(const QuantScheme& scheme, const IntegerSegments& segments, int64_t row, int64_t segment) {
  if (scheme.granularity == QuantScheme::Granularity::tensor) return 0;
  return row * segments.groups + segments.group_of(segment);
}

// Segments that have a scale: without columns that of a row is kept nevertheless.
int64_t stored_segments(const IntegerSegments& segments) {
  return segments.count > 0 ? segments.count : std::min<int64_t>(segments.groups, 1);
}

}  // namespace

Int8Segments::Int8Segments(const IntegerSegments& from)
    : in(from.in),
      group_width(from.group_width),
      group_steps((from.group_width + kInt8Step - 1) / kInt8Step),
      widest(from.widest),
      per_group(from.per_group),
      count(from.count) {
  const int64_t last = in - (from.groups - 1) * group_width;
  const int64_t whole = (from.groups - 1) * group_steps + (last + kInt8Step - 1) / kInt8Step;
  steps = (std::max<int64_t>(whole, 1) + 1) / 2 * 2;
}

bool is_int8_layout(const PackedLayout& layout) {
  return layout.name == "cuda-int8" || layout.name == "cuda-int4x8";
}

Int8Segments int8_segments(const PackedMatrix& packed) {
  return Int8Segments(IntegerSegments(packed.scheme, *packed.activation, packed.in));
}

Result<PackedMatrix> pack_int8(const QuantizedTensor& weight) {
  PARE_ASSERT(weight.activation.has_value(), "[pack_int8] {} without rounded inputs", weight.scheme.text());
  PARE_CHECK(check_integer_product(weight.scheme, *weight.activation, weight.group_index.defined()));
  const QuantScheme& scheme = weight.scheme;
  const int64_t out = weight.out(), in = weight.in();
  const IntegerSegments segments(scheme, *weight.activation, in);
  const Int8Segments places(segments);
  const int64_t stored = stored_segments(segments);
  PackedMatrix packed;
  packed.layout = layout_of(scheme);
  packed.scheme = scheme;
  packed.activation = weight.activation;
  packed.out = out;
  packed.in = in;
  const int64_t bytes = row_bytes(scheme, places);
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {out, bytes}));
  PARE_TRY(packed.scales, Tensor::allocate(DType::f32, {stored, out}));
  const int shift = shift_of(scheme);
  const bool has_offsets = !scheme.is_symmetric() || is_nibbles(scheme) || !weight.activation->symmetric;
  if (has_offsets) {
    PARE_TRY(packed.offsets, Tensor::allocate(DType::i32, {2, stored, out}));
  }
  uint8_t* codes = packed.codes.mutable_data<uint8_t>();
  float* scales = packed.scales.mutable_data<float>();
  int32_t* zeros = has_offsets ? packed.offsets.mutable_data<int32_t>() : nullptr;
  int32_t* sums = has_offsets ? zeros + stored * out : nullptr;
  parallel_ranges(out, kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row_codes(size_t(in), 0);
    for (int64_t row = begin; row < end; ++row) {
      if (in > 0)
        unpack_codes(weight.codes.data<uint8_t>() + row * scheme.row_bytes(in), in, scheme.bits,
                     row_codes.data());
      uint8_t* line = codes + row * bytes;
      for (int64_t k = 0; k < in; ++k) {
        const int64_t column = place_of(places, k);
        const unsigned code = row_codes[size_t(k)];
        if (is_nibbles(scheme)) {
          const Place place = nibble_place(column);
          line[place.byte] = uint8_t(line[place.byte] | code << place.shift);
        } else {
          line[column] = uint8_t(int(code) - shift);
        }
      }
      for (int64_t s = 0; s < stored; ++s) {
        const int64_t index = grid_index(scheme, segments, row, s);
        scales[s * out + row] = load_scale(weight.scales, index);
        if (!has_offsets) continue;
        const int zero = weight.zero_points.defined() ? int(weight.zero_points.data<uint8_t>()[index])
                                                      : scheme.symmetric_zero_point();
        zeros[s * out + row] = zero - shift;
        int32_t sum = 0;
        for (int64_t k = segments.begin(s); k < segments.end(s); ++k)
          sum += int(row_codes[size_t(k)]) - shift;
        sums[s * out + row] = sum;
      }
    }
  });
  return packed;
}

Result<QuantizedTensor> unpack_int8(const PackedMatrix& packed) {
  PARE_ASSERT(packed.layout == layout_of(packed.scheme) && packed.activation.has_value(),
              "[unpack_int8] layout {}", packed.layout.name);
  const QuantScheme& scheme = packed.scheme;
  const IntegerSegments segments(scheme, *packed.activation, packed.in);
  const Int8Segments places(segments);
  PARE_TRY(QuantizedTensor weight, QuantizedTensor::allocate(scheme, packed.out, packed.in));
  weight.activation = packed.activation;
  const int64_t bytes = row_bytes(scheme, places), stored = stored_segments(segments);
  const int shift = shift_of(scheme);
  const uint8_t* codes = packed.codes.data<uint8_t>();
  parallel_ranges(packed.in == 0 ? 0 : packed.out, kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row_codes(size_t(packed.in), 0);
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* line = codes + row * bytes;
      for (int64_t k = 0; k < packed.in; ++k) {
        const int64_t column = place_of(places, k);
        if (is_nibbles(scheme)) {
          const Place place = nibble_place(column);
          row_codes[size_t(k)] = uint8_t((line[place.byte] >> place.shift) & 15);
        } else {
          row_codes[size_t(k)] = uint8_t(int(int8_t(line[column])) + shift);
        }
      }
      pack_codes(row_codes.data(), packed.in, scheme.bits,
                 weight.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(packed.in));
    }
  });
  for (int64_t row = 0; row < packed.out; ++row) {
    for (int64_t s = 0; s < stored; ++s) {
      const int64_t index = grid_index(scheme, segments, row, s);
      store_scale(weight.scales, index, packed.scales.data<float>()[s * packed.out + row]);
      if (weight.zero_points.defined())
        weight.zero_points.mutable_data<uint8_t>()[index] =
            uint8_t(packed.offsets.data<int32_t>()[s * packed.out + row] + shift);
    }
  }
  return weight;
}

}  // namespace pare::cuda
