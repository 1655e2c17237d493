// Attention over codes: exactly what attention over the decoded keys and values gives, whatever the query is
// part of.
#include "engine/tensor/kv_quant.h"

#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using KvAttentionTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(KvAttentionTest);

struct Cache {
  KvCodes codes;
  Tensor floats;  // decoded
};

Cache random_cache(KvQuant kv, int64_t sequences, int64_t kv_heads, int64_t capacity, int64_t head_dim,
                   uint64_t seed) {
  Cache cache;
  const Shape grid{sequences, kv_heads, capacity};
  cache.floats = uniform({sequences, kv_heads, capacity, head_dim}, seed, -2.0f, 3.0f);
  cache.codes.codes = zeros(DType::u8, {sequences, kv_heads, capacity, kv.row_bytes(head_dim)});
  cache.codes.scales = zeros(DType::f16, grid);
  if (kv.has_zeros()) cache.codes.zeros = zeros(DType::u8, grid);
  for (int64_t i = 0; i < grid.numel(); ++i) {
    float* x = cache.floats.mutable_data<float>() + i * head_dim;
    uint8_t* codes = cache.codes.codes.mutable_data<uint8_t>() + i * kv.row_bytes(head_dim);
    uint16_t* scale = cache.codes.scales.mutable_data<uint16_t>() + i;
    uint8_t* zero = kv.has_zeros() ? cache.codes.zeros.mutable_data<uint8_t>() + i : nullptr;
    kv_encode(kv, x, head_dim, codes, scale, zero);
    kv_decode(kv, codes, *scale, zero != nullptr ? *zero : uint8_t{0}, head_dim, x);
  }
  return cache;
}

TEST_P(KvAttentionTest, SameBytesAsOverTheDecodedCache) {
  for (const KvQuant kv : {KvQuant{KvQuant::Kind::int8}, KvQuant{KvQuant::Kind::int4}}) {
    for (const auto& [sequences, queries, keys, heads, kv_heads, head_dim] : {std::tuple{1, 1, 1, 1, 1, 1},
                                                                              {1, 1, 70, 4, 2, 16},
                                                                              {2, 5, 130, 6, 2, 64},
                                                                              {1, 33, 64, 3, 3, 7},
                                                                              {1, 40, 200, 8, 2, 128},
                                                                              {1, 3, 65, 2, 1, 512}}) {
      for (const int64_t window : {0, 17}) {
        SCOPED_TRACE(testing::Message() << kv.name() << " " << queries << " queries, " << keys
                                        << " keys, head_dim " << head_dim << ", window " << window);
        const Cache k = random_cache(kv, sequences, kv_heads, keys + 3, head_dim, 1);
        const Cache v = random_cache(kv, sequences, kv_heads, keys + 3, head_dim, 2);
        const ops::AttentionShape shape{.sequences = sequences,
                                        .query_tokens = queries,
                                        .key_tokens = keys,
                                        .query_offset = keys - queries,
                                        .heads = heads,
                                        .kv_heads = kv_heads,
                                        .head_dim = head_dim,
                                        .scale = 0.125f,
                                        .window = window};
        const Tensor q = uniform({sequences * queries, heads * head_dim}, 3);
        Tensor coded = zeros(DType::f32, q.shape()), plain = zeros(DType::f32, q.shape());
        ops::attention_cached(q, kv, k.codes, v.codes, shape, coded);
        ops::attention_cached(q, k.floats, v.floats, shape, plain);
        // Where operands of products are rounded, codes enter them exactly and floats do not (and few queries
        // may take another kernel than many): each is near the definition, which the check backend sees to.
        if (tested().operand_roundoff() > 0.0) continue;
        EXPECT_TRUE(same_bits(coded, plain));
        // one query alone, as decoding asks
        ops::AttentionShape last = shape;
        last.sequences = 1;
        last.query_tokens = 1;
        last.query_offset = keys - 1;
        if (sequences == 1) {
          Tensor one = zeros(DType::f32, {1, heads * head_dim});
          ops::attention_cached(q.rows(queries - 1, queries), kv, k.codes, v.codes, last, one);
          EXPECT_TRUE(same_bits(one, coded.rows(queries - 1, queries)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace pare::test
