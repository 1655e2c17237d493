// Attributes, subscripts, loops over values, comparison.
#include <fmt/core.h>
#include <string.h>

#include <algorithm>

#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

Error not_data(Machine& machine, Position at, const Value& value, const std::string& name) {
  return machine.fault(Exit::unsupported, "CT05", at,
                       fmt::format("attribute of a {} is not supported", value.kind_name()), quote(name));
}

Result<Value> loop_field(Machine& machine, Position at, const LoopData& loop, const std::string& name) {
  const int64_t count = int64_t(loop.items->items.size()), index = loop.index;
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(count - index);
  if (name == "revindex0") return Value(count - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == count);
  if (name == "length") return Value(count);
  if (name == "depth" || name == "depth0") return Value(int64_t(name == "depth" ? 1 : 0));  // of recursion
  const auto neighbour = [&](int64_t other) {
    return other >= 0 && other < count ? loop.items->items[size_t(other)] : Value::undefined("loop." + name);
  };
  if (name == "previtem") return neighbour(index - 1);
  if (name == "nextitem") return neighbour(index + 1);
  return machine.fault(Exit::unsupported, "CT05", at, "attribute of loop is not supported", quote(name));
}

}  // namespace

Result<Value> get_attribute(Machine& machine, Position at, const Value& value, const std::string& name) {
  if (name.starts_with("__")) return not_data(machine, at, value, name);
  if (const MapData* map = value.map()) {
    const Value* found = map->find(name);
    return found != nullptr ? *found : Value::undefined(name);
  }
  if (const auto* names = value.get<Value::Namespace>()) {
    const Value* found = (*names)->find(name);
    return found != nullptr ? *found : Value::undefined(name);
  }
  if (const auto* loop = value.get<Value::Loop>()) return loop_field(machine, at, **loop, name);
  if (value.is_undefined()) {
    return machine.wrong_value(at, fmt::format("attribute {} of an undefined value", quote(name)), value);
  }
  return not_data(machine, at, value, name);
}

Result<Value> get_item(Machine& machine, Position at, const Value& value, const Value& index) {
  if (const std::string* name = index.text()) {
    if (value.list() != nullptr || value.text() != nullptr || value.is_number() || value.is_none()) {
      return not_data(machine, at, value, *name);
    }
    return get_attribute(machine, at, value, *name);
  }
  if (value.map() != nullptr) return Value::undefined("item");
  if (!index.is_whole()) return machine.wrong_value(at, "subscript is not an integer or a name", index);
  const auto out_of_range = [&](int64_t size) {
    return machine.fault(Exit::malformed, "CT12", at, "index out of range", fmt::format("{}", index.whole()),
                         fmt::format("{}", size));
  };
  int64_t i = index.whole();
  if (const ListData* list = value.list()) {
    const int64_t size = int64_t(list->items.size());
    if (i < 0) i += size;
    if (i < 0 || i >= size) return out_of_range(size);
    return list->items[size_t(i)];
  }
  if (const std::string* text = value.text()) {
    PARE_CHECK(machine.step(at, text->size() / 1024));
    const int64_t size = unicode::count_characters(*text);
    if (i < 0) i += size;
    if (i < 0 || i >= size) return out_of_range(size);
    const size_t begin = offset_of_character(*text, i);
    return machine.text(at, text->substr(begin, unicode::decode_at(text->data() + begin).bytes));
  }
  return machine.wrong_value(at, "value has no items", value);
}

Result<std::vector<Value>> items_of(Machine& machine, Position at, const Value& value) {
  if (const ListData* list = value.list()) {
    PARE_CHECK(machine.charge(at, list->items.size() * sizeof(Value)));
    return list->items;
  }
  std::vector<Value> items;
  if (const MapData* map = value.map()) {
    for (const auto& entry : map->items) {
      PARE_TRY(Value key, machine.text(at, entry.first));
      items.push_back(std::move(key));
    }
    return items;
  }
  if (const std::string* text = value.text()) {
    PARE_CHECK(machine.check_list(at, text->size()));
    for (size_t i = 0; i < text->size();) {
      const uint32_t bytes = unicode::decode_at(text->data() + i).bytes;
      PARE_TRY(Value character, machine.text(at, text->substr(i, bytes)));
      items.push_back(std::move(character));
      i += bytes;
    }
    return items;
  }
  if (value.is_undefined()) return items;
  return machine.wrong_value(at, "value cannot be looped over", value);
}

Result<int> compare(Machine& machine, Position at, const Value& a, const Value& b) {
  const auto order = [](const auto& x, const auto& y) { return x < y ? -1 : y < x ? 1 : 0; };
  if (a.is_whole() && b.is_whole()) return order(a.whole(), b.whole());
  if (a.is_number() && b.is_number()) return order(a.number(), b.number());
  if (a.text() != nullptr && b.text() != nullptr) {
    PARE_CHECK(machine.step(at, std::min(a.text()->size(), b.text()->size()) / 4096));
    return order(*a.text(), *b.text());  // the order of UTF-8 bytes is that of characters
  }
  if (a.list() != nullptr && b.list() != nullptr) {
    PARE_CHECK(machine.step(at, std::min(a.weight(), b.weight()) / 1024));
    const auto &x = a.list()->items, &y = b.list()->items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      PARE_CHECK(machine.step(at));
      if (x[i].equals(y[i])) continue;
      return compare(machine, at, x[i], y[i]);
    }
    return order(x.size(), y.size());
  }
  return machine.wrong_value(at, fmt::format("cannot be compared with a {}", b.kind_name()), a);
}

Result<bool> contains(Machine& machine, Position at, const Value& container, const Value& item) {
  if (const std::string* text = container.text()) {
    if (item.text() == nullptr) return machine.wrong_value(at, "only texts can be in a text", item);
    PARE_CHECK(machine.step(at, text->size() / 1024));
    return find_text(*text, *item.text(), 0) != std::string::npos;
  }
  if (const MapData* map = container.map()) {
    PARE_CHECK(machine.step(at, map->items.size() / 16));
    return item.text() != nullptr && map->find(*item.text()) != nullptr;
  }
  if (const ListData* list = container.list()) {
    PARE_CHECK(machine.step(at, list->items.size() / 16 + list->weight / 1024));
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& one) { return one.equals(item); });
  }
  if (container.is_undefined()) return false;
  return machine.wrong_value(at, "value cannot hold others", container);
}

}  // namespace pare::jinja
