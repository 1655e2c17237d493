// Methods of texts, lists and maps, as Python's; those that change their object do not exist.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

struct TextMethod {
  Machine& machine;
  Position at;
  const std::string& text;
  const Arguments& arguments;

  // A text argument, or null when it was left out or is none.
  Result<const std::string*> optional_text(size_t index, std::string_view name) const {
    const Value& value = arguments.at(index, name);
    if (!arguments.has(index, name) || value.is_none()) return static_cast<const std::string*>(nullptr);
    if (value.text() == nullptr) return machine.wrong_value(at, "argument is not a text", value);
    return value.text();
  }
  Result<const std::string*> needed_text(size_t index, std::string_view name) const {
    const Value& value = arguments.at(index, name);
    if (value.text() == nullptr) return machine.wrong_value(at, "argument is not a text", value);
    return value.text();
  }
  Result<int64_t> whole(size_t index, std::string_view name, int64_t fallback) const {
    if (!arguments.has(index, name)) return fallback;
    const Value& value = arguments.at(index, name);
    if (!value.is_whole()) return machine.wrong_value(at, "argument is not an integer", value);
    return value.whole();
  }

  Result<Value> strip(bool left, bool right) const {
    PARE_TRY(const std::string* set, optional_text(0, "chars"));
    if (set != nullptr) PARE_CHECK(machine.step(at, text.size() * set->size() / 4096));
    return machine.text(at, std::string(stripped(text, set, left, right)));
  }

  // Whether the text starts (ends) with the argument, or with one of a tuple.
  Result<Value> has_end(bool at_start) const {
    const Value& value = arguments.at(0, "prefix");
    const auto fits = [&](const std::string& part) {
      return at_start ? text.starts_with(part) : text.ends_with(part);
    };
    if (value.text() != nullptr) return Value(fits(*value.text()));
    if (value.list() == nullptr) return machine.wrong_value(at, "argument is not a text", value);
    for (const Value& one : value.list()->items) {
      if (one.text() == nullptr) return machine.wrong_value(at, "argument is not a text", one);
      if (fits(*one.text())) return Value(true);
    }
    return Value(false);
  }

  Result<Value> without_end(bool at_start) const {
    PARE_TRY(const std::string* part, needed_text(0, "prefix"));
    const bool fits = at_start ? text.starts_with(*part) : text.ends_with(*part);
    if (!fits) return machine.text(at, text);
    return machine.text(at,
                        at_start ? text.substr(part->size()) : text.substr(0, text.size() - part->size()));
  }

  Result<Value> replace() const {
    PARE_TRY(const std::string* from, needed_text(0, "old"));
    PARE_TRY(const std::string* to, needed_text(1, "new"));
    PARE_TRY(int64_t count, whole(2, "count", -1));
    std::string out;
    size_t last = 0;
    const auto put = [&](size_t found, size_t skipped) -> Status {
      out.append(text, last, found - last);
      out += *to;
      last = found + skipped;
      --count;
      return machine.check_text(at, out.size());
    };
    if (from->empty()) {  // before every character, and at the end
      for (size_t i = 0; count != 0; i += unicode::decode_at(text.data() + i).bytes) {
        PARE_CHECK(put(i, 0));
        if (i >= text.size()) break;
      }
    } else {
      for (size_t found; count != 0 && (found = find_text(text, *from, last)) != std::string::npos;) {
        PARE_CHECK(put(found, from->size()));
      }
    }
    out.append(text, last);
    return machine.text(at, std::move(out));
  }

  Result<Value> split(bool from_right) const {
    PARE_TRY(const std::string* separator, optional_text(0, "sep"));
    PARE_TRY(int64_t count, whole(1, "maxsplit", -1));
    if (separator != nullptr && separator->empty()) {
      return machine.fault(Exit::malformed, "CT12", at, "empty separator");
    }
    std::vector<std::string> parts;
    if (separator != nullptr && !from_right) {
      size_t last = 0;
      for (size_t found; count != 0 && (found = find_text(text, *separator, last)) != std::string::npos;
           --count) {
        parts.push_back(text.substr(last, found - last));
        last = found + separator->size();
        PARE_CHECK(machine.check_list(at, parts.size()));
      }
      parts.push_back(text.substr(last));
    } else if (separator != nullptr) {
      std::string_view rest = text;
      for (size_t found; count != 0 && (found = rest.rfind(*separator)) != std::string::npos; --count) {
        PARE_CHECK(machine.step(at, (rest.size() - found) * separator->size() / 65'536));
        parts.emplace_back(rest.substr(found + separator->size()));
        rest = rest.substr(0, found);
        PARE_CHECK(machine.check_list(at, parts.size()));
      }
      parts.emplace_back(rest);
      std::reverse(parts.begin(), parts.end());
    } else {
      PARE_CHECK(split_at_spaces(count, from_right, parts));
    }
    return texts(std::move(parts));
  }

  // Runs of white space separate. The rest that maxsplit leaves keeps its far end as it is.
  Status split_at_spaces(int64_t count, bool from_right, std::vector<std::string>& parts) const {
    std::string_view rest = stripped(text, nullptr, !from_right, from_right);
    while (!rest.empty()) {
      size_t begin = 0, end = rest.size();
      if (count != 0 && from_right) {
        size_t i = rest.size();
        while (i > 0) {
          const unicode::Character character = unicode::decode_before(rest.data(), rest.data() + i);
          if (is_python_space(character.code)) break;
          i -= character.bytes;
        }
        begin = i;
      } else if (count != 0) {
        size_t i = 0;
        while (i < rest.size()) {
          const unicode::Character character = unicode::decode_at(rest.data() + i);
          if (is_python_space(character.code)) break;
          i += character.bytes;
        }
        end = i;
      }
      parts.emplace_back(rest.substr(begin, end - begin));
      rest =
          stripped(from_right ? rest.substr(0, begin) : rest.substr(end), nullptr, !from_right, from_right);
      if (count == 0) break;
      if (count > 0) --count;
      PARE_CHECK(machine.check_list(at, parts.size()));
    }
    if (from_right) std::reverse(parts.begin(), parts.end());
    return {};
  }

  Result<Value> split_lines() const {
    PARE_TRY(const bool keep, flag(0, "keepends"));
    std::vector<std::string> parts;
    for (size_t i = 0; i < text.size();) {
      size_t end = std::min(text.find_first_of("\r\n", i), text.size());
      size_t next = std::min(end + 1, text.size());
      if (end + 1 < text.size() && text[end] == '\r' && text[end + 1] == '\n') ++next;
      parts.push_back(text.substr(i, (keep ? next : end) - i));
      PARE_CHECK(machine.check_list(at, parts.size()));
      i = next;
    }
    return texts(std::move(parts));
  }
  Result<bool> flag(size_t index, std::string_view name) const { return arguments.at(index, name).truth(); }

  Result<Value> find(bool from_right) const {
    PARE_TRY(const std::string* part, needed_text(0, "sub"));
    PARE_CHECK(machine.step(at, text.size() / 1024));
    if (from_right) PARE_CHECK(machine.step(at, text.size() * std::min<size_t>(part->size(), 1024) / 65'536));
    const size_t found = from_right ? text.rfind(*part) : find_text(text, *part, 0);
    if (found == std::string::npos) return Value(int64_t(-1));
    return Value(unicode::count_characters(std::string_view(text).substr(0, found)));
  }

  Result<Value> count() const {
    PARE_TRY(const std::string* part, needed_text(0, "sub"));
    if (part->empty()) return Value(unicode::count_characters(text) + 1);
    int64_t times = 0;
    for (size_t i = 0; (i = find_text(text, *part, i)) != std::string::npos; i += part->size()) ++times;
    return Value(times);
  }

  Result<Value> join() const {
    PARE_TRY(const std::vector<Value> items, items_of(machine, at, arguments.at(0, "iterable")));
    std::string out;
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].text() == nullptr) return machine.wrong_value(at, "item is not a text", items[i]);
      out += (i > 0 ? text : std::string()) + *items[i].text();
      PARE_CHECK(machine.check_text(at, out.size()));
    }
    return machine.text(at, std::move(out));
  }

  Result<Value> texts(std::vector<std::string> parts) const {
    std::vector<Value> items;
    for (std::string& part : parts) {
      PARE_TRY(Value item, machine.text(at, std::move(part)));
      items.push_back(std::move(item));
    }
    return machine.list(at, std::move(items));
  }

  // Whether there are characters and all of them are of this kind.
  Value all_of(bool (*is_kind)(uint32_t)) const {
    for (size_t i = 0; i < text.size();) {
      const unicode::Character character = unicode::decode_at(text.data() + i);
      if (!is_kind(character.code)) return Value(false);
      i += character.bytes;
    }
    return Value(!text.empty());
  }
};

bool is_letter(uint32_t code) {
  return (unicode::kinds(code) & unicode::kLetter) != 0;
}
bool is_digit(uint32_t code) {
  return code < 0x80 ? code >= '0' && code <= '9' : unicode::is_number(code);
}
bool is_letter_or_digit(uint32_t code) {
  return is_letter(code) || is_digit(code);
}

Error no_method(Machine& machine, Position at, const Value& object, const std::string& name) {
  return machine.fault(Exit::unsupported, "CT05", at,
                       fmt::format("method of a {} is not supported", object.kind_name()), quote(name));
}

Result<Value> text_method(Machine& machine, Position at, const Value& object, const std::string& name,
                          const Arguments& arguments) {
  const TextMethod method{machine, at, *object.text(), arguments};
  const std::string& text = *object.text();
  PARE_CHECK(machine.step(at, text.size() / 4096));
  if (name == "strip") return method.strip(true, true);
  if (name == "lstrip") return method.strip(true, false);
  if (name == "rstrip") return method.strip(false, true);
  if (name == "split") return method.split(false);
  if (name == "rsplit") return method.split(true);
  if (name == "splitlines") return method.split_lines();
  if (name == "startswith") return method.has_end(true);
  if (name == "endswith") return method.has_end(false);
  if (name == "removeprefix") return method.without_end(true);
  if (name == "removesuffix") return method.without_end(false);
  if (name == "upper") return machine.text(at, upper_case(text));
  if (name == "lower") return machine.text(at, lower_case(text));
  if (name == "title") return machine.text(at, title_case(text));
  if (name == "capitalize") return machine.text(at, capitalized(text));
  if (name == "replace") return method.replace();
  if (name == "find") return method.find(false);
  if (name == "rfind") return method.find(true);
  if (name == "count") return method.count();
  if (name == "join") return method.join();
  if (name == "isdigit") return method.all_of(is_digit);
  if (name == "isalpha") return method.all_of(is_letter);
  if (name == "isalnum") return method.all_of(is_letter_or_digit);
  if (name == "isspace") return method.all_of(is_python_space);
  return no_method(machine, at, object, name);
}

Result<Value> list_method(Machine& machine, Position at, const Value& object, const std::string& name,
                          const Arguments& arguments) {
  const std::vector<Value>& items = object.list()->items;
  const Value& wanted = arguments.at(0, "value");
  if (name != "index" && name != "count") return no_method(machine, at, object, name);
  PARE_CHECK(machine.step(at, items.size() / 16 + object.weight() / 1024));
  int64_t times = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].equals(wanted)) continue;
    if (name == "index") return Value(int64_t(i));
    ++times;
  }
  if (name == "index") return machine.fault(Exit::malformed, "CT12", at, "value is not in the list");
  return Value(times);
}

Result<Value> map_method(Machine& machine, Position at, const Value& object, const std::string& name,
                         const Arguments& arguments) {
  const MapData& map = *object.map();
  if (name == "get") {
    const std::string* key = arguments.at(0, "key").text();
    const Value* found = key != nullptr ? map.find(*key) : nullptr;
    if (found != nullptr) return *found;
    return arguments.has(1, "default") ? arguments.at(1, "default") : Value::none();
  }
  std::vector<Value> items;
  for (const auto& entry : map.items) {
    PARE_TRY(Value key, machine.text(at, entry.first));
    if (name == "keys") {
      items.push_back(std::move(key));
    } else if (name == "values") {
      items.push_back(entry.second);
    } else {
      PARE_TRY(Value pair, machine.list(at, {key, entry.second}, true));
      items.push_back(std::move(pair));
    }
  }
  return machine.list(at, std::move(items));
}

}  // namespace

Result<Value> call_method(Machine& machine, Position at, const Value& object, const std::string& name,
                          const Arguments& arguments) {
  if (object.text() != nullptr) return text_method(machine, at, object, name, arguments);
  if (object.list() != nullptr) return list_method(machine, at, object, name, arguments);
  if (object.map() != nullptr) return map_method(machine, at, object, name, arguments);
  if (const auto* loop = object.get<Value::Loop>(); loop != nullptr && name == "cycle") {
    if (arguments.positional.empty()) return machine.fault(Exit::malformed, "CT12", at, "cycle of nothing");
    return arguments.positional[size_t((*loop)->index) % arguments.positional.size()];
  }
  if (object.is_undefined()) {
    return machine.wrong_value(at, fmt::format("method {} of an undefined value", quote(name)), object);
  }
  return no_method(machine, at, object, name);
}

}  // namespace pare::jinja
