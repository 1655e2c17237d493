// What a source names to be read ahead: the bytes that load() gives, and nothing else.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "formats/open_model.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

bool lies_in(const Tensor& tensor, const std::vector<HostRange>& ranges) {
  for (const HostRange& range : ranges) {
    if (range.is_uploaded && tensor.raw() >= range.bytes.data() &&
        tensor.raw() + tensor.size_bytes() <= range.bytes.data() + range.bytes.size())
      return true;
  }
  return false;
}

// Parts of a loaded tensor that a device would be given.
std::vector<Tensor> parts_of(const WeightData& weight) {
  std::vector<Tensor> parts;
  const auto add = [&](const Tensor& tensor) {
    if (tensor.defined() && tensor.size_bytes() > 0) parts.push_back(tensor);
  };
  if (weight.is_dense()) add(weight.dense());
  if (weight.is_quantized()) {
    const QuantizedTensor& codes = *weight.quantized();
    for (const Tensor* part : {&codes.codes, &codes.scales, &codes.zero_points, &codes.minimums}) add(*part);
  }
  if (weight.is_low_rank()) {
    add(weight.low_rank()->left);
    add(weight.low_rank()->right);
  }
  return parts;
}

class HostRanges : public ::testing::TestWithParam<const char*> {};

TEST_P(HostRanges, AreWhatIsLoaded) {
  const std::string path = test::temporary_folder() + "/out" + GetParam();
  test::NamedWeights weights = test::tiny_weights();
  if (*GetParam() != '\0')
    for (auto& weight : test::form_weights()) weights.push_back(std::move(weight));
  test::write_model(path, weights, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  const size_t file_bytes =
      std::filesystem::file_size(*GetParam() != '\0' ? path : path + "/model.safetensors");
  size_t named = 0;
  int parts = 0;
  for (const StoredTensor& tensor : (*source)->tensors()) {
    const std::vector<HostRange> ranges = (*source)->host_ranges(tensor.name);
    for (const HostRange& range : ranges) {
      EXPECT_NE(range.keeper, nullptr);
      named += range.bytes.size();
    }
    const auto loaded = (*source)->load(tensor.name);
    ASSERT_TRUE(loaded) << format_error(loaded.error());
    for (const Tensor& part : parts_of(*loaded)) {
      if (!part.storage()->is_read_only()) continue;  // was not aligned
      EXPECT_TRUE(lies_in(part, ranges)) << tensor.name;
      ++parts;
    }
  }
  EXPECT_GT(parts, 0);
  EXPECT_LE(named, file_bytes);
  EXPECT_TRUE((*source)->host_ranges("no such tensor").empty());
}

// The bytes stay readable when the source is gone.
TEST_P(HostRanges, OutliveTheirSource) {
  const std::string path = test::temporary_folder() + "/out" + GetParam();
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  std::vector<HostRange> ranges;
  std::vector<std::byte> bytes;
  {
    const auto source = open_model(path);
    ASSERT_TRUE(source) << format_error(source.error());
    for (const StoredTensor& tensor : (*source)->tensors()) {
      for (HostRange& range : (*source)->host_ranges(tensor.name)) {
        bytes.insert(bytes.end(), range.bytes.begin(), range.bytes.end());
        ranges.push_back(std::move(range));
      }
    }
  }
  size_t at = 0;
  for (const HostRange& range : ranges) {
    if (range.bytes.empty()) continue;
    EXPECT_EQ(std::memcmp(range.bytes.data(), bytes.data() + at, range.bytes.size()), 0);
    at += range.bytes.size();
  }
  EXPECT_EQ(at, bytes.size());
  EXPECT_GT(at, 0u);
}

INSTANTIATE_TEST_SUITE_P(Formats, HostRanges, ::testing::Values("", ".pare"),
                         [](const auto& info) { return info.index == 0 ? "folder" : "pare"; });

}  // namespace
}  // namespace pare
