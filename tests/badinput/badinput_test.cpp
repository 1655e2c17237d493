// Every row of docs/bad-input.md that generated files can show: exit code, rule, the words of the line,
// nothing changed on disk.
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/core/text.h"
#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::optional<Error> open_and_load(const std::string& path, const OpenOptions& options) {
  const auto source = open_model(path, options);
  if (!source) return source.error();
  for (const StoredTensor& tensor : (*source)->tensors()) {
    const auto weight = (*source)->load(tensor.name);
    if (!weight) return weight.error();
    (*source)->release(tensor.name);
  }
  if (const Status status = (*source)->check_unchanged(); !status) return status.error();
  return std::nullopt;
}

// Names, kinds and contents of everything below a folder.
std::vector<std::string> contents(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::string line = entry.path().string();
    if (entry.is_symlink()) {
      line += " -> " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      const auto size = entry.file_size();
      // large sparse files are compared by size
      line += size < (16 << 20) ? " " + read_file(entry.path().string()) : " " + std::to_string(size);
    }
    all.push_back(line);
  }
  std::sort(all.begin(), all.end());
  return all;
}

class BadInput : public testing::TestWithParam<BadCase> {};

TEST_P(BadInput, IsAnsweredAsTheTableSays) {
  const BadCase& row = GetParam();
  const std::string folder = temporary_folder();
  const std::string path = row.make(folder);
  const auto before = contents(folder);
  const std::optional<Error> error = row.use ? row.use(path) : open_and_load(path, row.options);
  EXPECT_EQ(contents(folder), before);
  if (row.exit == Exit::ok) {
    EXPECT_FALSE(error) << format_error(*error);
    return;
  }
  ASSERT_TRUE(error) << "accepted";
  const std::string line = format_error(*error);
  EXPECT_EQ(int(error->exit), int(row.exit)) << line;
  EXPECT_EQ(error->rule, row.rule.value_or(row.id)) << line;
  EXPECT_FALSE(error->path.empty()) << line;
  for (const std::string& word : row.words)
    EXPECT_NE(line.find(word), std::string::npos) << "no '" << word << "' in: " << line;
  EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  EXPECT_EQ(line.find('\x1b'), std::string::npos) << line;
  EXPECT_LE(line.size(), 4096u);
}

std::string case_name(const testing::TestParamInfo<BadCase>& info) {
  std::string name = info.param.id + "_" + std::to_string(info.index) + "_" + info.param.name;
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Safetensors, BadInput, testing::ValuesIn(safetensors_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Index, BadInput, testing::ValuesIn(index_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Config, BadInput, testing::ValuesIn(config_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Container, BadInput, testing::ValuesIn(container_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Gguf, BadInput, testing::ValuesIn(gguf_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Refused, BadInput, testing::ValuesIn(refused_cases()), case_name);

}  // namespace
}  // namespace pare::test
