#include "engine/run/kv_cache.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

ModelConfig config_of(std::vector<BlockConfig> blocks) {
  ModelConfig config;
  config.blocks = std::move(blocks);
  return config;
}

TEST(KvCache, HasTheShapesOfEachBlock) {
  const ModelConfig config =
      config_of({{.heads = 4, .kv_heads = 2, .head_dim = 8}, {.heads = 4, .kv_heads = 1, .head_dim = 8}});
  auto cache = KvCache::allocate(config, 3, 10, Device::cpu());
  ASSERT_TRUE(cache);
  EXPECT_EQ(cache->block(0).keys.shape(), (Shape{3, 2, 10, 8}));
  EXPECT_EQ(cache->block(1).values.shape(), (Shape{3, 1, 10, 8}));
  const uint64_t bytes = cache->block(0).keys.size_bytes() * 2 + cache->block(1).keys.size_bytes() * 2;
  EXPECT_EQ(KvCache::bytes_for(config, 3, 10), bytes);
  EXPECT_EQ(cache->capacity(), 10);
  cache->advance(4);
  cache->advance(1);
  EXPECT_EQ(cache->length(), 5);
  cache->truncate(2);
  EXPECT_EQ(cache->length(), 2);
}

TEST(KvCache, CodesTakeTheBytesOfTheFormula) {
  ModelConfig config =
      config_of({{.heads = 4, .kv_heads = 2, .head_dim = 9}, {.heads = 4, .kv_heads = 1, .head_dim = 8}});
  for (const auto& [kind, first, second] :
       {std::tuple{KvQuant::Kind::int8, 9 + 2, 8 + 2}, {KvQuant::Kind::int4, 5 + 3, 4 + 3}}) {
    config.kv = KvQuant{kind};
    auto cache = KvCache::allocate(config, 3, 10, Device::cpu());
    ASSERT_TRUE(cache);
    EXPECT_EQ(KvCache::bytes_for(config, 3, 10), uint64_t(2 * 3 * 10 * (2 * first + second)));
    uint64_t bytes = 0;
    for (int i = 0; i < 2; ++i) {
      EXPECT_FALSE(cache->block(i).keys.defined());
      for (const KvCodes* codes : {&cache->block(i).key_codes, &cache->block(i).value_codes}) {
        bytes += codes->codes.size_bytes() + codes->scales.size_bytes();
        if (codes->zeros.defined()) bytes += codes->zeros.size_bytes();
      }
    }
    EXPECT_EQ(bytes, KvCache::bytes_for(config, 3, 10));
  }
}

TEST(KvCache, SizesThatWrapAreRefused) {
  const ModelConfig config = config_of({{.heads = 1 << 20, .kv_heads = 1 << 20, .head_dim = 1 << 20}});
  EXPECT_EQ(KvCache::bytes_for(config, 1 << 20, 1 << 20), UINT64_MAX);
  const auto cache = KvCache::allocate(config, 1 << 20, 1 << 20, Device::cpu());
  ASSERT_FALSE(cache);
  EXPECT_EQ(cache.error().exit, Exit::resource);
}

}  // namespace
}  // namespace pare
