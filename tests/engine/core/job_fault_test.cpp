// F3, F4, F17, F18 on JobFolder: the k-th system call fails, for every k. Promise: after any error the last
// commit is there with its objects, and the job goes on from it.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/engine/core/job_support.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::commit_step;
using test::FaultScope;
using test::make_job;
using test::names_in;
using test::resume_job;
using test::sample_identity;
using test::slurp;
using test::step_of;

struct Faulty {
  int error;
  bool from_then_on;
};

class JobFaults : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  // Runs `action` with the k-th call failing, for k = 0, 1, ... until none fails any more, each time on a
  // copy of `before` (none when empty), and calls check(status) without faults.
  template <typename Action, typename Check>
  void for_each_fault(const std::string& before, Action action, Check check, int64_t at_least) {
    const auto [error, from_then_on] = GetParam();
    int64_t k = 0;
    for (bool reached = true; reached; ++k) {
      fs::remove_all(path_);
      if (!before.empty()) fs::copy(before, path_, fs::copy_options::recursive);
      Status status;
      ::testing::internal::CaptureStderr();  // warnings
      {
        reached = false;
        const FaultScope scope([&, calls = int64_t{0}, persists = from_then_on, code = error](
                                   std::string_view, const std::string&) mutable {
          const int64_t number = calls++;
          if (number != k && !(persists && number > k)) return 0;
          reached = true;
          return code;
        });
        status = action();
      }
      ::testing::internal::GetCapturedStderr();
      SCOPED_TRACE("call " + std::to_string(k));
      if (!status) {
        ASSERT_EQ(status.error().exit, Exit::io) << format_error(status.error());
        ASSERT_FALSE(status.error().path.empty());
      }
      ASSERT_NO_FATAL_FAILURE(check(status));
    }
    EXPECT_GT(k, at_least);
  }

  std::string parent_ = test::memory_folder();
  std::string path_ = parent_ + "/job";
};

TEST_P(JobFaults, LastCommitStaysReadable) {
  const std::string before = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(before, 2));
  bool committed = false;
  for_each_fault(
      before,
      [&]() -> Status {
        committed = false;
        PARE_TRY(JobFolder job, resume_job(path_));
        PARE_CHECK(commit_step(job, 3));
        committed = true;
        return {};
      },
      [&](const Status& status) {
        ASSERT_EQ(status.has_value(), committed);
        auto job = resume_job(path_);
        ASSERT_TRUE(job) << format_error(job.error());
        const int step = step_of(*job);
        ASSERT_TRUE(step == 3 || (!committed && step == 2)) << step;
        ASSERT_FALSE(job->went_back());
        ASSERT_EQ(job->damage(), "");
        if (step == 2) {
          ASSERT_TRUE(commit_step(*job, 3));
        }
        ASSERT_TRUE(commit_step(*job, 4));
        ASSERT_EQ(step_of(*job), 4);
      },
      60);
}

TEST_P(JobFaults, JobThatCannotBeMadeIsNotThere) {
  for_each_fault(
      "",
      [&]() -> Status {
        PARE_TRY(const JobFolder job, JobFolder::open(path_, sample_identity(), JobMode::fresh));
        return {};
      },
      [&](const Status& status) {
        if (status) {
          ASSERT_TRUE(resume_job(path_));
          return;
        }
        // When removing failed as well, what remains is no obstacle.
        if (!std::get<1>(GetParam())) {
          ASSERT_TRUE(!fs::exists(path_) || names_in(path_).size() <= 2);
        }
        const auto again = JobFolder::open(
            path_, sample_identity(), fs::exists(path_ + "/job.json") ? JobMode::restart : JobMode::fresh);
        ASSERT_TRUE(again) << format_error(again.error());
      },
      40);
}

// Given up or kept: never a mixture that is taken for either.
TEST_P(JobFaults, RestartDiscardsOrKeeps) {
  const std::string before = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(before, 2));
  Json other = sample_identity();
  other["seed"] = 7;
  for_each_fault(
      before,
      [&]() -> Status {
        PARE_TRY(const JobFolder job, JobFolder::open(path_, other, JobMode::restart));
        return {};
      },
      [&](const Status& status) {
        const auto old_job = resume_job(path_);
        if (status) {
          ASSERT_FALSE(old_job);
        } else if (old_job) {
          ASSERT_EQ(step_of(*old_job), 2);
        } else {
          ASSERT_TRUE(old_job.error().exit == Exit::malformed || old_job.error().exit == Exit::locked);
        }
        if (!old_job) {
          ASSERT_TRUE(JobFolder::open(path_, other, JobMode::restart));
        }
      },
      60);
}

// From published() to the end a resumed job knows that it is done, or there is no job any more.
TEST_P(JobFaults, PublishedJobIsRecognisedUntilItIsGone) {
  const std::string before = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(before, 3));
  bool published = false;
  for_each_fault(
      before,
      [&]() -> Status {
        published = false;
        PARE_TRY(JobFolder job, resume_job(path_));
        PARE_CHECK(job.published());
        published = true;
        return job.remove();
      },
      [&](const Status& status) {
        if (status) {
          ASSERT_FALSE(fs::exists(path_));
          return;
        }
        auto job = resume_job(path_);
        if (!job) {
          ASSERT_TRUE(published);
          ASSERT_EQ(job.error().rule, "CL16") << format_error(job.error());
          ASSERT_TRUE(JobFolder::open(path_, sample_identity(), JobMode::fresh))
              << "what remains is no obstacle";
          return;
        }
        ASSERT_TRUE(job->was_published() || (!published && step_of(*job) == 3));
        ASSERT_TRUE(job->published());
        ASSERT_TRUE(job->remove());
        ASSERT_FALSE(fs::exists(path_));
      },
      60);
}

INSTANTIATE_TEST_SUITE_P(Errors, JobFaults,
                         ::testing::Combine(::testing::Values(ENOSPC, EIO), ::testing::Bool()));

TEST(JobFaultsOnce, ShortTransfersAndInterruptionsChangeNothing) {
  const std::string plain = test::memory_folder() + "/job", bumpy = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(plain, 3));
  int calls = 0;
  {
    const FaultScope fault(
        [&](std::string_view, const std::string&) { return ++calls % 2 == 0 ? EINTR : kShortTransfer; });
    const auto status = make_job(bumpy, 3);
    ASSERT_TRUE(status) << format_error(status.error());
    EXPECT_EQ(step_of(*resume_job(bumpy)), 3);
  }
  EXPECT_GT(calls, 100);
  for (const char* name : {"job.json", "CURRENT", "gen-2.json", "gen-3.json"})
    EXPECT_EQ(slurp(plain + "/" + name), slurp(bumpy + "/" + name));
  EXPECT_EQ(names_in(plain + "/obj"), names_in(bumpy + "/obj"));
}

// A failed sync may have lost what an earlier call reported as written; the next success would not show it.
TEST(JobFaultsOnce, CommitAfterAFailedSyncIsRefused) {
  const std::string path = test::memory_folder() + "/job";
  auto job = JobFolder::open(path, sample_identity(), JobMode::fresh);
  ASSERT_TRUE(commit_step(*job, 1));
  {
    const FaultScope fault(
        [](std::string_view call, const std::string&) { return call == "fsync" ? EIO : 0; });
    EXPECT_EQ(job->commit(2, {}).error().exit, Exit::io);
  }
  EXPECT_EQ(step_of(*job), 1);
  EXPECT_EQ(job->commit(2, {}).error().exit, Exit::io);
  EXPECT_EQ(job->published().error().exit, Exit::io);
}

// A full disk in put() costs nothing: when there is room again the job goes on.
TEST(JobFaultsOnce, PutOnAFullDiskLeavesNothing) {
  const std::string path = test::memory_folder() + "/job", text(1 << 20, 'x');
  auto job = JobFolder::open(path, sample_identity(), JobMode::fresh);
  for (const char* failing : {"fallocate", "write", "fsync", "close", "rename"}) {
    const FaultScope fault(
        [&](std::string_view call, const std::string&) { return call == failing ? ENOSPC : 0; });
    const auto hash = job->put(test::bytes_of(text));
    ASSERT_FALSE(hash) << failing;
    EXPECT_EQ(hash.error().exit, Exit::io);
    EXPECT_EQ(hash.error().path, path + "/obj/" + xxh3_128(text).hex());
    EXPECT_TRUE(fs::is_empty(path + "/obj")) << failing;
  }
  EXPECT_TRUE(job->put(test::bytes_of(text)));
}

TEST(JobFaultsOnce, FileSystemThatCannotSyncFoldersWarnsOnce) {
  const std::string path = test::memory_folder() + "/job";
  ::testing::internal::CaptureStderr();
  {
    // Files are synced through their temporary names, folders are not.
    const FaultScope fault([](std::string_view call, const std::string& at) {
      return call == "fsync" && at.find(".pare-tmp-") == std::string::npos ? EINVAL : 0;
    });
    EXPECT_TRUE(make_job(path, 3));
  }
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(warnings, "pare: warning: " + path + ": durability is not guaranteed on this file system\n");
}

// What a power cut may undo: a name counts once its folder is synced, and bytes once their file is. So a file
// is synced before it gets its name, names of objects before a generation needs them, and nothing is deleted
// before the new generation counts.
TEST(JobFaultsOnce, CommitSyncsBeforeItRelies) {
  const std::string path = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(path, 3));
  auto job = resume_job(path);
  std::vector<std::pair<std::string, std::string>> calls;
  {
    const FaultScope fault([&](std::string_view call, const std::string& at) {
      if (call == "write" || call == "fsync" || call == "rename" || call == "unlink")
        calls.emplace_back(call, at.substr(path.size()));
      return 0;
    });
    ASSERT_TRUE(commit_step(*job, 4));
  }
  std::string order;
  for (auto& [call, at] : calls) {
    if (at.find("events") != std::string::npos) continue;
    const bool is_object = at.starts_with("/obj/");
    const bool is_temporary = at.find(".pare-tmp-") != std::string::npos;
    order += call +
             (at.empty()     ? " folder"
              : at == "/obj" ? " obj"
              : is_object    ? " object"
              : is_temporary ? " file"
                             : " " + at.substr(1)) +
             "\n";
  }
  const std::string object = "write object\nfsync object\nrename object\n", file = "write file\nfsync file\n";
  EXPECT_EQ(order, object + object + "fsync obj\n" + file + "rename gen-4.json\n" + file +
                       "rename CURRENT\n" + "fsync folder\n" + "unlink gen-2.json\n" + "unlink object\n");
}

// The disk fails while a commit is verified: neither exit 3 nor an older generation, for the next try may
// read it.
TEST(JobFaultsOnce, ReadErrorIsNotDamage) {
  const std::string path = test::memory_folder() + "/job";
  ASSERT_TRUE(make_job(path, 3));
  for (const std::string name : {"/CURRENT", "/gen-3.json", "/obj/"}) {
    const FaultScope fault([&](std::string_view call, const std::string& at) {
      return call == "pread" && at.find(name) != std::string::npos ? EIO : 0;
    });
    const auto job = resume_job(path);
    ASSERT_FALSE(job) << name;
    EXPECT_EQ(job.error().exit, Exit::io);
    EXPECT_NE(job.error().path.find(name), std::string::npos);
  }
  EXPECT_EQ(step_of(*resume_job(path)), 3);
}

// Only what it does not need is allowed to fail: the log, and the removal of old generations.
TEST(JobFaultsOnce, LogAndPruningAreBestEffort) {
  const std::string path = test::memory_folder() + "/job";
  {
    const FaultScope fault([](std::string_view call, const std::string& at) {
      return call == "unlink" || at.ends_with("events.jsonl") ? EIO : 0;
    });
    EXPECT_TRUE(make_job(path, 5));
  }
  EXPECT_TRUE(fs::exists(path + "/gen-1.json"));
  auto job = resume_job(path);
  EXPECT_EQ(step_of(*job), 5);
  ASSERT_TRUE(commit_step(*job, 6));
  EXPECT_EQ(names_in(path), (std::set<std::string>{"CURRENT", "events.jsonl", "gen-5.json", "gen-6.json",
                                                   "job.json", "lock", "obj"}));
  EXPECT_EQ(names_in(path + "/obj").size(), 4u);
}

}  // namespace
}  // namespace pare
