#include "engine/tokenizer/jinja/machine.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/limits.h"

namespace pare::jinja {
Error Machine::wrong_value(Position at, std::string what, const Value& value) const {
  std::string got = value.kind_name();
  if (const Undefined* missing = value.get<Undefined>(); missing != nullptr && !missing->name.empty()) {
    got = fmt::format("{} is undefined", missing->name);
  }
  return fault(Exit::malformed, "CT13", at, std::move(what), std::move(got));
}

Status Machine::step(Position at, uint64_t count) {
  steps_ += count;
  if (steps_ <= limits::kTemplateSteps) return {};
  return fault(Exit::resource, "CT06", at, "template takes too many steps", fmt::format("{}", steps_),
               fmt::format("{}", limits::kTemplateSteps));
}

Status Machine::charge(Position at, uint64_t bytes) {
  bytes_ += bytes;
  if (bytes_ <= limits::kTemplateMemoryBytes) return {};
  return fault(Exit::resource, "CT08", at, "template makes too much text", fmt::format("{}", bytes_),
               fmt::format("{}", limits::kTemplateMemoryBytes));
}

Status Machine::check_text(Position at, uint64_t bytes) const {
  if (bytes <= limits::kTemplateTextBytes) return {};
  return fault(Exit::resource, "CT08", at, "text of a template too large", fmt::format("{}", bytes),
               fmt::format("{}", limits::kTemplateTextBytes));
}

Status Machine::check_list(Position at, uint64_t items) const {
  if (items <= limits::kTemplateListItems) return {};
  return fault(Exit::resource, "CT08", at, "list of a template too large", fmt::format("{}", items),
               fmt::format("{}", limits::kTemplateListItems));
}

template <typename Data>
Status Machine::measure(Position at, const std::vector<const Value*>& items, Data& data) const {
  constexpr int kDeepest = int(limits::kTemplateNesting) * 2;  // data may come in already nested
  int deepest = 0;
  for (const Value* item : items) {
    if (item->is<Value::Namespace>()) {
      return fault(Exit::unsupported, "CT04", at, "namespace inside another value is not supported");
    }
    deepest = std::max(deepest, item->depth());
    data.weight += item->weight() + 4;
    PARE_CHECK(check_weight(at, data.weight));
  }
  data.depth = deepest + 1;
  if (data.depth <= kDeepest) return {};
  return fault(Exit::resource, "CT07", at, "values nested too deeply", fmt::format("{}", data.depth),
               fmt::format("{}", kDeepest));
}

Status Machine::check_weight(Position at, uint64_t weight) const {
  if (weight <= limits::kTemplateMemoryBytes) return {};
  return fault(Exit::resource, "CT08", at, "value of a template too large", fmt::format("{}", weight),
               fmt::format("{}", limits::kTemplateMemoryBytes));
}

Result<Value> Machine::text(Position at, std::string text) {
  PARE_CHECK(check_text(at, text.size()));
  PARE_CHECK(charge(at, text.size() + sizeof(std::string)));
  return Value(std::move(text));
}

Result<Value> Machine::list(Position at, std::vector<Value> items, bool is_tuple) {
  PARE_CHECK(check_list(at, items.size()));
  PARE_CHECK(charge(at, items.size() * sizeof(Value)));
  auto data = std::make_shared<ListData>();
  data->is_tuple = is_tuple;
  data->items = std::move(items);
  std::vector<const Value*> values;
  for (const Value& item : data->items) values.push_back(&item);
  data->weight = 16;
  PARE_CHECK(measure(at, values, *data));
  return Value(Value::Form(Value::List(std::move(data))));
}

Result<Value> Machine::map(Position at, std::vector<std::pair<std::string, Value>> items) {
  PARE_CHECK(check_list(at, items.size()));
  auto data = std::make_shared<MapData>();
  data->items = std::move(items);
  data->weight = 16;
  std::vector<const Value*> values;
  for (const auto& [key, item] : data->items) {
    PARE_CHECK(charge(at, key.size() + sizeof(std::pair<std::string, Value>)));
    data->weight += key.size() + 8;
    values.push_back(&item);
  }
  PARE_CHECK(measure(at, values, *data));
  return Value(Value::Form(Value::Map(std::move(data))));
}

Result<std::string> Machine::printed(Position at, const Value& value) {
  if (value.weight() > limits::kTemplateTextBytes + 8) PARE_CHECK(check_text(at, value.weight()));
  PARE_CHECK(step(at, value.weight() / 4096));
  std::string text;
  append_text(text, value);
  PARE_CHECK(check_text(at, text.size()));
  return text;
}

const Value& Arguments::at(size_t index, std::string_view name) const {
  static const Value kMissing;
  if (index < positional.size()) return positional[index];
  for (const auto& [key, value] : named)
    if (key == name) return value;
  return kMissing;
}

bool Arguments::has(size_t index, std::string_view name) const {
  if (index < positional.size()) return true;
  return std::any_of(named.begin(), named.end(), [&](const auto& entry) { return entry.first == name; });
}

}  // namespace pare::jinja
