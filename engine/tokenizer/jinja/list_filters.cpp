// Filters over lists and maps.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

// "a.b.0" of an item; undefined when the last step finds nothing.
Result<Value> attribute_of(Machine& machine, Position at, const Value& item, const Value& attribute) {
  if (attribute.is_whole()) return get_item(machine, at, item, attribute);
  if (attribute.text() == nullptr) return machine.wrong_value(at, "attribute is not a name", attribute);
  Value value = item;
  std::string_view rest = *attribute.text();
  while (!rest.empty()) {
    const size_t dot = std::min(rest.find('.'), rest.size());
    const std::string part(rest.substr(0, dot));
    rest.remove_prefix(std::min(rest.size(), dot + 1));
    if (const auto index = parse_int(part)) {
      PARE_TRY(value, get_item(machine, at, value, Value(*index)));
    } else {
      PARE_TRY(value, get_attribute(machine, at, value, part));
    }
  }
  return value;
}

struct ListFilter {
  Machine& machine;
  Position at;
  const Value& value;
  const Arguments& arguments;

  Result<std::vector<Value>> items() const { return items_of(machine, at, value); }

  // Arguments from the second (third) on, for the filter or test that is applied to items.
  Arguments rest(size_t first) const {
    Arguments others;
    for (size_t i = first; i < arguments.positional.size(); ++i)
      others.positional.push_back(arguments.positional[i]);
    return others;
  }
  Result<std::string> name_at(size_t index) const {
    const Value& name = arguments.at(index, {});
    if (name.text() == nullptr) return machine.wrong_value(at, "expected the name of a filter or test", name);
    return *name.text();
  }

  Result<Value> map() const {
    PARE_TRY(std::vector<Value> values, items());
    if (arguments.has(SIZE_MAX, "attribute")) {
      const Value& attribute = arguments.at(SIZE_MAX, "attribute");
      for (Value& one : values) {
        PARE_CHECK(machine.step(at));
        PARE_TRY(one, attribute_of(machine, at, one, attribute));
        if (one.is_undefined() && arguments.has(SIZE_MAX, "default")) one = arguments.at(SIZE_MAX, "default");
      }
    } else {
      PARE_TRY(const std::string name, name_at(0));
      if (name == "map") return machine.fault(Exit::unsupported, "CT04", at, "map of map is not supported");
      const Arguments others = rest(1);
      for (Value& one : values) {
        PARE_TRY(one, apply_filter(machine, at, name, one, others));
      }
    }
    return machine.list(at, std::move(values));
  }

  // Keeps (or drops) the items for which a test holds, of themselves or of an attribute.
  Result<Value> select(bool by_attribute, bool keep) const {
    PARE_TRY(const std::vector<Value> values, items());
    const size_t test_index = by_attribute ? 1 : 0;
    const bool has_test = arguments.positional.size() > test_index;
    std::string test;
    if (has_test) {
      PARE_TRY(test, name_at(test_index));
    }
    const Arguments others = rest(test_index + 1);
    std::vector<Value> kept;
    for (const Value& one : values) {
      PARE_CHECK(machine.step(at));
      Value subject = one;
      if (by_attribute) {
        PARE_TRY(subject, attribute_of(machine, at, one, arguments.at(0, "attr")));
      }
      bool holds = subject.truth();
      if (has_test) {
        PARE_TRY(holds, apply_test(machine, at, test, subject, others));
      }
      if (holds == keep) kept.push_back(one);
    }
    return machine.list(at, std::move(kept));
  }

  // What an item is sorted by: an attribute when asked for, texts without case unless asked.
  Result<Value> key_of(const Value& item, const Value& attribute, bool case_sensitive) const {
    Value key = item;
    if (!attribute.is_undefined() && !attribute.is_none()) {
      PARE_TRY(key, attribute_of(machine, at, item, attribute));
    }
    if (key.text() == nullptr || case_sensitive) return key;
    return machine.text(at, lower_case(*key.text()));
  }

  struct Keyed {
    Value key, item;
  };
  Result<std::vector<Keyed>> keyed(const std::vector<Value>& values, const Value& attribute,
                                   bool case_sensitive) const {
    std::vector<Keyed> list;
    for (const Value& one : values) {
      PARE_TRY(Value key, key_of(one, attribute, case_sensitive));
      list.push_back({std::move(key), one});
    }
    return list;
  }

  // Stable; equal keys keep their order in reverse as well.
  Status sort_keyed(std::vector<Keyed>& list, bool reverse) const {
    std::optional<Error> error;
    std::stable_sort(list.begin(), list.end(), [&](const Keyed& a, const Keyed& b) {
      if (error) return false;
      if (auto status = machine.step(at); !status) {
        error = status.error();
        return false;
      }
      const auto order = compare(machine, at, reverse ? b.key : a.key, reverse ? a.key : b.key);
      if (!order) error = order.error();
      return order && *order < 0;
    });
    if (error) return *error;
    return {};
  }

  Result<Value> sort() const {
    PARE_TRY(const std::vector<Value> values, items());
    PARE_TRY(std::vector<Keyed> list,
             keyed(values, arguments.at(2, "attribute"), arguments.at(1, "case_sensitive").truth()));
    PARE_CHECK(sort_keyed(list, arguments.at(0, "reverse").truth()));
    return unkeyed(std::move(list));
  }
  Result<Value> unkeyed(std::vector<Keyed> list) const {
    std::vector<Value> sorted;
    for (Keyed& one : list) sorted.push_back(std::move(one.item));
    return machine.list(at, std::move(sorted));
  }

  Result<Value> dict_sort() const {
    PARE_TRY(const Value pairs, pair_list());
    const Value& by = arguments.at(1, "by");
    const bool by_value = by.text() != nullptr && *by.text() == "value";
    PARE_TRY(std::vector<Keyed> list, keyed(pairs.list()->items, Value(int64_t(by_value ? 1 : 0)),
                                            arguments.at(0, "case_sensitive").truth()));
    PARE_CHECK(sort_keyed(list, arguments.at(2, "reverse").truth()));
    return unkeyed(std::move(list));
  }

  Result<Value> extreme(bool largest) const {
    PARE_TRY(const std::vector<Value> values, items());
    PARE_TRY(const std::vector<Keyed> list,
             keyed(values, arguments.at(1, "attribute"), arguments.at(0, "case_sensitive").truth()));
    if (list.empty()) return Value::undefined(largest ? "max" : "min");
    size_t best = 0;
    for (size_t i = 1; i < list.size(); ++i) {
      PARE_TRY(const int order, compare(machine, at, list[i].key, list[best].key));
      if (largest ? order > 0 : order < 0) best = i;
    }
    return list[best].item;
  }

  Result<Value> unique() const {
    PARE_TRY(const std::vector<Value> values, items());
    PARE_TRY(const std::vector<Keyed> list,
             keyed(values, arguments.at(1, "attribute"), arguments.at(0, "case_sensitive").truth()));
    std::vector<Value> kept, keys;
    for (const Keyed& one : list) {
      PARE_CHECK(machine.step(at, keys.size() / 16 + one.key.weight() / 1024));
      if (std::any_of(keys.begin(), keys.end(), [&](const Value& key) { return key.equals(one.key); }))
        continue;
      keys.push_back(one.key);
      kept.push_back(one.item);
    }
    return machine.list(at, std::move(kept));
  }

  Result<Value> sum() const {
    PARE_TRY(const std::vector<Value> values, items());
    const Value& attribute = arguments.at(0, "attribute");
    Value total = arguments.has(1, "start") ? arguments.at(1, "start") : Value(int64_t(0));
    for (const Value& one : values) {
      PARE_TRY(const Value item, key_of(one, attribute, true));
      if (!item.is_number() || !total.is_number())
        return machine.wrong_value(at, "value is not a number", item);
      if (item.is_whole() && total.is_whole()) {
        int64_t whole = 0;
        if (__builtin_add_overflow(total.whole(), item.whole(), &whole)) {
          return machine.fault(Exit::malformed, "CT12", at, "integer overflow");
        }
        total = Value(whole);
      } else {
        total = Value(total.number() + item.number());
      }
    }
    return total;
  }

  Result<Value> join() const {
    PARE_TRY(const std::vector<Value> values, items());
    PARE_TRY(const std::string separator, machine.printed(at, arguments.at(0, "d")));
    const Value& attribute = arguments.at(1, "attribute");
    std::string out;
    for (size_t i = 0; i < values.size(); ++i) {
      PARE_TRY(const Value item, key_of(values[i], attribute, true));
      PARE_TRY(const std::string text, machine.printed(at, item));
      out += (i > 0 ? separator : std::string()) + text;
      PARE_CHECK(machine.check_text(at, out.size()));
    }
    return machine.text(at, std::move(out));
  }

  Result<Value> end_of(bool first) const {
    PARE_TRY(std::vector<Value> values, items());
    if (values.empty()) return Value::undefined(first ? "first" : "last");
    return first ? values.front() : values.back();
  }

  Result<Value> reverse() const {
    PARE_TRY(std::vector<Value> values, items());
    std::reverse(values.begin(), values.end());
    if (value.text() == nullptr) return machine.list(at, std::move(values));
    std::string out;
    for (const Value& one : values) out += *one.text();
    return machine.text(at, std::move(out));
  }

  Result<Value> list() const {
    PARE_TRY(std::vector<Value> values, items());
    return machine.list(at, std::move(values));
  }

  Result<Value> pair_list() const {
    if (value.is_undefined()) return machine.list(at, {});
    if (value.map() == nullptr) return machine.wrong_value(at, "value is not a map", value);
    return call_method(machine, at, value, "items", {});
  }
};

}  // namespace

Result<std::optional<Value>> apply_list_filter(Machine& machine, Position at, const std::string& name,
                                               const Value& value, const Arguments& arguments) {
  const ListFilter filter{machine, at, value, arguments};
  const auto result = [&]() -> std::optional<Result<Value>> {
    if (name == "join") return filter.join();
    if (name == "map") return filter.map();
    if (name == "select") return filter.select(false, true);
    if (name == "reject") return filter.select(false, false);
    if (name == "selectattr") return filter.select(true, true);
    if (name == "rejectattr") return filter.select(true, false);
    if (name == "first") return filter.end_of(true);
    if (name == "last") return filter.end_of(false);
    if (name == "list") return filter.list();
    if (name == "reverse") return filter.reverse();
    if (name == "sort") return filter.sort();
    if (name == "unique") return filter.unique();
    if (name == "sum") return filter.sum();
    if (name == "min") return filter.extreme(false);
    if (name == "max") return filter.extreme(true);
    if (name == "items") return filter.pair_list();
    if (name == "dictsort") return filter.dict_sort();
    return std::nullopt;
  }();
  if (!result) return std::optional<Value>();
  if (!*result) return result->error();
  return std::optional<Value>(**result);
}

}  // namespace pare::jinja
