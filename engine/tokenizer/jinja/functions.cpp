// The functions that templates may call by name.
#include <fmt/core.h>

#include <array>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

Result<Value> make_range(Machine& machine, Position at, const Arguments& arguments) {
  std::array<int64_t, 3> parts = {0, 0, 1};
  const size_t count = arguments.positional.size();
  if (count == 0 || count > 3)
    return machine.fault(Exit::malformed, "CT13", at, "range takes one to three integers");
  for (size_t i = 0; i < count; ++i) {
    const Value& value = arguments.positional[i];
    if (!value.is_whole()) return machine.wrong_value(at, "argument is not an integer", value);
    parts[count == 1 ? 1 : i] = value.whole();
  }
  const auto [start, stop, step] = parts;
  if (step == 0) return machine.fault(Exit::malformed, "CT12", at, "range with step 0");
  // In unsigned arithmetic: the distance of two integers may not fit into a signed one.
  const uint64_t stride = step > 0 ? uint64_t(step) : uint64_t(0) - uint64_t(step);
  const bool is_empty = step > 0 ? start >= stop : start <= stop;
  const uint64_t distance = step > 0 ? uint64_t(stop) - uint64_t(start) : uint64_t(start) - uint64_t(stop);
  const uint64_t items = is_empty ? 0 : (distance - 1) / stride + 1;
  if (items > limits::kTemplateListItems) {
    return machine.fault(Exit::resource, "CT06", at, "range is too long", fmt::format("{}", items),
                         fmt::format("{}", limits::kTemplateListItems));
  }
  std::vector<Value> values;
  for (uint64_t i = 0; i < items; ++i) values.emplace_back(int64_t(uint64_t(start) + i * uint64_t(step)));
  return machine.list(at, std::move(values));
}

// Entries by name; one map by position may come first.
Result<std::vector<std::pair<std::string, Value>>> entries(Machine& machine, Position at,
                                                           const Arguments& arguments) {
  std::vector<std::pair<std::string, Value>> items;
  for (const Value& value : arguments.positional) {
    if (value.map() == nullptr) return machine.wrong_value(at, "argument is not a map", value);
    items.insert(items.end(), value.map()->items.begin(), value.map()->items.end());
  }
  for (const auto& [name, value] : arguments.named) {
    bool replaced = false;
    for (auto& item : items) {
      if (item.first == name) item.second = value, replaced = true;
    }
    if (!replaced) items.emplace_back(name, value);
  }
  return items;
}

// Days since 1970-01-01 in the Gregorian calendar. Source: Hinnant, "chrono-compatible low-level date
// algorithms".
int64_t days_from_civil(int64_t year, int64_t month, int64_t day) {
  year -= month <= 2 ? 1 : 0;
  const int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
  const int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return era * 146'097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719'468;
}

Result<Value> format_time(Machine& machine, Position at, const Arguments& arguments) {
  constexpr std::array<const char*, 7> kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                "Thursday", "Friday", "Saturday"};
  constexpr std::array<const char*, 12> kMonths = {"January",   "February", "March",    "April",
                                                   "May",       "June",     "July",     "August",
                                                   "September", "October",  "November", "December"};
  const Value& format = arguments.at(0, "format");
  if (format.text() == nullptr) return machine.wrong_value(at, "argument is not a text", format);
  if (!machine.now()) {
    return machine.fault(Exit::usage, "CT14", at,
                         "template asks for the date; give one with --now YYYY-MM-DD");
  }
  const CalendarTime& now = *machine.now();
  const int64_t days = days_from_civil(now.year, now.month, now.day);
  const std::string day = kDays[size_t(((days + 4) % 7 + 7) % 7)], month = kMonths[size_t(now.month - 1)];
  std::string out;
  const std::string& text = *format.text();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%' || i + 1 >= text.size()) {
      out += text[i];
      continue;
    }
    const bool plain = text[i + 1] == '-' && i + 2 < text.size();  // no leading zero
    i += plain ? 2 : 1;
    const auto number = [&](int value, int width) {
      out += plain ? fmt::format("{}", value) : fmt::format("{:0{}}", value, width);
    };
    switch (text[i]) {
      case 'Y':
        number(now.year, 4);
        break;
      case 'y':
        number(now.year % 100, 2);
        break;
      case 'm':
        number(now.month, 2);
        break;
      case 'd':
        number(now.day, 2);
        break;
      case 'H':
        number(now.hour, 2);
        break;
      case 'I':
        number(now.hour % 12 == 0 ? 12 : now.hour % 12, 2);
        break;
      case 'M':
        number(now.minute, 2);
        break;
      case 'S':
        number(now.second, 2);
        break;
      case 'j':
        number(int(days - days_from_civil(now.year, 1, 1)) + 1, 3);
        break;
      case 'p':
        out += now.hour < 12 ? "AM" : "PM";
        break;
      case 'A':
        out += day;
        break;
      case 'a':
        out += day.substr(0, 3);
        break;
      case 'B':
        out += month;
        break;
      case 'b':
        out += month.substr(0, 3);
        break;
      case '%':
        out += '%';
        break;
      default:
        return machine.fault(Exit::unsupported, "CT04", at, "date format is not supported",
                             quote(text.substr(i - 1, 2)));
    }
  }
  return machine.text(at, std::move(out));
}

}  // namespace

Result<Value> call_function(Machine& machine, Position at, Function function, const Arguments& arguments) {
  switch (function) {
    case Function::range:
      return make_range(machine, at, arguments);
    case Function::make_namespace: {
      PARE_TRY(auto items, entries(machine, at, arguments));
      PARE_TRY(const Value checked, machine.map(at, items));
      auto data = std::make_shared<NamespaceData>();
      data->items = std::move(items);
      return Value(Value::Form(std::move(data)));
    }
    case Function::dict: {
      PARE_TRY(auto items, entries(machine, at, arguments));
      return machine.map(at, std::move(items));
    }
    case Function::raise_exception: {
      PARE_TRY(const std::string message, machine.printed(at, arguments.at(0, "message")));
      return machine.fault(Exit::malformed, "CT09", at, "the template refuses: " + sanitize(message));
    }
    case Function::strftime_now:
      return format_time(machine, at, arguments);
  }
  return Value();
}

}  // namespace pare::jinja
