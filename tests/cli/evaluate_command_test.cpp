#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "engine/core/json.h"
#include "formats/safetensors.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}
std::string text() {
  return source_path("samples/text/sample.txt");
}

Json result_of(const std::vector<std::string>& words) {
  const CommandResult result = pare(words);
  EXPECT_EQ(result.exit_code, 0) << result.error;
  auto json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26});
  EXPECT_TRUE(json.has_value()) << result.out;
  return (*json->find("results"))[size_t(0)];
}

double number(const Json& json, const char* key) {
  return json.find(key)->as_double();
}

// The value that samples/README gives, measured with Hugging Face transformers in float32.
TEST(EvaluateCommand, BooksPerplexityAsTransformersComputesIt) {
  PARE_SHARED_OR_SKIP(valid, "text/books-valid.txt");
  const Json result = result_of({"evaluate", sample(), "--data", valid, "--context", "256", "--tokens",
                                 "20480", "--bos", "never", "--json"});
  EXPECT_NEAR(number(result, "perplexity"), 31.30, 0.005);
  EXPECT_EQ(result.find("tokens")->as_int(), 80 * 255);
  EXPECT_EQ(result.find("protocol")->as_string(), "disjoint");
  EXPECT_EQ(result.find("context")->as_int(), 256);
  EXPECT_EQ(result.find("token_hash")->as_string().size(), 16u);
  EXPECT_GT(number(result, "tokens_per_second"), 0.0);
}

TEST(EvaluateCommand, AModelAgainstItselfIsUndamaged) {
  const Json result = result_of(
      {"evaluate", sample(), "--reference", sample(), "--data", text(), "--tokens", "1024", "--json"});
  EXPECT_EQ(number(result, "kl_mean"), 0.0);
  EXPECT_EQ(number(result, "kl_p99"), 0.0);
  EXPECT_EQ(number(result, "top1_agreement"), 1.0);
  EXPECT_EQ(number(result, "delta_perplexity"), 0.0);
}

TEST(EvaluateCommand, DamageGrowsAsBitsShrink) {
  const std::string folder = temporary_folder();
  double last_kl = 0.0;
  for (const char* scheme : {"int8-ch", "int4-g64", "int3-g64"}) {
    const std::string out = folder + "/" + scheme + ".pare";
    ASSERT_EQ(pare({"quantize", sample(), "--scheme", scheme, "-o", out}).exit_code, 0);
    const Json result = result_of({"evaluate", out, "--reference", sample(), "--data", text(), "--json"});
    EXPECT_GT(number(result, "kl_mean"), last_kl) << scheme;
    EXPECT_LE(number(result, "kl_mean"), number(result, "kl_p99"));
    if (std::string(scheme) == "int8-ch") {
      EXPECT_LE(number(result, "perplexity_ratio"), 1.002);
    }
    last_kl = number(result, "kl_mean");
  }
}

// The codes of a .pare file and their dequantized export are the same model.
TEST(EvaluateCommand, CodesEqualTheirDequantizedExport) {
  const std::string folder = temporary_folder();
  for (const char* scheme :
       {"int4-g64", "int8-ch", "int4-g64-asym", "nf4-g64", "fp8-e4m3-ch", "int4-g32-asymf"}) {
    const std::string packed = folder + "/" + scheme + ".pare", dense = folder + "/" + scheme;
    ASSERT_EQ(pare({"quantize", sample(), "--scheme", scheme, "-o", packed}).exit_code, 0);
    ASSERT_EQ(pare({"export", packed, "-o", dense}).exit_code, 0);
    const Json one = result_of({"evaluate", packed, "--data", text(), "--tokens", "2048", "--json"});
    const Json other = result_of({"evaluate", dense, "--data", text(), "--tokens", "2048", "--json"});
    EXPECT_NEAR(number(one, "perplexity"), number(other, "perplexity"), 1e-4 * number(other, "perplexity"))
        << scheme;
    EXPECT_EQ(one.find("token_hash")->as_string(), other.find("token_hash")->as_string());
  }
}

TEST(EvaluateCommand, EveryProtocolAndDevice) {
  std::map<std::string, double> values;
  for (const char* protocol : {"disjoint", "stride", "llamacpp", "word"}) {
    double first = 0.0;
    for (const char* device : {"cpu", "reference", "check"}) {
      const Json result = result_of({"evaluate", sample(), "--data", text(), "--tokens", "400", "--protocol",
                                     protocol, "--context", "128", "--device", device, "--json"});
      if (first == 0.0) first = number(result, "perplexity");
      EXPECT_NEAR(number(result, "perplexity"), first, 1e-4 * first) << protocol << " on " << device;
    }
    values[protocol] = first;
  }
  EXPECT_LT(values["stride"], values["disjoint"]);  // more context per token
}

TEST(EvaluateCommand, SameNumbersForAnyThreadCount) {
  const Json one =
      result_of({"evaluate", sample(), "--data", text(), "--tokens", "1024", "--threads", "1", "--json"});
  for (const char* threads : {"2", "7"}) {
    EXPECT_EQ(number(result_of({"evaluate", sample(), "--data", text(), "--tokens", "1024", "--threads",
                                threads, "--json"}),
                     "perplexity"),
              number(one, "perplexity"));
  }
}

TEST(EvaluateCommand, GatesEndWithNine) {
  const std::string out = temporary_folder() + "/a.pare";
  ASSERT_EQ(pare({"quantize", sample(), "--scheme", "int2-g64", "-o", out}).exit_code, 0);
  const CommandResult failed = pare({"evaluate", out, "--reference", sample(), "--data", text(), "--tokens",
                                     "1024", "--fail-if", "kl>0.05"});
  EXPECT_EQ(failed.exit_code, 9) << failed.error;
  EXPECT_THAT(failed.error, HasSubstr("kl>0.05"));
  EXPECT_THAT(failed.out, HasSubstr("perplexity"));  // the report is complete
  EXPECT_EQ(pare({"evaluate", out, "--reference", sample(), "--data", text(), "--tokens", "1024", "--fail-if",
                  "kl>50"})
                .exit_code,
            0);
  EXPECT_EQ(pare({"evaluate", out, "--data", text(), "--fail-if", "kl>0.05"}).exit_code,
            2);  // needs a reference
  EXPECT_EQ(pare({"evaluate", out, "--data", text(), "--fail-if", "kl"}).exit_code, 2);
}

TEST(EvaluateCommand, LogitsEqualTheReferenceFile) {
  const std::string out = temporary_folder() + "/logits.safetensors";
  const CommandResult result =
      pare({"evaluate", sample(), "--input-ids", sample() + "/expected.safetensors", "--save-logits", out});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  std::map<std::string, Tensor> expected;
  const auto stored = read_safetensors(sample() + "/expected.safetensors").value();
  for (const auto& [name, tensor] : stored) expected[name] = tensor;
  const auto written = read_safetensors(out).value();
  ASSERT_EQ(written[0].first, "logits");
  ASSERT_EQ(written[0].second.shape(), expected["logits"].shape());
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < written[0].second.numel(); ++i) {
    const double want = expected["logits"].data<float>()[i];
    worst = std::max(worst, std::abs(want - written[0].second.data<float>()[i]));
    largest = std::max(largest, std::abs(want));
  }
  EXPECT_LE(worst, 1e-4 * largest);
}

TEST(EvaluateCommand, Refusals) {
  for (const auto& [words, exit_code] : std::vector<std::pair<std::vector<std::string>, int>>{
           {{}, 2},
           {{"--data", "/nowhere.txt"}, 5},
           {{"--data", text(), "--context", "1000"}, 2},
           {{"--data", text(), "--protocol", "best"}, 2},
           {{"--data", text(), "--tokens", "10"}, 3},
           {{"--data", text(), "--tokens", "1000000"}, 3},  // DT07: the text is shorter
           {{"--data", text(), "--tokens", "1000000", "--protocol", "word"}, 3},
           {{"--data", text(), "--tokens", "0"}, 2},
           {{"--input-ids", text(), "--save-logits", "/tmp/x"}, 3}}) {
    std::vector<std::string> all = {"evaluate", sample()};
    all.insert(all.end(), words.begin(), words.end());
    const CommandResult result = pare(all);
    EXPECT_EQ(result.exit_code, exit_code) << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
  }
}

}  // namespace
}  // namespace pare::test
