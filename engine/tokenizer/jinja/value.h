// engine/tokenizer/jinja/value.h: what an expression of a chat template can be. Plain data: no host objects,
// no reflection. Lists, maps and strings never change once made; only the attributes of a namespace do.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pare::jinja {

class Value;
struct MacroNode;
struct Scope;

struct Undefined {
  std::string name{};  // what was looked up, for messages
};
struct None {};

struct ListData {
  std::vector<Value> items;
  bool is_tuple = false;  // prints with round brackets
  int depth = 1;          // of nesting, this list included
  uint64_t weight = 0;    // bytes that it prints as, about: what is shared counts as often as it stands
};
struct MapData {
  std::vector<std::pair<std::string, Value>> items;  // in order of insertion, names unique
  int depth = 1;
  uint64_t weight = 0;
  const Value* find(std::string_view name) const;
};
// namespace(...): may stand in variables only, so that no value contains itself.
struct NamespaceData {
  std::vector<std::pair<std::string, Value>> items;
  Value* find(std::string_view name);
};
struct LoopData {
  std::shared_ptr<const ListData> items;
  int64_t index = 0;
};
struct MacroData {
  const MacroNode* node;
  Scope* scope;  // where it was defined
};
enum class Function : uint8_t { range, make_namespace, dict, raise_exception, strftime_now };

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using List = std::shared_ptr<const ListData>;
  using Map = std::shared_ptr<const MapData>;
  using Namespace = std::shared_ptr<NamespaceData>;
  using Loop = std::shared_ptr<const LoopData>;
  using Form = std::variant<Undefined, None, bool, int64_t, double, Text, List, Map, Namespace, Loop,
                            MacroData, Function>;

  Value() : form_(Undefined{}) {}
  Value(Form form) : form_(std::move(form)) {}  // NOLINT: implicit on purpose, as below
  Value(bool value) : form_(value) {}           // NOLINT
  Value(int64_t value) : form_(value) {}        // NOLINT
  Value(double value) : form_(value) {}         // NOLINT
  Value(std::string text) : form_(std::make_shared<const std::string>(std::move(text))) {}  // NOLINT
  static Value none() { return Value(Form(None{})); }
  static Value undefined(std::string name) { return Value(Form(Undefined{std::move(name)})); }

  template <typename T>
  const T* get() const {
    return std::get_if<T>(&form_);
  }
  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(form_);
  }
  const std::string* text() const { return is<Text>() ? get<Text>()->get() : nullptr; }
  const ListData* list() const { return is<List>() ? get<List>()->get() : nullptr; }
  const MapData* map() const { return is<Map>() ? get<Map>()->get() : nullptr; }
  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_number() const { return is<bool>() || is<int64_t>() || is<double>(); }
  bool is_whole() const { return is<bool>() || is<int64_t>(); }
  int64_t whole() const { return is<bool>() ? int64_t(*get<bool>()) : *get<int64_t>(); }  // of is_whole()
  double number() const { return is<double>() ? *get<double>() : double(whole()); }       // of is_number()

  bool truth() const;
  const char* kind_name() const;  // "string", "list" ... for messages
  int depth() const;              // 0 for scalars
  uint64_t weight() const;        // bytes that it prints as, about; the cost of comparing and printing
  bool equals(const Value& other) const;

 private:
  Form form_;
};

// Text as `{{ value }}` prints it: Python's str(). Undefined prints nothing.
void append_text(std::string& out, const Value& value);
// Inside a list or map: Python's repr().
void append_repr(std::string& out, const Value& value);
std::string float_text(double value);  // Python's repr of a float

// json.dumps(value, ensure_ascii=False) with ", " and ": ", or indented. False for what JSON has no form for.
struct JsonStyle {
  int indent = -1;
  bool sort_keys = false;
  std::string item_separator = ", ", key_separator = ": ";
};
bool append_json(std::string& out, const Value& value, const JsonStyle& style, int level = 0);

}  // namespace pare::jinja
