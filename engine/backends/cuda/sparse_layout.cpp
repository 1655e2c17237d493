#include "engine/backends/cuda/sparse_layout.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/sparse_walk.h"

namespace pare::cuda {
namespace {

constexpr int64_t kRowsPerItem = 16;
constexpr int64_t kRowAlignment = 16;
constexpr const char* kStoredNames[] = {"f32", "bf16", "f16", "byte", "nibble"};

bool is_codes(SparseStored stored) {
  return stored == SparseStored::byte || stored == SparseStored::nibble;
}
// Of a kept weight.
int stored_bits(SparseStored stored) {
  constexpr int kBits[] = {32, 16, 16, 8, 4};
  return kBits[size_t(stored)];
}

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

uint32_t read_value(const SparseTensor& weight, int64_t slot) {
  if (weight.has_codes())
    return read_bits(weight.codes.data<uint8_t>(), slot * weight.scheme->bits, weight.scheme->bits);
  if (weight.values.dtype() == DType::f32) {
    uint32_t bits;
    std::memcpy(&bits, weight.values.data<float>() + slot, sizeof bits);
    return bits;
  }
  return weight.values.data<uint16_t>()[slot];
}

// Element `index` of an array of stored values.
void put(uint8_t* base, SparseStored stored, int64_t index, uint32_t value) {
  switch (stored) {
    case SparseStored::f32:
      std::memcpy(base + 4 * index, &value, 4);
      return;
    case SparseStored::bf16:
    case SparseStored::f16: {
      const auto half = uint16_t(value);
      std::memcpy(base + 2 * index, &half, 2);
      return;
    }
    case SparseStored::byte:
      base[index] = uint8_t(value);
      return;
    case SparseStored::nibble:
      base[index / 2] = uint8_t(base[index / 2] | value << (index % 2 * 4));
      return;
  }
}
uint32_t get(const uint8_t* base, SparseStored stored, int64_t index) {
  switch (stored) {
    case SparseStored::f32: {
      uint32_t value;
      std::memcpy(&value, base + 4 * index, 4);
      return value;
    }
    case SparseStored::bf16:
    case SparseStored::f16: {
      uint16_t half;
      std::memcpy(&half, base + 2 * index, 2);
      return half;
    }
    case SparseStored::byte:
      return base[index];
    case SparseStored::nibble:
      break;
  }
  return (base[index / 2] >> (index % 2 * 4)) & 15u;
}

// Where the kept pair of a group of four stands.
struct OfFour {
  SparseStored stored;
  int64_t column_tiles, tiles, value_bytes;

  OfFour(SparseStored kind, int64_t out, int64_t in)
      : stored(kind),
        column_tiles(divide_up(in, kOfFourColumns)),
        tiles(divide_up(out, kOfFourRows) * column_tiles),
        value_bytes(of_four_value_bytes(kind)) {}

  int64_t bytes() const { return tiles * (value_bytes + kOfFourPlaceBytes); }

  struct Place {
    int64_t values;  // byte where the array starts that `element` counts in
    int64_t element;
    int64_t word;  // byte of the word of places
    int shift;
  };
  Place of(int64_t row, int64_t four) const {
    const int64_t tile = row / kOfFourRows * column_tiles + four / 16;
    const int64_t g = row % 8, low_row = row % kOfFourRows < 8 ? 0 : 1;
    const int64_t half = four % 16 / 8, upper = four % 8 / 4, t = four % 4, lane = 4 * g + t;
    const int64_t pair = 2 * upper + low_row;  // a0 .. a3
    const bool by_half = !is_codes(stored);
    const int64_t element = by_half ? (half * 32 + lane) * 8 + 2 * pair : (lane * 2 + half) * 8 + 2 * pair;
    return {.values = tile * value_bytes,
            .element = element,
            .word = tiles * value_bytes + tile * kOfFourPlaceBytes + (4 * g + 2 * half + upper) * 4,
            .shift = int(16 * low_row + 4 * t)};
  }
};

void put_places(uint8_t* codes, const OfFour::Place& place, uint32_t low, uint32_t high) {
  uint32_t word;
  std::memcpy(&word, codes + place.word, 4);
  word |= (low | high << 2) << place.shift;
  std::memcpy(codes + place.word, &word, 4);
}

Result<Tensor> pack_of_four(const SparseTensor& weight, SparseStored stored) {
  const int64_t out = weight.out(), in = weight.in();
  const OfFour places(stored, out, in);
  PARE_TRY(Tensor packed, Tensor::allocate(DType::u8, {places.bytes()}));
  uint8_t* codes = packed.mutable_data<uint8_t>();
  const int64_t fours = places.column_tiles * 16;
  // By tiles of rows: rows g and g + 8 share words.
  parallel_ranges(divide_up(out, kOfFourRows), 1, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> slots(size_t(fours) * 4, -1);
    for (int64_t row = begin * kOfFourRows; row < end * kOfFourRows; ++row) {
      std::fill(slots.begin(), slots.end(), -1);
      int64_t first = 0;
      if (row < out) {
        first = weight.row_begin(row);
        for_row_slots(weight, row,
                      [&](int64_t column, int64_t slot) { slots[size_t(column)] = int32_t(slot - first); });
      }
      for (int64_t four = 0; four < fours; ++four) {
        const OfFour::Place place = places.of(row, four);
        uint32_t kept[2], count = 0;
        for (uint32_t i = 0; i < 4; ++i) {
          const int32_t slot = slots[size_t(four * 4 + i)];
          if (slot < 0) continue;
          put(codes + place.values, stored, place.element + count, read_value(weight, first + slot));
          kept[count++] = i;
        }
        // A group at the end of a row keeps fewer: the rest stands at a place beyond it.
        if (count == 0) kept[0] = 2, kept[1] = 3;
        if (count == 1) kept[1] = 3;
        put_places(codes, place, kept[0], kept[1]);
      }
    }
  });
  return packed;
}

Status pack_masked(const SparseTensor& weight, SparseStored stored, PackedMatrix& packed) {
  const int64_t out = weight.out(), in = weight.in(), words = masked_words(in), bits = stored_bits(stored);
  PARE_TRY(packed.starts, Tensor::allocate(DType::i64, {out}));
  int64_t* starts = packed.starts.mutable_data<int64_t>();
  int64_t bytes = out * words * 4;
  for (int64_t row = 0; row < out; ++row) {
    int64_t count = 0;
    for_row_slots(weight, row, [&](int64_t, int64_t) { ++count; });
    starts[row] = bytes;
    bytes += divide_up(divide_up(count * bits, 8), kRowAlignment) * kRowAlignment;
  }
  PARE_TRY(packed.codes, Tensor::allocate(DType::u8, {bytes}));
  uint8_t* codes = packed.codes.mutable_data<uint8_t>();
  parallel_ranges(out, kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      uint8_t* mask = codes + row * words * 4;
      int64_t count = 0;
      for_row_slots(weight, row, [&](int64_t column, int64_t slot) {
        mask[column / 8] = uint8_t(mask[column / 8] | 1u << (column % 8));
        put(codes + starts[row], stored, count++, read_value(weight, slot));
      });
    }
  });
  return {};
}

Status pack_grid(const SparseTensor& weight, PackedMatrix& packed) {
  const QuantScheme& scheme = *weight.scheme;
  const int64_t out = weight.out(), groups = scheme.groups(weight.in());
  const bool is_tensor = scheme.granularity == QuantScheme::Granularity::tensor;
  PARE_TRY(packed.scales, Tensor::allocate(DType::f32, {groups, out}));
  if (weight.zero_points.defined()) {
    PARE_TRY(packed.offsets, Tensor::allocate(DType::f32, {groups, out}));
  }
  PARE_TRY(const Tensor scales, converted(weight.scales, DType::f32));
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t from = is_tensor ? 0 : row * groups + g;
      packed.scales.mutable_data<float>()[g * out + row] = scales.data<float>()[from];
      if (weight.zero_points.defined())
        packed.offsets.mutable_data<float>()[g * out + row] = float(weight.zero_points.data<uint8_t>()[from]);
    }
  }
  return {};
}

// Calls visit(row, column, value) for every kept weight, in any order.
template <typename Visit>
void for_kept(const PackedMatrix& packed, Visit visit) {
  const SparseForm form = sparse_form(packed);
  const uint8_t* codes = packed.codes.data<uint8_t>();
  if (form.is_of_four) {
    const OfFour places(form.stored, packed.out, packed.in);
    for (int64_t row = 0; row < packed.out; ++row) {
      for (int64_t four = 0; four < divide_up(packed.in, 4); ++four) {
        const OfFour::Place place = places.of(row, four);
        uint32_t word;
        std::memcpy(&word, codes + place.word, 4);
        for (int i = 0; i < 2; ++i) {
          const int64_t column = four * 4 + int64_t(word >> (place.shift + 2 * i) & 3);
          if (column < packed.in)
            visit(row, column, get(codes + place.values, form.stored, place.element + i));
        }
      }
    }
    return;
  }
  const int64_t words = masked_words(packed.in);
  for (int64_t row = 0; row < packed.out; ++row) {
    int64_t count = 0;
    for_set_bits(codes + row * words * 4, packed.in, [&](int64_t column) {
      visit(row, column, get(codes + packed.starts.data<int64_t>()[row], form.stored, count++));
    });
  }
}

Result<QuantizedTensor> unpack_codes_of(const PackedMatrix& packed) {
  const QuantScheme& scheme = packed.scheme;
  PARE_TRY(QuantizedTensor whole, QuantizedTensor::allocate(scheme, packed.out, packed.in));
  std::vector<uint8_t> codes(size_t(packed.out * packed.in), 0);
  for_kept(packed, [&](int64_t row, int64_t column, uint32_t value) {
    codes[size_t(row * packed.in + column)] = uint8_t(value);
  });
  const int64_t groups = scheme.groups(packed.in);
  const bool is_tensor = scheme.granularity == QuantScheme::Granularity::tensor;
  PARE_TRY(Tensor scales, Tensor::allocate(DType::f32, whole.scales.shape()));
  for (int64_t row = 0; row < packed.out; ++row) {
    pack_codes(codes.data() + row * packed.in, packed.in, scheme.bits,
               whole.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(packed.in));
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t to = is_tensor ? 0 : row * groups + g;
      scales.mutable_data<float>()[to] = packed.scales.data<float>()[g * packed.out + row];
      if (whole.zero_points.defined())
        whole.zero_points.mutable_data<uint8_t>()[to] =
            uint8_t(packed.offsets.data<float>()[g * packed.out + row]);
    }
  }
  PARE_TRY(whole.scales, converted(scales, scheme.scale_dtype));
  return whole;
}

}  // namespace

std::string SparseForm::name() const {
  return fmt::format("cuda-{}-{}", is_of_four ? "2of4" : "masked", kStoredNames[size_t(stored)]);
}

bool has_sparse_form(const std::optional<QuantScheme>& scheme, bool rounds_inputs) {
  if (rounds_inputs) return false;
  return !scheme ||
         (scheme->kind == QuantScheme::Kind::integer && scheme->offset != QuantScheme::Offset::minimum);
}

SparseForm sparse_form(const SparsityPattern& pattern, DType value_dtype,
                       const std::optional<QuantScheme>& scheme, int64_t in) {
  SparseForm form;
  if (scheme) {
    form.stored = scheme->bits <= 4 ? SparseStored::nibble : SparseStored::byte;
  } else if (value_dtype != DType::f32) {
    form.stored = value_dtype == DType::bf16 ? SparseStored::bf16 : SparseStored::f16;
  }
  // A group of four has one scale. Floats of 32 bits have no tensor cores.
  const bool has_whole_fours = !scheme || scheme->groups(in) <= 1 || scheme->group_width(in) % 4 == 0;
  form.is_of_four = pattern.kind == SparsityPattern::Kind::n_of_m && pattern.n == 2 && pattern.m == 4 &&
                    form.stored != SparseStored::f32 && has_whole_fours;
  return form;
}

SparseForm sparse_form(const PackedMatrix& packed) {
  std::optional<QuantScheme> scheme;
  if (packed.value_dtype == DType::u8) scheme = packed.scheme;
  return sparse_form(*packed.pattern, packed.value_dtype, scheme, packed.in);
}

bool is_sparse_layout(const PackedLayout& layout) {
  return layout.name.starts_with("cuda-2of4-") || layout.name.starts_with("cuda-masked-");
}

Result<PackedMatrix> pack_sparse(const SparseTensor& weight) {
  if (!has_sparse_form(weight.scheme, weight.activation.has_value())) {
    return Error{.exit = Exit::unsupported,
                 .rule = "SP10",
                 .path = {},
                 .where = "scheme",
                 .what = "no sparse kernel for these codes",
                 .got = weight.scheme->text(),
                 .limit = "integer codes, symmetric or with zero points, inputs as they are",
                 .limit_label = "expected"};
  }
  PackedMatrix packed;
  packed.pattern = weight.pattern;
  packed.out = weight.out();
  packed.in = weight.in();
  packed.value_dtype = weight.has_codes() ? DType::u8 : weight.values.dtype();
  if (weight.scheme) packed.scheme = *weight.scheme;
  const SparseForm form = sparse_form(packed);
  packed.layout = {.name = form.name(),
                   .row_tile = form.is_of_four ? int(kOfFourRows) : 1,
                   .column_tile = form.is_of_four ? int(kOfFourColumns) : 32};
  if (form.is_of_four) {
    PARE_TRY(packed.codes, pack_of_four(weight, form.stored));
  } else {
    PARE_CHECK(pack_masked(weight, form.stored, packed));
  }
  if (weight.has_codes()) PARE_CHECK(pack_grid(weight, packed));
  return packed;
}

Result<SparseTensor> unpack_sparse_parts(const PackedMatrix& packed) {
  PARE_ASSERT(packed.pattern && packed.layout.name == sparse_form(packed).name(), "[unpack_sparse] layout {}",
              packed.layout.name);
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {packed.out, (packed.in + 7) / 8}));
  Mask mask(std::move(bits), packed.out, packed.in);
  for_kept(packed, [&](int64_t row, int64_t column, uint32_t) { mask.set(row, column, true); });
  if (packed.value_dtype == DType::u8) {
    PARE_TRY(const QuantizedTensor whole, unpack_codes_of(packed));
    return SparseTensor::from_quantized(whole, mask, *packed.pattern);
  }
  PARE_TRY(Tensor dense, Tensor::allocate(packed.value_dtype, {packed.out, packed.in}));
  auto* bytes = reinterpret_cast<uint8_t*>(dense.mutable_raw());
  const SparseStored stored = sparse_form(packed).stored;
  for_kept(packed, [&](int64_t row, int64_t column, uint32_t value) {
    put(bytes, stored, row * packed.in + column, value);
  });
  return SparseTensor::from_dense(dense, mask, *packed.pattern);
}

KernelChoice choose_sparse_form(const SparseSummary& weight) {
  if (weight.out == 0 || weight.in == 0) return {false, "expanded to dense: nothing to multiply"};
  if (!has_sparse_form(weight.scheme, weight.rounds_inputs)) {
    return {false, fmt::format("expanded to dense: no sparse kernel for {}{}", weight.scheme->text(),
                               weight.rounds_inputs ? " with rounded inputs" : "")};
  }
  const SparseForm form = sparse_form(weight.pattern, weight.value_dtype, weight.scheme, weight.in);
  const std::string what =
      fmt::format("{} {}", weight.pattern.text(),
                  weight.scheme ? weight.scheme->text() : kStoredNames[size_t(form.stored)]);
  const double bits = stored_bits(form.stored);
  const double dense = weight.scheme ? weight.scheme->bits : bits;
  // 2:4 keeps half and two bits of places per kept weight; masks are a bit per weight.
  const double share = form.is_of_four ? (0.5 * bits + 1.0) / dense : (weight.density * bits + 1.0) / dense;
  // A row under a mask is expanded by whole warps, which costs more instructions per weight than a dense
  // one; it has to save clearly more bytes than a pattern that tensor cores know.
  const double most = form.is_of_four ? 0.8 : 0.6;
  if (share > most)
    return {false,
            fmt::format("{}: expanded to dense: the sparse form reads {:.2f} of its bytes", what, share)};
  return {true, fmt::format("{}: sparse kernel reads {:.2f} of the dense bytes", what, share)};
}

}  // namespace pare::cuda
