// engine/backends/cpu/sparse/sparse_table.h: the table of one level, instantiated for its vector class V and
// its set M of masked forms (M::F32, M::Bf16, M::F16, M::Byte, M::Nibble; masked_body.h).
//
// Included by isa_*.cpp only.
#pragma once

#include "engine/backends/cpu/sparse/masked_body.h"
#include "engine/backends/cpu/sparse/of_four_body.h"

namespace pare::cpu::body {

template <class V, class Slot>
constexpr void fill_of_four(SparseKernels& level, SparseForm form) {
  level.gemv[size_t(form)][0] = of_four_gemv<V, Slot, 1>;
  level.gemv[size_t(form)][1] = of_four_gemv<V, Slot, 2>;
  level.expand[size_t(form)][0] = of_four_expand<V, Slot, 1>;
  level.expand[size_t(form)][1] = of_four_expand<V, Slot, 2>;
}

template <class V, class E>
constexpr void fill_masked(SparseKernels& level, SparseForm form) {
  static_assert(E::kInterleave <= kMaxInterleave && E::kVectors == (E::kHasCodes ? 4 : 2));
  level.gemv[size_t(form)][0] = masked_gemv<V, E>;
  level.expand[size_t(form)][0] = masked_expand<V, E>;
  level.interleave[size_t(form)] = E::kInterleave;
}

template <class V, class M>
constexpr SparseKernels make_sparse_kernels(const char* name) {
  SparseKernels level = {};
  level.name = name;
  level.width = V::kWidth;
  fill_of_four<V, SlotF32<V>>(level, SparseForm::of_four_f32);
  fill_of_four<V, SlotBf16<V>>(level, SparseForm::of_four_bf16);
  fill_of_four<V, SlotF16<V>>(level, SparseForm::of_four_f16);
  fill_of_four<V, SlotByte<V>>(level, SparseForm::of_four_byte);
  fill_of_four<V, SlotNibble<V>>(level, SparseForm::of_four_nibble);
  fill_masked<V, typename M::F32>(level, SparseForm::masked_f32);
  fill_masked<V, typename M::Bf16>(level, SparseForm::masked_bf16);
  fill_masked<V, typename M::F16>(level, SparseForm::masked_f16);
  fill_masked<V, typename M::Byte>(level, SparseForm::masked_byte);
  fill_masked<V, typename M::Nibble>(level, SparseForm::masked_nibble);
  return level;
}

}  // namespace pare::cpu::body
