// Choosing the level: names, PARE_CPU_PROFILE, and the limit of --cpu-profile.
#include "engine/backends/cpu/isa.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/backends/cpu/cpu_backend.h"

namespace pare::cpu {
namespace {

class IsaTest : public testing::Test {
 protected:
  void TearDown() override {
    ::unsetenv("PARE_CPU_PROFILE");
    set_isa_limit(Isa::avx512);
  }
  static void set_profile(const char* value) { ::setenv("PARE_CPU_PROFILE", value, 1); }
};

TEST_F(IsaTest, NamesRoundTrip) {
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx512}) EXPECT_EQ(parse_isa(isa_name(isa)), isa);
  for (const char* name : {"", "AVX2", "avx", "avx2 ", "sse", "avx512_vnni"})
    EXPECT_EQ(parse_isa(name), std::nullopt);
}

TEST_F(IsaTest, WithoutTheVariableTheHostDecides) {
  ::unsetenv("PARE_CPU_PROFILE");
  ASSERT_TRUE(requested_isa().has_value());
  EXPECT_EQ(*requested_isa(), host_isa());
  EXPECT_EQ(best_isa(), host_isa());
}

TEST_F(IsaTest, TheVariableLowersTheLevel) {
  set_profile("generic");
  EXPECT_EQ(*requested_isa(), Isa::generic);
  EXPECT_EQ(best_isa(), Isa::generic);
  EXPECT_THAT(make_cpu_backend()->description(), testing::StartsWith("cpu: generic, "));
}

TEST_F(IsaTest, AMalformedVariableIsAUsageErrorThatNamesIt) {
  for (const char* value : {"", "avx3", "AVX2", "generic,avx2"}) {
    set_profile(value);
    const Result<Isa> result = requested_isa();
    ASSERT_FALSE(result.has_value()) << value;
    EXPECT_EQ(result.error().exit, Exit::usage);
    EXPECT_EQ(result.error().rule, "CL14");
    EXPECT_EQ(result.error().path, "PARE_CPU_PROFILE");
    EXPECT_THAT(result.error().got, testing::HasSubstr(value));
    EXPECT_EQ(result.error().limit, "generic, avx2 or avx512");
    EXPECT_EQ(best_isa(), host_isa());
  }
}

TEST_F(IsaTest, AProfileThatTheHostLacksIsRefused) {
  if (host_isa() == Isa::avx512) GTEST_SKIP() << "this host has every profile";
  set_profile("avx512");
  ASSERT_FALSE(requested_isa().has_value());
  EXPECT_EQ(requested_isa().error().rule, "CL14");
}

TEST_F(IsaTest, TheLimitLowersAndNeverRaises) {
  set_isa_limit(Isa::generic);
  EXPECT_EQ(best_isa(), Isa::generic);
  set_isa_limit(Isa::avx512);
  EXPECT_EQ(best_isa(), host_isa());
  set_profile("generic");
  EXPECT_EQ(best_isa(), Isa::generic);
}

TEST_F(IsaTest, FeaturesAgreeWithTheLevel) {
  const std::string features = fmt::format(" {} ", cpu_features());
  if (host_isa() >= Isa::avx2) {
    for (const char* name : {" avx2 ", " fma ", " f16c "}) EXPECT_THAT(features, testing::HasSubstr(name));
  }
  if (host_isa() >= Isa::avx512) {
    for (const char* name : {" avx512f ", " avx512bw ", " avx512vl ", " avx512dq "}) {
      EXPECT_THAT(features, testing::HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace pare::cpu
