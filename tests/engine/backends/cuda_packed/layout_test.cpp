// The layout "cuda-fragments" on the host: every code has one place, and comes back from it.
#include <set>

#include "engine/backends/cuda/packed_layout_cuda.h"
#include "packed_support.h"

namespace pare::cuda {
namespace {

using namespace pare::test;

void expect_round_trip(const QuantizedTensor& weight, const std::string& what) {
  const Result<PackedMatrix> packed = pack_fragments(weight);
  ASSERT_TRUE(packed.has_value()) << what;
  const FragmentGeometry g = fragment_geometry(*packed);
  EXPECT_EQ(g.code_bytes, packed->codes.numel()) << what;
  EXPECT_EQ(g.blocks * kBlockColumns % g.group_columns == 0 || g.order == ColumnOrder::plain, true) << what;
  EXPECT_GE(g.groups * g.group_columns, g.columns()) << what;
  EXPECT_EQ(g.group_columns % kStepColumns, 0) << what;
  const Result<QuantizedTensor> back = unpack_fragments(*packed);
  ASSERT_TRUE(back.has_value()) << what;
  expect_same_matrix(*back, weight, what);
}

TEST(FragmentLayout, UnpackIsTheInverseOfPack) {
  for (const char* scheme : kPackedSchemes) {
    for (const int64_t out : {1, 15, 16, 17, 50}) {
      for (const int64_t in : {1, 7, 16, 63, 64, 65, 130, 300}) {
        expect_round_trip(random_packed(scheme, out, in, 1),
                          std::string(scheme) + " " + std::to_string(out) + " x " + std::to_string(in));
      }
    }
  }
}

TEST(FragmentLayout, GroupIndexRoundTrips) {
  for (const char* scheme : {"int4-g32", "int4-g32-asym", "int8-g24-asymf", "int3-g64"}) {
    for (const int kind : {0, 1, 2}) {
      QuantizedTensor weight = random_packed(scheme, 18, 200, 2);
      weight.group_index = *Tensor::allocate(DType::i32, {200});
      const auto groups = int32_t(weight.scheme.groups(200));
      for (int32_t i = 0; i < 200; ++i) {
        // shuffled; all in one group; groups of very different sizes
        weight.group_index.mutable_data<int32_t>()[i] = kind == 0   ? i * 7 % groups
                                                        : kind == 1 ? groups - 1
                                                                    : std::min(i * i / 900, groups - 1);
      }
      expect_round_trip(weight, std::string(scheme) + " index " + std::to_string(kind));
      // padding is bounded whatever the index says
      const FragmentGeometry g = fragment_geometry(*pack_fragments(weight));
      EXPECT_LE(g.columns(), 2 * (200 + 2 * groups * 64)) << scheme;
    }
  }
}

TEST(FragmentLayout, PlacesOfAPlaneAreAllDifferentAndFillIt) {
  for (const int width : {8, 4, 2, 1}) {
    std::set<int64_t> bits;
    constexpr int64_t kColumns = 256;  // whole pieces of every plane
    for (int row = 0; row < kTileRows; ++row) {
      for (int64_t column = 0; column < kColumns; ++column) {
        const CodePlace place = code_place(width, row, column);
        EXPECT_EQ(place.shift % width, 0);
        EXPECT_LT(place.shift, 32);
        bits.insert(place.word * 32 + place.shift);
      }
    }
    EXPECT_EQ(bits.size(), size_t(kTileRows * kColumns));
    EXPECT_EQ(*bits.rbegin(), kTileRows * kColumns * width - width);  // no gaps
  }
}

// The fragment of mma.m16n8k16 as the PTX manual draws it, with the order of columns that the header states.
TEST(FragmentLayout, OneWordOfFourBitsIsTheFragmentOfAStep) {
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int step = 0; step < 4; ++step) {
      for (int r = 0; r < 4; ++r) {
        const int row = g + 8 * (r % 2), column = 16 * step + 4 * t + 2 * (r / 2);
        const CodePlace even = code_place(4, row, column), odd = code_place(4, row, column + 1);
        EXPECT_EQ(even.word, lane * 4 + step);
        EXPECT_EQ(even.shift, 4 * r);
        EXPECT_EQ(odd.word, even.word);
        EXPECT_EQ(odd.shift, 4 * r + 16);
      }
    }
  }
}

TEST(FragmentLayout, RowsOfALaneHaveTheirScalesSideBySide) {
  for (int g = 0; g < 8; ++g) {
    EXPECT_EQ(scale_place(g), 2 * g);
    EXPECT_EQ(scale_place(g + 8), 2 * g + 1);
  }
}

TEST(FragmentLayout, FourBitsTakeHalfAByte) {
  const FragmentGeometry g = fragment_geometry(*pack_fragments(random_packed("int4-g128", 64, 512, 3)));
  EXPECT_EQ(g.tile_bytes * g.tiles, 64 * 512 / 2);
  const FragmentGeometry three = fragment_geometry(*pack_fragments(random_packed("int3-g128", 64, 512, 3)));
  EXPECT_EQ(three.tile_bytes * three.tiles, 64 * 512 * 3 / 8);
}

}  // namespace
}  // namespace pare::cuda
