// Text form of a SparsityPattern, and a mask checked against its pattern; see mask.h.
#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/mask.h"

namespace pare {
namespace {

Error refused(std::string_view text, const char* what) {
  return Error{.exit = Exit::usage,
               .rule = {},
               .path = "pattern",
               .where = quote(text),
               .what = what,
               .got = {},
               .limit = "unstructured, N:M with 1 <= N < M <= 16, or block-RxC",
               .limit_label = "expected"};
}

// Two positive numbers around `separator`.
bool read_pair(std::string_view text, char separator, int64_t most, int& first, int& second) {
  const size_t position = text.find(separator);
  if (position == std::string_view::npos) return false;
  const auto left = parse_int(text.substr(0, position));
  const auto right = parse_int(text.substr(position + 1));
  if (!left || !right || *left < 1 || *right < 1 || *left > most || *right > most) return false;
  first = int(*left);
  second = int(*right);
  return true;
}

Error broken(std::string_view name, int64_t row, int64_t column, std::string what, int64_t got,
             std::string limit) {
  return Error{.exit = Exit::malformed,
               .rule = "PK11",
               .path = {},
               .where = fmt::format("{}[{},{}]", quote(name), row, column),
               .what = std::move(what),
               .got = std::to_string(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

// First group of a row that keeps another number than it must, or nothing.
std::optional<Error> broken_group(const Mask& mask, int64_t row, int n, int m, std::string_view name) {
  for (int64_t begin = 0; begin < mask.in(); begin += m) {
    const int64_t width = std::min<int64_t>(m, mask.in() - begin);
    const int64_t expected = width - (m - n) * width / m;
    int64_t kept = 0;
    for (int64_t i = 0; i < width; ++i) kept += mask.kept(row, begin + i) ? 1 : 0;
    if (kept == expected) continue;
    const char* what =
        width == m ? "group keeps another number of weights" : "last group keeps another number";
    return broken(name, row, begin, what, kept, std::to_string(expected));
  }
  return std::nullopt;
}

Status verify_groups(const Mask& mask, int n, int m, std::string_view name) {
  constexpr int64_t kRowsPerItem = 64;
  std::vector<std::optional<Error>> errors(size_t((mask.out() + kRowsPerItem - 1) / kRowsPerItem));
  parallel_ranges(mask.out(), kRowsPerItem, [&](int64_t first, int64_t end) {
    std::optional<Error>& error = errors[size_t(first / kRowsPerItem)];
    for (int64_t row = first; row < end && !error; ++row) error = broken_group(mask, row, n, m, name);
  });
  for (std::optional<Error>& error : errors)
    if (error) return std::move(*error);
  return {};
}

Status verify_blocks(const Mask& mask, const SparsityPattern& pattern, std::string_view name) {
  for (int64_t top = 0; top < mask.out(); top += pattern.block_rows) {
    for (int64_t left = 0; left < mask.in(); left += pattern.block_columns) {
      const int64_t bottom = std::min(mask.out(), top + pattern.block_rows);
      const int64_t right = std::min(mask.in(), left + pattern.block_columns);
      int64_t kept = 0;
      for (int64_t row = top; row < bottom; ++row) {
        for (int64_t column = left; column < right; ++column) kept += mask.kept(row, column) ? 1 : 0;
      }
      const int64_t size = (bottom - top) * (right - left);
      if (kept != 0 && kept != size) {
        return broken(name, top, left, "block is kept in part", kept, fmt::format("0 or {}", size));
      }
    }
  }
  return {};
}

}  // namespace

std::string SparsityPattern::text() const {
  switch (kind) {
    case Kind::unstructured:
      return "unstructured";
    case Kind::n_of_m:
      return fmt::format("{}:{}", n, m);
    case Kind::block:
      return fmt::format("block-{}x{}", block_rows, block_columns);
  }
  return {};
}

Result<SparsityPattern> SparsityPattern::parse(std::string_view text) {
  SparsityPattern pattern;
  if (text == "unstructured") return pattern;
  if (text.starts_with("block-")) {
    pattern.kind = Kind::block;
    if (!read_pair(text.substr(6), 'x', int64_t(limits::kHiddenSize), pattern.block_rows,
                   pattern.block_columns)) {
      return refused(text, "bad block size");
    }
    return pattern;
  }
  pattern.kind = Kind::n_of_m;
  if (!read_pair(text, ':', 16, pattern.n, pattern.m)) return refused(text, "unknown sparsity pattern");
  if (pattern.n >= pattern.m) return refused(text, "nothing would be removed");
  return pattern;
}

Status Mask::verify(const SparsityPattern& pattern, std::string_view name) const {
  switch (pattern.kind) {
    case SparsityPattern::Kind::unstructured:
      return {};
    case SparsityPattern::Kind::n_of_m:
      return verify_groups(*this, pattern.n, pattern.m, name);
    case SparsityPattern::Kind::block:
      return verify_blocks(*this, pattern, name);
  }
  return {};
}

}  // namespace pare
