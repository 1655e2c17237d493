// The .pare container: round trips, and no damage goes unseen.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "engine/core/file.h"
#include "formats/open_model.h"
#include "formats/pare_frame.h"
#include "formats/verify.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::NamedWeights;
using test::random_quantized;
using test::same_bytes;

void expect_same(const WeightSource& source, const NamedWeights& weights) {
  ASSERT_EQ(source.tensors().size(), weights.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto& [name, weight] = weights[i];
    EXPECT_EQ(source.tensors()[i].name, name);  // execution order is kept
    const auto found = source.load(name);
    ASSERT_TRUE(found) << format_error(found.error());
    ASSERT_EQ(found->is_quantized(), weight.is_quantized()) << name;
    EXPECT_EQ(found->transposed, weight.transposed) << name;
    if (weight.is_quantized()) {
      EXPECT_TRUE(same_bytes(*found->quantized(), *weight.quantized())) << name;
    } else {
      EXPECT_TRUE(same_bytes(found->dense(), weight.dense())) << name;
    }
    source.release(name);
  }
}

TEST(Pare, RoundTripOfEveryScheme) {
  const std::string path = test::temporary_folder() + "/m.pare";
  NamedWeights weights = test::tiny_weights();
  for (const char* scheme :
       {"int8-tensor", "int8-ch", "int4-g8-sym", "int4-g8-asym", "int4-g8-asymf", "int3-ch", "int2-g8-asym",
        "int8-g16-sf32", "nf4-g8", "fp8-e4m3-ch", "fp8-e5m2-ch-sbf16", "int5-g8", "int6-g8", "int7-ch-asym",
        "codebook2-ch", "codebook3-g8", "codebook8-g16-sf32"}) {
    const auto parsed = QuantScheme::parse(scheme);
    ASSERT_TRUE(parsed) << scheme;
    for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {0, 8}, {5, 64}}) {
      const std::string name = std::string(scheme) + "." + std::to_string(out) + "x" + std::to_string(in);
      weights.emplace_back(name, WeightData{std::make_shared<const QuantizedTensor>(
                                                random_quantized(*parsed, out, in, weights.size())),
                                            out == 3});
    }
  }
  QuantScheme custom = *QuantScheme::parse("nf4-g8");
  custom.codebook = "custom";
  weights.emplace_back(
      "custom",
      WeightData{std::make_shared<const QuantizedTensor>(random_quantized(custom, 2, 16, 5)), false});
  QuantizedTensor ordered = random_quantized(*QuantScheme::parse("int4-g8"), 2, 16, 6);
  ordered.group_index = *Tensor::allocate(DType::i32, {16});
  for (int i = 0; i < 16; ++i) ordered.group_index.mutable_data<int32_t>()[i] = i % 2;
  weights.emplace_back("ordered", WeightData{std::make_shared<const QuantizedTensor>(ordered), false});
  for (const char* dtype :
       {"BOOL", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "I32", "U32", "F64", "U64", "U8", "I8"}) {
    weights.emplace_back(
        dtype, WeightData{test::random_tensor(*dtype_from_name(dtype), {3, 5}, weights.size()), false});
  }
  test::write_model(path, weights, test::tiny_options());

  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  expect_same(**source, weights);
  EXPECT_EQ((*source)->format_name(), "pare");
  EXPECT_EQ((*source)->config_text(), test::tiny_options().config_text);
  ASSERT_EQ((*source)->assets().size(), 2u);
  EXPECT_EQ((*source)->asset("LICENSE")->bytes, "free");
  EXPECT_EQ((*source)->asset("tokenizer.json")->bytes, std::string(300, 'x') + "{}");
  ASSERT_NE((*source)->manifest(), nullptr);
  EXPECT_EQ((*source)->manifest()->tensors.size(), weights.size());
  EXPECT_TRUE((*source)->check_unchanged());
  const auto report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty()) << format_error(report->faults[0]);
  EXPECT_TRUE(report->has_checksums);
}

TEST(Pare, TheSameModelGivesTheSameBytes) {
  const std::string folder = test::temporary_folder();
  test::write_model(folder + "/a.pare", test::tiny_weights(), test::tiny_options());
  test::write_model(folder + "/b.pare", test::tiny_weights(), test::tiny_options());
  EXPECT_EQ(test::read_file(folder + "/a.pare"), test::read_file(folder + "/b.pare"));
}

TEST(Pare, AViewWithGapsIsStoredWithoutThem) {
  const std::string path = test::temporary_folder() + "/m.pare";
  const Tensor whole = test::random_tensor(DType::f32, {4, 6}, 1);
  test::write_model(path, {{"part", WeightData{whole.columns(1, 4), false}}}, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  const auto found = (*source)->load("part");
  ASSERT_TRUE(found);
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t column = 0; column < 3; ++column) {
      EXPECT_EQ(found->dense().data<float>()[row * 3 + column], whole.data<float>()[row * 6 + column + 1]);
    }
  }
}

TEST(Pare, ANaNIsNeverPublished) {
  const std::string folder = test::temporary_folder();
  Tensor tensor = test::random_tensor(DType::f32, {2, 3}, 1);
  tensor.mutable_data<float>()[4] = std::numeric_limits<float>::quiet_NaN();
  for (const char* name : {"/m.pare", "/m"}) {
    auto sink = create_model(folder + name, test::tiny_options());
    ASSERT_TRUE(sink);
    const Status put = (*sink)->put("w", WeightData{tensor, false});
    ASSERT_FALSE(put);
    EXPECT_EQ(put.error().exit, Exit::numeric);
    EXPECT_NE(format_error(put.error()).find("[1,1]"), std::string::npos) << format_error(put.error());
    sink->reset();
    EXPECT_FALSE(path_exists(folder + name));
  }
}

TEST(Pare, InfinityOfScaleTimesCodeIsFoundBySelfCheck) {
  const std::string folder = test::temporary_folder();
  QuantizedTensor tensor = random_quantized(*QuantScheme::parse("int8-ch-sf32"), 2, 4, 1);
  tensor.scales.mutable_data<float>()[1] = 3e38f;
  auto sink = create_model(folder + "/m.pare", test::tiny_options());
  ASSERT_TRUE(sink);
  ASSERT_TRUE((*sink)->put("w", WeightData{std::make_shared<const QuantizedTensor>(tensor), false}));
  const Status finished = (*sink)->finish(Manifest{});
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().rule, "NU12");
  sink->reset();
  EXPECT_FALSE(path_exists(folder + "/m.pare"));
}

// Any damage: verify must say where, with exit 3 or 4, and the reader must not crash.
void expect_found(const std::string& path, const std::string& what) {
  const auto report = verify_model(path);
  const bool found = !report || !report->faults.empty();
  ASSERT_TRUE(found) << what;
  const Error& error = report ? report->faults[0] : report.error();
  ASSERT_TRUE(error.exit == Exit::malformed || error.exit == Exit::unsupported)
      << what << ": " << format_error(error);
  ASSERT_FALSE(error.where.empty()) << what << ": " << format_error(error);
  const auto source = open_model(path);
  if (!source) return;
  for (const StoredTensor& tensor : (*source)->tensors()) static_cast<void>((*source)->load(tensor.name));
}

TEST(Pare, EveryTruncationIsFound) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  const auto size = int64_t(test::read_file(path).size());
  for (int64_t length = size - 1; length >= 0; --length) {
    ASSERT_EQ(::truncate(path.c_str(), length), 0);
    expect_found(path, "length " + std::to_string(length));
    if (HasFatalFailure()) return;
  }
}

// Flips bits of a file in place.
class Flipper {
 public:
  explicit Flipper(const std::string& path)
      : path_(path), bytes_(test::read_file(path)), descriptor_(::open(path.c_str(), O_RDWR)) {}
  ~Flipper() { ::close(descriptor_); }
  size_t size() const { return bytes_.size(); }
  void check(size_t byte, int bit) {
    write(byte, char(bytes_[byte] ^ (1 << bit)));
    expect_found(path_, "byte " + std::to_string(byte) + " bit " + std::to_string(bit));
    write(byte, bytes_[byte]);
  }

 private:
  void write(size_t byte, char value) { ASSERT_EQ(::pwrite(descriptor_, &value, 1, off_t(byte)), 1); }
  std::string path_, bytes_;
  int descriptor_;
};

TEST(Pare, EveryFlippedBitOfTheFrameAndSamplesOfTheRestAreFound) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  const auto input = InputFile::open(path);
  ASSERT_TRUE(input);
  const auto frame = read_pare_frame(*input);
  ASSERT_TRUE(frame);
  Flipper flipper(path);
  for (size_t byte = 0; byte < flipper.size(); ++byte) {
    const bool is_frame = byte < kSuperblockBytes || byte >= flipper.size() - kTrailerBytes;
    // directory and payload: one bit per byte, another one in each byte
    const int step = is_frame ? 1 : 8;
    for (int bit = is_frame ? 0 : int(byte % 8); bit < 8; bit += step) flipper.check(byte, bit);
    if (HasFatalFailure()) return;
  }
}

TEST(Pare, SlowEveryFlippedBitIsFound) {
  if (std::getenv("PARE_SLOW_TESTS") == nullptr) GTEST_SKIP() << "set PARE_SLOW_TESTS to run it";
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  Flipper flipper(path);
  for (size_t byte = 0; byte < flipper.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) flipper.check(byte, bit);
    if (HasFatalFailure()) return;
  }
}

TEST(Pare, AllTensorsAtFaultAreListed) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  std::string bytes = test::read_file(path);
  const auto source = open_model(path);
  ASSERT_TRUE(source);
  int damaged = 0;
  for (const char* name : {"embed.weight", "norm.weight"}) {
    const WeightData weight = *(*source)->load(name);
    const std::string part(reinterpret_cast<const char*>(weight.dense().raw()), weight.dense().size_bytes());
    const size_t at = bytes.find(part);
    ASSERT_NE(at, std::string::npos);
    bytes[at] = char(bytes[at] ^ 1);
    ++damaged;
  }
  const std::string broken = test::temporary_folder() + "/n.pare";
  test::write_file(broken, bytes);
  const auto report = verify_model(broken);
  ASSERT_TRUE(report);
  ASSERT_EQ(report->faults.size(), size_t(damaged));
  EXPECT_NE(report->faults[0].where.find("embed.weight"), std::string::npos);
  EXPECT_NE(report->faults[1].where.find("norm.weight"), std::string::npos);
}

}  // namespace
}  // namespace pare
