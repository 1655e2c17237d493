// engine/backends/cpu/matmul/int8_level.h: the integer kernels of one instruction set, as raw-pointer
// functions. The bodies are templates over a small vector class (int8_body.h), instantiated by
// isa_int8_<name>.cpp.
#pragma once

#include <cstdint>

namespace pare::cpu {

constexpr int kMaxInt8Rows = 14;  // largest height of a tile of any level

// codes[i] = rint(clamp(x[i] / scale, bottom, top)) + zero_point
struct Int8Rounding {
  const float* x;  // [count], finite
  int8_t* codes;   // [count]
  int64_t count;
  float scale;
  float bottom, top;  // lowest and highest code less the zero point
  int32_t zero_point;
};

// out[rows, columns] (+)= a panel of rounded activations times one or two tiles of codes.
struct Int8Tile {
  const int32_t* x;        // [quads of all segments][rows][words]
  const float* x_scales;   // [rows]
  const int32_t* x_zeros;  // [rows]
  const int32_t* x_sums;   // [rows][segments]: sums of codes
  const uint8_t* codes;    // of the first tile; the next lies tile_bytes behind it
  const float* scales;     // [tiles][segments][width], from the first tile on
  const int32_t* zeros;    // the same
  const int32_t* sums;     // the same
  const float* bias;       // [columns] or null
  float* out;
  int64_t tile_bytes, segments;
  int64_t k, group_width, widest;  // which columns a segment has (IntegerSegments)
  int64_t out_stride, columns;     // columns: 1 .. tiles * width
  bool accumulate;
};

struct Int8Kernels {
  const char* name;  // "avx512 vpdpbusd"
  int width;         // rows of the weight in a tile
  int rows;          // height of a panel of activations
  int words;  // of 32 bits that hold a quad of activations: 1 (bytes) or 2 (even, then odd ones, 16 bits
              // each)
  int32_t (*largest_bits)(const float* x, int64_t count);  // of |x|, as an integer: rises with the value
  int32_t (*round)(const Int8Rounding&);                   // gives the sum of the codes
  void (*tile[2][kMaxInt8Rows + 1])(const Int8Tile&);      // by tiles - 1 and rows
};

namespace generic {
extern const Int8Kernels kInt8Kernels;
}
namespace avx2 {
extern const Int8Kernels kInt8Kernels;
}
namespace avx_vnni {
extern const Int8Kernels kInt8Kernels;
}
namespace avx512 {
extern const Int8Kernels kInt8Kernels;
}
namespace avx512_vnni {
extern const Int8Kernels kInt8Kernels;
}

}  // namespace pare::cpu
