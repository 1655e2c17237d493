#include "formats/gguf/tensor_type.h"

#include <algorithm>
#include <array>
#include <utility>

#include "engine/core/assert.h"

namespace pare {
namespace {

constexpr GgufTypeInfo plain(GgufType type, std::string_view name, DType dtype, uint64_t bytes) {
  return {type, name, 1, bytes, dtype, std::nullopt};
}

constexpr GgufTypeInfo blocks(GgufType type, std::string_view name, uint64_t bytes, BlockScheme scheme) {
  return {type, name, static_cast<uint64_t>(scheme.block), bytes, std::nullopt, scheme};
}

// bits, block, group, has_minimum, scale_bits, signed_scales
constexpr std::array kTypes{
    plain(GgufType::f32, "F32", DType::f32, 4),
    plain(GgufType::f16, "F16", DType::f16, 2),
    blocks(GgufType::q4_0, "Q4_0", 18, {4, 32, 32, false, 0, false}),
    blocks(GgufType::q4_1, "Q4_1", 20, {4, 32, 32, true, 0, false}),
    blocks(GgufType::q5_0, "Q5_0", 22, {5, 32, 32, false, 0, false}),
    blocks(GgufType::q5_1, "Q5_1", 24, {5, 32, 32, true, 0, false}),
    blocks(GgufType::q8_0, "Q8_0", 34, {8, 32, 32, false, 0, false}),
    blocks(GgufType::q2_k, "Q2_K", 84, {2, 256, 16, true, 4, false}),
    blocks(GgufType::q3_k, "Q3_K", 110, {3, 256, 16, false, 6, true}),
    blocks(GgufType::q4_k, "Q4_K", 144, {4, 256, 32, true, 6, false}),
    blocks(GgufType::q5_k, "Q5_K", 176, {5, 256, 32, true, 6, false}),
    blocks(GgufType::q6_k, "Q6_K", 210, {6, 256, 16, false, 8, true}),
    plain(GgufType::i8, "I8", DType::i8, 1),
    plain(GgufType::i16, "I16", DType::i16, 2),
    plain(GgufType::i32, "I32", DType::i32, 4),
    plain(GgufType::i64, "I64", DType::i64, 8),
    plain(GgufType::f64, "F64", DType::f64, 8),
    plain(GgufType::bf16, "BF16", DType::bf16, 2),
};

constexpr std::array<std::pair<uint32_t, std::string_view>, 25> kUnread{{
    {4, "Q4_2 (removed)"},
    {5, "Q4_3 (removed)"},
    {9, "Q8_1"},
    {15, "Q8_K"},
    {16, "IQ2_XXS"},
    {17, "IQ2_XS"},
    {18, "IQ3_XXS"},
    {19, "IQ1_S"},
    {20, "IQ4_NL"},
    {21, "IQ3_S"},
    {22, "IQ2_S"},
    {23, "IQ4_XS"},
    {29, "IQ1_M"},
    {31, "Q4_0_4_4 (removed)"},
    {32, "Q4_0_4_8 (removed)"},
    {33, "Q4_0_8_8 (removed)"},
    {34, "TQ1_0"},
    {35, "TQ2_0"},
    {36, "IQ4_NL_4_4 (removed)"},
    {37, "IQ4_NL_4_8 (removed)"},
    {38, "IQ4_NL_8_8 (removed)"},
    {39, "MXFP4"},
    {40, "NVFP4"},
    {41, "Q1_0"},
    {42, "Q2_0"},
}};

}  // namespace

std::span<const GgufTypeInfo> gguf_types() {
  return kTypes;
}

const GgufTypeInfo* find_gguf_type(uint32_t id) {
  const auto found = std::find_if(kTypes.begin(), kTypes.end(), [id](const GgufTypeInfo& t) {
    return static_cast<uint32_t>(t.type) == id;
  });
  return found == kTypes.end() ? nullptr : &*found;
}

const GgufTypeInfo* find_gguf_type(std::string_view name) {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [name](const GgufTypeInfo& t) { return t.name == name; });
  return found == kTypes.end() ? nullptr : &*found;
}

const GgufTypeInfo& gguf_type_info(GgufType type) {
  const GgufTypeInfo* found = find_gguf_type(static_cast<uint32_t>(type));
  PARE_ASSERT(found != nullptr, "[gguf] type {}", static_cast<uint32_t>(type));
  return *found;
}

std::string_view unread_gguf_type(uint32_t id) {
  const auto found =
      std::find_if(kUnread.begin(), kUnread.end(), [id](const auto& row) { return row.first == id; });
  return found == kUnread.end() ? std::string_view() : found->second;
}

}  // namespace pare
