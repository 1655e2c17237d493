// Rows IX01 to IX20.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

constexpr const char* kShard = "model-00001-of-00001.safetensors";

std::string index_text(const std::string& shard, const std::string& tensor = "w") {
  return R"({"weight_map":{")" + tensor + R"(":")" + shard + R"("}})";
}

// A folder whose index is `text`, with one good shard and what `more` adds.
BadCase indexed(const char* id, const char* name, const std::string& text, Exit exit,
                std::vector<std::string> words, std::vector<std::pair<std::string, std::string>> more = {}) {
  return {id, name,
          [=](const std::string& folder) {
            model_folder(folder, {{"model.safetensors.index.json", text}, {kShard, good_safetensors()}});
            for (const auto& [file, bytes] : more) write_file(folder + "/" + file, bytes);
            return folder;
          },
          exit, std::move(words)};
}

// The index names `shard`; `make` puts something under that name.
BadCase special(const char* id, const char* name, Exit exit, std::vector<std::string> words,
                std::function<void(const std::string& shard)> make) {
  return {id, name,
          [=](const std::string& folder) {
            std::filesystem::create_directory(folder + "/m");
            model_folder(folder + "/m", {{"model.safetensors.index.json", index_text("shard.safetensors")}});
            write_file(folder + "/outside.safetensors", good_safetensors());
            make(folder + "/m/shard.safetensors");
            return folder + "/m";
          },
          exit, std::move(words)};
}

void add_names(std::vector<BadCase>& cases) {
  const std::vector<std::string> words = {"weight_map[\"w\"]", "leaves the model directory"};
  cases.push_back(indexed("IX01", "parent", index_text("../x.safetensors"), Exit::malformed, words));
  for (const auto& [name, shard] :
       std::vector<std::pair<const char*, const char*>>{{"absolute", "/etc/passwd"},
                                                        {"drive", "C:\\\\x"},
                                                        {"empty", ""},
                                                        {"dot", "."},
                                                        {"NUL", "a\\u0000b"}}) {
    cases.push_back(indexed("IX02", name, index_text(shard), Exit::malformed, words));
  }
  cases.push_back(indexed("IX02", "climbing inside", index_text("a/../../b"), Exit::malformed, words));
  cases.back().rule = "IX01";
  for (const auto& [name, shard] : std::vector<std::pair<const char*, std::string>>{
           {"escape", "a\\u001b[2J"}, {"bidirectional", "a\\u202eb"}, {"long", std::string(256, 'n')}}) {
    cases.push_back(indexed("IX19", name, index_text(shard), Exit::malformed, {"weight_map[\"w\"]"}));
  }
}

void add_links(std::vector<BadCase>& cases) {
  namespace fs = std::filesystem;
  const auto leave = [](const std::string& shard) { fs::create_symlink("../outside.safetensors", shard); };
  cases.push_back(special("IX03", "last component", Exit::malformed,
                          {"outside.safetensors", "--follow-symlinks"}, leave));
  cases.push_back(special("IX03", "followed when asked", Exit::ok, {}, leave));
  cases.back().options.follow_symlinks = true;
  cases.push_back(special("IX04", "loop", Exit::io, {"ELOOP"},
                          [](const std::string& shard) { fs::create_symlink("shard.safetensors", shard); }));
  cases.push_back(special("IX05", "FIFO", Exit::malformed, {"not a regular file", "FIFO"},
                          [](const std::string& shard) { ::mkfifo(shard.c_str(), 0600); }));
  cases.push_back(special("IX05", "directory", Exit::malformed, {"not a regular file", "directory"},
                          [](const std::string& shard) { fs::create_directory(shard); }));
  cases.push_back(special("IX06", "hard link", Exit::ok, {}, [](const std::string& shard) {
    fs::create_hard_link(fs::path(shard).parent_path().parent_path() / "outside.safetensors", shard);
  }));
  cases.push_back(special("IX07", "missing", Exit::io,
                          {"\"shard.safetensors\"", "1 shards missing", "incomplete download?"},
                          [](const std::string&) {}));
  if (::geteuid() != 0) {
    cases.push_back(special("IX16", "unreadable", Exit::io, {"EACCES"}, [](const std::string& shard) {
      write_file(shard, good_safetensors());
      fs::permissions(shard, fs::perms::none);
    }));
    cases.back().rule = "";
  }
}

void add_contents(std::vector<BadCase>& cases) {
  const std::string other =
      safetensors_bytes(R"({"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x");
  cases.push_back(indexed("IX08", "absent", index_text(kShard, "v"), Exit::malformed, {"\"v\"", kShard}));
  const std::string both = safetensors_bytes(
      R"({"v":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
      "xy");
  cases.push_back(indexed("IX09", "unindexed", index_text("two.safetensors"), Exit::malformed,
                          {"\"v\"", "two.safetensors", "--allow-unindexed"}, {{"two.safetensors", both}}));
  cases.push_back(
      indexed("IX09", "allowed", index_text("two.safetensors"), Exit::ok, {}, {{"two.safetensors", both}}));
  cases.back().options.allow_unindexed = true;
  cases.push_back(indexed("IX10", "in two shards",
                          R"({"weight_map":{"w":"model-00001-of-00001.safetensors","v":"two.safetensors"}})",
                          Exit::malformed, {"\"w\"", kShard, "two.safetensors"},
                          {{"two.safetensors", both}}));
  const std::string sized =
      R"({"metadata":{"total_size":99},"weight_map":{"w":"model-00001-of-00001.safetensors"}})";
  cases.push_back(indexed("IX11", "warning", sized, Exit::ok, {}));
  cases.push_back(indexed("IX11", "strict", sized, Exit::malformed, {"got 99", "expected 8"}));
  cases.back().options.strict = true;
  cases.push_back(indexed("IX12", "array", R"({"weight_map":[]})", Exit::malformed, {"weight_map"}));
  cases.push_back(
      indexed("IX12", "number", R"({"weight_map":{"w":3}})", Exit::malformed, {"weight_map[\"w\"]"}));
  cases.push_back(indexed("IX12", "missing", R"({})", Exit::malformed, {"weight_map"}));
  cases.push_back(indexed("IX13", "twice", R"({"weight_map":{"w":"a","w":"b"}})", Exit::malformed,
                          {"\"w\"", "duplicate"}));
  cases.push_back(indexed("IX15", "different", index_text(kShard), Exit::malformed,
                          {"ambiguous", "--weights"}, {{"model.safetensors", other}}));
  cases.push_back(
      indexed("IX15", "chosen", index_text(kShard), Exit::ok, {}, {{"model.safetensors", other}}));
  cases.back().options.weights_file = "model.safetensors";
  cases.push_back(indexed("IX15", "equal", index_text(kShard), Exit::ok, {},
                          {{"model.safetensors", good_safetensors()}}));
  std::string many = R"({"weight_map":{)";
  for (int i = 0; i <= 65'536; ++i)
    many += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":\"" + std::to_string(i) + "\"";
  cases.push_back(indexed("IX18", "65,537 shards", many + "}}", Exit::resource, {"65537", "65536"}));
}

void add_folders(std::vector<BadCase>& cases) {
  cases.push_back({"IX17",
                   "no weights",
                   [](const std::string& folder) { return model_folder(folder, {}); },
                   Exit::malformed,
                   {"no weights"}});
  cases.push_back({"IX17",
                   "no config",
                   [](const std::string& folder) {
                     write_file(folder + "/model.safetensors", good_safetensors());
                     return folder;
                   },
                   Exit::malformed,
                   {"config.json"}});
  cases.push_back({"IX17",
                   "only other names",
                   [](const std::string& folder) {
                     return model_folder(folder, {{"x.safetensors", good_safetensors()}});
                   },
                   Exit::malformed,
                   {"x.safetensors", "--weights"}});
  cases.push_back({"IX17",
                   "not a model",
                   [](const std::string& folder) {
                     write_file(folder + "/notes.txt", "hello");
                     return folder + "/notes.txt";
                   },
                   Exit::malformed,
                   {"not a model"}});
  cases.push_back({"IX20",
                   "no such path",
                   [](const std::string& folder) { return folder + "/none"; },
                   Exit::io,
                   {"none", "pare never downloads"}});
}

}  // namespace

std::vector<BadCase> index_cases() {
  std::vector<BadCase> cases;
  add_names(cases);
  add_links(cases);
  add_contents(cases);
  add_folders(cases);
  return cases;
}

}  // namespace pare::test
