// engine/backends/cpu/sparse/built_in.h: how many times faster than dense the sparse kernels are with one
// token, by level: lines in the order of sparse_kinds(), small and large matrices. Internal to choice.cpp.
//
// Measured by measure_sparse_table() (tune.h) on an AMD Zen 5 (AVX-512 VBMI2, 32 MiB L3), medians of three
// runs: one thread, by its processor time, with other work on the machine. avx512 without VBMI2 was not
// measured apart; generic is one run, and 0 there means not measured: the dense kernel runs.
#pragma once

#include <array>

namespace pare::cpu {

using BuiltInSpeeds = std::array<std::array<double, 2>, 40>;

constexpr BuiltInSpeeds kGenericSpeeds{{
    {4.56, 3.34},  // 1of4-f32
    {2.31, 1.68},  // 2of4-f32
    {4.67, 4.71},  // 1of4-bf16
    {2.25, 2.32},  // 2of4-bf16
    {3.36, 3.35},  // 1of4-f16
    {1.77, 1.77},  // 2of4-f16
    {2.59, 0.00},  // 1of4-byte
    {1.24, 0.00},  // 2of4-byte
    {0.00, 0.00},  // 1of4-nibble
    {1.31, 1.20},  // 2of4-nibble
    {0.41, 0.41},  // masked-f32-10
    {0.19, 0.21},  // masked-f32-25
    {0.14, 0.15},  // masked-f32-40
    {0.12, 0.14},  // masked-f32-50
    {0.14, 0.14},  // masked-f32-60
    {0.19, 0.19},  // masked-f32-75
    {0.43, 0.45},  // masked-bf16-10
    {0.21, 0.21},  // masked-bf16-25
    {0.14, 0.14},  // masked-bf16-40
    {0.13, 0.14},  // masked-bf16-50
    {0.14, 0.14},  // masked-bf16-60
    {0.19, 0.22},  // masked-bf16-75
    {1.21, 1.21},  // masked-f16-10
    {0.62, 0.61},  // masked-f16-25
    {0.42, 0.42},  // masked-f16-40
    {0.38, 0.38},  // masked-f16-50
    {0.41, 0.41},  // masked-f16-60
    {0.52, 0.53},  // masked-f16-75
    {0.18, 0.00},  // masked-byte-10
    {0.00, 0.00},  // masked-byte-25
    {0.00, 0.00},  // masked-byte-40
    {0.00, 0.00},  // masked-byte-50
    {0.00, 0.00},  // masked-byte-60
    {0.00, 0.00},  // masked-byte-75
    {0.00, 0.00},  // masked-nibble-10
    {0.00, 0.00},  // masked-nibble-25
    {0.00, 0.00},  // masked-nibble-40
    {0.00, 0.00},  // masked-nibble-50
    {0.00, 0.00},  // masked-nibble-60
    {0.00, 0.00},  // masked-nibble-75
}};

constexpr BuiltInSpeeds kAvx2Speeds{{
    {4.61, 4.00},  // 1of4-f32
    {2.31, 2.10},  // 2of4-f32
    {5.68, 5.74},  // 1of4-bf16
    {2.93, 2.72},  // 2of4-bf16
    {5.55, 6.04},  // 1of4-f16
    {2.85, 2.82},  // 2of4-f16
    {2.84, 3.15},  // 1of4-byte
    {1.48, 1.52},  // 2of4-byte
    {2.60, 2.69},  // 1of4-nibble
    {1.42, 1.41},  // 2of4-nibble
    {2.67, 2.69},  // masked-f32-10
    {2.60, 2.58},  // masked-f32-25
    {2.28, 2.14},  // masked-f32-40
    {1.90, 1.93},  // masked-f32-50
    {1.58, 1.63},  // masked-f32-60
    {1.41, 1.40},  // masked-f32-75
    {1.83, 1.87},  // masked-bf16-10
    {1.76, 1.78},  // masked-bf16-25
    {1.79, 1.84},  // masked-bf16-40
    {1.76, 1.75},  // masked-bf16-50
    {1.70, 1.68},  // masked-bf16-60
    {1.53, 1.49},  // masked-bf16-75
    {1.73, 1.85},  // masked-f16-10
    {1.69, 1.89},  // masked-f16-25
    {1.66, 1.85},  // masked-f16-40
    {1.66, 1.82},  // masked-f16-50
    {1.67, 1.70},  // masked-f16-60
    {1.52, 1.57},  // masked-f16-75
    {0.78, 0.84},  // masked-byte-10
    {0.78, 0.81},  // masked-byte-25
    {0.79, 0.82},  // masked-byte-40
    {0.79, 0.82},  // masked-byte-50
    {0.76, 0.80},  // masked-byte-60
    {0.77, 0.78},  // masked-byte-75
    {0.44, 0.43},  // masked-nibble-10
    {0.44, 0.44},  // masked-nibble-25
    {0.43, 0.43},  // masked-nibble-40
    {0.44, 0.43},  // masked-nibble-50
    {0.43, 0.43},  // masked-nibble-60
    {0.44, 0.43},  // masked-nibble-75
}};

constexpr BuiltInSpeeds kAvx512Speeds{{
    {3.68, 3.95},  // 1of4-f32
    {2.09, 1.89},  // 2of4-f32
    {5.09, 4.62},  // 1of4-bf16
    {2.97, 2.57},  // 2of4-bf16
    {5.18, 4.29},  // 1of4-f16
    {2.38, 2.13},  // 2of4-f16
    {2.86, 3.63},  // 1of4-byte
    {1.41, 1.65},  // 2of4-byte
    {2.04, 2.32},  // 1of4-nibble
    {1.26, 1.35},  // 2of4-nibble
    {3.95, 4.20},  // masked-f32-10
    {3.03, 3.17},  // masked-f32-25
    {2.13, 2.24},  // masked-f32-40
    {1.86, 2.01},  // masked-f32-50
    {1.51, 1.80},  // masked-f32-60
    {1.27, 1.46},  // masked-f32-75
    {4.57, 4.70},  // masked-bf16-10
    {3.88, 3.60},  // masked-bf16-25
    {2.87, 2.77},  // masked-bf16-40
    {2.48, 2.33},  // masked-bf16-50
    {2.24, 2.10},  // masked-bf16-60
    {1.83, 1.79},  // masked-bf16-75
    {3.33, 3.38},  // masked-f16-10
    {2.97, 3.03},  // masked-f16-25
    {2.54, 2.38},  // masked-f16-40
    {2.23, 2.12},  // masked-f16-50
    {1.94, 1.91},  // masked-f16-60
    {1.48, 1.51},  // masked-f16-75
    {1.20, 1.50},  // masked-byte-10
    {1.02, 1.33},  // masked-byte-25
    {0.89, 1.12},  // masked-byte-40
    {0.77, 1.04},  // masked-byte-50
    {0.70, 0.90},  // masked-byte-60
    {0.62, 0.78},  // masked-byte-75
    {0.76, 0.78},  // masked-nibble-10
    {0.76, 0.77},  // masked-nibble-25
    {0.68, 0.75},  // masked-nibble-40
    {0.68, 0.73},  // masked-nibble-50
    {0.62, 0.69},  // masked-nibble-60
    {0.57, 0.61},  // masked-nibble-75
}};

}  // namespace pare::cpu
