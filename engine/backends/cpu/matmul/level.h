// engine/backends/cpu/matmul/level.h: the kernels of one instruction set, as raw-pointer functions.
//
// The bodies are templates over a small vector class (gemm_body.h, gemv_body.h, tiles_body.h); each
// isa_<level>.cpp instantiates them for its class. Nothing here allocates, and nothing depends on the number
// of threads.
#pragma once

#include <cstdint>

namespace pare::cpu {

enum class Isa : uint8_t;  // isa.h; not included, since files with ISA flags must not see containers

// Where the codes of a quantized matrix lie for the kernels (tile_layout.h), as pointers.
//
// A tile is `width` consecutive output rows, one per vector lane. Codes of a tile run along `in`, group after
// group:
//   words  lanes of 32 bits with 32 / bits codes each, low bits first; every group starts a new word vector
//   bytes  one byte per code, the `width` rows side by side
// Integer codes are stored as two's complement (code - 2^(bits-1)), codebook indices as they are.
// Value of a code: scale * (value(code) - zero) + minimum, with zero and minimum per group and row.
struct TileMatrix {
  enum class Extra : uint8_t { none, zero_point, minimum };
  const uint8_t* codes;
  const void* scales;  // [tiles, groups, width], f16 or f32
  const void* extras;  // zero points u8 [tiles, groups, width], or minimums like scales
  int64_t n, k;        // logical shape
  int64_t groups, group_width;
  int64_t group_bytes;  // codes of a whole group of one tile
  int64_t tile_bytes;   // codes of one tile
  float center;         // 2^(bits-1): what the stored codes of an integer scheme are lower by
  float table[16];      // value of each stored code; words only
  Extra extra;
  bool half_scales;  // scales and minimums are f16, else f32
};

// Rows [begin, end) of a product with few activations rows.
struct DenseGemv {
  const float* x;      // [m, k]
  const void* weight;  // [n, k]
  const float* bias;   // [n] or null
  float* out;          // [m, n]
  int64_t m, k, x_stride, out_stride;
  int64_t begin, end;  // output columns
  bool accumulate;
};

// Tiles [begin, end) of the same with codes.
struct TileGemv {
  const TileMatrix* weight;
  const float* x;
  const float* sums;  // [m, groups]: sum of x over each group; only read when there are extras
  const float* bias;
  float* out;
  int64_t m, x_stride, out_stride;
  int64_t begin, end;  // tiles
  bool accumulate;
};

// One block of the blocked product: out[rows, columns] (+)= a[kc, rows]^T b[kc, 2 width].
struct GemmTile {
  const float* a;     // [kc, rows]
  const float* b;     // [kc, 2 * width]
  const float* bias;  // [columns] or null
  float* out;
  int64_t kc, out_stride;
  int64_t columns;  // 1 .. 2 * width
  bool accumulate;
};

enum class TileForm : uint8_t { word2, word3, word4, table4, byte_int, byte_e4m3 };
constexpr int kTileForms = 6;
constexpr int kMaxRows = 14;        // largest height of a GEMM tile of any level
constexpr int64_t kMaxDepth = 320;  // largest depth (kc) of a packed block
constexpr int64_t kMaxPanel = 32;   // largest width (columns) of a packed panel

struct LevelKernels {
  int width;                // floats of a vector = rows of a tile
  int rows;                 // height of the GEMM tile; its width is 2 * width
  int64_t depth;            // preferred depth of a packed block
  int64_t dense_gemv_rows;  // largest m for which streaming dot products beat packing
  int64_t tile_gemv_rows;
  void (*dense_gemv[3])(const DenseGemv&);  // f32, bf16, f16
  void (*tile_gemv[kTileForms])(const TileGemv&);
  void (*gemm_tile[kMaxRows + 1])(const GemmTile&);  // by height
  // x [rows, stride] to [kc, rows]
  void (*pack_rows)(const float* x, int64_t stride, int64_t rows, int64_t kc, float* packed);
  // the same of x transposed [kc, stride]; by height
  void (*pack_columns[kMaxRows + 1])(const float* x, int64_t stride, int64_t kc, float* packed);
  // weight [rows, stride] of f32, bf16, f16 to panel [kc, 2 * width], missing rows zero
  void (*pack_panel[3])(const void* weight, int64_t stride, int64_t rows, int64_t kc, float* panel);
  // the same of weight transposed [kc, stride]: its first `columns` become the panel, missing ones zero
  void (*copy_panel[3])(const void* weight, int64_t stride, int64_t columns, int64_t kc, float* panel);
  // inputs [k0, k0 + kc) of one tile to columns [0, width) of a panel [kc, 2 * width]
  void (*expand_tile[kTileForms])(const TileMatrix&, int64_t tile, int64_t k0, int64_t kc, float* panel);
  float (*dot)(const float* x, const float* y, int64_t count);
};

const LevelKernels& level_kernels(Isa isa);

namespace generic {
extern const LevelKernels kKernels;
}
namespace avx2 {
extern const LevelKernels kKernels;
}
namespace avx512 {
extern const LevelKernels kKernels;
}

}  // namespace pare::cpu
