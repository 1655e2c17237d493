// engine/tokenizer/jinja/machine.h: what a rendering may spend, and how it fails. Every node is a step; every
// text, list and map that is made is charged; so no template runs for long or takes much memory.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/lexer.h"
#include "engine/tokenizer/jinja/value.h"

namespace pare::jinja {

// What strftime_now() prints; no clock is read.
struct CalendarTime {
  int year = 1970, month = 1, day = 1, hour = 0, minute = 0, second = 0;
};

class Machine {
 public:
  Machine(std::string path, std::optional<CalendarTime> now) : path_(std::move(path)), now_(now) {}

  const std::optional<CalendarTime>& now() const { return now_; }
  Error fault(Exit exit, const char* rule, Position at, std::string what, std::string got = {},
              std::string limit = {}) const {
    return template_error(exit, rule, path_, at, std::move(what), std::move(got), std::move(limit));
  }
  // A value that an operation cannot take: CT13 (3).
  Error wrong_value(Position at, std::string what, const Value& value) const;

  Status step(Position at, uint64_t count = 1);             // CT06 (6)
  Status charge(Position at, uint64_t bytes);               // CT08 (6)
  Status check_text(Position at, uint64_t bytes) const;     // CT08 (6): any one string
  Status check_list(Position at, uint64_t items) const;     // CT08 (6): any one list
  Status check_weight(Position at, uint64_t weight) const;  // CT08 (6): any one value, printed

  // Values that are charged and kept within the caps.
  Result<Value> text(Position at, std::string text);
  Result<Value> list(Position at, std::vector<Value> items, bool is_tuple = false);
  Result<Value> map(Position at, std::vector<std::pair<std::string, Value>> items);
  // As `{{ value }}` prints it.
  Result<std::string> printed(Position at, const Value& value);

 private:
  // Of a list or map with these items; CT07, CT08 (6).
  template <typename Data>
  Status measure(Position at, const std::vector<const Value*>& items, Data& data) const;
  std::string path_;
  std::optional<CalendarTime> now_;
  uint64_t steps_ = 0, bytes_ = 0;
};

// Evaluated arguments of a call, filter or test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // By position, else by name, else undefined.
  const Value& at(size_t index, std::string_view name) const;
  bool has(size_t index, std::string_view name) const;
};

// --- the fixed lists of what templates can use; anything else is CT04 or CT05 (4)
// --------------------------------

Result<Value> call_method(Machine& machine, Position at, const Value& object, const std::string& name,
                          const Arguments& arguments);
Result<Value> apply_filter(Machine& machine, Position at, const std::string& name, const Value& value,
                           const Arguments& arguments);
// Filters over lists (map, select, sort ...); nothing when `name` is none of them.
Result<std::optional<Value>> apply_list_filter(Machine& machine, Position at, const std::string& name,
                                               const Value& value, const Arguments& arguments);
Result<bool> apply_test(Machine& machine, Position at, const std::string& name, const Value& value,
                        const Arguments& arguments);
Result<Value> call_function(Machine& machine, Position at, Function function, const Arguments& arguments);

// value.name, value[index]; CT05 (4) for attributes that are not data, CT12 (3) for an index out of range.
Result<Value> get_attribute(Machine& machine, Position at, const Value& value, const std::string& name);
Result<Value> get_item(Machine& machine, Position at, const Value& value, const Value& index);
// The items of anything that can be looped over; CT13 (3) otherwise.
Result<std::vector<Value>> items_of(Machine& machine, Position at, const Value& value);
// Order of two values for <, sort, min and max; CT13 (3) when there is none.
Result<int> compare(Machine& machine, Position at, const Value& a, const Value& b);
Result<bool> contains(Machine& machine, Position at, const Value& container, const Value& item);

}  // namespace pare::jinja
