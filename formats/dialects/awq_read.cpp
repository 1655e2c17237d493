// Reading AWQ checkpoints in GEMM order: 4-bit codes packed along the output, eight to a word in the order 0
// 2 4 6 1 3 5 7, zero points the same way.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "formats/dialects/awq.h"
#include "formats/dialects/awq_order.h"
#include "formats/dialects/fields.h"
#include "formats/dialects/module_names.h"
#include "formats/dialects/parts.h"
#include "formats/fault.h"

namespace pare {
namespace {

struct Matrix {
  std::string module;
  int64_t out = 0, in = 0;
  QuantScheme scheme;

  std::string part(std::string_view suffix) const { return module + "." + std::string(suffix); }
  int64_t groups() const { return scheme.groups(in); }
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return text;
}

// -1: one group per row.
Result<int64_t> read_group_size(const DialectInput& input) {
  Fields fields(input.settings, input.config_path, input.key);
  const char* bits_key = fields.given("bits") != nullptr ? "bits" : "w_bit";
  if (fields.integer(bits_key).value_or(4) != 4)
    fields.refuse(bits_key, "number of bits is not supported", "4");
  for (const char* key : {"version", "checkpoint_format", "format"}) {
    if (lower(fields.text(key).value_or("gemm")) != "gemm")
      fields.refuse(key, "version is not supported", "gemm");
  }
  if (lower(fields.text("backend").value_or("autoawq")) != "autoawq")
    fields.refuse("backend", "layout is not supported", "autoawq");
  const char* size_key = fields.given("group_size") != nullptr ? "group_size" : "q_group_size";
  const int64_t size = fields.integer(size_key).value_or(128);
  if (size < -1 || size == 0) fields.refuse(size_key, "impossible group size", "-1, or at least 1");
  PARE_CHECK(fields.status());
  return size;
}

Result<Tensor> load_zero_points(const Matrix& matrix, const WeightSource& stored) {
  PARE_TRY(const Tensor words, load_part(stored, matrix.part("qzeros")));
  return unpack_awq(words);
}

Result<QuantizedTensor> load_matrix(const Matrix& matrix, const WeightSource& stored) {
  QuantizedTensor tensor;
  tensor.scheme = matrix.scheme;
  tensor.shape = {matrix.out, matrix.in};
  PARE_TRY(const Tensor words, load_part(stored, matrix.part("qweight")));
  PARE_TRY(const Tensor codes, unpack_awq(words));
  PARE_TRY(tensor.codes, Tensor::allocate(DType::u8, {matrix.out, matrix.scheme.row_bytes(matrix.in)}));
  for (int64_t row = 0; row < matrix.out; ++row) {
    pack_codes(codes.data<uint8_t>() + row * matrix.in, matrix.in, matrix.scheme.bits,
               tensor.codes.mutable_data<uint8_t>() + row * matrix.scheme.row_bytes(matrix.in));
  }
  PARE_TRY(const Tensor scales, load_part(stored, matrix.part("scales")));
  PARE_CHECK(check_scales(scales, stored.path(), matrix.part("scales")));
  PARE_TRY(tensor.scales, transposed_copy(scales));
  if (!matrix.scheme.is_symmetric()) {
    PARE_TRY(tensor.zero_points, load_zero_points(matrix, stored));
  }
  return finished_tensor(std::move(tensor), stored.path(), matrix.part("weight"));
}

Result<TranslatedTensor> translate(const ModelMatrix& model, int64_t group_size, const DialectInput& input) {
  const WeightSource& stored = input.stored;
  ModuleParts parts(stored, model.module);
  Matrix matrix;
  matrix.module = model.module;
  matrix.out = model.spec.out();
  matrix.in = model.spec.in();
  QuantScheme& scheme = matrix.scheme;
  scheme.bits = 4;
  scheme.range = QuantScheme::Range::full;
  const bool is_grouped = group_size > 0 && group_size < matrix.in;
  scheme.granularity = is_grouped ? QuantScheme::Granularity::group : QuantScheme::Granularity::channel;
  if (is_grouped) scheme.group_size = group_size;

  PARE_TRY(const StoredTensor* packed, parts.need("qweight", {DType::i32}, {}));
  const Shape expected{matrix.in, matrix.out / kAwqPerWord};
  if (!(packed->shape == expected) || matrix.out % kAwqPerWord != 0) {
    return malformed("QC01", stored.path(), quote(packed->name), "shape does not fit 4 bits",
                     packed->shape.text(), expected.text());
  }
  PARE_TRY(const StoredTensor* zeros,
           parts.need("qzeros", {DType::i32}, {Shape{matrix.groups(), matrix.out / kAwqPerWord}}));
  static_cast<void>(zeros);
  PARE_TRY(const StoredTensor* scales,
           parts.need("scales", {DType::f16, DType::bf16, DType::f32}, {Shape{matrix.groups(), matrix.out}}));
  scheme.scale_dtype = scales->dtype;
  // Zero points are always stored; where all are the middle code the scheme is symmetric.
  PARE_TRY(const Tensor points, load_zero_points(matrix, stored));
  const auto* values = points.data<uint8_t>();
  const int middle = scheme.symmetric_zero_point();
  if (!std::all_of(values, values + points.numel(), [&](uint8_t value) { return value == middle; })) {
    scheme.offset = QuantScheme::Offset::zero_point;
    scheme.range = QuantScheme::Range::narrow;  // the default where it means nothing
  }
  TranslatedTensor result;
  result.tensor = {.name = model.spec.name,
                   .dtype = scheme.scale_dtype,
                   .shape = {matrix.out, matrix.in},
                   .scheme = scheme,
                   .transposed = false,
                   .bytes = parts.bytes()};
  result.parts = parts.names();
  result.load = [matrix](const WeightSource& source) { return load_matrix(matrix, source); };
  return result;
}

}  // namespace

Result<Translation> read_awq(const DialectInput& input) {
  PARE_TRY(const int64_t group_size, read_group_size(input));
  Translation translation;
  for (const ModelMatrix& matrix : input.matrices) {
    const ModuleParts parts(input.stored, matrix.module);
    bool has_part = false;
    for (const char* name : {"qweight", "qzeros", "scales"})
      has_part = has_part || parts.find(name) != nullptr;
    const bool is_dense = parts.find("weight") != nullptr;
    if (!has_part && (is_dense || !matrix.spec.required)) continue;
    if (matrix.spec.transposed) {
      return unsupported("QC05", input.stored.path(), quote(matrix.module),
                         "matrices stored [in, out] are not part of this format");
    }
    PARE_TRY(TranslatedTensor tensor, translate(matrix, group_size, input));
    translation.tensors.push_back(std::move(tensor));
  }
  return translation;
}

}  // namespace pare
