#include "engine/backends/cpu/sparse/choice.h"

#include <set>

#include "sparse_support.h"

namespace pare::cpu::test {
namespace {

SparseSummary summary(const char* pattern, double density, DType dtype, const char* scheme = nullptr) {
  SparseSummary weight{
      .pattern = pattern_of(pattern), .out = 4096, .in = 4096, .density = density, .value_dtype = dtype};
  if (scheme != nullptr) weight.scheme = scheme_of(scheme);
  return weight;
}

SparseTable table_of(double ratio) {
  return SparseTable(sparse_kinds().size(), {ratio, ratio});
}

class SparseChoiceTest : public ::testing::Test {
 protected:
  void TearDown() override { set_sparse_table(Isa::generic, built_in_table(Isa::generic)); }
};

TEST_F(SparseChoiceTest, FollowsTheTable) {
  const SparseSummary weight = summary("unstructured", 0.5, DType::bf16);
  set_sparse_table(Isa::generic, table_of(1.312));
  EXPECT_TRUE(choose_sparse(Isa::generic, weight).is_sparse);
  EXPECT_EQ(choose_sparse(Isa::generic, weight).reason, "bitmask bf16: sparse kernel 1.31x of dense");
  set_sparse_table(Isa::generic, table_of(1.01));
  EXPECT_FALSE(choose_sparse(Isa::generic, weight).is_sparse);
  EXPECT_EQ(choose_sparse(Isa::generic, weight).reason,
            "bitmask bf16: expanded to dense: sparse kernel 1.01x of dense");
}

TEST_F(SparseChoiceTest, DependsOnSizeDensityAndForm) {
  SparseTable table = table_of(0.5);
  const auto line = [&](std::string_view name) -> std::array<double, kSizeClasses>& {
    for (size_t i = 0; i < table.size(); ++i) {
      if (sparse_kinds()[i].name() == name) return table[i];
    }
    ADD_FAILURE() << name;
    return table[0];
  };
  line("masked-bf16-50")[1] = 2.0;
  line("2of4-nibble")[0] = 2.0;
  set_sparse_table(Isa::generic, table);
  EXPECT_TRUE(choose_sparse(Isa::generic, summary("unstructured", 0.45, DType::bf16)).is_sparse);
  EXPECT_TRUE(choose_sparse(Isa::generic, summary("unstructured", 0.503, DType::bf16)).is_sparse);
  EXPECT_TRUE(choose_sparse(Isa::generic, summary("4:8", 0.5, DType::bf16)).is_sparse);
  EXPECT_TRUE(choose_sparse(Isa::generic, summary("block-4x4", 0.5, DType::bf16)).is_sparse);
  EXPECT_FALSE(choose_sparse(Isa::generic, summary("unstructured", 0.55, DType::bf16)).is_sparse);
  EXPECT_FALSE(choose_sparse(Isa::generic, summary("unstructured", 0.5, DType::f16)).is_sparse);
  EXPECT_FALSE(choose_sparse(Isa::generic, summary("2:4", 0.5, DType::bf16)).is_sparse);
  SparseSummary codes = summary("2:4", 0.5, DType::u8, "int4-g64");
  EXPECT_FALSE(choose_sparse(Isa::generic, codes).is_sparse);
  codes.out = 100;
  EXPECT_TRUE(choose_sparse(Isa::generic, codes).is_sparse);
}

TEST_F(SparseChoiceTest, WhatHasNoKernelIsExpanded) {
  set_sparse_table(Isa::generic, table_of(9.0));
  for (const char* scheme : {"int4-g64-asymf", "nf4-g64", "fp8-e4m3-ch"})
    EXPECT_FALSE(choose_sparse(Isa::generic, summary("2:4", 0.5, DType::u8, scheme)).is_sparse) << scheme;
  SparseSummary rounded = summary("2:4", 0.5, DType::u8, "int8-ch");
  EXPECT_TRUE(choose_sparse(Isa::generic, rounded).is_sparse);
  rounded.rounds_inputs = true;
  EXPECT_FALSE(choose_sparse(Isa::generic, rounded).is_sparse);
  EXPECT_FALSE(choose_sparse(Isa::generic, summary("unstructured", 0.9, DType::bf16)).is_sparse);
  SparseSummary empty = summary("2:4", 0.5, DType::bf16);
  empty.out = 0;
  EXPECT_FALSE(choose_sparse(Isa::generic, empty).is_sparse);
}

TEST_F(SparseChoiceTest, TablesHaveALineForEveryKind) {
  std::set<std::string> names;
  for (const SparseKind& kind : sparse_kinds()) names.insert(kind.name());
  EXPECT_EQ(names.size(), sparse_kinds().size());
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512})
    EXPECT_EQ(built_in_table(isa).size(), names.size());
}

}  // namespace
}  // namespace pare::cpu::test
