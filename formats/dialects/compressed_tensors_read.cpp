// Reading compressed-tensors: pack-quantized (1 to 8 bits in 32-bit words), and int-, float- and
// naive-quantized (one byte per weight).
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/dialects/compressed_tensors.h"
#include "formats/dialects/compressed_tensors_config.h"
#include "formats/dialects/parts.h"
#include "formats/dialects/words.h"
#include "formats/fault.h"

namespace pare {
namespace {

using Strategy = QuantArgs::Strategy;

// One matrix: what its config says and what its tensors turned out to be.
struct Matrix {
  std::string module;
  int64_t out = 0, in = 0;
  QuantArgs args;
  CompressedForm form = CompressedForm::packed;
  WordOrder order = WordOrder::dense;
  QuantScheme scheme;
  bool has_zero_points = false, has_group_index = false;
  std::optional<ActivationQuant> activation;

  std::string part(std::string_view suffix) const { return module + "." + std::string(suffix); }
  int64_t groups() const { return scheme.groups(in); }
};

// Codes of 1 bit are kept in 2: canonical codes start there.
int stored_bits(const QuantArgs& args) {
  return std::max(args.bits, 2);
}

QuantScheme scheme_of(const QuantArgs& args, DType scale_dtype) {
  QuantScheme scheme;
  scheme.kind = args.is_float ? QuantScheme::Kind::floating : QuantScheme::Kind::integer;
  scheme.bits = stored_bits(args);
  scheme.offset = args.symmetric ? QuantScheme::Offset::none : QuantScheme::Offset::zero_point;
  if (!args.is_float && args.symmetric) scheme.range = QuantScheme::Range::full;
  scheme.scale_dtype = scale_dtype;
  scheme.granularity = QuantScheme::Granularity::channel;
  if (args.strategy == Strategy::tensor) scheme.granularity = QuantScheme::Granularity::tensor;
  const bool is_grouped = args.strategy == Strategy::group || args.strategy == Strategy::block;
  if (is_grouped) {
    scheme.granularity = QuantScheme::Granularity::group;
    scheme.group_size = args.strategy == Strategy::group ? args.group_size : args.block_columns;
  }
  return scheme;
}

// Rows that share a scale: one, or those of a block.
int64_t scale_rows(const Matrix& matrix) {
  if (matrix.args.strategy != Strategy::block) return matrix.out;
  return (matrix.out + matrix.args.block_rows - 1) / matrix.args.block_rows;
}

// Which of the two packings the words have. They differ in width for all but small matrices of odd bit
// widths.
Status find_order(const StoredTensor& packed, const CompressedTensorsConfig& config, Matrix& matrix,
                  std::string_view path) {
  const int64_t dense = stream_words(matrix.in, matrix.args.bits, WordOrder::dense);
  const int64_t padded = stream_words(matrix.in, matrix.args.bits, WordOrder::padded);
  const bool is_matrix = packed.shape.rank() == 2 && packed.shape[0] == matrix.out;
  const int64_t width = is_matrix ? packed.shape[1] : -1;
  if (width != dense && width != padded) {
    return malformed("QC01", path, quote(packed.name), "width fits neither packing of the declared bits",
                     packed.shape.text(),
                     dense == padded
                         ? Shape{matrix.out, dense}.text()
                         : Shape{matrix.out, dense}.text() + " or " + Shape{matrix.out, padded}.text());
  }
  matrix.order = width == dense ? WordOrder::dense : WordOrder::padded;
  const bool is_ambiguous = dense == padded && 32 % matrix.args.bits != 0 && dense > 1;
  if (!is_ambiguous) return {};
  if (!config.packs_dense) {
    return unsupported("QC01", path, quote(packed.name),
                       "both packings of these bits have this width, and the config "
                       "has no version to tell them apart",
                       packed.shape.text());
  }
  matrix.order = *config.packs_dense ? WordOrder::dense : WordOrder::padded;
  return {};
}

// Zero points must be there when the scheme is asymmetric. Old files have some for symmetric schemes too: all
// zero.
Status find_zero_points(ModuleParts& parts, Matrix& matrix, const WeightSource& stored,
                        const Shape& scale_shape) {
  const bool is_packed = matrix.form == CompressedForm::packed && matrix.args.strategy != Strategy::tensor;
  if (matrix.args.symmetric) {
    PARE_TRY(const StoredTensor* found, parts.may("weight_zero_point", {DType::i8}, {}));
    if (found == nullptr) return {};
    PARE_TRY(const Tensor values, load_part(stored, found->name));
    const auto* bytes = values.data<uint8_t>();
    if (std::all_of(bytes, bytes + values.numel(), [](uint8_t value) { return value == 0; })) return {};
    return malformed("QC02", stored.path(), quote(found->name),
                     "zero points of a symmetric scheme are not 0");
  }
  matrix.has_zero_points = true;
  if (is_packed) {
    const Shape packed{stream_words(matrix.out, matrix.args.bits, matrix.order), matrix.groups()};
    PARE_TRY(const StoredTensor* found, parts.need("weight_zero_point", {DType::i32}, {packed}));
    static_cast<void>(found);
    return {};
  }
  PARE_TRY(const StoredTensor* found,
           parts.need("weight_zero_point", {DType::i8}, {scale_shape, Shape{1}, Shape{}}));
  if (found->shape.numel() == scale_shape.numel()) return {};
  return malformed("QC02", stored.path(), quote(found->name),
                   "zero points do not have the shape of the scales", found->shape.text(),
                   scale_shape.text());
}

Result<float> scalar_part(const WeightSource& stored, const std::string& name) {
  PARE_TRY(const Tensor tensor, load_part(stored, name));
  PARE_TRY(const Tensor value, converted(tensor, DType::f32));
  return value.data<float>()[0];
}

// input_scale and input_zero_point of a static activation are part of what the matrix is.
Status find_activation(ModuleParts& parts, Matrix& matrix, const WeightSource& stored) {
  if (!matrix.activation || matrix.activation->mode != ActivationQuant::Mode::static_tensor) return {};
  const std::initializer_list<Shape> one{Shape{1}, Shape{}};
  PARE_TRY(const StoredTensor* scale, parts.need("input_scale", {DType::f32, DType::bf16, DType::f16}, one));
  PARE_TRY(matrix.activation->scale, scalar_part(stored, scale->name));
  if (!(matrix.activation->scale > 0.0f) || matrix.activation->scale > 3.4e38f) {
    return fault(Exit::numeric, "QC04", stored.path(), quote(scale->name),
                 "scale must be finite and positive", fmt::format("{}", matrix.activation->scale));
  }
  if (matrix.activation->symmetric) {
    parts.take("input_zero_point");
    return {};
  }
  PARE_TRY(const StoredTensor* zero, parts.need("input_zero_point", {DType::i8}, one));
  PARE_TRY(const Tensor value, load_part(stored, zero->name));
  matrix.activation->zero_point = value.data<int8_t>()[0];
  return {};
}

// Codes from words that are not canonical bytes already.
Result<Tensor> repacked_rows(const Tensor& packed, const Matrix& matrix) {
  const int64_t row_bytes = matrix.scheme.row_bytes(matrix.in);
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {matrix.out, row_bytes}));
  std::vector<uint8_t> row_codes(static_cast<size_t>(matrix.in));
  // A symmetric bit stands for -1 or 0; in two bits 0 is code 2.
  const uint8_t shift = matrix.args.bits == 1 && matrix.args.symmetric ? 1 : 0;
  for (int64_t row = 0; row < matrix.out; ++row) {
    unpack_stream(packed.data<uint32_t>() + row * packed.size(1), 1, matrix.in, matrix.args.bits,
                  matrix.order, row_codes.data(), 1);
    for (uint8_t& code : row_codes) code = uint8_t(code + shift);
    pack_codes(row_codes.data(), matrix.in, matrix.scheme.bits,
               codes.mutable_data<uint8_t>() + row * row_bytes);
  }
  return codes;
}

Error outside(const WeightSource& stored, const std::string& name, int64_t row, int64_t column, int value,
              int bits) {
  return malformed("QC02", stored.path(), fmt::format("{}[{},{}]", quote(name), row, column),
                   "value needs more bits", std::to_string(value),
                   fmt::format("{} to {}", -(1 << (bits - 1)), (1 << (bits - 1)) - 1));
}

// One signed byte per weight.
Result<Tensor> codes_of_bytes(const Tensor& values, const Matrix& matrix, const WeightSource& stored) {
  const int64_t row_bytes = matrix.scheme.row_bytes(matrix.in);
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {matrix.out, row_bytes}));
  const int bits = matrix.args.bits, half = 1 << (bits - 1);
  const int shift = bits == 1 && matrix.args.symmetric ? half + 1 : half;
  std::vector<uint8_t> row_codes(static_cast<size_t>(matrix.in));
  for (int64_t row = 0; row < matrix.out; ++row) {
    const int8_t* from = values.data<int8_t>() + row * matrix.in;
    for (int64_t i = 0; i < matrix.in; ++i) {
      if (from[i] < -half || from[i] >= half)
        return outside(stored, matrix.part("weight"), row, i, from[i], bits);
      row_codes[size_t(i)] = uint8_t(from[i] + shift);
    }
    pack_codes(row_codes.data(), matrix.in, matrix.scheme.bits,
               codes.mutable_data<uint8_t>() + row * row_bytes);
  }
  return codes;
}

Result<Tensor> load_codes(const Matrix& matrix, const WeightSource& stored) {
  if (matrix.form == CompressedForm::packed) {
    PARE_TRY(const Tensor packed, load_part(stored, matrix.part("weight_packed")));
    const bool is_canonical = matrix.order == WordOrder::dense && matrix.args.bits > 1;
    return is_canonical ? canonical_rows(packed, matrix.in, matrix.args.bits) : repacked_rows(packed, matrix);
  }
  PARE_TRY(const Tensor values, load_part(stored, matrix.part("weight")));
  if (!matrix.args.is_float) return codes_of_bytes(values, matrix, stored);
  PARE_CHECK(require_finite(values, matrix.part("weight"), stored.path()));
  return as_bytes(values, matrix.out);
}

// [out, groups], a block's scale repeated for each of its rows.
Result<Tensor> load_scales(const Matrix& matrix, const WeightSource& stored) {
  const std::string name = matrix.part("weight_scale");
  PARE_TRY(const Tensor values, load_part(stored, name));
  const bool is_one = matrix.args.strategy == Strategy::tensor;
  const Tensor scales = values.reshaped({is_one ? 1 : scale_rows(matrix), matrix.groups()});
  PARE_CHECK(check_scales(scales, stored.path(), name));
  if (matrix.args.strategy != Strategy::block) return scales;
  PARE_TRY(Tensor repeated, Tensor::allocate(scales.dtype(), {matrix.out, matrix.groups()}));
  const auto row_bytes = static_cast<size_t>(matrix.groups() * dtype_bytes(scales.dtype()));
  for (int64_t row = 0; row < matrix.out; ++row) {
    std::memcpy(repeated.mutable_raw() + size_t(row) * row_bytes,
                scales.raw() + size_t(row / matrix.args.block_rows) * row_bytes, row_bytes);
  }
  return repeated;
}

Result<Tensor> load_zero_points(const Matrix& matrix, const WeightSource& stored) {
  const std::string name = matrix.part("weight_zero_point");
  PARE_TRY(const Tensor values, load_part(stored, name));
  const bool is_one = matrix.args.strategy == Strategy::tensor;
  const int64_t groups = matrix.groups();
  PARE_TRY(Tensor points, Tensor::allocate(DType::u8, {is_one ? 1 : matrix.out, groups}));
  auto* to = points.mutable_data<uint8_t>();
  if (values.dtype() == DType::i32) {
    for (int64_t group = 0; group < groups; ++group) {
      unpack_stream(values.data<uint32_t>() + group, groups, matrix.out, matrix.args.bits, matrix.order,
                    to + group, groups);
    }
    return points;
  }
  const int half = 1 << (matrix.args.bits - 1);
  for (int64_t i = 0; i < points.numel(); ++i) {
    const int64_t row = i / groups;
    const int64_t from =
        matrix.args.strategy == Strategy::block ? row / matrix.args.block_rows * groups + i % groups : i;
    const int value = values.data<int8_t>()[from];
    if (value < -half || value >= half) {
      return malformed("QC04", stored.path(), fmt::format("{}[{},{}]", quote(name), row, i % groups),
                       "zero point is outside the codes", std::to_string(value),
                       fmt::format("{} to {}", -half, half - 1));
    }
    to[i] = uint8_t(value + half);
  }
  return points;
}

// weight_shape is the one part whose value says what the others mean.
Status check_shape(const Matrix& matrix, const WeightSource& stored) {
  const std::string name = matrix.part("weight_shape");
  PARE_TRY(const Tensor shape, load_part(stored, name));
  const bool is_wide = shape.dtype() == DType::i64;
  const int64_t rows = is_wide ? shape.data<int64_t>()[0] : shape.data<int32_t>()[0];
  const int64_t columns = is_wide ? shape.data<int64_t>()[1] : shape.data<int32_t>()[1];
  if (rows == matrix.out && columns == matrix.in) return {};
  return malformed("QC02", stored.path(), quote(name), "differs from the shape in the config of the model",
                   fmt::format("[{}, {}]", rows, columns), Shape{matrix.out, matrix.in}.text());
}

Result<QuantizedTensor> load_matrix(const Matrix& matrix, const WeightSource& stored) {
  if (matrix.form == CompressedForm::packed) PARE_CHECK(check_shape(matrix, stored));
  QuantizedTensor tensor;
  tensor.scheme = matrix.scheme;
  tensor.shape = {matrix.out, matrix.in};
  tensor.activation = matrix.activation;
  PARE_TRY(tensor.codes, load_codes(matrix, stored));
  PARE_TRY(tensor.scales, load_scales(matrix, stored));
  if (matrix.has_zero_points) {
    PARE_TRY(tensor.zero_points, load_zero_points(matrix, stored));
  }
  if (matrix.has_group_index) {
    const std::string name = matrix.part("weight_g_idx");
    PARE_TRY(const Tensor index, load_part(stored, name));
    PARE_TRY(tensor.group_index, group_index_of(index, matrix.groups(), matrix.scheme.group_size,
                                                matrix.args.is_act_order, stored.path(), name));
  }
  return finished_tensor(std::move(tensor), stored.path(), matrix.part("weight"));
}

Result<TranslatedTensor> translate(const ModelMatrix& model, const ModuleGroup& group,
                                   const CompressedTensorsConfig& config, const DialectInput& input) {
  const WeightSource& stored = input.stored;
  ModuleParts parts(stored, model.module);
  Matrix matrix;
  matrix.module = model.module;
  matrix.out = model.spec.out();
  matrix.in = model.spec.in();
  matrix.args = *group.weights;
  matrix.form = group.form;
  matrix.activation = group.activation;
  matrix.scheme = scheme_of(matrix.args, DType::f16);
  if (matrix.form == CompressedForm::packed) {
    PARE_TRY(const StoredTensor* packed, parts.need("weight_packed", {DType::i32}, {}));
    PARE_CHECK(find_order(*packed, config, matrix, stored.path()));
    PARE_TRY(const StoredTensor* shape, parts.need("weight_shape", {DType::i64, DType::i32}, {Shape{2}}));
    static_cast<void>(shape);
  } else {
    // A weight that is still floating has not been quantized at all.
    const DType dtype = matrix.args.is_float ? DType::f8_e4m3 : DType::i8;
    PARE_TRY(const StoredTensor* weight, parts.need("weight", {dtype}, {Shape{matrix.out, matrix.in}}));
    static_cast<void>(weight);
  }
  const bool is_one = matrix.args.strategy == Strategy::tensor;
  const Shape scale_shape{is_one ? 1 : scale_rows(matrix), matrix.groups()};
  const Shape flat = is_one || matrix.groups() == 1 ? Shape{scale_shape[0]} : scale_shape;
  PARE_TRY(const StoredTensor* scale, parts.need("weight_scale", {DType::f32, DType::bf16, DType::f16},
                                                 {scale_shape, flat, is_one ? Shape{} : scale_shape}));
  matrix.scheme.scale_dtype = scale->dtype;
  PARE_CHECK(find_zero_points(parts, matrix, stored, scale_shape));
  if (matrix.args.strategy == Strategy::group) {
    PARE_TRY(const StoredTensor* index, matrix.args.is_act_order
                                            ? parts.need("weight_g_idx", {DType::i32}, {Shape{matrix.in}})
                                            : parts.may("weight_g_idx", {DType::i32}, {Shape{matrix.in}}));
    matrix.has_group_index = index != nullptr;
  }
  PARE_CHECK(find_activation(parts, matrix, stored));
  if (input.weights_only) {
    for (const char* name :
         {"input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"})
      parts.take(name);
  }
  TranslatedTensor result;
  result.tensor = {.name = model.spec.name,
                   .dtype = matrix.scheme.scale_dtype,
                   .shape = {matrix.out, matrix.in},
                   .scheme = matrix.scheme,
                   .transposed = false,
                   .bytes = parts.bytes(),
                   .activation = matrix.activation};
  result.parts = parts.names();
  result.load = [matrix](const WeightSource& source) { return load_matrix(matrix, source); };
  return result;
}

// Scales of keys and values in the cache, in the spellings of several exporters.
std::vector<std::string> cache_scales(const WeightSource& stored) {
  static constexpr std::array<std::string_view, 12> kSuffixes{
      ".self_attn.k_scale",        ".self_attn.v_scale",      ".self_attn.q_scale",
      ".k_proj.output_scale",      ".v_proj.output_scale",    ".k_proj.output_zero_point",
      ".v_proj.output_zero_point", ".self_attn.k_zero_point", ".self_attn.v_zero_point",
      ".k_proj.k_scale",           ".v_proj.v_scale",         ".self_attn.attn.k_scale"};
  std::vector<std::string> names;
  for (const StoredTensor& tensor : stored.tensors()) {
    const auto ends = [&](std::string_view suffix) {
      return std::string_view(tensor.name).ends_with(suffix);
    };
    if (std::any_of(kSuffixes.begin(), kSuffixes.end(), ends)) names.push_back(tensor.name);
  }
  return names;
}

bool has_any_part(const WeightSource& stored, const ModelMatrix& matrix) {
  const ModuleParts parts(stored, matrix.module);
  return parts.find("weight_packed") != nullptr || parts.find("weight") != nullptr ||
         parts.find("weight_scale") != nullptr;
}

}  // namespace

Result<Translation> read_compressed_tensors(const DialectInput& input) {
  PARE_TRY(const CompressedTensorsConfig config, parse_compressed_tensors(input));
  Translation translation;
  for (const ModelMatrix& matrix : input.matrices) {
    PARE_TRY(const ModuleGroup* group, config.group_of(matrix));
    if (group == nullptr || !group->weights) continue;
    // The head of a tied model is the embedding; nothing of its own is stored.
    if (!matrix.spec.required && !has_any_part(input.stored, matrix)) continue;
    if (matrix.spec.transposed) {
      return unsupported("QC05", input.config_path, input.key + ".config_groups." + sanitize(group->name),
                         "matrices stored [in, out] are not part of this format", quote(matrix.module));
    }
    PARE_TRY(TranslatedTensor tensor, translate(matrix, *group, config, input));
    translation.tensors.push_back(std::move(tensor));
  }
  if (input.weights_only && config.has_cache_scheme) translation.dropped = cache_scales(input.stored);
  return translation;
}

}  // namespace pare
