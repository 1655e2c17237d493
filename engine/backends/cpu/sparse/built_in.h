// engine/backends/cpu/sparse/built_in.h: how many times faster than dense the sparse kernels are with one
// token, by level; lines in the order of sparse_kinds(), small and large matrices. Measured as choice.h says;
// internal to choice.cpp.
#pragma once

#include <array>

namespace pare::cpu {

using BuiltInSpeeds = std::array<std::array<double, 2>, 40>;

constexpr BuiltInSpeeds kGenericSpeeds{{
    {2.0, 2.0},  // 1of4-f32
    {2.0, 2.0},  // 2of4-f32
    {2.0, 2.0},  // 1of4-bf16
    {2.0, 2.0},  // 2of4-bf16
    {2.0, 2.0},  // 1of4-f16
    {2.0, 2.0},  // 2of4-f16
    {2.0, 2.0},  // 1of4-byte
    {2.0, 2.0},  // 2of4-byte
    {2.0, 2.0},  // 1of4-nibble
    {2.0, 2.0},  // 2of4-nibble
    {2.0, 2.0},  // masked-f32-10
    {2.0, 2.0},  // masked-f32-25
    {2.0, 2.0},  // masked-f32-40
    {2.0, 2.0},  // masked-f32-50
    {2.0, 2.0},  // masked-f32-60
    {2.0, 2.0},  // masked-f32-75
    {2.0, 2.0},  // masked-bf16-10
    {2.0, 2.0},  // masked-bf16-25
    {2.0, 2.0},  // masked-bf16-40
    {2.0, 2.0},  // masked-bf16-50
    {2.0, 2.0},  // masked-bf16-60
    {2.0, 2.0},  // masked-bf16-75
    {2.0, 2.0},  // masked-f16-10
    {2.0, 2.0},  // masked-f16-25
    {2.0, 2.0},  // masked-f16-40
    {2.0, 2.0},  // masked-f16-50
    {2.0, 2.0},  // masked-f16-60
    {2.0, 2.0},  // masked-f16-75
    {2.0, 2.0},  // masked-byte-10
    {2.0, 2.0},  // masked-byte-25
    {2.0, 2.0},  // masked-byte-40
    {2.0, 2.0},  // masked-byte-50
    {2.0, 2.0},  // masked-byte-60
    {2.0, 2.0},  // masked-byte-75
    {2.0, 2.0},  // masked-nibble-10
    {2.0, 2.0},  // masked-nibble-25
    {2.0, 2.0},  // masked-nibble-40
    {2.0, 2.0},  // masked-nibble-50
    {2.0, 2.0},  // masked-nibble-60
    {2.0, 2.0},  // masked-nibble-75
}};

constexpr BuiltInSpeeds kAvx2Speeds{{
    {2.0, 2.0},  // 1of4-f32
    {2.0, 2.0},  // 2of4-f32
    {2.0, 2.0},  // 1of4-bf16
    {2.0, 2.0},  // 2of4-bf16
    {2.0, 2.0},  // 1of4-f16
    {2.0, 2.0},  // 2of4-f16
    {2.0, 2.0},  // 1of4-byte
    {2.0, 2.0},  // 2of4-byte
    {2.0, 2.0},  // 1of4-nibble
    {2.0, 2.0},  // 2of4-nibble
    {2.0, 2.0},  // masked-f32-10
    {2.0, 2.0},  // masked-f32-25
    {2.0, 2.0},  // masked-f32-40
    {2.0, 2.0},  // masked-f32-50
    {2.0, 2.0},  // masked-f32-60
    {2.0, 2.0},  // masked-f32-75
    {2.0, 2.0},  // masked-bf16-10
    {2.0, 2.0},  // masked-bf16-25
    {2.0, 2.0},  // masked-bf16-40
    {2.0, 2.0},  // masked-bf16-50
    {2.0, 2.0},  // masked-bf16-60
    {2.0, 2.0},  // masked-bf16-75
    {2.0, 2.0},  // masked-f16-10
    {2.0, 2.0},  // masked-f16-25
    {2.0, 2.0},  // masked-f16-40
    {2.0, 2.0},  // masked-f16-50
    {2.0, 2.0},  // masked-f16-60
    {2.0, 2.0},  // masked-f16-75
    {2.0, 2.0},  // masked-byte-10
    {2.0, 2.0},  // masked-byte-25
    {2.0, 2.0},  // masked-byte-40
    {2.0, 2.0},  // masked-byte-50
    {2.0, 2.0},  // masked-byte-60
    {2.0, 2.0},  // masked-byte-75
    {2.0, 2.0},  // masked-nibble-10
    {2.0, 2.0},  // masked-nibble-25
    {2.0, 2.0},  // masked-nibble-40
    {2.0, 2.0},  // masked-nibble-50
    {2.0, 2.0},  // masked-nibble-60
    {2.0, 2.0},  // masked-nibble-75
}};

constexpr BuiltInSpeeds kAvx512Speeds{{
    {2.0, 2.0},  // 1of4-f32
    {2.0, 2.0},  // 2of4-f32
    {2.0, 2.0},  // 1of4-bf16
    {2.0, 2.0},  // 2of4-bf16
    {2.0, 2.0},  // 1of4-f16
    {2.0, 2.0},  // 2of4-f16
    {2.0, 2.0},  // 1of4-byte
    {2.0, 2.0},  // 2of4-byte
    {2.0, 2.0},  // 1of4-nibble
    {2.0, 2.0},  // 2of4-nibble
    {2.0, 2.0},  // masked-f32-10
    {2.0, 2.0},  // masked-f32-25
    {2.0, 2.0},  // masked-f32-40
    {2.0, 2.0},  // masked-f32-50
    {2.0, 2.0},  // masked-f32-60
    {2.0, 2.0},  // masked-f32-75
    {2.0, 2.0},  // masked-bf16-10
    {2.0, 2.0},  // masked-bf16-25
    {2.0, 2.0},  // masked-bf16-40
    {2.0, 2.0},  // masked-bf16-50
    {2.0, 2.0},  // masked-bf16-60
    {2.0, 2.0},  // masked-bf16-75
    {2.0, 2.0},  // masked-f16-10
    {2.0, 2.0},  // masked-f16-25
    {2.0, 2.0},  // masked-f16-40
    {2.0, 2.0},  // masked-f16-50
    {2.0, 2.0},  // masked-f16-60
    {2.0, 2.0},  // masked-f16-75
    {2.0, 2.0},  // masked-byte-10
    {2.0, 2.0},  // masked-byte-25
    {2.0, 2.0},  // masked-byte-40
    {2.0, 2.0},  // masked-byte-50
    {2.0, 2.0},  // masked-byte-60
    {2.0, 2.0},  // masked-byte-75
    {2.0, 2.0},  // masked-nibble-10
    {2.0, 2.0},  // masked-nibble-25
    {2.0, 2.0},  // masked-nibble-40
    {2.0, 2.0},  // masked-nibble-50
    {2.0, 2.0},  // masked-nibble-60
    {2.0, 2.0},  // masked-nibble-75
}};

}  // namespace pare::cpu
