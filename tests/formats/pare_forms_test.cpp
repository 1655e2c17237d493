// Sparse and low-rank tensors in .pare files: round trips of everything, bytes, damage, and what other
// formats make of them.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "engine/core/file.h"
#include "formats/open_model.h"
#include "formats/pare_forms.h"
#include "formats/pare_frame.h"
#include "formats/verify.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/random_sparse.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::NamedWeights;
using test::pattern_of;
using test::random_codes;
using test::random_mask;
using test::random_matrix;
using test::same_bytes;

// Every part is the same, byte for byte.
void expect_same_form(const WeightData& found, const WeightData& expected, const std::string& name) {
  ASSERT_EQ(found.form.index(), expected.form.index()) << name;
  EXPECT_EQ(found.transposed, expected.transposed) << name;
  PareTensor a, b;
  const auto found_parts = parts_of(found, a), parts = parts_of(expected, b);
  ASSERT_EQ(found_parts.size(), parts.size()) << name;
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(found_parts[i].first, parts[i].first) << name;
    EXPECT_TRUE(same_bytes(found_parts[i].second, parts[i].second)) << name << " " << parts[i].first;
  }
  EXPECT_EQ(a.shape, b.shape) << name;
  EXPECT_EQ(a.scheme, b.scheme) << name;
  EXPECT_EQ(a.pattern, b.pattern) << name;
  EXPECT_EQ(a.activation, b.activation) << name;
  EXPECT_TRUE(same_bytes(*found.to_dense_tensor(), *expected.to_dense_tensor())) << name;
}

void expect_round_trip(const NamedWeights& weights) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, weights, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  ASSERT_EQ((*source)->tensors().size(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& [name, weight] = weights[i];
    const auto found = (*source)->load(name);
    ASSERT_TRUE(found) << format_error(found.error());
    expect_same_form(*found, weight, name);
    // What is listed without reading is what is there.
    const StoredTensor listed = (*source)->tensors()[i], described = weight.described(name);
    EXPECT_EQ(listed.form_name(), described.form_name()) << name;
    EXPECT_EQ(listed.form_text(), described.form_text()) << name;
    EXPECT_EQ(listed.shape, described.shape) << name;
    EXPECT_EQ(listed.bytes, described.bytes) << name;
    EXPECT_EQ(listed.kept, described.kept) << name;
    EXPECT_EQ(listed.rank, described.rank) << name;
    EXPECT_EQ(listed.base_dtype, described.base_dtype) << name;
    const TensorRecord& record = (*source)->manifest()->tensors[i];
    EXPECT_EQ(record.kind, described.form_name()) << name;
    EXPECT_EQ(record.scheme, described.scheme ? described.scheme->text() : "") << name;
  }
  const auto report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty()) << format_error(report->faults[0]);
}

TEST(PareForms, RoundTripOfEveryForm) {
  expect_round_trip(test::form_weights());
}

TEST(PareForms, RoundTripOfEveryPatternTypeAndScheme) {
  NamedWeights weights;
  const char* schemes[] = {"int2-g16", "int3-g32-asym", "int4-g64",      "int4-g16-asymf",
                           "int5-ch",  "int6-tensor",   "int7-ch-asym",  "int8-ch-sym",
                           "nf4-g64",  "fp8-e4m3-ch",   "codebook3-g16", "int8-ch-sf32"};
  const DType dtypes[] = {DType::f32, DType::bf16, DType::f16};
  uint64_t next = 0;
  for (const char* text :
       {"unstructured", "1:2", "2:4", "4:8", "7:16", "1:3", "block-1x8", "block-4x4", "block-16x16"}) {
    const SparsityPattern pattern = pattern_of(text);
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {7, 45}, {18, 33}, {0, 8}, {4, 0}}) {
      for (const double share : {0.0, 0.5, 1.0}) {
        ++next;
        const std::string name = std::to_string(next) + "." + text;
        const Mask mask = random_mask(pattern, out, in, share, next);
        weights.emplace_back(name,
                             WeightData{std::make_shared<const SparseTensor>(*SparseTensor::from_dense(
                                            random_matrix(dtypes[next % 3], out, in, next), mask, pattern)),
                                        next % 2 == 0});
        QuantizedTensor codes = random_codes(schemes[next % std::size(schemes)], out, in, next);
        if (codes.scheme.bits == 8 && codes.scheme.kind == QuantScheme::Kind::integer)
          codes.activation = ActivationQuant{};
        weights.emplace_back(name + ".codes",
                             WeightData{std::make_shared<const SparseTensor>(
                                            *SparseTensor::from_quantized(codes, mask, pattern)),
                                        next % 3 == 0});
      }
    }
  }
  expect_round_trip(weights);
}

TEST(PareForms, BytesOfTheFile) {
  const int64_t out = 128, in = 2048;
  const auto bits = [&](const WeightData& weight) {
    const std::string path = test::temporary_folder() + "/m.pare";
    test::write_model(path, {{"w", weight}}, test::tiny_options());
    const auto source = open_model(path);
    return 8.0 * double((*source)->tensors()[0].bytes) / double(out * in);
  };
  const Mask two = random_mask(pattern_of("2:4"), out, in, 0.5, 1);
  const Tensor weight = random_matrix(DType::bf16, out, in, 1);
  const QuantizedTensor codes = random_codes("int4-g64", out, in, 1);
  const auto sparse = [](SparseTensor tensor) {
    return WeightData{std::make_shared<const SparseTensor>(std::move(tensor)), false};
  };
  EXPECT_EQ(bits(sparse(*SparseTensor::from_dense(weight, two, pattern_of("2:4")))), 9.0);
  EXPECT_EQ(bits(sparse(*SparseTensor::from_quantized(codes, two, pattern_of("2:4")))), 3.25);
  EXPECT_NEAR(bits(sparse(*SparseTensor::from_dense(weight, two, {}))), 9.0, 0.04);
  EXPECT_LE(9.04 / 16, 0.60);
}

// Any damage: verify says where, with exit 3 or 4 (7 for values), and the reader never goes astray.
void expect_found(const std::string& path, const std::string& what) {
  const auto report = verify_model(path);
  ASSERT_TRUE(!report || !report->faults.empty()) << what;
  const Error& error = report ? report->faults[0] : report.error();
  ASSERT_TRUE(error.exit == Exit::malformed || error.exit == Exit::unsupported)
      << what << format_error(error);
  const auto source = open_model(path);
  if (!source) return;
  for (const StoredTensor& tensor : (*source)->tensors()) static_cast<void>((*source)->load(tensor.name));
}

TEST(PareForms, TruncationsAreFound) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::form_weights(), test::tiny_options());
  for (auto length = int64_t(test::read_file(path).size()) - 1; length >= 0; length -= 19) {
    ASSERT_EQ(::truncate(path.c_str(), length), 0);
    expect_found(path, "length " + std::to_string(length));
    if (HasFatalFailure()) return;
  }
}

TEST(PareForms, FlippedBitsAreFound) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::form_weights(), test::tiny_options());
  const std::string bytes = test::read_file(path);
  const auto input = InputFile::open(path);
  ASSERT_TRUE(input);
  const auto frame = read_pare_frame(*input);
  ASSERT_TRUE(frame);
  const int file = ::open(path.c_str(), O_RDWR);
  // Every byte of the payload, samples of the directory.
  for (size_t byte = 0; byte < bytes.size(); byte += byte < frame->directory_offset ? 1 : 11) {
    const char flipped = char(bytes[byte] ^ (1 << (byte % 8)));
    ASSERT_EQ(::pwrite(file, &flipped, 1, off_t(byte)), 1);
    expect_found(path, "byte " + std::to_string(byte));
    ASSERT_EQ(::pwrite(file, &bytes[byte], 1, off_t(byte)), 1);
    if (HasFatalFailure()) break;
  }
  ::close(file);
}

// A directory of safetensors holds the same values with zeros, in the type of the values; the manifest says
// it.
TEST(PareForms, DirectoriesHoldZeros) {
  const std::string path = test::temporary_folder() + "/m";
  const NamedWeights weights = test::form_weights();
  auto sink = create_model(path, test::tiny_options());
  ASSERT_TRUE(sink);
  Manifest manifest;
  for (const auto& [name, weight] : weights) {
    ASSERT_TRUE((*sink)->put(name, weight));
    TensorRecord record;
    record.name = name;
    record.kind = weight.described(name).form_name();
    manifest.tensors.push_back(std::move(record));
  }
  const Status finished = (*sink)->finish(manifest);
  ASSERT_TRUE(finished) << format_error(finished.error());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  for (const auto& [name, weight] : weights) {
    const auto found = (*source)->load(name);
    ASSERT_TRUE(found && found->is_dense()) << name;
    Tensor expected = *weight.to_dense_tensor();
    const StoredTensor stored = weight.described(name);
    if (weight.is_low_rank()) expected = *converted(expected, stored.dtype);
    EXPECT_TRUE(same_bytes(found->dense(), expected)) << name;
    EXPECT_EQ(found->dense().dtype(), stored.scheme && !weight.is_low_rank() ? DType::f32 : stored.dtype)
        << name;
  }
  for (const TensorRecord& record : (*source)->manifest()->tensors) {
    EXPECT_EQ(record.kind, "dense");
    ASSERT_NE(record.extra.find("expanded_from"), nullptr) << record.name;
  }
}

TEST(PareForms, AnInfiniteProductIsFoundBySelfCheck) {
  LowRankTensor product;
  product.shape = Shape{2, 2};
  product.left = *Tensor::allocate(DType::f32, {2, 1});
  product.right = *Tensor::allocate(DType::f32, {1, 2});
  for (int i = 0; i < 2; ++i)
    product.left.mutable_data<float>()[i] = product.right.mutable_data<float>()[i] = 3e30f;
  auto sink = create_model(test::temporary_folder() + "/m.pare", test::tiny_options());
  ASSERT_TRUE((*sink)->put("w", WeightData{std::make_shared<const LowRankTensor>(product), false}));
  const Status finished = (*sink)->finish(Manifest{});
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().rule, "NU12");
}

}  // namespace
}  // namespace pare
