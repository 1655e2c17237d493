// engine/backends/cuda/packed_layout_cuda.h: the layout "cuda-fragments" of codes with float inputs, for
// every kernel of packed_matmul. Host code, includes nothing of CUDA.
//
// Weights are the A operand of mma.m16n8k16 (y^T = W x^T). A tile is 16 rows; its columns stand in blocks of
// 64, and a lane (g = lane / 4, t = lane % 4) of a warp owns 32 codes of a block: in step s = 0..3, register
// r = 0..3 of the fragment holds row g + 8 (r % 2) and, low half first, columns 16 s + 4 t + 2 (r / 2) and
// the next. That is an order of the 16 columns of a step which no sum notices, as long as inputs have it too:
// the B fragment of input row g is x[16 s + 4 t .. + 3], four neighbours. So 16 bytes per lane are a whole
// block of 4-bit codes, ready for tensor cores without shuffles, and for scalar products alike.
//
// Codes are split into planes of 8, 4, 2 and 1 bits (3 = 2 + 1, 6 = 4 + 2, ...), low bits in the first plane.
// A plane of w bits puts pair q = 4 s + r of a block into bits w (q % (16 / w)) and 16 more of word q w / 16
// of the w words that the lane has per block; words go into pieces of four:
//   codes   [tiles][planes][pieces][32 lanes][16 bytes]
//   scales  [tiles, groups, 16], f16, bf16 or f32 as stored; rows in the order 0 8 1 9 .. 7 15
//   offsets like scales: zero points u8, or minimums of the type of scales; undefined when symmetric
// After the tiles, each part aligned to 256 bytes: the f32 values of a codebook; the column map; u32
// counters that are zero between products (arrivals at sums over several blocks), two per tile and 64 more.
//
// Steps of 16 columns never meet two groups. Where groups would cut a step (group sizes that are no multiple
// of 16, group_index), groups are padded, and the column map says which input stands at each place (-1: none)
// and which group of the scheme a group of the layout belongs to.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/tensor/packed_layout.h"

namespace pare::cuda {

constexpr int kTileRows = 16;
constexpr int kBlockColumns = 64;
constexpr int kStepColumns = 16;
constexpr int kPieceBytes = 512;                  // 16 bytes of each lane
constexpr int64_t kMaxFragmentColumns = 1 << 20;  // group_of_step() is exact below

// Widths of the planes of a code, 0 beyond the last.
constexpr std::array<int, 3> planes_of(int bits) {
  if (bits == 8) return {8, 0, 0};
  std::array<int, 3> widths{};
  size_t count = 0;
  for (int width = 4; width > 0; width /= 2) {
    if ((bits & width) != 0) widths[count++] = width;
  }
  return widths;
}

// Where the code of (row, column) of a tile lies in a plane of `width` bits that starts at byte 0.
struct CodePlace {
  int64_t word;  // of 4 bytes
  int shift;     // bit in the word
};
constexpr CodePlace code_place(int width, int row, int64_t column) {
  const int64_t block = column / kBlockColumns;
  const int in_block = int(column % kBlockColumns), in_step = in_block % kStepColumns;
  const int lane = row % 8 * 4 + in_step / 4;
  const int pair = in_block / kStepColumns * 4 + row / 8 + in_step % 4 / 2 * 2;
  const int64_t word = block * width + pair * width / 16;  // of this lane
  return {.word = (word / 4 * 32 + lane) * 4 + word % 4,
          .shift = pair % (16 / width) * width + in_step % 2 * 16};
}
// Place of a row's scale among the 16 of its tile and group.
constexpr int scale_place(int row) {
  return row % 8 * 2 + row / 8;
}

// How the inputs of a matrix stand in its layout.
enum class ColumnOrder : uint8_t {
  plain,    // as they are
  padded,   // groups rounded up to steps
  indexed,  // by group_index
};

// Everything that follows from scheme and shape.
struct FragmentGeometry {
  int bits;
  ColumnOrder order;
  int64_t out, in;
  int64_t tiles, blocks;
  int64_t groups, group_columns;  // of the layout; all columns of the blocks have a group
  std::array<int, 3> planes;
  std::array<int64_t, 3> plane_offsets;  // bytes within a tile
  int64_t tile_bytes;
  int64_t table_offset, map_offset, counter_offset, code_bytes;

  int64_t columns() const { return blocks * kBlockColumns; }
};
// `groups`: those of the layout, for ColumnOrder::indexed only.
FragmentGeometry fragment_geometry(const QuantScheme& scheme, int64_t out, int64_t in, ColumnOrder order,
                                   int64_t groups = 0);

// Which input stands where. Empty for ColumnOrder::plain.
struct ColumnMap {
  ColumnOrder order = ColumnOrder::plain;
  std::vector<int32_t> column_of;  // [columns], -1: none
  std::vector<int32_t> group_of;   // [groups]: group of the scheme, -1: none
};
// `group_index`: i32 [in] in host memory, or undefined.
ColumnMap column_map(const QuantScheme& scheme, int64_t in, const Tensor& group_index);
FragmentGeometry fragment_geometry(const QuantScheme& scheme, int64_t out, const ColumnMap& map, int64_t in);

PackedLayout fragment_layout(ColumnOrder order);
bool is_fragment_layout(const PackedLayout& layout);
FragmentGeometry fragment_geometry(const PackedMatrix& packed);  // asserts that the layout is this one

// Both on the host; neither dimension 0. The device makes the same bytes (CudaBackend::prepack). Exit 6.
Result<PackedMatrix> pack_fragments(const QuantizedTensor& weight);
Result<QuantizedTensor> unpack_fragments(const PackedMatrix& packed);

// Codebook values as they stand behind the tiles, [2^bits]; empty for other kinds.
std::vector<float> codebook_values(const QuantizedTensor& weight);

}  // namespace pare::cuda
