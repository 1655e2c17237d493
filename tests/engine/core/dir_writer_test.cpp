#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "engine/core/assert.h"
#include "engine/core/manifest.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;
using test::FaultScope;
using test::names_in;
using test::slurp;
using test::spill;
using Names = std::set<std::string>;

std::string manifest_listing(const std::vector<std::string>& names) {
  Manifest manifest;
  for (const std::string& name : names) {
    Json file = Json::object();
    file["name"] = name;
    manifest.files.push_back(std::move(file));
  }
  return manifest.to_json().dump(2);
}

Status write_model(const std::string& path, const std::string& text, bool force = false) {
  PARE_TRY(DirWriter writer, DirWriter::create(path, {.force = force}));
  PARE_TRY(FileWriter shard, writer.file("model.safetensors", 1000));
  PARE_CHECK(shard.write(text));
  PARE_CHECK(shard.publish());
  PARE_CHECK(writer.add("config.json", "{}"));
  PARE_CHECK(writer.add(kManifestFileName, manifest_listing({"model.safetensors", "config.json"})));
  return writer.publish();
}

const Names kModel = {"model.safetensors", "config.json", kManifestFileName};

TEST(DirWriter, PublishesWhole) {
  const std::string folder = test::temporary_folder();
  {
    auto writer = DirWriter::create(folder + "/out/", {});
    ASSERT_TRUE(writer) << format_error(writer.error());
    ASSERT_TRUE(writer->add("a", "text"));
    EXPECT_FALSE(fs::exists(folder + "/out"));
    EXPECT_EQ(names_in(writer->temporary_path()), Names{"a"});
    EXPECT_FALSE(writer->add("a", "again"));
    ASSERT_TRUE(writer->publish());
  }
  EXPECT_EQ(names_in(folder), Names{"out"});
  EXPECT_EQ(slurp(folder + "/out/a"), "text");
}

TEST(DirWriter, NothingRemainsWithoutPublish) {
  const std::string folder = test::temporary_folder();
  {
    auto writer = DirWriter::create(folder + "/out", {});
    ASSERT_TRUE(writer->add("a", "text"));
    auto open = writer->file("b");
    ASSERT_TRUE(open->write("unpublished"));
  }
  EXPECT_EQ(names_in(folder), Names{});
}

TEST(DirWriter, UnpublishedFileIsNotInTheDirectory) {
  const std::string folder = test::temporary_folder();
  auto writer = DirWriter::create(folder + "/out", {});
  { ASSERT_TRUE(writer->file("b")->write("x")); }
  ASSERT_TRUE(writer->add("a", "text"));
  ASSERT_TRUE(writer->publish());
  EXPECT_EQ(names_in(folder + "/out"), Names{"a"});
}

TEST(DirWriter, ForceSwapsAndDeletesTheOld) {
  const std::string folder = test::temporary_folder(), path = folder + "/out";
  ASSERT_TRUE(write_model(path, "old"));
  ASSERT_EQ(::chmod(path.c_str(), 0700), 0);
  const auto refused = write_model(path, "new");
  EXPECT_EQ(refused.error().exit, Exit::usage);
  EXPECT_EQ(slurp(path + "/model.safetensors"), "old");
  const auto reader = InputFile::open(path + "/model.safetensors");
  ASSERT_TRUE(write_model(path, "new", true));
  EXPECT_EQ(slurp(path + "/model.safetensors"), "new");
  EXPECT_EQ(*reader->read_all(10), "old");
  EXPECT_EQ(names_in(path), kModel);
  EXPECT_EQ(names_in(folder), Names{"out"});
  struct stat status {};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
}

TEST(DirWriter, ForceMayReplaceAnEmptyFolder) {
  const std::string folder = test::temporary_folder();
  fs::create_directory(folder + "/out");
  ASSERT_TRUE(write_model(folder + "/out", "x", true));
  EXPECT_EQ(names_in(folder + "/out"), kModel);
}

// CL17: nothing that pare did not write is ever deleted.
TEST(DirWriter, ForeignFilesStopForce) {
  const auto prepare = [](const std::string& folder, int kind) -> std::string {
    const std::string path = folder + "/out";
    if (kind == 0) {
      fs::create_directory(path);
      spill(path + "/thesis.tex", "");
      return "thesis.tex";
    }
    EXPECT_TRUE(write_model(path, "old"));
    if (kind == 1) return spill(path + "/notes.txt", ""), "notes.txt";
    if (kind == 2) return fs::create_directory(path + "/sub"), "sub";
    if (kind == 3) return spill(path + "/" + kManifestFileName, "{\"files\":"), kManifestFileName;
    return spill(path + "/" + kManifestFileName, "{}"), "config.json";
  };
  for (int kind = 0; kind < 5; ++kind) {
    const std::string folder = test::temporary_folder();
    const std::string foreign = prepare(folder, kind);
    const Names before = names_in(folder + "/out");
    const auto refused = write_model(folder + "/out", "new", true);
    ASSERT_FALSE(refused) << kind;
    EXPECT_EQ(refused.error().exit, Exit::usage) << kind;
    EXPECT_EQ(refused.error().rule, "CL17") << kind;
    EXPECT_EQ(refused.error().where, "\"" + foreign + "\"") << kind;
    EXPECT_EQ(check_output(folder + "/out", {.force = true}).error().rule, "CL17");
    EXPECT_EQ(names_in(folder + "/out"), before);
    EXPECT_EQ(names_in(folder), Names{"out"});
  }
}

TEST(DirWriter, ForeignFileThatAppearsDuringTheWork) {
  const std::string folder = test::temporary_folder(), path = folder + "/out";
  ASSERT_TRUE(write_model(path, "old"));
  auto writer = DirWriter::create(path, {.force = true});
  ASSERT_TRUE(writer->add("a", "new"));
  spill(path + "/notes.txt", "mine");
  EXPECT_EQ(writer->publish().error().rule, "CL17");
  EXPECT_EQ(slurp(path + "/model.safetensors"), "old");
  EXPECT_EQ(slurp(path + "/notes.txt"), "mine");
}

TEST(DirWriter, FileSystemWithoutExchange) {
  const std::string folder = test::temporary_folder(), path = folder + "/out";
  ASSERT_TRUE(write_model(path, "old"));
  const FaultScope fault([&](std::string_view call, const std::string& p) {
    return call == "rename" && p == path ? EINVAL : 0;
  });
  const auto refused = write_model(path, "new", true);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::io);
  EXPECT_NE(refused.error().what.find("remove the old one first"), std::string::npos);
  EXPECT_EQ(slurp(path + "/model.safetensors"), "old");
  EXPECT_EQ(names_in(folder), Names{"out"});
}

TEST(DirWriter, TargetsOfTheWrongKind) {
  const std::string folder = test::temporary_folder();
  spill(folder + "/file", "");
  EXPECT_EQ(DirWriter::create(folder + "/file", {.force = true}).error().exit, Exit::usage);
  EXPECT_EQ(DirWriter::create(folder + "/missing/out", {}).error().exit, Exit::io);
  auto writer = DirWriter::create(folder + "/out", {});
  fs::create_directory(folder + "/out");
  spill(folder + "/out/x", "theirs");
  EXPECT_EQ(writer->publish().error().exit, Exit::usage);
  EXPECT_EQ(slurp(folder + "/out/x"), "theirs");
}

TEST(DirWriter, NamesInsideAreOurs) {
  auto writer = DirWriter::create(test::temporary_folder() + "/out", {});
  for (const char* name : {"", ".", "..", "a/b", "../x", ".pare-tmp-1"}) {
    EXPECT_THROW((void)writer->file(name), InternalError) << name;
  }
}

}  // namespace
}  // namespace pare
