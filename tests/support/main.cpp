// main of every test program: GoogleTest, and one line that says whether reference data was there.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/support/shared_data.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  if (!pare::test::shared_data("fixtures")) std::puts("note: ran without the shared reference data");
  return result;
}
