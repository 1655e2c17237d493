// formats/dialects/words.h: codes in 32-bit words, as other tools pack them; internal to formats.
//
// A dense stream has element k in bits k*b to k*b+b-1 of the little-endian bit string of its words, so that
// elements may straddle two words. A padded stream has floor(32/b) elements per word and leaves the rest of
// each word unused. They differ only when 32 is not a multiple of b.
#pragma once

#include <cstdint>

#include "engine/tensor/tensor.h"

namespace pare {

enum class WordOrder : uint8_t { dense, padded };

int64_t stream_words(int64_t count, int bits, WordOrder order);

// One stream whose words lie `word_stride` apart; codes lie `code_stride` apart. Unused bits are ignored when
// read and zero when written.
void unpack_stream(const uint32_t* words, int64_t word_stride, int64_t count, int bits, WordOrder order,
                   uint8_t* codes, int64_t code_stride);
void pack_stream(const uint8_t* codes, int64_t code_stride, int64_t count, int bits, uint32_t* words,
                 int64_t word_stride);  // dense

// The same bytes seen as [rows, bytes / rows] of u8; no copy.
Tensor as_bytes(const Tensor& tensor, int64_t rows);

// Rows of bytes, [rows, 4 * words], seen as i32 [rows, words]; a copy only where memory is not aligned.
Result<Tensor> as_words(const Tensor& bytes);

// Rows of dense streams, i32 [out, words], as canonical codes, u8 [out, row_bytes]. A view where rows are
// whole words; else a copy in which the bits behind the last code are zero, whatever they were.
Result<Tensor> canonical_rows(const Tensor& words, int64_t in, int bits);

// A new matrix [columns, rows] of 4-byte elements from one of [rows, columns]. A dense stream along rows
// becomes the canonical byte order of codes when it is transposed so.
Result<Tensor> transposed_words(const Tensor& matrix);

}  // namespace pare
