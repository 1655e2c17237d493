#include "quantize/method_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pare {
namespace {

TEST(MethodPlan, EveryWordAndEveryOrder) {
  const struct {
    const char *words, *canonical;
    bool needs_data;
  } rows[] = {{"rtn", "rtn", false},
              {"gptq", "gptq", true},
              {"hqq", "hqq", false},
              {"kmeans", "kmeans", false},
              {"awq", "awq+rtn", true},
              {"smoothquant", "smoothquant+rtn", true},
              {"mse", "rtn+mse", false},
              {"importance", "rtn+importance", true},
              {"minmax", "rtn+minmax", false},
              {"rtn+awq", "awq+rtn", true},
              {"awq+gptq", "awq+gptq", true},
              {"gptq+awq", "awq+gptq", true},
              {"smoothquant+gptq", "smoothquant+gptq", true},
              {"gptq+mse", "gptq+mse", true},
              {"minmax+gptq", "gptq+minmax", true},
              {"mse+gptq+awq", "awq+gptq+mse", true},
              {"kmeans+importance", "kmeans+importance", true},
              {"hqq+mse", "hqq+mse", false}};
  for (const auto& row : rows) {
    const auto plan = parse_method(row.words);
    ASSERT_TRUE(plan) << row.words;
    EXPECT_EQ(plan->text(), row.canonical);
    EXPECT_EQ(plan->needs_data(), row.needs_data) << row.words;
    EXPECT_EQ(parse_method(plan->text())->text(), row.canonical) << "canonical text is read back";
  }
}

TEST(MethodPlan, WhatIsRefusedNamesTheWord) {
  const struct {
    const char *words, *got;
  } rows[] = {{"", "\"\""},
              {"GPTQ", "\"GPTQ\""},
              {"gptq+", "\"\""},
              {"+gptq", "\"\""},
              {"gptq awq", "\"gptq awq\""},
              {"awq+sparse", "\"sparse\""},
              {"gptq+rtn", "\"rtn\""},
              {"gptq+gptq", "\"gptq\""},
              {"awq+smoothquant", "\"smoothquant\""},
              {"mse+importance", "\"importance\""},
              {"awq+hqq", "\"hqq\""},
              {"kmeans+smoothquant", "\"kmeans\""}};
  for (const auto& row : rows) {
    const auto plan = parse_method(row.words);
    ASSERT_FALSE(plan) << row.words;
    EXPECT_EQ(plan.error().exit, Exit::usage);
    EXPECT_EQ(plan.error().rule, "CL06");
    EXPECT_EQ(plan.error().path, "--method");
    EXPECT_EQ(plan.error().got, row.got) << row.words;
  }
}

}  // namespace
}  // namespace pare
