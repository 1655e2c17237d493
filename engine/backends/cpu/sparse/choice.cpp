#include "engine/backends/cpu/sparse/choice.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "engine/backends/cpu/sparse/built_in.h"
#include "engine/backends/cpu/sparse/sparse_layout.h"
#include "engine/core/assert.h"

namespace pare::cpu {
namespace {

constexpr double kDensities[] = {0.10, 0.25, 0.40, 0.50, 0.60, 0.75};
constexpr double kRoom = 0.005;    // by which a density may exceed that of its line
constexpr double kGainful = 1.03;  // below this the gain is within the noise of measuring

const char* stored_name(SparseForm form) {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "byte", "nibble"};
  return kNames[size_t(form) % 5];
}

std::vector<SparseKind> all_kinds() {
  std::vector<SparseKind> kinds;
  for (int form = 0; form < kSparseForms; ++form) {
    if (is_masked(SparseForm(form))) {
      for (const double density : kDensities) kinds.push_back({SparseForm(form), 1, density});
    } else {
      for (int n = 1; n <= kMostOfFour; ++n) kinds.push_back({SparseForm(form), n, 0.25 * n});
    }
  }
  return kinds;
}

SparseTable to_table(const BuiltInSpeeds& speeds) {
  SparseTable table;
  for (const auto& line : speeds) table.push_back({line[0], line[1]});
  PARE_ASSERT(table.size() == sparse_kinds().size(), "[sparse] a built-in table of {} lines", table.size());
  return table;
}

std::array<SparseTable, 3>& tables() {
  static std::array<SparseTable, 3> all{to_table(kGenericSpeeds), to_table(kAvx2Speeds),
                                        to_table(kAvx512Speeds)};
  return all;
}

// The line that stands for a matrix; -1 when it keeps more than any.
int kind_of(SparseForm form, int n, double density) {
  const std::vector<SparseKind>& kinds = sparse_kinds();
  for (size_t i = 0; i < kinds.size(); ++i) {
    if (kinds[i].form != form) continue;
    if (is_masked(form) ? density <= kinds[i].density + kRoom : n == kinds[i].n) return int(i);
  }
  return -1;
}

std::string weight_name(const SparseSummary& weight, SparseForm form) {
  const std::string what = weight.scheme ? weight.scheme->text() : std::string(stored_name(form));
  if (!is_masked(form)) return fmt::format("{} {}", weight.pattern.text(), what);
  if (weight.pattern.kind == SparsityPattern::Kind::unstructured) return fmt::format("bitmask {}", what);
  return fmt::format("{} {} as bitmask", weight.pattern.text(), what);
}

}  // namespace

std::string SparseKind::name() const {
  if (!is_masked(form)) return fmt::format("{}of4-{}", n, stored_name(form));
  return fmt::format("masked-{}-{}", stored_name(form), std::lround(100.0 * density));
}

const std::vector<SparseKind>& sparse_kinds() {
  static const std::vector<SparseKind> kinds = all_kinds();
  return kinds;
}

const SparseTable& built_in_table(Isa isa) {
  static const std::array<SparseTable, 3> all{to_table(kGenericSpeeds), to_table(kAvx2Speeds),
                                              to_table(kAvx512Speeds)};
  return all[size_t(isa)];
}

void set_sparse_table(Isa isa, SparseTable table) {
  PARE_ASSERT(table.size() == sparse_kinds().size(), "[sparse] a table of {} lines", table.size());
  tables()[size_t(isa)] = std::move(table);
}

KernelChoice choose_sparse(Isa isa, const SparseSummary& weight) {
  if (weight.out == 0 || weight.in == 0) return {false, "expanded to dense: nothing to multiply"};
  if (!has_sparse_form(weight.scheme, weight.rounds_inputs)) {
    return {false, fmt::format("expanded to dense: no sparse kernel for {}{}", weight.scheme->text(),
                               weight.rounds_inputs ? " with rounded inputs" : "")};
  }
  const SparseForm form = sparse_form(weight.pattern, weight.value_dtype, weight.scheme, weight.in);
  const std::string name = weight_name(weight, form);
  const int kind = kind_of(form, weight.pattern.n, weight.density);
  if (kind < 0)
    return {false, fmt::format("{}: expanded to dense: {:.0f} % of the weights are kept", name,
                               100.0 * weight.density)};
  const double ratio = tables()[size_t(isa)][size_t(kind)][weight.out * weight.in < kLargeMatrix ? 0 : 1];
  if (ratio < kGainful) {
    return {false, fmt::format("{}: expanded to dense: sparse kernel {:.2f}x of dense", name, ratio)};
  }
  return {true, fmt::format("{}: sparse kernel {:.2f}x of dense", name, ratio)};
}

}  // namespace pare::cpu
