// tests/support/shared_data.h: where test data lies. The reference data beside the project is optional.
#pragma once

#include <optional>
#include <string>

namespace pare::test {

// Path of a file or folder below the shared reference data (environment variable PARE_SHARED_DATA, else the
// build option), or nothing when it is not there. The first miss is reported by main at the end of the run.
std::optional<std::string> shared_data(const std::string& relative);

// Path of a file in the source tree ("samples/books-3m").
std::string source_path(const std::string& relative);

// A fresh empty folder for the running test, removed when the process ends.
std::string temporary_folder();
// The same in memory where the system has that: for loops of thousands of syncs.
std::string memory_folder();

}  // namespace pare::test

// Binds `variable` to the path or skips the test.
#define PARE_SHARED_OR_SKIP(variable, relative)                                 \
  const auto variable##_found = ::pare::test::shared_data(relative);            \
  if (!variable##_found) GTEST_SKIP() << "without shared data: " << (relative); \
  const std::string variable = *variable##_found
