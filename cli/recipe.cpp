#include "cli/recipe.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

constexpr int kSchema = 1;

// Settings that steps share; each is an option of the commands that calibrate.
const std::vector<std::string>& shared_keys() {
  static const std::vector<std::string> kKeys = {"samples", "context", "bos", "chat-template",
                                                 "parse-special"};
  return kKeys;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

std::string without_underscores(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return key;
}

std::string with_remedy(const std::string& what, const std::string& word,
                        const std::vector<std::string>& known) {
  const std::string nearest = nearest_word(word, known.data(), known.data() + known.size());
  return nearest.empty() ? what : what + "; did you mean " + nearest + "?";
}

class Reader {
 public:
  Reader(const std::string& path, const std::string& folder) : folder_(folder) { recipe_.path = path; }

  Result<Recipe> read(const YamlNode& root) {
    if (!root.is_map())
      return fail("RC07", root, {}, "a recipe is a map", root.kind_name(), "schema: 1 and steps:");
    for (const YamlMember& member : root.members) PARE_CHECK(read_member(member));
    for (const char* key : {"schema", "steps"}) {
      if (root.find(key) != nullptr) continue;
      return fail("RC07", root, key, "missing", {},
                  key == std::string_view("schema") ? "1" : "a list of steps");
    }
    return std::move(recipe_);
  }

 private:
  Error fail(const char* rule, const YamlNode& node, const std::string& key, std::string what,
             std::string got = {}, std::string limit = {}, Exit exit = Exit::malformed) const {
    return recipe_error(exit, rule, recipe_.path, node.line, node.column, key, std::move(what),
                        std::move(got), std::move(limit),
                        rule == std::string_view("RC06") ? "limit" : "expected");
  }
  static YamlNode place(const YamlMember& member) {
    YamlNode node;
    node.line = member.line;
    node.column = member.column;
    return node;
  }

  Result<std::string> text(const YamlMember& member) const {
    if (member.value.is_scalar() && !member.value.text.empty()) return member.value.text;
    return fail("RC07", member.value, member.key, "not text",
                member.value.is_scalar() ? "empty text" : member.value.kind_name(), "text");
  }

  Status read_member(const YamlMember& member) {
    const std::string key = without_underscores(member.key);
    if (!seen_.insert(key).second)
      return fail("RC03", place(member), member.key, "key given twice", quote(member.key));
    if (key == "schema") return read_schema(member);
    if (key == "seed") return read_seed(member);
    if (key == "data") return read_data(member);
    if (key == "data-hash") return read_data_hash(member);
    if (key == "steps") return read_steps(member);
    const std::vector<std::string>& shared = shared_keys();
    if (std::find(shared.begin(), shared.end(), key) != shared.end()) {
      recipe_.shared.push_back(member);
      recipe_.shared.back().key = key;
      return {};
    }
    std::vector<std::string> known = {"schema", "seed", "data", "data-hash", "steps"};
    known.insert(known.end(), shared.begin(), shared.end());
    return fail("RC02", place(member), {}, with_remedy("unknown key", key, known), quote(member.key),
                joined(known));
  }

  Status read_schema(const YamlMember& member) {
    const auto version = member.value.is_scalar() ? parse_int(member.value.text) : std::nullopt;
    if (!version || !member.value.is_plain)
      return fail("RC07", member.value, member.key, "not a version", shown(member.value),
                  std::to_string(kSchema));
    if (*version == kSchema) return {};
    return fail("RC08", member.value, member.key, "unknown version of recipes", std::to_string(*version),
                std::to_string(kSchema), Exit::unsupported);
  }

  Status read_seed(const YamlMember& member) {
    const auto seed = member.value.is_scalar() ? parse_uint(member.value.text) : std::nullopt;
    if (!seed)
      return fail("RC07", member.value, member.key, "not a seed", shown(member.value),
                  "0 to 18446744073709551615");
    recipe_.seed = *seed;
    recipe_.seed_place = place(member);
    return {};
  }

  Status read_data(const YamlMember& member) {
    const auto name = text(member);
    if (!name) return name.error();
    PARE_CHECK(check_path(member, *name));
    recipe_.data_name = *name;
    recipe_.data = folder_.empty() ? *name : folder_ + "/" + *name;
    recipe_.data_place = place(member);
    return {};
  }

  // A recipe may come from anybody: what it names lies beside it.
  Status check_path(const YamlMember& member, const std::string& name) const {
    const auto refuse = [&](const char* what) {
      return fail("RC12", member.value, member.key, what, quote(name),
                  "a path below the folder of the recipe");
    };
    if (name.starts_with('/')) return refuse("absolute path; give --data instead");
    if (name.size() > limits::kPathBytes) return refuse("path too long");
    for (size_t begin = 0; begin <= name.size();) {
      const size_t end = std::min(name.find('/', begin), name.size());
      const std::string_view part = std::string_view(name).substr(begin, end - begin);
      begin = end + 1;
      if (part.empty() || part == "." || part == "..")
        return refuse("leaves the folder of the recipe, or is not plain");
      if (part.size() > limits::kPathComponentBytes) return refuse("path component too long");
    }
    const bool has_drive = name.size() > 1 && name[1] == ':';
    if (has_drive || name.find('\\') != std::string::npos || sanitize(name) != name)
      return refuse("not a plain relative path");
    return {};
  }

  Status read_data_hash(const YamlMember& member) {
    PARE_TRY(const std::string hash, text(member));
    const bool is_hex = hash.size() == 64 && hash.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!is_hex)
      return fail("RC07", member.value, member.key, "not a SHA-256", quote(hash), "64 hexadecimal digits");
    recipe_.data_hash = hash;
    recipe_.data_hash_place = place(member);
    return {};
  }

  Status read_steps(const YamlMember& member) {
    if (!member.value.is_list() || member.value.items.empty())
      return fail("RC07", member.value, member.key, "not a list of steps",
                  member.value.is_list() ? "empty list" : member.value.kind_name(), "a list");
    if (member.value.items.size() > limits::kRecipeSteps)
      return fail("RC06", member.value, member.key, "too many steps",
                  std::to_string(member.value.items.size()), std::to_string(limits::kRecipeSteps),
                  Exit::resource);
    for (const YamlNode& item : member.value.items) PARE_CHECK(read_step(item));
    return {};
  }

  Status read_step(const YamlNode& item) {
    const std::vector<std::string>& verbs = recipe_verbs();
    RecipeStep step;
    const YamlNode* settings = nullptr;
    if (item.is_map() && item.members.size() == 1) {  // - quantize: {...}
      const YamlMember& member = item.members.front();
      step = {.verb = member.key, .line = member.line, .column = member.column};
      settings = &member.value;
    } else if (item.is_scalar()) {  // - quantize
      step = {.verb = item.text, .line = item.line, .column = item.column};
    } else {
      return fail("RC07", item, "steps", "a step is one name with its settings", item.kind_name(),
                  "- quantize: {...}");
    }
    if (std::find(verbs.begin(), verbs.end(), step.verb) == verbs.end()) {
      return recipe_error(Exit::unsupported, "RC08", recipe_.path, step.line, step.column, "steps",
                          with_remedy("unknown step", step.verb, verbs), quote(step.verb), joined(verbs));
    }
    if (settings != nullptr && settings->kind != YamlNode::Kind::null) {
      if (!settings->is_map())
        return fail("RC07", *settings, step.verb, "settings are a map", settings->kind_name(), "key: value");
      PARE_CHECK(read_settings(*settings, step));
    }
    recipe_.steps.push_back(std::move(step));
    return {};
  }

  Status read_settings(const YamlNode& settings, RecipeStep& step) {
    std::set<std::string> seen;
    for (const YamlMember& member : settings.members) {
      YamlMember setting = member;
      setting.key = without_underscores(member.key);
      if (!seen.insert(setting.key).second)
        return fail("RC03", place(member), step.verb, "key given twice", quote(member.key));
      if (member.value.is_list()) rules_ += member.value.items.size();
      if (rules_ > limits::kRecipeRules)
        return fail("RC06", member.value, member.key, "too many rules", std::to_string(rules_),
                    std::to_string(limits::kRecipeRules), Exit::resource);
      step.settings.push_back(std::move(setting));
    }
    return {};
  }

  static std::string shown(const YamlNode& node) {
    return node.is_scalar() ? quote(node.text) : std::string(node.kind_name());
  }

  const std::string& folder_;
  Recipe recipe_;
  std::set<std::string> seen_;
  uint64_t rules_ = 0;
};

}  // namespace

const std::vector<std::string>& recipe_verbs() {
  static const std::vector<std::string> kVerbs = {"prune", "quantize", "distill", "finetune"};
  return kVerbs;
}

Error recipe_error(Exit exit, const char* rule, const std::string& path, int line, int column,
                   const std::string& key, std::string what, std::string got, std::string limit,
                   const char* label) {
  std::string where = line > 0 ? fmt::format("{}:{}", line, column) : std::string();
  if (!key.empty()) where += (where.empty() ? "" : ": ") + sanitize(key);
  return Error{exit, rule, path, std::move(where), std::move(what), std::move(got), std::move(limit), label};
}

const YamlMember* Recipe::setting(const RecipeStep& step, std::string_view key) const {
  for (const auto* list : {&step.settings, &shared})
    for (const YamlMember& member : *list)
      if (member.key == key) return &member;
  return nullptr;
}

Result<Recipe> parse_recipe(std::string_view text, const std::string& path, const std::string& folder) {
  PARE_TRY(const YamlNode root, parse_yaml(text, path));
  return Reader(path, folder).read(root);
}

Result<Recipe> read_recipe(const std::string& path, bool follow_symlinks) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  if (file.size() > limits::kRecipeBytes) {
    return Error{Exit::resource,
                 "RC06",
                 path,
                 "",
                 "recipe too large",
                 std::to_string(file.size()),
                 std::to_string(limits::kRecipeBytes)};
  }
  PARE_TRY(const std::string text, file.read_all(limits::kRecipeBytes));
  PARE_CHECK(file.check_unchanged());
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : slash == 0 ? "/" : path.substr(0, slash);
  PARE_TRY(Recipe recipe, parse_recipe(text, path, folder));
  if (recipe.data_name.empty()) return recipe;
  // Not out of the folder by a symlink either.
  const auto data = InputFile::open_below(folder.empty() ? "." : folder, recipe.data_name, follow_symlinks);
  if (data) return recipe;
  Error error = data.error();
  if (error.exit == Exit::malformed) error.rule = "RC12";
  error.where = fmt::format("{}:{}: data{}{}", recipe.data_place.line, recipe.data_place.column,
                            error.where.empty() ? "" : ": ", error.where);
  error.path = path;
  return error;
}

}  // namespace pare::cli
