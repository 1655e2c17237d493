// A whole model with random masks: through .pare it is the model with zeros, to the bit on the reference
// backend; and every command takes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "engine/core/json.h"
#include "engine/models/model.h"
#include "formats/create_model.h"
#include "formats/open_model.h"
#include "formats/safetensors.h"
#include "tests/support/backends.h"
#include "tests/support/command.h"
#include "tests/support/compare.h"
#include "tests/support/random_sparse.h"
#include "tests/support/shared_data.h"
#include "tests/support/walk.h"

namespace pare::test {
namespace {

constexpr const char* kPatterns[] = {"unstructured", "2:4", "4:8", "block-1x8", "block-4x4", "1:4"};

std::string sample() {
  return source_path("samples/books-3m");
}

std::unique_ptr<WeightSink> sink_for(const WeightSource& source, const std::string& path) {
  CreateOptions options;
  options.config_text = source.config_text();
  options.assets = source.assets();
  return checked(create_model(path, options));
}

enum class Kind { values, codes, low_rank };

// Writes the sample with random masks (or codes under masks, or factors) in its linears: as .pare in their
// own form, and dense with zeros.
void write_pair(const std::string& pare_path, const std::string& dense_path, Kind kind,
                const std::vector<std::string>& patterns) {
  const auto source = checked(open_model(sample()));
  const ModelDescription model = checked(describe_model(*source));
  auto compact = sink_for(*source, pare_path), dense = sink_for(*source, dense_path);
  uint64_t seed = 0;
  for (const TensorSpec& spec : model.tensors) {
    WeightData data = checked(source->load(spec.name));
    if (spec.is_linear) {
      const SparsityPattern pattern = pattern_of(patterns[++seed % patterns.size()]);
      const Mask mask = random_mask(pattern, spec.out(), spec.in(), 0.5, seed);
      if (kind == Kind::low_rank) {
        LowRankTensor product;
        product.shape = Shape{spec.out(), spec.in()};
        product.left = random_matrix(DType::f32, spec.out(), 8, seed);
        product.right = random_matrix(DType::f32, 8, spec.in(), seed + 99);
        for (Tensor* factor : {&product.left, &product.right})
          for (int64_t i = 0; i < factor->numel(); ++i) factor->mutable_data<float>()[i] *= 0.05f;
        product.base = std::make_shared<const SparseTensor>(
            checked(SparseTensor::from_dense(data.dense(), mask, pattern)));
        data.form = std::make_shared<const LowRankTensor>(std::move(product));
      } else if (kind == Kind::codes) {
        const QuantizedTensor codes = random_codes("int4-g64", spec.out(), spec.in(), seed);
        data.form =
            std::make_shared<const SparseTensor>(checked(SparseTensor::from_quantized(codes, mask, pattern)));
      } else {
        data.form = std::make_shared<const SparseTensor>(
            checked(SparseTensor::from_dense(data.dense(), mask, pattern)));
      }
    }
    checked(compact->put(spec.name, data));
    checked(dense->put(spec.name, WeightData{.form = checked(data.to_dense_tensor())}));
  }
  checked(compact->finish(Manifest{}));
  checked(dense->finish(Manifest{}));
}

Tensor logits_of(const std::string& path, Device device) {
  const auto model = checked(Model::open(checked(open_model(path)), device));
  checked(model->load_all());
  const std::vector<int32_t> ids{5, 77, 300, 41, 8, 1000, 63, 2, 19, 500, 7};
  const Batch batch{.sequences = 1, .tokens_per_sequence = int64_t(ids.size()), .first_position = 0};
  const Trace trace = walk(*model, tensor_of(ids, device), batch);
  EXPECT_LE(trace.workspace_peak, trace.workspace_capacity);
  return checked(converted(trace.logits, DType::f32));
}

TEST(SparseModel, EqualsTheModelWithZeros) {
  const std::string folder = temporary_folder(), compact = folder + "/a.pare", dense = folder + "/a";
  write_pair(compact, dense, Kind::values, {std::begin(kPatterns), std::end(kPatterns)});
  EXPECT_LT(std::filesystem::file_size(compact), std::filesystem::file_size(dense + "/model.safetensors"));
  for (const Arithmetic& arithmetic : arithmetics_of_this_host()) {
    const Device device = use(arithmetic);
    const Tensor got = logits_of(compact, device), expected = logits_of(dense, device);
    if (arithmetic.device == Device::reference()) {
      EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), got.size_bytes()), 0) << "reference";
    }
    EXPECT_LE(relative_error(got, expected), 2e-5) << arithmetic.name;
  }
}

TEST(SparseModel, CodesEqualTheModelWithZeros) {
  const std::string folder = temporary_folder(), compact = folder + "/a.pare", dense = folder + "/a";
  write_pair(compact, dense, Kind::codes, {"2:4", "unstructured", "block-1x8"});
  for (const Arithmetic& arithmetic : arithmetics_of_this_host()) {
    const Device device = use(arithmetic);
    EXPECT_LE(relative_error(logits_of(compact, device), logits_of(dense, device)), 2e-5) << arithmetic.name;
  }
}

TEST(SparseModel, FactorsAndTheirBaseEqualTheProduct) {
  const std::string folder = temporary_folder(), compact = folder + "/a.pare", dense = folder + "/a";
  write_pair(compact, dense, Kind::low_rank, {"2:4", "unstructured"});
  for (const Arithmetic& arithmetic : arithmetics_of_this_host()) {
    const Device device = use(arithmetic);
    EXPECT_LE(relative_error(logits_of(compact, device), logits_of(dense, device)), 5e-5) << arithmetic.name;
  }
}

Json json_of(const CommandResult& result) {
  return checked(parse_json(result.out, "stdout", {.max_bytes = 1u << 26}));
}

void expect_same_tensors(const std::string& a, const std::string& b) {
  const auto left = checked(read_safetensors(a + "/model.safetensors")),
             right = checked(read_safetensors(b + "/model.safetensors"));
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].first, right[i].first);
    ASSERT_EQ(left[i].second.size_bytes(), right[i].second.size_bytes());
    EXPECT_EQ(std::memcmp(left[i].second.raw(), right[i].second.raw(), left[i].second.size_bytes()), 0)
        << left[i].first;
  }
}

// A pruned directory of any tool -> compact .pare -> directory: nothing is lost on the way.
TEST(SparseModel, ZerosOfADirectoryAreFoundAndComeBack) {
  const std::string folder = temporary_folder(), dense = folder + "/a";
  write_pair(folder + "/own.pare", dense, Kind::values, {"unstructured", "2:4", "1:4", "block-4x4"});
  const CommandResult made =
      pare({"export", dense, "-o", folder + "/found.pare", "--sparse", "auto", "--json"});
  ASSERT_EQ(made.exit_code, 0) << made.error;
  EXPECT_GT(json_of(made).find("sparse_tensors")->as_int(), 8);
  EXPECT_EQ(pare({"verify", folder + "/found.pare"}).exit_code, 0);

  const Json inspected = json_of(pare({"inspect", folder + "/found.pare", "--json"}));
  EXPECT_LE(inspected.find("bytes")->as_int(),
            json_of(pare({"inspect", folder + "/own.pare", "--json"})).find("bytes")->as_int());
  std::map<std::string, int> patterns;
  for (const Json& tensor : inspected.find("tensors")->items()) {
    if (tensor.find("pattern") == nullptr) continue;
    ++patterns[tensor.find("pattern")->as_string()];
    EXPECT_EQ(tensor.find("kind")->as_string(), "sparse");
    EXPECT_LT(tensor.find("kept_share")->as_double(), 0.6);
    EXPECT_LT(tensor.find("bits_per_weight")->as_double(), 9.5);
  }
  for (const char* pattern : {"unstructured", "2:4", "1:4", "block-4x4"})
    EXPECT_GT(patterns[pattern], 0) << pattern;
  EXPECT_THAT(pare({"inspect", folder + "/found.pare", "--tensors"}).out, testing::HasSubstr("2:4 BF16"));

  ASSERT_EQ(pare({"export", folder + "/found.pare", "-o", folder + "/back"}).exit_code, 0);
  expect_same_tensors(folder + "/back", dense);
  ASSERT_EQ(pare({"export", folder + "/found.pare", "-o", folder + "/off.pare", "--sparse", "off"}).exit_code,
            0);
  const Json off = json_of(pare({"inspect", folder + "/off.pare", "--json"}));
  for (const Json& tensor : off.find("tensors")->items())
    EXPECT_EQ(tensor.find("kind")->as_string(), "dense");
  // Only those that have the pattern.
  ASSERT_EQ(pare({"export", dense, "-o", folder + "/two.pare", "--sparse", "2:4"}).exit_code, 0);
  const Json two = json_of(pare({"inspect", folder + "/two.pare", "--json"}));
  int count = 0;
  for (const Json& tensor : two.find("tensors")->items()) count += tensor.find("pattern") != nullptr ? 1 : 0;
  EXPECT_GE(count, patterns["2:4"] + patterns["1:4"]);
}

TEST(SparseModel, EveryCommandTakesIt) {
  const std::string folder = temporary_folder(), compact = folder + "/a.pare", dense = folder + "/a";
  write_pair(compact, dense, Kind::values, {"2:4", "unstructured"});
  const std::string text = source_path("samples/text/sample.txt");
  const CommandResult ran = pare({"run", compact, "-p", "The", "-n", "4", "--temperature", "0"}),
                      same = pare({"run", dense, "-p", "The", "-n", "4", "--temperature", "0"});
  EXPECT_EQ(ran.exit_code, 0) << ran.error;
  EXPECT_EQ(ran.out, same.out);
  const CommandResult gguf = pare({"export", compact, "-o", folder + "/a.gguf", "--type", "F16"});
  ASSERT_EQ(gguf.exit_code, 0) << gguf.error;
  const CommandResult other = pare({"export", dense, "-o", folder + "/b.gguf", "--type", "F16"});
  EXPECT_EQ(std::filesystem::file_size(folder + "/a.gguf"), std::filesystem::file_size(folder + "/b.gguf"));

  // Rounded to nearest: zeros stay zeros, and stay out of the file.
  for (const char* scheme : {"int4-g64", "int8-ch", "int4-g64-asym"}) {
    const std::string out = folder + "/" + scheme + ".pare",
                      from_dense = folder + "/" + scheme + "-dense.pare";
    const CommandResult quantized =
        pare({"quantize", compact, "--method", "rtn", "--scheme", scheme, "-o", out});
    ASSERT_EQ(quantized.exit_code, 0) << quantized.error;
    EXPECT_THAT(quantized.out, testing::HasSubstr("28 matrices"));
    ASSERT_EQ(pare({"quantize", dense, "--method", "rtn", "--scheme", scheme, "-o", from_dense}).exit_code,
              0);
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    const Json json = json_of(pare({"inspect", out, "--json"}));
    int sparse = 0;
    for (const Json& tensor : json.find("tensors")->items())
      sparse += tensor.find("kind")->as_string() == "sparse" && tensor.find("pattern")->as_string() == "2:4"
                    ? 1
                    : 0;
    EXPECT_GT(sparse, 0) << scheme;
    EXPECT_LT(std::filesystem::file_size(out), std::filesystem::file_size(from_dense)) << scheme;
    ASSERT_EQ(pare({"export", out, "-o", folder + "/" + scheme + "-x"}).exit_code, 0);
    ASSERT_EQ(pare({"export", from_dense, "-o", folder + "/" + scheme + "-y"}).exit_code, 0);
    expect_same_tensors(folder + "/" + scheme + "-x", folder + "/" + scheme + "-y");
  }
  // GPTQ holds what was removed at zero, so that its codes stay sparse as well.
  const CommandResult gptq = pare({"quantize", compact, "--method", "gptq", "--scheme", "int4-g64", "--data",
                                   text, "--samples", "4", "--context", "64", "-o", folder + "/gptq.pare"});
  ASSERT_EQ(gptq.exit_code, 0) << gptq.error;
  const Json held = json_of(pare({"inspect", folder + "/gptq.pare", "--json"}));
  int kept_sparse = 0;
  for (const Json& record : held.find("manifest")->find("tensors")->items()) {
    const Json* zeros = record.find("extra")->find("zeros_held");
    if (zeros == nullptr) continue;
    EXPECT_NEAR(zeros->as_double(), 0.5, 0.01) << record.find("name")->as_string();
    EXPECT_EQ(record.find("kind")->as_string(), "sparse") << record.find("name")->as_string();
    ++kept_sparse;
  }
  EXPECT_GT(kept_sparse, 0);
  // A scheme without an exact zero would bring them back.
  const CommandResult offset = pare(
      {"quantize", compact, "--method", "rtn", "--scheme", "int4-g64-asymf", "-o", folder + "/offset.pare"});
  EXPECT_EQ(offset.exit_code, 4);
  EXPECT_THAT(offset.error, testing::HasSubstr("no exact zero"));
  // Codes with zeros in them, for programs that know no sparse codes.
  const CommandResult dialect =
      pare({"export", folder + "/int4-g64.pare", "--format", "compressed-tensors", "-o", folder + "/ct"});
  EXPECT_EQ(dialect.exit_code, 0) << dialect.error;
}

TEST(SparseModel, Refusals) {
  const std::string folder = temporary_folder();
  const CommandResult nothing = pare({"export", sample(), "-o", folder + "/a.pare", "--sparse", "2:4"});
  EXPECT_EQ(nothing.exit_code, 4);
  EXPECT_THAT(nothing.error, testing::HasSubstr("--sparse"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/a.pare"));
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a.pare", "--sparse", "4:4"}).exit_code, 2);
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a", "--sparse", "auto"}).exit_code, 2);
  write_pair(folder + "/l.pare", folder + "/l", Kind::low_rank, {"2:4"});
  const CommandResult factors = pare(
      {"quantize", folder + "/l.pare", "--method", "rtn", "--scheme", "int8-ch", "-o", folder + "/q.pare"});
  EXPECT_EQ(factors.exit_code, 4);
  EXPECT_THAT(factors.error, testing::HasSubstr("two factors"));
}

}  // namespace
}  // namespace pare::test
