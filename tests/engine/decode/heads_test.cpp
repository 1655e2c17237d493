// The rest of a step: rows of the embedding, queries and keys and values with norms, rotation and cache,
// attention over it.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/tensor/float_formats.h"
#include "tests/engine/decode/decode_support.h"

namespace pare {
namespace {

using test::gpu;
using test::OnGpu;
using test::TwinMatrix;

DecodeBackend& decoding() {
  return *gpu().decoding();
}

struct Layout {
  int64_t rows, heads, kv_heads, head_dim, rotary_dim;
};
const std::vector<Layout> kLayouts{{1, 4, 2, 16, 16}, {3, 4, 1, 24, 8}, {2, 3, 3, 64, 64}, {9, 2, 2, 8, 0}};
constexpr int64_t kCapacity = 20;

enum class Form { f32, bf16, int8, int4 };

// Heads of a few rows twice, with an empty cache.
struct TwinHeads {
  TwinHeads(const Layout& layout, Form form, DecodeNorm::Kind norm)
      : layout(layout),
        form(form),
        norm(norm),
        kv{form == Form::int8   ? KvQuant::Kind::int8
           : form == Form::int4 ? KvQuant::Kind::int4
                                : KvQuant::Kind::none},
        qkv(test::random_floats(layout.rows * width(), 31)),
        gain(test::random_floats(layout.head_dim, 32)),
        cosines(test::random_floats(kCapacity * layout.rotary_dim / 2, 33)),
        sines(test::random_floats(kCapacity * layout.rotary_dim / 2, 34)),
        bytes(size_t(slots() * (kv.is_none() ? layout.head_dim * (form == Form::f32 ? 4 : 2)
                                             : kv.row_bytes(layout.head_dim))),
              std::byte{0}),
        value_bytes(bytes),
        scales(size_t(slots())),
        value_scales(scales),
        zeros(size_t(slots())),
        value_zeros(zeros),
        gpu_qkv(qkv),
        gpu_gain(gain),
        gpu_cosines(cosines),
        gpu_sines(sines),
        gpu_bytes(bytes),
        gpu_value_bytes(bytes),
        gpu_scales(scales),
        gpu_value_scales(scales),
        gpu_zeros(zeros),
        gpu_value_zeros(zeros),
        positions(positions_of(layout.rows)),
        gpu_positions(positions),
        gpu_counters(std::vector<int32_t>(size_t(decode_counters(layout.heads, layout.kv_heads)))) {}

  static std::vector<int32_t> positions_of(int64_t rows) {
    std::vector<int32_t> positions;
    for (int64_t r = 0; r < rows; ++r) positions.push_back(int32_t((r * 7 + 5) % kCapacity));
    return positions;
  }
  int64_t width() const { return (layout.heads + 2 * layout.kv_heads) * layout.head_dim; }
  int64_t slots() const { return layout.rows * layout.kv_heads * kCapacity; }

  DecodeHeadsArgs on_host() {
    DecodeHeadsArgs args = shape();
    args.qkv = qkv.data();
    args.query_gain = args.key_gain = gain.data();
    if (layout.rotary_dim > 0) args.cosines = cosines.data(), args.sines = sines.data();
    args.positions = positions.data();
    args.cache.keys = bytes.data();
    args.cache.values = value_bytes.data();
    args.cache.key_scales = scales.data();
    args.cache.value_scales = value_scales.data();
    if (form == Form::int4) args.cache.key_zeros = zeros.data(), args.cache.value_zeros = value_zeros.data();
    return args;
  }
  DecodeHeadsArgs on_gpu() {
    DecodeHeadsArgs args = shape();
    args.qkv = gpu_qkv.data();
    args.query_gain = args.key_gain = gpu_gain.data();
    if (layout.rotary_dim > 0) args.cosines = gpu_cosines.data(), args.sines = gpu_sines.data();
    args.positions = gpu_positions.data();
    args.cache.keys = gpu_bytes.data();
    args.cache.values = gpu_value_bytes.data();
    args.cache.key_scales = gpu_scales.data();
    args.cache.value_scales = gpu_value_scales.data();
    if (form == Form::int4)
      args.cache.key_zeros = gpu_zeros.data(), args.cache.value_zeros = gpu_value_zeros.data();
    return args;
  }

  // What a cache holds, as numbers.
  std::vector<float> decoded(const std::vector<std::byte>& raw, const std::vector<uint16_t>& grid,
                             const std::vector<uint8_t>& zero) const {
    std::vector<float> values(size_t(slots() * layout.head_dim));
    for (int64_t slot = 0; slot < slots(); ++slot) {
      for (int64_t d = 0; d < layout.head_dim; ++d) {
        float& to = values[size_t(slot * layout.head_dim + d)];
        const int64_t index = slot * layout.head_dim + d;
        if (form == Form::f32) {
          to = reinterpret_cast<const float*>(raw.data())[index];
        } else if (form == Form::bf16) {
          to = bf16_to_float(reinterpret_cast<const uint16_t*>(raw.data())[index]);
        } else {
          to = kv_value(kv,
                        reinterpret_cast<const uint8_t*>(raw.data()) + slot * kv.row_bytes(layout.head_dim),
                        grid[size_t(slot)], zero[size_t(slot)], layout.head_dim, d);
        }
      }
    }
    return values;
  }
  // One step of the grid, or a rounding.
  double tolerance() const {
    return form == Form::f32 ? 1e-5 : form == Form::bf16 ? 3e-2 : form == Form::int8 ? 6e-2 : 1.0;
  }
  void expect_same(double extra = 0.0) {
    const auto near = [&](const std::vector<float>& got, const std::vector<float>& want, double bound,
                          const char* what) {
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << what << " " << i;
    };
    std::vector<float> got_queries, want_queries;
    const std::vector<float> rows = gpu_qkv.read();
    for (int64_t r = 0; r < layout.rows; ++r) {
      for (int64_t c = 0; c < layout.heads * layout.head_dim; ++c) {
        got_queries.push_back(rows[size_t(r * width() + c)]);
        want_queries.push_back(qkv[size_t(r * width() + c)]);
      }
    }
    near(got_queries, want_queries, 1e-5 + extra, "query");
    near(decoded(gpu_bytes.read(), gpu_scales.read(), gpu_zeros.read()), decoded(bytes, scales, zeros),
         tolerance() + extra, "key");
    near(decoded(gpu_value_bytes.read(), gpu_value_scales.read(), gpu_value_zeros.read()),
         decoded(value_bytes, value_scales, value_zeros), tolerance() + extra, "value");
  }

  Layout layout;
  Form form;
  DecodeNorm::Kind norm;
  KvQuant kv;
  std::vector<float> qkv, gain, cosines, sines;
  std::vector<std::byte> bytes, value_bytes;
  std::vector<uint16_t> scales, value_scales;
  std::vector<uint8_t> zeros, value_zeros;
  OnGpu<float> gpu_qkv, gpu_gain, gpu_cosines, gpu_sines;
  OnGpu<std::byte> gpu_bytes, gpu_value_bytes;
  OnGpu<uint16_t> gpu_scales, gpu_value_scales;
  OnGpu<uint8_t> gpu_zeros, gpu_value_zeros;
  std::vector<int32_t> positions;
  OnGpu<int32_t> gpu_positions, gpu_counters;

 private:
  DecodeHeadsArgs shape() const {
    DecodeHeadsArgs args{};
    args.rows = layout.rows;
    args.heads = layout.heads;
    args.kv_heads = layout.kv_heads;
    args.head_dim = layout.head_dim;
    args.norm = norm;
    args.eps = 1e-5f;
    args.rotary_dim = layout.rotary_dim;
    args.cache.dtype = form == Form::bf16 ? DType::bf16 : DType::f32;
    args.cache.capacity = kCapacity;
    args.cache.kv = kv;
    return args;
  }
};

class NewHeads : public ::testing::TestWithParam<Form> {};

TEST_P(NewHeads, EqualTheDefinition) {
  for (const Layout& layout : kLayouts) {
    for (const auto norm : {DecodeNorm::Kind::none, DecodeNorm::Kind::rms, DecodeNorm::Kind::rms_plus_one}) {
      TwinHeads twin(layout, GetParam(), norm);
      test::definition().heads(twin.on_host());
      decoding().heads(twin.on_gpu());
      twin.expect_same();
    }
  }
}

TEST_P(NewHeads, FollowTheProductOfTheirRows) {
  constexpr int64_t kIn = 72;
  for (const Layout& layout : kLayouts) {
    for (const bool is_one : {false, true}) {
      TwinHeads twin(layout, GetParam(), DecodeNorm::Kind::rms);
      const int64_t columns[3] = {layout.heads * layout.head_dim, layout.kv_heads * layout.head_dim,
                                  layout.kv_heads * layout.head_dim};
      const int count = is_one ? 1 : 3;
      std::vector<TwinMatrix> matrices;
      DecodeQkvArgs here{}, there{};
      for (int i = 0; i < count; ++i) {
        matrices.push_back(
            test::make_matrix("bf16", is_one ? twin.width() : columns[i], kIn, 50 + i, true, true));
        here.matrices[i] = matrices.back().here;
        there.matrices[i] = matrices.back().there;
      }
      here.matrix_count = there.matrix_count = count;
      // Whole numbers: the product is exact, so that only the heads' own roundings are left.
      std::vector<float> x = test::random_whole(layout.rows * kIn, 60);
      OnGpu<float> gpu_x(x);
      here.in = {x.data(), layout.rows, kIn, {}};
      there.in = {gpu_x.data(), layout.rows, kIn, {}};
      here.heads = twin.on_host();
      there.heads = twin.on_gpu();
      there.counters = twin.gpu_counters.data();
      test::definition().qkv(here);
      std::vector<std::byte> first;
      for (int order = 0; order < 3; ++order) {  // whichever block comes last finishes a head
        test::set_order(order);
        decoding().qkv(there);
        const std::vector<std::byte> keys = twin.gpu_bytes.read();
        if (order == 0) first = keys;
        EXPECT_EQ(keys, first);
        for (const int32_t counter : twin.gpu_counters.read()) EXPECT_EQ(counter, 0);
      }
      test::set_order(0);
      // a value may be as large as the sum of a row's products: the grid is as wide
      const double largest = GetParam() == Form::f32 ? 1e-3 : GetParam() == Form::bf16 ? 4.0 : 100.0;
      twin.expect_same(largest);
    }
  }
}

TEST_P(NewHeads, AreAttendedTo) {
  for (const Layout& layout : kLayouts) {
    TwinHeads twin(layout, GetParam(), DecodeNorm::Kind::none);
    // a cache full of keys: the same step at every position up to the one of the row
    for (int32_t at = 0; at < int32_t(kCapacity); ++at) {
      std::vector<int32_t> places(size_t(layout.rows), at);
      twin.qkv = test::random_floats(layout.rows * twin.width(), 70 + uint64_t(at));
      twin.gpu_qkv.write(twin.qkv);
      DecodeHeadsArgs here = twin.on_host(), there = twin.on_gpu();
      OnGpu<int32_t> gpu_places(places);
      here.positions = places.data();
      there.positions = gpu_places.data();
      test::definition().heads(here);
      decoding().heads(there);
    }
    const auto columns = layout.heads * layout.head_dim;
    std::vector<float> q = test::random_floats(layout.rows * twin.width(), 99),
                       want(size_t(layout.rows * columns));
    OnGpu<float> gpu_q(q), got(want);
    DecodeAttentionArgs args{};
    args.rows = layout.rows;
    args.heads = layout.heads;
    args.kv_heads = layout.kv_heads;
    args.head_dim = layout.head_dim;
    args.q_stride = twin.width();
    args.longest = kCapacity;
    args.scale = 0.3f;
    args.window = 6;
    args.q = q.data();
    args.out = want.data();
    args.positions = twin.positions.data();
    args.cache = twin.on_host().cache;
    test::definition().attention(args);
    args.q = gpu_q.data();
    args.out = got.data();
    args.positions = twin.gpu_positions.data();
    args.cache = twin.on_gpu().cache;
    decoding().attention(args);
    const std::vector<float> values = got.read();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(values[i], want[i], 3e-2) << i;
  }
}

std::string name_of(const ::testing::TestParamInfo<Form>& info) {
  const char* const names[] = {"f32", "bf16", "int8", "int4"};
  return names[size_t(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Forms, NewHeads, ::testing::Values(Form::f32, Form::bf16, Form::int8, Form::int4),
                         name_of);

TEST(EmbeddedRows, EqualTheDefinition) {
  constexpr int64_t kRows = 5, kChannels = 300, kTable = 11;
  const std::vector<float> table = test::random_floats(kTable * kChannels, 1),
                           places = test::random_floats(kTable * kChannels, 2);
  const std::vector<int32_t> ids{3, 0, 10, 3, 7}, positions{0, 9, 4, 2, 10};
  const OnGpu<float> gpu_table(table), gpu_places(places);
  const OnGpu<int32_t> gpu_ids(ids), gpu_positions(positions);
  for (const bool has_table : {true, false}) {
    for (const bool has_places : {true, false}) {
      std::vector<float> want = test::random_floats(kRows * kChannels, 3);
      const OnGpu<float> got(want);
      DecodeEmbedArgs args{ids.data(),
                           positions.data(),
                           has_table ? table.data() : nullptr,
                           DType::f32,
                           has_places ? places.data() : nullptr,
                           DType::f32,
                           want.data(),
                           kRows,
                           kChannels,
                           1.5f};
      test::definition().embed(args);
      args.ids = gpu_ids.data();
      args.positions = gpu_positions.data();
      if (has_table) args.table = gpu_table.data();
      if (has_places) args.position_table = gpu_places.data();
      args.hidden = got.data();
      decoding().embed(args);
      const std::vector<float> values = got.read();
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(values[i], want[i], 1e-6) << i;
    }
  }
}

}  // namespace
}  // namespace pare
