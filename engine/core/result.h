// engine/core/result.h: a value or an Error. GCC 12 has no std::expected.
#pragma once

#include <optional>
#include <utility>
#include <variant>

#include "engine/core/error.h"

namespace pare {

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT: implicit on purpose
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return state_.index() == 0; }
  explicit operator bool() const { return has_value(); }

  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const { return std::get<1>(state_); }
  Error& error() { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

// Success, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit on purpose

  bool has_value() const { return !error_.has_value(); }
  explicit operator bool() const { return has_value(); }
  const Error& error() const { return *error_; }
  Error& error() { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace pare

#define PARE_CONCAT_INNER(a, b) a##b
#define PARE_CONCAT(a, b) PARE_CONCAT_INNER(a, b)

// PARE_TRY(auto header, read_header(file)): binds the value or returns the error to the caller.
#define PARE_TRY(declaration, expression) \
  PARE_TRY_IMPL(PARE_CONCAT(pare_result_, __COUNTER__), declaration, expression)
#define PARE_TRY_IMPL(name, declaration, expression) \
  auto name = (expression);                          \
  if (!name) return std::move(name).error();         \
  declaration = *std::move(name)

// PARE_CHECK(file.close()): returns the error of a Status to the caller.
#define PARE_CHECK(expression)                                                                   \
  do {                                                                                           \
    if (auto pare_status_ = (expression); !pare_status_) return std::move(pare_status_).error(); \
  } while (false)
