// Recipes: what is read, what is refused and where (rules RC01 to RC15 of docs/bad-input.md).
#include "cli/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/recipe_step.h"
#include "engine/core/limits.h"
#include "engine/models/architecture.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;
using cli::BoundStep;
using cli::parse_recipe;
using cli::Recipe;

// The first error that a recipe gives: of the document, or of a step bound to its command.
Result<std::vector<BoundStep>> bound(const std::string& text, const std::string& data = "text.txt") {
  PARE_TRY(const Recipe recipe, parse_recipe(text, "r.yaml", ""));
  std::vector<BoundStep> steps;
  for (const cli::RecipeStep& step : recipe.steps) {
    PARE_TRY(BoundStep one, cli::bind_step(recipe, step, cli::make_step_command(step.verb), data));
    steps.push_back(std::move(one));
  }
  return steps;
}

std::string quantize(const std::string& settings) {
  return "schema: 1\nsteps:\n  - quantize:\n" + settings;
}

struct BadRecipe {
  const char* rule;
  Exit exit;
  const char* where;  // begins with line:column
  std::vector<const char*> words;
  std::string text;
};

std::string nested(int depth) {
  return "schema: 1\nsteps: " + std::string(size_t(depth), '[') + std::string(size_t(depth), ']');
}

std::vector<BadRecipe> bad_recipes() {
  const auto y = [](const std::string& settings) { return quantize(settings); };
  return {
      // RC01: not YAML, not UTF-8, not one map.
      {"RC01", Exit::malformed, "3:1", {"not YAML"}, "schema: 1\nsteps: [\n"},
      {"RC01", Exit::malformed, "", {"empty"}, ""},
      {"RC01", Exit::malformed, "", {"empty"}, "# nothing\n"},
      {"RC01", Exit::malformed, "byte 8", {"UTF-8"}, "schema: \xff"},
      {"RC01", Exit::malformed, "1:9", {"control character", "0x00"}, std::string("schema: \0 1", 11)},
      {"RC01", Exit::malformed, "", {"more than one document"}, "schema: 1\n---\nschema: 1\n"},
      {"RC01", Exit::malformed, "1:2", {"key must be text"}, "{[a]: 1}"},
      {"RC01", Exit::malformed, "1:", {}, "{\"schema\": 1,, \"steps\": []}"},
      {"RC07", Exit::malformed, "1:1", {"a recipe is a map", "list"}, "[1, 2]"},
      // RC02: unknown keys, with the nearest one.
      {"RC02",
       Exit::malformed,
       "2:1",
       {"\"sampels\"", "did you mean samples?"},
       "schema: 1\nsampels: 3\nsteps: [quantize]\n"},
      {"RC02", Exit::malformed, "4:7", {"\"shceme\"", "did you mean scheme?"}, y("      shceme: int8-ch\n")},
      {"RC02", Exit::malformed, "4:7", {"\"output\"", "pare quantize --help"}, y("      output: x.pare\n")},
      {"RC02", Exit::malformed, "4:7", {"\"data\"", "top of the recipe"}, y("      data: x.txt\n")},
      {"RC02", Exit::malformed, "4:7", {"\"threads\""}, y("      threads: 2\n")},
      {"RC02",
       Exit::malformed,
       "5:12",
       {"\"schema\"", "pattern, value, optional"},
       y("      overrides:\n        - {schema: 1}\n")},
      // RC03: keys given twice, also in two spellings.
      {"RC03", Exit::malformed, "2:1", {"\"schema\"", "twice"}, "schema: 1\nschema: 1\nsteps: [quantize]\n"},
      {"RC03", Exit::malformed, "5:7", {"\"method\"", "twice"}, y("      method: rtn\n      method: gptq\n")},
      {"RC03",
       Exit::malformed,
       "5:7",
       {"\"block_size\"", "twice"},
       y("      block-size: 8\n      block_size: 8\n")},
      {"RC03", Exit::malformed, "1:14", {"twice"}, R"({"schema": 1,"schema": 1})"},
      // RC04: anchors, aliases, merge keys.
      {"RC04", Exit::unsupported, "1:9", {"anchors", "\"&a\""}, "schema: &a 1\n"},
      {"RC04", Exit::unsupported, "2:8", {"aliases"}, "schema: 1\nsteps: *a\n"},
      {"RC04", Exit::unsupported, "5:", {"aliases", "quotes"}, y("      include:\n        - *.down_proj\n")},
      {"RC04", Exit::unsupported, "1:1", {"merge keys"}, "<<: {schema: 1}\n"},
      // RC05: tags.
      {"RC05", Exit::unsupported, "1:9", {"tags", "python/object"}, "schema: !!python/object:os.system 1\n"},
      {"RC05", Exit::unsupported, "2:8", {"!include"}, "schema: 1\nsteps: !include other.yaml\n"},
      {"RC05", Exit::unsupported, "2:8", {"tags"}, "schema: 1\nsteps: !!seq []\n"},
      // RC06: caps.
      {"RC06", Exit::malformed, "2:", {"nested too deeply", "32"}, nested(200)},
      {"RC06", Exit::malformed, "2:", {"nested too deeply"}, nested(100'000)},
      {"RC06", Exit::resource, "", {"too large", "1048576"}, "# " + std::string(1u << 20, 'x')},
      {"RC06",
       Exit::resource,
       "",
       {"too many values", "200000"},
       "schema: [" +
           [] {
             std::string list;
             for (int i = 0; i < 200'001; ++i) list += "1,";
             return list;
           }() +
           "1]"},
      {"RC06",
       Exit::resource,
       "2:8",
       {"too many steps", "64"},
       "schema: 1\nsteps: [" +
           [] {
             std::string list;
             for (int i = 0; i < 65; ++i) list += "quantize,";
             return list;
           }() +
           "]"},
      {"RC06",
       Exit::resource,
       "4:",
       {"too many rules", "10000"},
       y("      include: [" +
         [] {
           std::string list;
           for (int i = 0; i < 10'001; ++i) list += "a,";
           return list;
         }() +
         "]\n")},
      // RC07: wrong type, out of range, NaN, unknown units.
      {"RC07", Exit::malformed, "1:1", {"schema", "missing"}, "steps: [quantize]\n"},
      {"RC07", Exit::malformed, "1:1", {"steps", "missing"}, "schema: 1\n"},
      {"RC07", Exit::malformed, "2:8", {"list of steps", "map"}, "schema: 1\nsteps: {quantize: {}}\n"},
      {"RC07", Exit::malformed, "2:8", {"empty list"}, "schema: 1\nsteps: []\n"},
      {"RC07",
       Exit::malformed,
       "3:5",
       {"one name with its settings"},
       "schema: 1\nsteps:\n  - {quantize: {}, prune: {}}\n"},
      {"RC07",
       Exit::malformed,
       "2:7",
       {"not a seed", "-1", "18446744073709551615"},
       "schema: 1\nseed: -1\nsteps: [quantize]\n"},
      {"RC07", Exit::malformed, "2:7", {"not a seed"}, "schema: 1\nseed: 1e3\nsteps: [quantize]\n"},
      {"RC07", Exit::malformed, "4:16", {"damping", "\".nan\"", "a number"}, y("      damping: .nan\n")},
      {"RC07", Exit::malformed, "4:16", {"damping", "finite"}, y("      damping: inf\n")},
      {"RC07", Exit::malformed, "4:16", {"damping", "\"4x\"", "1000"}, y("      damping: 4x\n")},
      {"RC07", Exit::malformed, "4:16", {"damping", "list"}, y("      damping: [1]\n")},
      {"RC07", Exit::malformed, "4:16", {"samples", "\"0\"", "1 to 16777216"}, y("      samples: 0\n")},
      {"RC07", Exit::malformed, "4:14", {"clamp", "\"yes\"", "true or false"}, y("      clamp: yes\n")},
      {"RC07", Exit::malformed, "4:14", {"clamp", "true or false"}, y("      clamp: \"true\"\n")},
      {"RC07", Exit::malformed, "4:14", {"order", "\"up\"", "act"}, y("      order: up\n")},
      {"RC07",
       Exit::malformed,
       "4:20",
       {"target-size", "not a size", "80XB"},
       y("      target-size: 80XB\n      method: gptq\n")},
      {"RC07", Exit::malformed, "4:15", {"method", "nothing"}, y("      method: ~\n")},
      {"RC07", Exit::malformed, "4:15", {"scheme", "empty"}, y("      scheme: ''\n")},
      {"RC07",
       Exit::malformed,
       "4:",
       {"overrides", "list"},
       y("      overrides: {pattern: a, value: keep}\n")},
      {"RC07", Exit::malformed, "5:", {"no value"}, y("      overrides:\n        - {pattern: a}\n")},
      // RC08: unknown words of closed lists that grow.
      {"RC08", Exit::unsupported, "1:9", {"version", "2", "1"}, "schema: 2\nsteps: [quantize]\n"},
      {"RC08",
       Exit::unsupported,
       "2:9",
       {"unknown step", "\"quantise\"", "quantize", "prune, quantize"},
       "schema: 1\nsteps: [quantise]\n"},
      {"RC08", Exit::unsupported, "4:15", {"method", "\"qptg\"", "rtn, gptq"}, y("      method: qptg\n")},
      {"RC08", Exit::unsupported, "4:15", {"scheme", "int99"}, y("      scheme: int99\n")},
      {"RC08",
       Exit::unsupported,
       "5:11",
       {"overrides", "int99"},
       y("      overrides:\n        - {pattern: \"layers.*\", value: int99}\n")},
      // RC11: patterns are not regular expressions.
      {"RC11",
       Exit::unsupported,
       "5:11",
       {"pattern", "offset 7", "regular expressions"},
       y("      overrides:\n        - {pattern: \"layers.(a|b)\", value: keep}\n")},
      {"RC11", Exit::unsupported, "5:11", {"offset 0"}, y("      include:\n        - ^model\n")},
      {"RC11",
       Exit::resource,
       "4:",
       {"too long", "512"},
       y("      include: " + std::string(513, 'a') + "\n")},
      // RC12: data beside the recipe.
      {"RC12", Exit::malformed, "2:7", {"\"../x.txt\""}, "schema: 1\ndata: ../x.txt\nsteps: [quantize]\n"},
      {"RC12",
       Exit::malformed,
       "2:7",
       {"absolute", "--data"},
       "schema: 1\ndata: /etc/passwd\nsteps: [quantize]\n"},
      {"RC12", Exit::malformed, "2:7", {"\"a/../../b\""}, "schema: 1\ndata: a/../../b\nsteps: [quantize]\n"},
      {"RC12", Exit::malformed, "2:7", {}, "schema: 1\ndata: 'C:\\x'\nsteps: [quantize]\n"},
      {"RC12", Exit::malformed, "2:7", {}, "schema: 1\ndata: \"a\\x1bb\"\nsteps: [quantize]\n"},
      {"RC07", Exit::malformed, "2:12", {"SHA-256"}, "schema: 1\ndata-hash: abc\nsteps: [quantize]\n"},
  };
}

TEST(Recipe, EveryFaultIsNamedWithItsPlace) {
  for (const BadRecipe& bad : bad_recipes()) {
    SCOPED_TRACE(bad.text.substr(0, 200));
    const auto result = bound(bad.text);
    if (result.has_value()) {
      ADD_FAILURE() << "accepted";
      continue;
    }
    const Error& error = result.error();
    const std::string line = format_error(error);
    EXPECT_EQ(error.rule, bad.rule) << line;
    EXPECT_EQ(error.exit, bad.exit) << line;
    EXPECT_EQ(error.path, "r.yaml") << line;
    EXPECT_TRUE(error.where.starts_with(bad.where)) << line;
    for (const char* word : bad.words) EXPECT_THAT(line, HasSubstr(word));
    EXPECT_EQ(line.find('\n'), std::string::npos);
  }
}

TEST(Recipe, ContradictionsAreTheChecksOfTheFlags) {
  const auto both = bound(quantize("      method: gptq\n      target-bpw: 4\n      target-size: 80MB\n"));
  ASSERT_FALSE(both.has_value());
  EXPECT_EQ(both.error().exit, Exit::malformed);
  EXPECT_THAT(format_error(both.error()), HasSubstr("r.yaml: 5:19: target-bpw: cannot be given together"));
  const auto no_data = bound(quantize("      method: gptq\n"), "");
  ASSERT_FALSE(no_data.has_value());
  EXPECT_THAT(format_error(no_data.error()), HasSubstr("4:15: method: needs calibration data"));
}

TEST(Recipe, SettingsMeanWhatTheOptionsMean) {
  const auto steps = bound(
      "schema: 1\nseed: 7\nsamples: 64\ncontext: 512\nsteps:\n"
      "  - quantize:\n      method: gptq\n      scheme: int4-g64\n      damping: 5e-2\n      clamp: true\n"
      "      exclude: ['layers.0.*']\n      samples: 32\n"
      "      overrides:\n        - {pattern: layers.*.down_proj, value: int8-ch}\n"
      "        - {pattern: \"layers.{1,2}.*\", value: keep, optional: true}\n");
  ASSERT_TRUE(steps.has_value()) << format_error(steps.error());
  const Json* options = steps->front().resolved.find("options");
  ASSERT_NE(options, nullptr);
  const auto text = [&](const char* key) {
    const Json* value = options->find(key);
    return value == nullptr ? "nothing" : value->is_string() ? value->as_string() : value->dump();
  };
  EXPECT_EQ(text("method"), "gptq");
  EXPECT_EQ(text("scheme"), "int4-g64-sym");
  EXPECT_EQ(text("damping"), "0.05");
  EXPECT_EQ(text("samples"), "32");   // its own
  EXPECT_EQ(text("context"), "512");  // the shared one
  EXPECT_EQ(text("clamp"), "true");
  EXPECT_EQ(text("order"), "act");  // a default
  EXPECT_EQ(text("exclude"), R"(["layers.0.*"])");
  EXPECT_EQ(text("overrides"), R"([{"pattern":"layers.*.down_proj","value":"int8-ch"},)"
                               R"({"pattern":"layers.{1,2}.*","value":"keep","optional":true}])");
  for (const char* hidden : {"data", "output", "threads", "resume", "fail-if", "json", "set"})
    EXPECT_EQ(options->find(hidden), nullptr) << hidden;
  cli::JobArguments& arguments = steps->front().command->arguments();
  EXPECT_EQ(arguments.data, "text.txt");
  EXPECT_EQ(arguments.samples, 32);
  EXPECT_EQ(arguments.context, 512);
  // A method that needs no data gets none.
  EXPECT_EQ(bound(quantize("      method: rtn\n"))->front().command->arguments().data, "");
}

TEST(Recipe, JsonIsYaml) {
  const auto steps = bound(
      "{\"schema\": 1, \"seed\": 3,\n\t\"steps\": [{\"quantize\": {\"scheme\": \"int8-ch\","
      " \"clamp\": false, \"damping\": 0.02}}]}");
  ASSERT_TRUE(steps.has_value()) << format_error(steps.error());
  EXPECT_EQ(steps->front().resolved.find("options")->find("damping")->as_string(), "0.02");
}

// RC13: nothing is expanded.
TEST(Recipe, ShellTextIsText) {
  const std::string folder = temporary_folder();
  for (const std::string name : {"$HOME", "${HOME}", "`id`", "~", "$(id)"}) {
    std::ofstream(folder + "/" + name) << "text";
    std::ofstream(folder + "/r.yaml") << "schema: 1\ndata: '" + name + "'\nsteps: [quantize]\n";
    const auto recipe = cli::read_recipe(folder + "/r.yaml", false);
    ASSERT_TRUE(recipe.has_value()) << format_error(recipe.error());
    EXPECT_EQ(recipe->data, folder + "/" + name);
  }
}

// RC12: nor does a symlink lead out of the folder.
TEST(Recipe, DataLiesBelowTheFolderOfTheRecipe) {
  const std::string folder = temporary_folder(), outside = temporary_folder();
  std::ofstream(outside + "/secret.txt") << "text";
  fs::create_symlink(outside + "/secret.txt", folder + "/link.txt");
  fs::create_directory(folder + "/sub");
  std::ofstream(folder + "/sub/text.txt") << "text";
  const auto read = [&](const std::string& name, bool follow = false) {
    std::ofstream(folder + "/r.yaml") << "schema: 1\ndata: " + name + "\nsteps: [quantize]\n";
    return cli::read_recipe(folder + "/r.yaml", follow);
  };
  EXPECT_TRUE(read("sub/text.txt").has_value());
  const auto link = read("link.txt");
  ASSERT_FALSE(link.has_value());
  EXPECT_EQ(link.error().rule, "RC12");
  EXPECT_EQ(link.error().exit, Exit::malformed);
  EXPECT_TRUE(link.error().where.starts_with("2:1: data")) << link.error().where;
  EXPECT_TRUE(read("link.txt", true).has_value());  // --follow-symlinks
  EXPECT_EQ(read("missing.txt").error().exit, Exit::io);
}

// RC09 and RC10 need a model.
TEST(Recipe, OverridesOfAModel) {
  const auto source = tiny_model(kTinyLlama);
  const ModelDescription model = checked(describe_model(*source));
  const auto matched = [&](const std::string& rules) -> Result<std::vector<std::string>> {
    const std::string text = quantize("      overrides:\n" + rules);
    PARE_TRY(const Recipe recipe, parse_recipe(text, "r.yaml", ""));
    PARE_TRY(BoundStep step, cli::bind_step(recipe, recipe.steps[0], cli::make_step_command("quantize"), ""));
    PARE_CHECK(cli::match_overrides(recipe, step, model));
    return *step.command->overrides();
  };
  const auto last = matched(
      "        - {pattern: \"layers.*\", value: int8-ch}\n"
      "        - {pattern: \"layers.*.down_proj\", value: keep}\n");
  ASSERT_TRUE(last.has_value()) << format_error(last.error());
  EXPECT_EQ(*last, (std::vector<std::string>{"layers.*=int8-ch", "layers.*.down_proj=keep"}));
  const auto none = matched("        - {pattern: \"layers.9.*\", value: keep}\n");
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().rule, "RC09");
  EXPECT_EQ(none.error().exit, Exit::malformed);
  EXPECT_THAT(format_error(none.error()), HasSubstr("r.yaml: 5:11: overrides: pattern matches no tensor"));
  EXPECT_TRUE(matched("        - {pattern: \"layers.9.*\", value: keep, optional: true}\n")->empty());
  const auto twice = matched(
      "        - {pattern: \"layers.1.*\", value: int8-ch}\n"
      "        - {pattern: \"*.down_proj\", value: keep}\n"
      "        - {pattern: \"layers.?.*.down_proj\", value: int4-g8}\n"
      "        - {pattern: \"*.*.down_pro?\", value: int8-ch}\n");
  ASSERT_FALSE(twice.has_value());
  EXPECT_EQ(twice.error().rule, "RC10");
  EXPECT_THAT(format_error(twice.error()), HasSubstr("down_proj"));
  EXPECT_THAT(format_error(twice.error()), HasSubstr("of line"));
  EXPECT_TRUE(matched("        - {pattern: \"layers.1.*\", value: keep}\n"
                      "        - {pattern: \"layers.2.*\", value: int8-ch}\n")
                  .has_value());  // as specific, but of other tensors
}

// What is written reads back as the same recipe, whatever the texts are.
TEST(Recipe, WrittenAndReadBack) {
  const std::string text =
      "schema: 1\nseed: 18446744073709551615\nsamples: 8\nsteps:\n  - quantize:\n      method: awq+gptq\n"
      "      include: [\"*.up_proj\", \"layers.{0,1}.*\"]\n      chat-template: \"t\\u00e9l: \\\"x\\\" # "
      "no\"\n"
      "      overrides: [{pattern: \"*.up_proj\", value: int8-ch, optional: true}]\n"
      "  - quantize: {scheme: int8-ch}\n";
  const auto first = bound(text);
  ASSERT_TRUE(first.has_value()) << format_error(first.error());
  Json steps = Json::array();
  for (const BoundStep& step : *first) steps.push_back(step.resolved);
  const std::string hash(64, 'a');
  const std::string written = cli::recipe_yaml(UINT64_MAX, hash, steps);
  for (const char c : written) EXPECT_TRUE((c >= ' ' && c <= '~') || c == '\n') << int(c);
  const Recipe recipe = checked(parse_recipe(written, "w.yaml", ""));
  EXPECT_EQ(recipe.seed, UINT64_MAX);
  EXPECT_EQ(recipe.data_hash, hash);
  const auto second = bound(written);
  ASSERT_TRUE(second.has_value()) << format_error(second.error()) << "\n" << written;
  ASSERT_EQ(second->size(), first->size());
  for (size_t i = 0; i < first->size(); ++i)
    EXPECT_EQ((*second)[i].resolved.dump(), (*first)[i].resolved.dump()) << written;
}

TEST(Recipe, TextsOfAForeignManifestAreShownHarmless) {
  Json step = Json::object();
  step["step"] = "quan\x1b[2Jtize";
  step["options"] = Json::object();
  step["options"]["k\xe2\x80\xae"] = "v\x7f\n- x: \xf0\x9f\x98\x80";
  Json steps = Json::array();
  steps.push_back(step);
  const std::string written = cli::recipe_yaml(0, "", steps);
  for (const char c : written) EXPECT_TRUE((c >= ' ' && c <= '~') || c == '\n') << int(c);
  const cli::YamlNode root = checked(cli::parse_yaml(written, "w"));
  const cli::YamlMember& member = root.find("steps")->value.items[0].members[0];
  EXPECT_EQ(member.key, "quan\x1b[2Jtize");
  EXPECT_EQ(member.value.members[0].key, "k\xe2\x80\xae");
  EXPECT_EQ(member.value.members[0].value.text, "v\x7f\n- x: \xf0\x9f\x98\x80");
}

}  // namespace
}  // namespace pare::test
