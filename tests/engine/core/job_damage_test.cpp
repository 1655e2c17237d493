// F15: each file of a job folder flipped, cut or deleted. The job goes back one generation with a warning, or
// is refused with exit 3; it never continues from wrong bytes and never starts again by itself.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "engine/core/sealed_json.h"
#include "tests/engine/core/job_support.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::commit_step;
using test::make_job;
using test::own_object;
using test::resume_job;
using test::shared_object;
using test::slurp;
using test::spill;
using test::step_of;

// Generations 2 and 3 are there; both need shared_object(2), which is shared_object(3).
class JobDamageTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(make_job(path_, 3)); }

  static std::string object(const std::string& content) { return "obj/" + xxh3_128(content).hex(); }

  // Calls `check` with the file damaged in many ways, one at a time, and repairs it.
  void for_each_damage(const std::string& name, const std::function<void(const std::string&)>& check) {
    const std::string file = path_ + "/" + name, whole = slurp(file);
    ASSERT_FALSE(whole.empty()) << name;
    const size_t step = whole.size() / 150 + 1;  // every byte of the small files
    for (size_t at = 0; at < whole.size(); at += step) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << at % 8));
      spill(file, flipped);
      check(name + " flipped at " + std::to_string(at));
      spill(file, whole.substr(0, at));
      check(name + " cut at " + std::to_string(at));
    }
    spill(file, whole + "\n");
    check(name + " grown");
    fs::remove(file);
    check(name + " deleted");
    fs::remove(file);  // the log is made again
    fs::create_symlink(path_ + "/elsewhere", file);
    check(name + " turned into a symlink");
    fs::remove(file);
    spill(file, whole);
    const auto job = resume_job(path_);
    ASSERT_TRUE(job);
    ASSERT_EQ(step_of(*job), 3);
    ASSERT_EQ(job->damage(), "");
  }

  // The step that a resumed job continues from, and what it says.
  void expect_step(int expected, bool went_back, const std::string& damaged_file, const std::string& how) {
    ::testing::internal::CaptureStderr();
    const auto job = resume_job(path_);
    const std::string warning = ::testing::internal::GetCapturedStderr();
    ASSERT_TRUE(job) << how << ": " << format_error(job.error());
    ASSERT_EQ(step_of(*job), expected) << how;
    ASSERT_EQ(job->went_back(), went_back) << how;
    if (damaged_file.empty()) {
      ASSERT_EQ(job->damage() + warning, "") << how;
      return;
    }
    ASSERT_NE(job->damage().find(path_ + "/" + damaged_file), std::string::npos) << how;
    ASSERT_NE(warning.find("pare: warning: " + path_ + "/" + damaged_file), std::string::npos) << warning;
  }

  void expect_exit_3(const std::string& damaged_file, const std::string& how) {
    for (int again = 0; again < 2; ++again) {  // refusing changes nothing
      const auto job = resume_job(path_);
      ASSERT_FALSE(job) << how;
      ASSERT_EQ(job.error().exit, Exit::malformed) << how << ": " << format_error(job.error());
      ASSERT_EQ(job.error().path, path_ + "/" + damaged_file) << how;
    }
  }

  std::string path_ = test::memory_folder() + "/job";
};

TEST_F(JobDamageTest, Identity) {
  for_each_damage("job.json", [&](const std::string& how) { expect_exit_3("job.json", how); });
}

TEST_F(JobDamageTest, CurrentIsFoundAgainFromTheGenerations) {
  for_each_damage("CURRENT", [&](const std::string& how) { expect_step(3, false, "CURRENT", how); });
}

TEST_F(JobDamageTest, NewestGenerationGoesBack) {
  for_each_damage("gen-3.json", [&](const std::string& how) { expect_step(2, true, "gen-3.json", how); });
}

TEST_F(JobDamageTest, OldGenerationIsNotNeeded) {
  for_each_damage("gen-2.json", [&](const std::string& how) { expect_step(3, false, "", how); });
}

TEST_F(JobDamageTest, ObjectOfTheNewestGenerationGoesBack) {
  const std::string name = object(own_object(3));
  for_each_damage(name, [&](const std::string& how) { expect_step(2, true, name, how); });
}

TEST_F(JobDamageTest, ObjectOfTheOldGenerationIsNotNeeded) {
  for_each_damage(object(own_object(2)), [&](const std::string& how) { expect_step(3, false, "", how); });
}

TEST_F(JobDamageTest, ObjectOfBothGenerations) {
  const std::string name = object(shared_object(3));
  for_each_damage(name, [&](const std::string& how) { expect_exit_3(name, how); });
}

TEST_F(JobDamageTest, EventsAreNotRead) {
  for_each_damage("events.jsonl", [&](const std::string& how) { expect_step(3, false, "", how); });
}

TEST_F(JobDamageTest, BothGenerationsDamaged) {
  spill(path_ + "/gen-2.json", "{}");
  for (const char* content : {"", "{}"}) {
    spill(path_ + "/gen-3.json", content);
    expect_exit_3("gen-3.json", "both cut");
  }
  fs::remove(path_ + "/gen-3.json");
  expect_exit_3("gen-3.json", "newest deleted");
  fs::remove(path_ + "/gen-2.json");
  expect_exit_3("gen-3.json", "both deleted");
  fs::remove(path_ + "/CURRENT");
  expect_exit_3("CURRENT", "nothing left of them");
  EXPECT_EQ(JobFolder::open(path_, JobMode::fresh).error().rule, "CL16") << "not a silent restart";
  EXPECT_TRUE(JobFolder::open(path_, test::sample_identity(), JobMode::restart));
}

TEST_F(JobDamageTest, FolderOfObjectsDeleted) {
  fs::remove_all(path_ + "/obj");
  const auto job = resume_job(path_);
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().exit, Exit::malformed);
  EXPECT_EQ(job.error().what, "missing; no older generation is whole; --restart begins again");
}

TEST_F(JobDamageTest, OnlyCommitDamaged) {
  const std::string other = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(other, 1));
  fs::remove(other + "/gen-1.json");
  const auto job = resume_job(other);
  ASSERT_FALSE(job) << "a silent restart";
  EXPECT_EQ(job.error().exit, Exit::malformed);
}

// After going back the job commits over the damaged generation, and everything is whole again.
TEST_F(JobDamageTest, GoesOnAfterGoingBack) {
  for (const bool delete_it : {false, true}) {
    const std::string file = path_ + "/gen-3.json";
    delete_it ? (void)fs::remove(file) : spill(file, "{}");
    {
      ::testing::internal::CaptureStderr();
      auto job = resume_job(path_);
      ::testing::internal::GetCapturedStderr();
      ASSERT_TRUE(job->went_back());
      ASSERT_EQ(job->generation(), 2);
      ASSERT_TRUE(commit_step(*job, 3));
    }
    expect_step(3, false, "", "committed again");
  }
}

// A generation under the name of another is not taken for it.
TEST_F(JobDamageTest, GenerationUnderAnotherName) {
  spill(path_ + "/gen-3.json", slurp(path_ + "/gen-2.json"));
  expect_step(2, true, "gen-3.json", "copied");
}

// A right checksum does not make a right file.
TEST_F(JobDamageTest, SealedNonsense) {
  const std::string file = path_ + "/gen-3.json", job_id = resume_job(path_)->id();
  const std::string bodies[] = {
      "{}",
      R"({"job":7})",
      R"({"job":"ID"})",
      R"({"job":"ID","generation":3,"position":null,"objects":7})",
      R"({"job":"ID","generation":"3","position":null,"objects":[]})",
      R"({"job":"ID","generation":3,"position":null,"objects":[7]})",
      R"({"job":"ID","generation":3,"position":null,"objects":["../job.json"]})",
      R"({"job":"ID","generation":3,"objects":[]})",
  };
  for (std::string text : bodies) {
    if (const size_t at = text.find("ID"); at != std::string::npos) text.replace(at, 2, job_id);
    spill(file, seal_json(*parse_json(text, "t", {.max_bytes = 1000})));
    expect_step(2, true, "gen-3.json", text);
  }
}

}  // namespace
}  // namespace pare
