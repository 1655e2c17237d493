// F16: a resumed job whose identity changed is refused, naming the field.
#include "engine/core/job_identity.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/core/sealed_json.h"
#include "tests/engine/core/job_support.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

using test::commit_step;
using test::make_job;
using test::resume_job;
using test::sample_identity;
using test::slurp;
using test::spill;
using test::step_of;

struct Mutation {
  const char* field;
  void (*change)(Json&);
  const char* now;     // as the error shows it
  const char* before;  // as above
};

const Mutation kMutations[] = {
    {"program.version", [](Json& i) { i["program"]["version"] = "0.9.2"; }, "\"0.9.2\"", "\"0.9.1\""},
    {"program.build", [](Json& i) { i["program"]["build"] = "clang"; }, "\"clang\"",
     "\"gcc-12.2 -O3 openblas-0.3.21\""},
    {"command", [](Json& i) { i["command"] = "prune"; }, "\"prune\"", "\"quantize\""},
    {"options.scheme", [](Json& i) { i["options"]["scheme"] = "int3-g128"; }, "\"int3-g128\"",
     "\"int4-g128\""},
    {"options.method", [](Json& i) { i["options"]["method"] = "awq"; }, "\"awq\"", "\"gptq\""},
    {"options.damping", [](Json& i) { i["options"]["damping"] = 0.02; }, "0.02", "0.01"},
    {"options.allow_fallback", [](Json& i) { i["options"]["allow_fallback"] = true; }, "true", "false"},
    {"options.extra", [](Json& i) { i["options"]["extra"] = 1; }, "1", "nothing"},
    {"options.damping", [](Json& i) { i["options"].erase("damping"); }, "nothing", "0.01"},
    {"recipe.hash", [](Json& i) { i["recipe"]["hash"] = "00000000000000000000000000000000"; },
     "00000000000000000000000000000000", "5f1d4b7c88aa01e25f1d4b7c88aa01e2"},
    {"inputs[0].name", [](Json& i) { i["inputs"].items()[0]["name"] = "m.safetensors"; }, "\"m.safetensors\"",
     "\"model-00001-of-00002.safetensors\""},
    {"inputs[0].bytes", [](Json& i) { i["inputs"].items()[0]["bytes"] = 1; }, "1", "4976698664"},
    {"inputs[1].xxh3_128",
     [](Json& i) { i["inputs"].items()[1]["xxh3_128"] = "91fe0c1d2e3f40515263748596a7b8ca"; },
     "91fe0c1d2e3f40515263748596a7b8ca", "91fe0c1d2e3f40515263748596a7b8c9"},
    {"inputs[2].name",
     [](Json& i) {
       i["inputs"].push_back(i["inputs"].items()[0]);
       i["seed"] = 1;  // comes later
     },
     "\"model-00001-of-00002.safetensors\"", "nothing"},
    {"inputs[1].name",
     [](Json& i) {
       i["inputs"].items().pop_back();
       i["seed"] = 1;  // comes later
     },
     "nothing", "\"model-00002-of-00002.safetensors\""},
    {"tokenizer.hash", [](Json& i) { i["tokenizer"]["hash"] = Json(); }, "null",
     "0123456789abcdef0123456789abcdef"},
    {"calibration.hash", [](Json& i) { i["calibration"]["hash"] = "77ab"; }, "\"77ab\"",
     "02c9b3d4e5f60718293a4b5c6d7e8f90"},
    {"seed", [](Json& i) { i["seed"] = 43; }, "43", "42"},
    {"seed", [](Json& i) { i["seed"] = "42"; }, "\"42\"", "42"},  // the kind counts too
    {"seed", [](Json& i) { i["seed"] = 42.0; }, "42.0", "42"},
    {"arithmetic.cpu", [](Json& i) { i["arithmetic"]["cpu"] = "avx512"; }, "\"avx512\"", "\"avx2\""},
    {"arithmetic.device", [](Json& i) { i["arithmetic"]["device"] = "NVIDIA H100"; }, "\"NVIDIA H100\"",
     "\"cpu\""},
};

void expect_refused(const std::string& path, const Json& identity, const std::string& field,
                    const std::string& now, const std::string& before) {
  const auto job = JobFolder::open(path, identity, JobMode::resume);
  ASSERT_FALSE(job) << field;
  EXPECT_EQ(job.error().exit, Exit::locked);
  EXPECT_EQ(job.error().path, path);
  EXPECT_EQ(job.error().where, "identity: " + field);
  EXPECT_EQ(job.error().got, now);
  EXPECT_EQ(job.error().limit, before);
  EXPECT_STREQ(job.error().limit_label, "expected");
}

class JobIdentityTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(make_job(path_, 2)); }
  // Whatever was refused, the job itself is as it was.
  void TearDown() override { EXPECT_EQ(step_of(*resume_job(path_)), 2); }

  // Changes the body of a file and gives it a right checksum again.
  void edit(const std::string& name, const std::function<void(Json&)>& change) {
    const std::string file = path_ + "/" + name;
    Json body = *unseal_json(slurp(file), file);
    change(body);
    spill(file, seal_json(body));
  }

  std::string path_ = test::temporary_folder() + "/job";
};

TEST_F(JobIdentityTest, EveryFieldIsNamedWithBothValues) {
  for (const Mutation& mutation : kMutations) {
    Json identity = sample_identity();
    mutation.change(identity);
    expect_refused(path_, identity, mutation.field, mutation.now, mutation.before);
  }
}

TEST_F(JobIdentityTest, FirstDifferenceIsNamed) {
  Json identity = sample_identity();
  identity["seed"] = 1;
  identity["command"] = "prune";
  expect_refused(path_, identity, "command", "\"prune\"", "\"quantize\"");
}

TEST_F(JobIdentityTest, ErrorIsOneLine) {
  Json identity = sample_identity();
  identity["calibration"]["hash"] = "77ab\n\x1b[2J";
  const auto job = JobFolder::open(path_, identity, JobMode::resume);
  EXPECT_EQ(format_error(job.error()),
            path_ +
                ": identity: calibration.hash: differs from the interrupted job (got "
                "\"77ab\\x0a\\x1b[2J\", expected 02c9b3d4e5f60718293a4b5c6d7e8f90)");
}

TEST_F(JobIdentityTest, AnotherLayoutOfTheFolderIsRefused) {
  const std::string whole = slurp(path_ + "/job.json");
  edit("job.json", [](Json& body) { body["identity"]["job"]["format"] = 2; });
  expect_refused(path_, sample_identity(), "job.format", "1", "2");
  spill(path_ + "/job.json", whole);
}

TEST_F(JobIdentityTest, GenerationOfAnotherJobIsRefused) {
  const std::string other = test::temporary_folder() + "/job";
  Json identity = sample_identity();
  identity["seed"] = 7;
  {
    auto job = JobFolder::open(other, identity, JobMode::fresh);
    ASSERT_TRUE(commit_step(*job, 1));
    ASSERT_TRUE(commit_step(*job, 2));
  }
  for (const char* name : {"gen-2.json", "CURRENT"}) {
    const std::string whole = slurp(path_ + "/" + name);
    spill(path_ + "/" + name, slurp(other + "/" + name));
    const auto job = resume_job(path_);
    ASSERT_FALSE(job);
    EXPECT_EQ(job.error().exit, Exit::locked);
    EXPECT_EQ(job.error().where, "identity: job.id");
    EXPECT_NE(job.error().what.find(name), std::string::npos);
    EXPECT_NE(job.error().got, job.error().limit);
    spill(path_ + "/" + name, whole);
  }
}

TEST_F(JobIdentityTest, OrderOfMembersDoesNotMatter) {
  const Json identity = sample_identity();
  Json reversed = Json::object();
  for (auto member = identity.members().rbegin(); member != identity.members().rend(); ++member)
    reversed[member->first] = member->second;
  const auto job = JobFolder::open(path_, reversed, JobMode::resume);
  ASSERT_TRUE(job) << format_error(job.error());
  EXPECT_EQ(step_of(*job), 2);
}

TEST(FlattenJson, LeavesInOrderWithTheirPaths) {
  const auto json =
      parse_json(R"({"a":{"b":[1,[2.5,"x"],{}],"":null},"c.d":[],"e\n":true})", "t", {.max_bytes = 1000});
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"a.b[0]", "1"},     {"a.b[1][0]", "2.5"}, {"a.b[1][1]", "\"x\""},  {"a.b[2]", "{}"},
      {"a[\"\"]", "null"}, {"[\"c.d\"]", "[]"},  {"[\"e\\x0a\"]", "true"}};
  EXPECT_EQ(flatten_json(*json), expected);
}

}  // namespace
}  // namespace pare
