// Rows CF01 to CF03 and CF15, and TK18: the small JSON files of a folder as far as formats reads them.
#include <filesystem>

#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

BadCase with_file(const char* id, const char* name, const std::string& file, const std::string& text,
                  Exit exit, std::vector<std::string> words) {
  return {id, name,
          [=](const std::string& folder) {
            return model_folder(folder, {{"model.safetensors", good_safetensors()}, {file, text}});
          },
          exit, std::move(words)};
}

}  // namespace

std::vector<BadCase> config_cases() {
  std::vector<BadCase> cases;
  cases.push_back(with_file("CF01", "empty", "config.json", "", Exit::malformed, {"config.json"}));
  cases.push_back(with_file("CF01", "array", "config.json", "[]", Exit::malformed, {"1:1", "not an object"}));
  cases.push_back(
      with_file("CF01", "bad JSON", "config.json", "{\n  \"a\": tru\n}", Exit::malformed, {"2:"}));
  cases.push_back(with_file("CF01", "NaN", "config.json", "{\"a\": NaN}", Exit::malformed, {"1:7"}));
  cases.push_back(with_file("CF02", "deep", "config.json", "{\"a\":" + std::string(100'000, '['),
                            Exit::malformed, {"depth", "64"}));
  cases.push_back({"CF02",
                   "large",
                   [](const std::string& folder) {
                     model_folder(folder, {{"model.safetensors", good_safetensors()}});
                     std::filesystem::resize_file(folder + "/config.json", 17 << 20);
                     return folder;
                   },
                   Exit::resource,
                   {"limit 16777216"}});
  cases.push_back(
      with_file("CF03", "twice", "config.json", "{\"a\": 1,\n \"a\": 2}", Exit::malformed, {"2:2", "\"a\""}));
  for (const char* file : {"generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}) {
    cases.push_back(with_file("CF15", file, file, "{\n\"a\"}", Exit::malformed, {file, "2:4"}));
  }
  const std::string large(1'048'577, 'x');
  cases.push_back(with_file("TK18", "hostile", "tokenizer_config.json",
                            R"({"chat_template": "{{ cycler.__init__.__globals__.os.popen('id') }}"})",
                            Exit::ok, {}));
  cases.push_back(with_file("TK18", "large", "tokenizer_config.json",
                            R"({"chat_template": ")" + large + "\"}", Exit::resource,
                            {"chat_template", "1048576"}));
  cases.push_back(with_file("TK18", "large file", "chat_template.jinja", large, Exit::resource,
                            {"chat_template", "1048576"}));
  return cases;
}

}  // namespace pare::test
