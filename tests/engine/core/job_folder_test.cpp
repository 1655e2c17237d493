// JobFolder without faults: modes, commits, objects, what is kept and what is deleted.
#include "engine/core/job_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "engine/core/assert.h"
#include "tests/engine/core/job_support.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::bytes_of;
using test::commit_step;
using test::make_job;
using test::names_in;
using test::resume_job;
using test::sample_identity;
using test::slurp;
using test::spill;
using test::step_of;

class JobFolderTest : public ::testing::Test {
 protected:
  std::string parent_ = test::temporary_folder();
  std::string path_ = job_path_of(parent_ + "/out.pare/");
};

std::string message(const Status& status) {
  return status ? "success" : format_error(status.error());
}
template <typename T>
std::string message(const Result<T>& result) {
  return result ? "success" : format_error(result.error());
}

TEST_F(JobFolderTest, CommitsAreFoundAgain) {
  EXPECT_EQ(path_, parent_ + "/out.pare.pare-job");
  {
    auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
    ASSERT_TRUE(job) << message(job);
    EXPECT_FALSE(job->resumed());
    EXPECT_TRUE(job->position().is_null());
    EXPECT_EQ(job->generation(), 0);
    ASSERT_TRUE(commit_step(*job, 1));
    EXPECT_EQ(job->generation(), 1);
    EXPECT_EQ(step_of(*job), 1);
  }
  for (int n = 2; n <= 5; ++n) {
    auto job = resume_job(path_);
    ASSERT_TRUE(job) << message(job);
    EXPECT_TRUE(job->resumed());
    EXPECT_FALSE(job->went_back());
    EXPECT_EQ(job->damage(), "");
    EXPECT_EQ(job->generation(), n - 1);
    EXPECT_EQ(step_of(*job), n - 1);
    ASSERT_TRUE(commit_step(*job, n));
  }
  EXPECT_EQ(names_in(path_), (std::set<std::string>{"CURRENT", "events.jsonl", "gen-4.json", "gen-5.json",
                                                    "job.json", "obj"}));
}

TEST_F(JobFolderTest, ResumeBeforeTheFirstCommitStartsAtTheBeginning) {
  ASSERT_TRUE(make_job(path_, 0));
  const auto job = resume_job(path_);
  ASSERT_TRUE(job) << message(job);
  EXPECT_FALSE(job->resumed());
  EXPECT_TRUE(job->position().is_null());
}

TEST_F(JobFolderTest, PositionsComeBackAsTheyWere) {
  Json position = Json::object();
  position["real"] = 0.1;
  position["whole"] = 3.0;
  position["large"] = uint64_t{18446744073709551615u};
  position["negative"] = int64_t{-9007199254740993};
  position["text"] = "\"\\\n\xc3\xa9";
  position["none"] = Json();
  position["list"] = Json::Array{Json::object(), Json::array()};
  {
    auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
    ASSERT_TRUE(job->commit(position, {}));
  }
  const auto job = resume_job(path_);
  EXPECT_EQ(job->position().dump(), position.dump());
  EXPECT_TRUE(job->position() == position);
}

TEST_F(JobFolderTest, PositionThatCouldNotBeReadIsRefused) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  ASSERT_TRUE(commit_step(*job, 1));
  const auto status = job->commit(Json(std::string((16 << 20) + 1, 'x')), {});
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::resource);
  EXPECT_EQ(status.error().path, path_ + "/gen-2.json");
  { const JobFolder closed = *std::move(job); }
  EXPECT_EQ(step_of(*resume_job(path_)), 1);
}

// DT13: data from a pipe are gone when the job is resumed; their hash and their tokens are in the job.
TEST_F(JobFolderTest, IdentityOfTheStoredJob) {
  ASSERT_TRUE(make_job(path_, 1));
  auto job = JobFolder::open(path_, JobMode::resume);
  const auto stored = job->stored_identity();
  ASSERT_TRUE(stored) << message(stored);
  EXPECT_EQ(stored->dump(), sample_identity().dump());
  Json identity = sample_identity();
  identity["calibration"] = *stored->find("calibration");
  ASSERT_TRUE(job->start(identity));
  EXPECT_EQ(job->stored_identity()->dump(), sample_identity().dump());

  const auto fresh = JobFolder::open(parent_ + "/other", JobMode::fresh);
  EXPECT_EQ(fresh->stored_identity().error().exit, Exit::locked);
}

// --- modes ---------------------------------------------------------------------------------------------

TEST_F(JobFolderTest, ResumeWithoutAJobIsExit8) {
  for (const bool with_empty_folder : {false, true}) {
    if (with_empty_folder) fs::create_directory(path_);
    const auto job = resume_job(path_);
    ASSERT_FALSE(job);
    EXPECT_EQ(job.error().exit, Exit::locked);
    EXPECT_EQ(job.error().rule, "CL16");
    EXPECT_EQ(job.error().path, path_);
    EXPECT_EQ(fs::exists(path_), with_empty_folder);
    if (with_empty_folder) {
      EXPECT_TRUE(fs::is_empty(path_));
    }
  }
}

TEST_F(JobFolderTest, FreshOverAJobIsExit8AndChangesNothing) {
  ASSERT_TRUE(make_job(path_, 2));
  const std::string current = slurp(path_ + "/CURRENT");
  const auto names = names_in(path_);
  const auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().exit, Exit::locked);
  EXPECT_EQ(job.error().rule, "CL16");
  EXPECT_NE(job.error().what.find("--resume"), std::string::npos);
  EXPECT_EQ(names_in(path_), names);
  EXPECT_EQ(slurp(path_ + "/CURRENT"), current);
  EXPECT_EQ(step_of(*resume_job(path_)), 2);
}

TEST_F(JobFolderTest, RestartDiscardsTheJob) {
  ASSERT_TRUE(make_job(path_, 3));
  Json other = sample_identity();
  other["seed"] = 7;
  {
    auto job = JobFolder::open(path_, other, JobMode::restart);
    ASSERT_TRUE(job) << message(job);
    EXPECT_FALSE(job->resumed());
    EXPECT_TRUE(fs::is_empty(path_ + "/obj"));
    ASSERT_TRUE(commit_step(*job, 1));
  }
  EXPECT_EQ(step_of(*JobFolder::open(path_, other, JobMode::resume)), 1);
  ASSERT_TRUE(JobFolder::open(parent_ + "/none", other, JobMode::restart));  // nothing to discard
}

TEST_F(JobFolderTest, RestartThatNeverStartsKeepsTheOldJob) {
  ASSERT_TRUE(make_job(path_, 3));
  {
    const auto job = JobFolder::open(path_, JobMode::restart);  // the inputs turn out to be bad
    ASSERT_TRUE(job) << message(job);
  }
  EXPECT_EQ(step_of(*resume_job(path_)), 3);
}

TEST_F(JobFolderTest, JobThatNeverStartsLeavesNothing) {
  {
    const auto job = JobFolder::open(path_, JobMode::fresh);
    ASSERT_TRUE(job) << message(job);
    EXPECT_TRUE(fs::exists(path_ + "/lock"));
  }
  EXPECT_TRUE(fs::is_empty(parent_));
}

TEST_F(JobFolderTest, FolderIsWhereItWasAskedFor) {
  const auto no_parent = JobFolder::open(parent_ + "/no/job", sample_identity(), JobMode::fresh);
  ASSERT_FALSE(no_parent);
  EXPECT_EQ(no_parent.error().exit, Exit::io);
  EXPECT_EQ(no_parent.error().rule, "CL03");
  spill(parent_ + "/file", "x");
  const auto file = JobFolder::open(parent_ + "/file", sample_identity(), JobMode::fresh);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().exit, Exit::io);

  fs::create_directory(parent_ + "/empty");  // an empty folder is welcome, and stays when nothing starts
  { ASSERT_TRUE(JobFolder::open(parent_ + "/empty", JobMode::fresh)); }
  EXPECT_TRUE(fs::is_empty(parent_ + "/empty"));
  ASSERT_TRUE(make_job(parent_ + "/empty", 1));
  EXPECT_EQ(step_of(*resume_job(parent_ + "/empty")), 1);
}

TEST_F(JobFolderTest, LockIsHeldUntilTheJobIsClosed) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  ASSERT_TRUE(commit_step(*job, 1));
  for (const JobMode mode : {JobMode::fresh, JobMode::resume, JobMode::restart}) {
    const auto second = JobFolder::open(path_, mode);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().exit, Exit::locked);
    EXPECT_EQ(second.error().rule, "RL10");
    EXPECT_NE(second.error().where.find("/lock"), std::string::npos);
    EXPECT_EQ(second.error().got, "pid " + std::to_string(::getpid()));
  }
  EXPECT_EQ(step_of(*job), 1);
  { const JobFolder closed = *std::move(job); }
  EXPECT_EQ(step_of(*resume_job(path_)), 1);
}

// --- objects -------------------------------------------------------------------------------------------

TEST_F(JobFolderTest, ObjectsAreNamedByTheirBytes) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  const std::string a(300'000, 'a'), b = "b", all = a + b + a;
  const std::span<const std::byte> parts[] = {bytes_of(a), {}, bytes_of(b), bytes_of(a)};
  const auto hash = job->put(parts);
  ASSERT_TRUE(hash) << message(hash);
  EXPECT_EQ(*hash, xxh3_128(all));
  EXPECT_EQ(slurp(path_ + "/obj/" + hash->hex()), all);
  EXPECT_EQ(*job->put(bytes_of(all)), *hash);  // in parts or whole
  EXPECT_EQ((*job->get(*hash))->bytes().size(), all.size());

  const auto empty = job->put(std::span<const std::byte>());
  ASSERT_TRUE(empty) << message(empty);
  ASSERT_TRUE(job->commit(Json(), {*hash, *empty, *hash}));
  EXPECT_EQ((*job->get(*empty))->bytes().size(), 0u);
}

TEST_F(JobFolderTest, ObjectsOfTwoGenerationsAreKept) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  const auto objects = [&] { return names_in(path_ + "/obj"); };
  const auto hex = [](const std::string& text) { return xxh3_128(text).hex(); };
  const auto put = [&](const char* text) { return *job->put(bytes_of(text)); };
  const Hash128 a = put("a");
  put("never named");
  ASSERT_TRUE(job->commit(1, {a}));
  EXPECT_EQ(objects(), (std::set{hex("a")}));
  const Hash128 b = put("b");
  ASSERT_TRUE(job->commit(2, {b}));
  EXPECT_EQ(objects(), (std::set{hex("a"), hex("b")}));
  ASSERT_TRUE(job->commit(3, {b}));
  EXPECT_EQ(objects(), (std::set{hex("b")}));
  EXPECT_EQ(put("a"), a);  // gone, so written again
  ASSERT_TRUE(job->commit(4, {a, b}));
  EXPECT_EQ(objects(), (std::set{hex("a"), hex("b")}));
}

TEST_F(JobFolderTest, ObjectThatIsThereIsVerifiedNotRewritten) {
  const std::string text(100'000, 'x'), file = path_ + "/obj/" + xxh3_128(text).hex();
  { ASSERT_TRUE(JobFolder::open(path_, sample_identity(), JobMode::fresh)->put(bytes_of(text))); }
  const auto inode_of = [&] {
    const auto input = InputFile::open(file);
    return input->identity();
  };
  const auto before = inode_of();
  { ASSERT_TRUE(resume_job(path_)->put(bytes_of(text))); }
  EXPECT_EQ(inode_of(), before);
  spill(file, text.substr(1));  // torn by something else
  {
    auto job = resume_job(path_);
    ASSERT_TRUE(job->put(bytes_of(text)));
    ASSERT_TRUE(job->get(xxh3_128(text)));
  }
  EXPECT_EQ(slurp(file), text);
}

TEST_F(JobFolderTest, GetNamesTheDamagedObject) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  const Hash128 hash = *job->put(bytes_of("text"));
  const std::string file = path_ + "/obj/" + hash.hex();
  for (const char* damage : {"tex", "teyt", "texts", ""}) {
    spill(file, damage);
    const auto object = job->get(hash);
    ASSERT_FALSE(object);
    EXPECT_EQ(object.error().exit, Exit::malformed);
    EXPECT_EQ(object.error().path, file);
    EXPECT_EQ(object.error().limit, hash.hex());
  }
  fs::remove(file);
  EXPECT_EQ(job->get(hash).error().exit, Exit::malformed);
}

TEST_F(JobFolderTest, CommitOfAnUnknownObjectIsOurBug) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  EXPECT_THROW((void)job->commit(1, {xxh3_128("elsewhere")}), InternalError);
}

// --- the end -------------------------------------------------------------------------------------------

// CL18: the output is written next to its final name, wherever the job keeps its work.
TEST_F(JobFolderTest, OutputOnAnotherFileSystem) {
  const std::string job_path = test::memory_folder() + "/work", output = parent_ + "/out";
  auto job = JobFolder::open(job_path, sample_identity(), JobMode::fresh);
  const Hash128 hash = *job->put(bytes_of("text"));
  ASSERT_TRUE(job->commit(1, {hash}));
  auto writer = FileWriter::create(output, {});
  ASSERT_TRUE(writer->write((*job->get(hash))->bytes()));
  ASSERT_TRUE(writer->publish());
  ASSERT_TRUE(job->published());
  ASSERT_TRUE(job->remove());
  EXPECT_EQ(slurp(output), "text");
  EXPECT_FALSE(fs::exists(job_path));
}

TEST_F(JobFolderTest, PublishedIsRemembered) {
  ASSERT_TRUE(make_job(path_, 2));
  {
    auto job = resume_job(path_);
    EXPECT_FALSE(job->was_published());
    ASSERT_TRUE(job->published());
    EXPECT_TRUE(job->was_published());
  }
  // The objects are of no use any more: a job in the middle of its removal is still known as published.
  fs::remove_all(path_ + "/obj");
  {
    const auto job = resume_job(path_);
    ASSERT_TRUE(job) << message(job);
    EXPECT_TRUE(job->was_published());
    EXPECT_EQ(job->position().find("step")->as_int(), 2);
  }
  fs::remove(path_ + "/gen-1.json");
  fs::remove(path_ + "/gen-2.json");
  const auto job = resume_job(path_);
  ASSERT_TRUE(job) << message(job);
  EXPECT_TRUE(job->was_published());
}

TEST_F(JobFolderTest, RemoveLeavesNothing) {
  ASSERT_TRUE(make_job(path_, 3));
  spill(path_ + "/.pare-tmp-00000000-0123456789abcdef", "left by a killed process");
  spill(path_ + "/obj/.pare-tmp-00000000-0123456789abcdef", "as above");
  auto job = resume_job(path_);
  ASSERT_TRUE(job->published());
  const Status removed = job->remove();
  EXPECT_TRUE(removed) << message(removed);
  EXPECT_TRUE(fs::is_empty(parent_));
}

TEST_F(JobFolderTest, TemporariesOfAKilledProcessGoAtTheStart) {
  ASSERT_TRUE(make_job(path_, 2));
  const auto names = names_in(path_), objects = names_in(path_ + "/obj");
  spill(path_ + "/.pare-tmp-00000000-0123456789abcdef", "x");
  spill(path_ + "/obj/.pare-tmp-00000000-0123456789abcdef", "x");
  { ASSERT_TRUE(resume_job(path_)); }
  EXPECT_EQ(names_in(path_), names);
  EXPECT_EQ(names_in(path_ + "/obj"), objects);
}

TEST_F(JobFolderTest, ForeignFilesAreNeverDeleted) {
  for (const std::string name : {"notes.txt", "obj/notes.txt", "gen-01.json", "obj/0123", "gen-2.json.bak"}) {
    const std::string path = parent_ + "/job";
    ASSERT_TRUE(make_job(path, 2));
    spill(path + "/" + name, "mine");
    const auto restarted = JobFolder::open(path, sample_identity(), JobMode::restart);
    ASSERT_FALSE(restarted) << name;
    EXPECT_EQ(restarted.error().exit, Exit::usage);
    EXPECT_EQ(restarted.error().rule, "CL17");
    EXPECT_EQ(restarted.error().where, '"' + name + '"');
    EXPECT_EQ(step_of(*resume_job(path)), 2) << "resume does not mind";

    auto job = resume_job(path);
    ::testing::internal::CaptureStderr();
    const Status removed = job->remove();
    EXPECT_NE(::testing::internal::GetCapturedStderr().find(name), std::string::npos);
    EXPECT_TRUE(removed) << message(removed);
    EXPECT_EQ(slurp(path + "/" + name), "mine");
    EXPECT_EQ(names_in(path).size(), 1u);
    fs::remove_all(path);
  }
}

TEST_F(JobFolderTest, FolderOfOthersIsNoWorkFolder) {
  spill(parent_ + "/thesis.tex", "mine");
  const auto names = names_in(parent_);
  const auto job = JobFolder::open(parent_, sample_identity(), JobMode::fresh);
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().exit, Exit::usage);
  EXPECT_EQ(job.error().rule, "CL17");
  EXPECT_EQ(names_in(parent_), names);
}

TEST_F(JobFolderTest, SymlinkInPlaceOfTheObjectsIsForeign) {
  ASSERT_TRUE(make_job(path_, 1));
  fs::rename(path_ + "/obj", parent_ + "/elsewhere");
  fs::create_directory_symlink(parent_ + "/elsewhere", path_ + "/obj");
  EXPECT_EQ(JobFolder::open(path_, JobMode::restart).error().rule, "CL17");
  EXPECT_FALSE(resume_job(path_));
  EXPECT_EQ(names_in(parent_ + "/elsewhere").size(), 2u);
}

// --- parts ---------------------------------------------------------------------------------------------

TEST_F(JobFolderTest, PartsGoWithTheJob) {
  auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  ASSERT_TRUE(job);
  const auto parts = job->parts_folder();
  ASSERT_TRUE(parts);
  EXPECT_EQ(*parts, path_ + "/parts");
  spill(*parts + "/1.pare", "model");
  spill(*parts + "/1.pare.report.json", "{}");
  spill(*parts + "/1.pare.log.jsonl", "{}\n");
  spill(job->training_log_path(), "{}\n");
  ASSERT_TRUE(make_job(*parts + "/2.pare.pare-job", 3));
  spill(*parts + "/.pare-tmp-00000000-0123456789abcdef", "x");
  ASSERT_TRUE(commit_step(*job, 1));
  EXPECT_EQ(names_in(*parts).size(), 5u) << "a commit leaves parts alone";
  job = Error{};  // closed, the job stays
  job = resume_job(path_);
  EXPECT_EQ(names_in(*parts).size(), 4u) << "but not the temporary of a killed process";
  const Status removed = job->remove();
  EXPECT_TRUE(removed) << message(removed);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(JobFolderTest, RestartDiscardsParts) {
  ASSERT_TRUE(make_job(path_, 1));
  fs::create_directory(path_ + "/parts");
  spill(path_ + "/parts/1.pare", "model");
  ASSERT_TRUE(make_job(path_ + "/parts/1.pare.pare-job", 1));
  ASSERT_TRUE(JobFolder::open(path_, sample_identity(), JobMode::restart));
  EXPECT_FALSE(fs::exists(path_ + "/parts"));
}

TEST_F(JobFolderTest, ForeignFilesAmongPartsStay) {
  for (const std::string name : {"notes.txt", "01.pare", "1.pare.bak", "x.pare", "1.pare.pare-job"}) {
    const std::string path = parent_ + "/job";
    ASSERT_TRUE(make_job(path, 1));
    fs::create_directory(path + "/parts");
    spill(path + "/parts/" + name, "mine");  // the last one should be a folder
    const auto restarted = JobFolder::open(path, sample_identity(), JobMode::restart);
    ASSERT_FALSE(restarted) << name;
    EXPECT_EQ(restarted.error().rule, "CL17");
    EXPECT_EQ(restarted.error().where, "\"parts/" + name + '"');
    auto job = resume_job(path);
    ::testing::internal::CaptureStderr();
    EXPECT_TRUE(job->remove());
    EXPECT_NE(::testing::internal::GetCapturedStderr().find(name), std::string::npos);
    EXPECT_EQ(slurp(path + "/parts/" + name), "mine");
    fs::remove_all(path);
  }
}

TEST_F(JobFolderTest, SymlinkInPlaceOfThePartsIsForeign) {
  ASSERT_TRUE(make_job(path_, 1));
  fs::create_directory(parent_ + "/elsewhere");
  spill(parent_ + "/elsewhere/1.pare", "mine");
  fs::create_directory_symlink(parent_ + "/elsewhere", path_ + "/parts");
  EXPECT_EQ(JobFolder::open(path_, JobMode::restart).error().rule, "CL17");
  EXPECT_EQ(names_in(parent_ + "/elsewhere").size(), 1u);
}

// --- the log -------------------------------------------------------------------------------------------

TEST_F(JobFolderTest, EventsAreLinesAndATornOneStaysAlone) {
  ASSERT_TRUE(make_job(path_, 1));
  const std::string file = path_ + "/events.jsonl";
  spill(file, slurp(file) + "{\"torn");
  {
    auto job = resume_job(path_);
    Json event = Json::object();
    event["event"] = "note";
    event["loss"] = 2.5;
    job->event(event);
  }
  const std::string text = slurp(file);
  int good = 0, torn = 0;
  bool found = false;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    ASSERT_NE(end, std::string::npos);
    const auto line = parse_json(text.substr(begin, end - begin), file, {.max_bytes = 10'000});
    ++(line ? good : torn);
    if (line) {
      EXPECT_EQ(line->find("time")->as_string().size(), std::string("2026-01-02T03:04:05Z").size());
      const Json* loss = line->find("loss");
      found = found || (loss != nullptr && loss->as_double() == 2.5);
    }
    begin = end + 1;
  }
  EXPECT_EQ(torn, 1);
  EXPECT_EQ(good, 4);  // start, commit; resume, note
  EXPECT_TRUE(found);
}

TEST_F(JobFolderTest, InterruptedErrorIsExit75) {
  const auto job = JobFolder::open(path_, sample_identity(), JobMode::fresh);
  EXPECT_EQ(job->interrupted_error().exit, Exit::interrupted);
  EXPECT_EQ(job->interrupted_error().path, path_);
}

}  // namespace
}  // namespace pare
