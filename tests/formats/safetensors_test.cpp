// safetensors files: what we write is what we read, for every type; fixtures of others; the reference order.
#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include "formats/open_model.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::random_tensor;
using test::same_bytes;

constexpr std::string_view kDTypes[] = {"BOOL",    "F4",      "F6_E2M3", "F6_E3M2",     "U8",          "I8",
                                        "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16",
                                        "U16",     "F16",     "BF16",    "I32",         "U32",         "F32",
                                        "C64",     "F64",     "I64",     "U64"};

TEST(Safetensors, RoundTripOfEveryTypeAndShape) {
  const std::string path = test::temporary_folder() + "/all.safetensors";
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const std::string_view dtype : kDTypes) {
    // 8 elements of any width end on a byte
    for (const Shape& shape : {Shape{8}, Shape{3, 8}, Shape{2, 0, 5}, Shape{1, 2, 1, 4, 1, 2, 1, 1}}) {
      tensors.emplace_back(std::string(dtype) + shape.text(),
                           random_tensor(*dtype_from_name(dtype), shape, tensors.size()));
    }
  }
  tensors.emplace_back("scalar", random_tensor(DType::f64, {}, 99));
  tensors.emplace_back("name with \"quotes\", \xc3\xa9 and \xf0\x9f\x8c\x8d",
                       random_tensor(DType::u8, {3}, 7));
  const Status written = write_safetensors(path, {}, tensors);
  ASSERT_TRUE(written) << format_error(written.error());

  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file) << format_error(file.error());
  EXPECT_EQ((*file)->entries().size(), tensors.size());
  EXPECT_EQ((*file)->header().data_begin % 64, 0u);
  ASSERT_EQ((*file)->header().metadata.size(), 1u);
  EXPECT_EQ((*file)->header().metadata[0], std::make_pair(std::string("format"), std::string("pt")));
  for (const auto& [name, tensor] : tensors) {
    const auto found = (*file)->load(name);
    ASSERT_TRUE(found) << name;
    EXPECT_TRUE(same_bytes(*found, tensor)) << name;
  }
  // Reference order: types fall, names rise.
  const auto& entries = (*file)->entries();
  for (size_t i = 1; i < entries.size(); ++i) EXPECT_GE(entries[i - 1].dtype, entries[i].dtype);
}

TEST(Safetensors, TheHeaderIsTheBytesOfTheSpecification) {
  const std::string path = test::temporary_folder() + "/one.safetensors";
  Tensor tensor = *Tensor::allocate(DType::u8, {2});
  tensor.mutable_data<uint8_t>()[1] = 7;
  const std::vector<std::pair<std::string, Tensor>> tensors = {{"a", tensor}};
  ASSERT_TRUE(write_safetensors(path, {}, tensors));
  const std::string json =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  std::string expected("\x78\0\0\0\0\0\0\0", 8);  // 120: padded so that the data starts at 128
  expected += json + std::string(120 - json.size(), ' ') + std::string("\0\7", 2);
  EXPECT_EQ(test::read_file(path), expected);
}

TEST(Safetensors, AnUnalignedTensorIsCopied) {
  const std::string path = test::temporary_folder() + "/odd.safetensors";
  const std::string json =
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  std::string bytes(8, '\0');
  bytes[0] = char(json.size());
  bytes += json + std::string("\1\0\0\x80\x3f", 5);
  test::write_file(path, bytes);
  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file) << format_error(file.error());
  const Tensor b = *(*file)->load("b");
  EXPECT_EQ(b.data<float>()[0], 1.0f);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 4, 0u);
}

TEST(Safetensors, PiecesGiveTheSameFileAsWholes) {
  const std::string folder = test::temporary_folder();
  const Tensor tensor = random_tensor(DType::f32, {4, 5}, 1);
  const std::vector<std::pair<std::string, Tensor>> tensors = {{"x", tensor}};
  ASSERT_TRUE(write_safetensors(folder + "/whole", {}, tensors));
  auto writer = SafetensorsWriter::create(folder + "/pieces", {}, {{"x", DType::f32, {4, 5}}});
  ASSERT_TRUE(writer);
  for (int64_t row = 0; row < 4; ++row)
    ASSERT_TRUE(writer->write(std::span(tensor.rows(row, row + 1).raw(), 20)));
  ASSERT_TRUE(writer->finish());
  EXPECT_EQ(test::read_file(folder + "/whole"), test::read_file(folder + "/pieces"));
}

TEST(Safetensors, AShardedFixtureOfOthersIsRead) {
  PARE_SHARED_OR_SKIP(sharded_path, "fixtures/llama-sharded");
  const auto sharded = open_model(sharded_path);
  ASSERT_TRUE(sharded) << format_error(sharded.error());
  EXPECT_EQ((*sharded)->format_name(), "safetensors");
  EXPECT_GT((*sharded)->tensors().size(), 10u);
  for (const StoredTensor& tensor : (*sharded)->tensors()) {
    const auto weight = (*sharded)->load(tensor.name);
    ASSERT_TRUE(weight) << tensor.name;
    EXPECT_EQ(weight->dense().size_bytes(), tensor.bytes);
    EXPECT_EQ(tensor.dtype, DType::bf16) << tensor.name;
    (*sharded)->release(tensor.name);
  }
  EXPECT_TRUE((*sharded)->check_unchanged());
  EXPECT_FALSE((*sharded)->load("no.such.tensor"));
}

}  // namespace
}  // namespace pare
