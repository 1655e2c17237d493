// attention_decode: lengths in device memory, caches of every form that a GPU keeps.
#include "engine/backends/cuda/attention_decode.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tolerance.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::cuda {
namespace {

using namespace pare::test;

struct Case {
  int64_t queries = 1, capacity = 70, heads = 4, kv_heads = 2, head_dim = 64, window = 0;
  float softcap = 0.0f;
  std::vector<int32_t> lengths;
  int32_t length_offset = 0;
};

enum class Cache { bf16, int8, int4 };

// A cache of one form, and the floats that it stands for.
struct Made {
  Tensor data, scales, zeros, floats;
};

Made make_cache(const Case& c, Cache form, uint64_t seed) {
  const int64_t sequences = int64_t(c.lengths.size()), rows = sequences * c.kv_heads * c.capacity;
  Made made;
  made.floats = uniform({rows, c.head_dim}, seed, -2.0f, 3.0f);
  if (form == Cache::bf16) {
    made.data = zeros(DType::bf16, {rows, c.head_dim});
    for (int64_t i = 0; i < rows * c.head_dim; ++i) {
      uint16_t& bits = made.data.mutable_data<uint16_t>()[i];
      bits = float_to_bf16(made.floats.data<float>()[i]);
      made.floats.mutable_data<float>()[i] = bf16_to_float(bits);
    }
    return made;
  }
  const KvQuant kv{form == Cache::int8 ? KvQuant::Kind::int8 : KvQuant::Kind::int4};
  made.data = zeros(DType::u8, {rows, kv.row_bytes(c.head_dim)});
  made.scales = zeros(DType::f16, {rows});
  made.zeros = zeros(DType::u8, {rows});
  for (int64_t row = 0; row < rows; ++row) {
    float* x = made.floats.mutable_data<float>() + row * c.head_dim;
    uint8_t* codes = made.data.mutable_data<uint8_t>() + row * kv.row_bytes(c.head_dim);
    uint16_t* scale = made.scales.mutable_data<uint16_t>() + row;
    uint8_t* zero = kv.has_zeros() ? made.zeros.mutable_data<uint8_t>() + row : nullptr;
    kv_encode(kv, x, c.head_dim, codes, scale, zero);
    kv_decode(kv, codes, *scale, zero != nullptr ? *zero : uint8_t{0}, c.head_dim, x);
  }
  return made;
}

double norm(const float* x, int64_t count) {
  double squares = 0.0;
  for (int64_t i = 0; i < count; ++i) squares += double(x[i]) * double(x[i]);
  return std::sqrt(squares);
}

AttentionArgs arguments(const Case& c, const Tensor& q, Tensor& out) {
  AttentionArgs a{};
  a.q = q.data<float>();
  a.out = out.mutable_data<float>();
  a.kv_dtype = DType::f32;
  a.sequences = int64_t(c.lengths.size());
  a.query_tokens = c.queries;
  a.key_tokens = c.capacity;
  a.heads = c.heads;
  a.kv_heads = c.kv_heads;
  a.head_dim = c.head_dim;
  a.q_stride = a.out_stride = c.heads * c.head_dim;
  a.kv_sequence_stride = c.kv_heads * c.capacity * c.head_dim;
  a.kv_head_stride = c.capacity * c.head_dim;
  a.kv_position_stride = c.head_dim;
  a.grid_head_stride = c.capacity;
  a.scale = 1.0f / std::sqrt(float(c.head_dim));
  a.softcap = c.softcap;
  a.window = c.window;
  a.causal = true;
  return a;
}

void run(Backend& backend, const Case& c, Cache form) {
  SCOPED_TRACE(testing::Message() << "form " << int(form) << ", " << c.queries << " queries, capacity "
                                  << c.capacity << ", head_dim " << c.head_dim << ", window " << c.window);
  const int64_t sequences = int64_t(c.lengths.size()), columns = c.heads * c.head_dim;
  const Made k = make_cache(c, form, 1), v = make_cache(c, form, 2);
  const Tensor q = uniform({sequences * c.queries, columns}, 3), lengths = indices(c.lengths);
  Tensor out = uniform(q.shape(), 4), again = uniform(q.shape(), 5), want = zeros(DType::f32, q.shape());
  AttentionDecodeArgs args{.attention = arguments(c, q, out),
                           .lengths = lengths.data<int32_t>(),
                           .length_offset = c.length_offset};
  AttentionArgs& a = args.attention;
  a.k = k.data.raw();
  a.v = v.data.raw();
  a.kv_dtype = form == Cache::bf16 ? DType::bf16 : DType::f32;
  if (form != Cache::bf16) {
    a.kv = KvQuant{form == Cache::int8 ? KvQuant::Kind::int8 : KvQuant::Kind::int4};
    const int64_t row_bytes = a.kv.row_bytes(c.head_dim);
    a.kv_sequence_stride = c.kv_heads * c.capacity * row_bytes;
    a.kv_head_stride = c.capacity * row_bytes;
    a.kv_position_stride = row_bytes;
    a.k_scales = k.scales.data<uint16_t>();
    a.v_scales = v.scales.data<uint16_t>();
    a.k_zeros = a.kv.has_zeros() ? k.zeros.data<uint8_t>() : nullptr;
    a.v_zeros = a.kv.has_zeros() ? v.zeros.data<uint8_t>() : nullptr;
  }
  Context& context = context_of(backend);
  attention_decode(context, args);
  a.out = again.mutable_data<float>();
  attention_decode(context, args);
  ASSERT_TRUE(backend.finish().has_value());
  EXPECT_TRUE(same_bits(out, again));

  const double roundoff = backend.operand_roundoff();
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t length = c.lengths[size_t(s)] + c.length_offset, first = s * c.queries;
    if (length > 0) {
      AttentionArgs one = arguments(c, q, want);
      one.sequences = 1;
      one.q += first * columns;
      one.out += first * columns;
      one.k = k.floats.data<float>() + s * one.kv_sequence_stride;
      one.v = v.floats.data<float>() + s * one.kv_sequence_stride;
      one.key_tokens = length;
      one.query_offset = length - c.queries;
      oracle().attention(one);
    }
    double key_norm = 0.0;
    for (int64_t row = 0; row < k.floats.size(0); ++row)
      key_norm = std::max(key_norm, norm(k.floats.data<float>() + row * c.head_dim, c.head_dim));
    for (int64_t row = first; row < first + c.queries; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t head = column / c.head_dim;
        double score_error =
            tolerance::dot(c.head_dim, norm(q.data<float>() + row * columns + head * c.head_dim, c.head_dim),
                           key_norm, roundoff) *
            double(a.scale);
        if (c.softcap > 0.0f) score_error += tolerance::softcap(double(c.softcap));
        const double bound =
            length <= 0 ? 0.0
                        : 3.0 * (tolerance::softmax(length, 1.0, std::log(double(length)), score_error) +
                                 tolerance::rounded_mean(roundoff));
        ASSERT_NEAR(value_at(out, row, column), value_at(want, row, column), bound)
            << "sequence " << s << " of " << length << " keys, row " << row << ", column " << column;
      }
    }
  }
}

class AttentionDecodeTest : public testing::TestWithParam<MathMode> {
 protected:
  AttentionDecodeTest() : backend_(*make_cuda_backend(0, {.math = GetParam()})) {}
  std::unique_ptr<Backend> backend_;
};
INSTANTIATE_TEST_SUITE_P(Modes, AttentionDecodeTest, testing::Values(MathMode::f32, MathMode::bf16));

TEST_P(AttentionDecodeTest, ReadsLengthsOfEverySequence) {
  for (const Cache form : {Cache::bf16, Cache::int8, Cache::int4}) {
    run(*backend_, {.lengths = {37, 0, 70, 1}}, form);
    run(*backend_, {.heads = 9, .kv_heads = 1, .head_dim = 128, .lengths = {69, -1, 16}, .length_offset = 1},
        form);
  }
}

TEST_P(AttentionDecodeTest, TakesEveryWidth) {
  for (const Cache form : {Cache::bf16, Cache::int8, Cache::int4}) {
    for (const int64_t head_dim : {7, 32, 80, 96, 256})
      run(*backend_, {.capacity = 40, .head_dim = head_dim, .lengths = {33}}, form);
  }
}

// The parts of long contexts; shorter ones in the same place use fewer of them.
TEST_P(AttentionDecodeTest, MergesParts) {
  for (const Cache form : {Cache::bf16, Cache::int8, Cache::int4}) {
    run(*backend_, {.capacity = 600, .lengths = {600, 30, 299}}, form);
    run(*backend_,
        {.queries = 3, .capacity = 600, .head_dim = 128, .window = 280, .softcap = 5.0f, .lengths = {590, 4}},
        form);
  }
}

TEST_P(AttentionDecodeTest, TakesTheScratchThatItSays) {
  const Case c{.capacity = 600, .lengths = {600}};
  Tensor q = uniform({1, 256}, 1), out = uniform({1, 256}, 2);
  const size_t bytes = attention_decode_scratch_bytes(context_of(*backend_), arguments(c, q, out));
  EXPECT_EQ(bytes > 0, GetParam() == MathMode::bf16);
}

}  // namespace
}  // namespace pare::cuda
