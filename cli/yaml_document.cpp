#include "cli/yaml_document.h"

#include <fmt/core.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <optional>
#include <set>
#include <sstream>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// yaml-cpp reports by exceptions, and only one can end its recursion; both stay in this file.
struct Stop {};

std::string position(int line, int column) {
  return fmt::format("{}:{}", line, column);
}

Error yaml_error(Exit exit, const char* rule, const std::string& path, std::string where, std::string what,
                 std::string got = {}, std::string limit = {}, const char* label = "limit") {
  return Error{exit, rule, path, std::move(where), std::move(what), std::move(got), std::move(limit), label};
}

// Events to a tree. The nodes that are open lie on an explicit stack; parents are moved into only when their
// children are complete.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& path) : path_(path) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { add(node(YamlNode::Kind::null, mark)); }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_alias(mark); }

  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    fail(Exit::unsupported, "RC04", mark, "anchors are not supported", quote("&" + name));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    refuse_tag(mark, tag);
    YamlNode scalar = node(YamlNode::Kind::scalar, mark);
    scalar.text = value;
    scalar.is_plain = tag != "!";
    add(std::move(scalar));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::list, mark, tag);
  }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, tag);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapEnd() override { close(); }

  std::optional<Error>& error() { return error_; }
  std::optional<YamlNode>& root() { return root_; }

 private:
  struct Open {
    YamlNode node;
    std::optional<YamlMember> member{};  // of a map: the key whose value is to come
    std::set<std::string> keys{};
  };

  static YamlNode node(YamlNode::Kind kind, const YAML::Mark& mark) {
    YamlNode made;
    made.kind = kind;
    made.line = mark.line + 1;
    made.column = mark.column + 1;
    return made;
  }

  [[noreturn]] void fail(Exit exit, const char* rule, const YAML::Mark& mark, std::string what,
                         std::string got = {}, std::string limit = {}) {
    error_ = yaml_error(exit, rule, path_, position(mark.line + 1, mark.column + 1), std::move(what),
                        std::move(got), std::move(limit));
    throw Stop();
  }
  [[noreturn]] void fail_at(const YamlNode& node, const char* rule, std::string what, std::string got) {
    error_ = yaml_error(rule == std::string_view("RC04") ? Exit::unsupported : Exit::malformed, rule, path_,
                        position(node.line, node.column), std::move(what), std::move(got));
    throw Stop();
  }
  [[noreturn]] void refuse_alias(const YAML::Mark& mark) {
    fail(Exit::unsupported, "RC04", mark,
         "aliases are not supported; a text that begins with * needs quotes");
  }

  // "?" and "!" stand for no tag, on plain and on quoted values.
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    if (tag.empty() || tag == "?" || tag == "!") return;
    fail(Exit::unsupported, "RC05", mark, "tags are not supported", quote(tag));
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag) {
    refuse_tag(mark, tag);
    if (!stack_.empty() && stack_.back().node.is_map() && !stack_.back().member)
      fail(Exit::malformed, "RC01", mark, "a key must be text", kind == YamlNode::Kind::map ? "map" : "list");
    if (stack_.size() >= limits::kRecipeDepth)
      fail(Exit::malformed, "RC06", mark, "nested too deeply", fmt::format("{}", stack_.size() + 1),
           fmt::format("{}", limits::kRecipeDepth));
    stack_.push_back({.node = node(kind, mark)});
  }

  void close() {
    YamlNode done = std::move(stack_.back().node);
    stack_.pop_back();
    add(std::move(done));
  }

  void add(YamlNode value) {
    if (++nodes_ > limits::kRecipeNodes) {
      error_ = yaml_error(Exit::resource, "RC06", path_, position(value.line, value.column),
                          "too many values", fmt::format("more than {}", limits::kRecipeNodes),
                          fmt::format("{}", limits::kRecipeNodes));
      throw Stop();
    }
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (stack_.back().node.is_list()) {
      stack_.back().node.items.push_back(std::move(value));
    } else if (!stack_.back().member) {
      begin_member(std::move(value));
    } else {
      YamlMember member = *std::move(stack_.back().member);
      stack_.back().member.reset();
      member.value = std::move(value);
      stack_.back().node.members.push_back(std::move(member));
    }
  }

  void begin_member(YamlNode key) {
    Open& map = stack_.back();
    if (!key.is_scalar()) fail_at(key, "RC01", "a key must be text", key.kind_name());
    if (key.is_plain && key.text == "<<")
      fail_at(key, "RC04", "merge keys are not supported", quote(key.text));
    if (!map.keys.insert(key.text).second) fail_at(key, "RC03", "key given twice", quote(key.text));
    map.member = YamlMember{.key = std::move(key.text), .line = key.line, .column = key.column};
  }

  const std::string& path_;
  std::vector<Open> stack_;
  uint64_t nodes_ = 0;
  std::optional<YamlNode> root_;
  std::optional<Error> error_;
};

// What yaml-cpp says, in our words where they are clearer.
Error parse_error(const YAML::Exception& exception, const std::string& path) {
  const bool is_placed = !exception.mark.is_null();
  const std::string where =
      is_placed ? position(exception.mark.line + 1, exception.mark.column + 1) : std::string();
  if (exception.msg.starts_with(YAML::ErrorMsg::UNKNOWN_ANCHOR))
    return yaml_error(Exit::unsupported, "RC04", path, where,
                      "aliases are not supported; a text that begins with * needs quotes");
  return yaml_error(Exit::malformed, "RC01", path, where, "not YAML: " + sanitize(exception.msg));
}

// Control characters never belong in a recipe, and the parser guesses encodings from NUL bytes.
Status check_characters(std::string_view text, const std::string& path) {
  if (const size_t bad = first_invalid_utf8(text); bad > 0)
    return yaml_error(Exit::malformed, "RC01", path, fmt::format("byte {}", bad - 1), "not UTF-8");
  int line = 1, column = 1;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7f)
      return yaml_error(Exit::malformed, "RC01", path, position(line, column), "control character",
                        fmt::format("0x{:02x}", byte));
    column = c == '\n' ? 1 : column + 1;
    line += c == '\n' ? 1 : 0;
  }
  return {};
}

}  // namespace

const char* YamlNode::kind_name() const {
  switch (kind) {
    case Kind::scalar:
      return "text";
    case Kind::list:
      return "list";
    case Kind::map:
      return "map";
    case Kind::null:
      break;
  }
  return "nothing";
}

const YamlMember* YamlNode::find(std::string_view key) const {
  for (const YamlMember& member : members)
    if (member.key == key) return &member;
  return nullptr;
}

Result<YamlNode> parse_yaml(std::string_view text, const std::string& path) {
  if (text.size() > limits::kRecipeBytes)
    return yaml_error(Exit::resource, "RC06", path, {}, "recipe too large", fmt::format("{}", text.size()),
                      fmt::format("{}", limits::kRecipeBytes));
  PARE_CHECK(check_characters(text, path));
  TreeBuilder builder(path);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    parser.HandleNextDocument(builder);
    std::optional<YamlNode> root = std::move(builder.root());
    builder.root().reset();
    if (root && parser.HandleNextDocument(builder))
      return yaml_error(Exit::malformed, "RC01", path, {}, "more than one document");
    if (root) return *std::move(root);
  } catch (const Stop&) {
    return *std::move(builder.error());
  } catch (const YAML::Exception& exception) {
    return parse_error(exception, path);
  }
  return yaml_error(Exit::malformed, "RC01", path, {}, "empty");
}

}  // namespace pare::cli
