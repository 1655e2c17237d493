// engine/backends/cpu/matmul/level_table.h: the table of one level, instantiated for its vector class.
//
// Included by isa_<level>.cpp only.
#pragma once

#include "engine/backends/cpu/matmul/gemm_body.h"
#include "engine/backends/cpu/matmul/gemv_body.h"
#include "engine/backends/cpu/matmul/level.h"
#include "engine/backends/cpu/matmul/tiles_body.h"

namespace pare::cpu::body {

template <class V>
struct Forms {
  using Word2 = WordForm<V, 2, typename V::template IntCodes<2>>;
  using Word3 = WordForm<V, 3, typename V::template IntCodes<3>>;
  using Word4 = WordForm<V, 4, typename V::template IntCodes<4>>;
  using Table4 = WordForm<V, 4, typename V::TableCodes>;
  using ByteInt = ByteForm<V, SignedBytes<V>>;
  using ByteE4m3 = ByteForm<V, E4m3Bytes<V>>;
};

template <class V, int kRows, int kEnd>
constexpr void fill_gemm_tiles(LevelKernels& level) {
  level.gemm_tile[kRows] = gemm_tile<V, kRows>;
  level.pack_columns[kRows] = pack_columns<V, kRows>;
  if constexpr (kRows < kEnd) fill_gemm_tiles<V, kRows + 1, kEnd>(level);
}

template <class V, int kRows>
constexpr LevelKernels make_level(int64_t depth, int64_t dense_gemv_rows, int64_t tile_gemv_rows) {
  static_assert(kRows <= kMaxRows && 2 * V::kWidth <= kMaxPanel);
  using Form = Forms<V>;
  LevelKernels level = {};
  level.width = V::kWidth;
  level.rows = kRows;
  level.depth = depth;
  level.dense_gemv_rows = dense_gemv_rows;
  level.tile_gemv_rows = tile_gemv_rows;
  level.dense_gemv[0] = dense_gemv<V, LoadF32<V>>;
  level.dense_gemv[1] = dense_gemv<V, LoadBf16<V>>;
  level.dense_gemv[2] = dense_gemv<V, LoadF16<V>>;
  level.tile_gemv[int(TileForm::word2)] = tile_gemv<V, typename Form::Word2>;
  level.tile_gemv[int(TileForm::word3)] = tile_gemv<V, typename Form::Word3>;
  level.tile_gemv[int(TileForm::word4)] = tile_gemv<V, typename Form::Word4>;
  level.tile_gemv[int(TileForm::table4)] = tile_gemv<V, typename Form::Table4>;
  level.tile_gemv[int(TileForm::byte_int)] = tile_gemv<V, typename Form::ByteInt>;
  level.tile_gemv[int(TileForm::byte_e4m3)] = tile_gemv<V, typename Form::ByteE4m3>;
  level.expand_tile[int(TileForm::word2)] = expand_tile<V, typename Form::Word2>;
  level.expand_tile[int(TileForm::word3)] = expand_tile<V, typename Form::Word3>;
  level.expand_tile[int(TileForm::word4)] = expand_tile<V, typename Form::Word4>;
  level.expand_tile[int(TileForm::table4)] = expand_tile<V, typename Form::Table4>;
  level.expand_tile[int(TileForm::byte_int)] = expand_tile<V, typename Form::ByteInt>;
  level.expand_tile[int(TileForm::byte_e4m3)] = expand_tile<V, typename Form::ByteE4m3>;
  level.pack_rows = pack_rows<V>;
  level.pack_panel[0] = pack_panel<V, LoadF32<V>>;
  level.pack_panel[1] = pack_panel<V, LoadBf16<V>>;
  level.pack_panel[2] = pack_panel<V, LoadF16<V>>;
  level.copy_panel[0] = copy_panel<V, LoadF32<V>>;
  level.copy_panel[1] = copy_panel<V, LoadBf16<V>>;
  level.copy_panel[2] = copy_panel<V, LoadF16<V>>;
  level.dot = dot<V>;
  fill_gemm_tiles<V, 1, kRows>(level);
  return level;
}

}  // namespace pare::cpu::body
