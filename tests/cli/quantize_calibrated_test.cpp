// `pare quantize` with data or statistics as a user runs it: every method, rounded inputs, reports and gates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/core/json.h"
#include "tests/cli/words.h"
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

Words calibrated(const std::string& out, const Words& more) {
  return plus({"quantize", sample(), "--data", text(), "--samples", "6", "--context", "64", "--report-tokens",
               "128", "-o", out},
              more);
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Each of them gives a whole model that runs and is not far from the original; the manifest names the method.
TEST(QuantizeCalibrated, EveryMethod) {
  const std::string folder = temporary_folder();
  for (const auto& [method, scheme] :
       std::vector<std::pair<std::string, std::string>>{{"rtn", "int4-g64"},
                                                        {"rtn+mse", "int4-g64"},
                                                        {"importance", "int4-g64-asym"},
                                                        {"gptq", "int4-g64"},
                                                        {"gptq+mse", "int4-g32-asym"},
                                                        {"awq+gptq", "int4-g64"},
                                                        {"smoothquant", "int8-ch"},
                                                        {"smoothquant+gptq", "int8-ch"},
                                                        {"hqq", "int4-g64-asym"},
                                                        {"kmeans", "kmeans4-g64"},
                                                        {"gptq", "nf4-g64"}}) {
    SCOPED_TRACE(method + " " + scheme);
    const std::string out = folder + "/out.pare";
    const Json done = json_of(pare(calibrated(
        out, {"--method", method, "--scheme", scheme, "--fail-if", "ratio>1.25", "--force", "--json"})));
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    EXPECT_EQ(number(done, "quantized_tensors"), 28);
    EXPECT_EQ(number(done, "fallbacks"), 0);
    EXPECT_GT(number(*done.find("damage"), "data.scored_tokens"), 50);
    int quantized = 0;
    for (const Json& record : done.find("manifest")->find("tensors")->items()) {
      if (record.find("kind")->as_string() != "quantized") continue;
      ++quantized;
      EXPECT_NE(record.find("method_applied")->as_string(), "copy");
      EXPECT_EQ(record.find("method_asked")->as_string(), record.find("method_applied")->as_string());
    }
    EXPECT_EQ(quantized, 28);
    EXPECT_EQ(pare({"run", out, "-p", "The", "-n", "2"}).exit_code, 0);
  }
  // One of them through the command that measures, against what the report beside it says.
  EXPECT_EQ(pare({"evaluate", folder + "/out.pare", "--data", text(), "--context", "64", "--tokens", "256"})
                .exit_code,
            0);
}

TEST(QuantizeCalibrated, IntegerProducts) {
  const std::string folder = temporary_folder();
  // Entropy clips outliers hard where it has seen as little as here.
  const auto run = [&](const std::string& name, const Words& more) {
    const std::string out = folder + "/" + name;
    const Json done =
        json_of(pare(calibrated(out, plus({"--scheme", "int8-ch", "--fail-if",
                                           more.back() == "entropy" ? "ratio>1.5" : "ratio>1.2", "--json"},
                                          more))));
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    EXPECT_EQ(pare({"run", out, "-p", "The", "-n", "2"}).exit_code, 0);
    EXPECT_EQ(done.find("manifest")->find("options")->find("activations")->as_string(), more[1]);
    return bytes_of(out);
  };
  const std::string dynamic = run("d.pare", {"--activations", "dynamic"});
  EXPECT_NE(dynamic,
            run("e.pare", {"--activations", "dynamic", "--method", "smoothquant", "--alpha", "0.5"}));
  std::string first;
  for (const char* observer : {"minmax", "percentile", "mse", "entropy", "moving-average"}) {
    SCOPED_TRACE(observer);
    const std::string bytes =
        run(std::string(observer) + ".pare", {"--activations", "static", "--observer", observer});
    EXPECT_NE(bytes, dynamic);
    if (first.empty()) first = bytes;
  }
  EXPECT_NE(first, bytes_of(folder + "/percentile.pare"));
}

TEST(QuantizeCalibrated, SavedStatistics) {
  const std::string folder = temporary_folder(), saved = folder + "/s";
  ASSERT_EQ(pare({"calibrate", sample(), "--data", text(), "--samples", "6", "--context", "64",
                  "--statistics", "second_moment,absmean,absmax,square,range,histogram", "-o", saved})
                .exit_code,
            0);
  const auto words = [&](const std::string& out, const Words& more) {
    return plus({"quantize", sample(), "--statistics", saved, "--scheme", "int4-g64", "-o", out}, more);
  };
  for (const std::string& method : Words{"gptq", "importance", "smoothquant"}) {
    SCOPED_TRACE(method);
    const std::string a = folder + "/a.pare", b = folder + "/b.pare";
    const CommandResult result =
        pare(words(a, {"--method", method, "--threads", "1", "--force", "--report-data", text(),
                       "--report-tokens", "128", "--fail-if", "ratio>1.25"}));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_EQ(pare({"verify", a}).exit_code, 0);
    ASSERT_EQ(pare(words(b, {"--method", method, "--threads", "2", "--force"})).exit_code, 0);
    EXPECT_EQ(bytes_of(a), bytes_of(b));
  }
  EXPECT_EQ(pare(words(folder + "/c.pare", {"--activations", "static", "--observer", "mse"})).exit_code, 0);

  // The first block sees the same from a file as from the data: there are no earlier errors to see.
  const Json from_data = json_of(pare(calibrated(
                 folder + "/d.pare", {"--method", "gptq", "--scheme", "int4-g64", "--no-report", "--json"}))),
             from_file = json_of(pare(words(folder + "/e.pare", {"--method", "gptq", "--json"})));
  const auto sum_of = [](const Json& done, const std::string& name) {
    for (const Json& record : done.find("manifest")->find("tensors")->items())
      if (record.find("name")->as_string() == name) return record.dump();
    return std::string();
  };
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    const std::string tensor = std::string("model.layers.0.self_attn.") + name + ".weight";
    EXPECT_NE(sum_of(from_data, tensor), "");
    EXPECT_EQ(sum_of(from_data, tensor), sum_of(from_file, tensor));
  }

  // IM05: of another model.
  const std::string other = copy_of_sample();
  std::string weights = bytes_of(other + "/model.safetensors");
  weights[weights.size() - 1000] = char(weights[weights.size() - 1000] ^ 1);
  std::ofstream(other + "/model.safetensors", std::ios::binary) << weights;
  CommandResult result =
      pare({"quantize", other, "--statistics", saved, "--method", "gptq", "-o", folder + "/x.pare"});
  EXPECT_EQ(result.exit_code, 8) << result.error;
  EXPECT_THAT(result.error, HasSubstr("(got "));

  // What the method needs is not in the file.
  const std::string poor = folder + "/poor";
  ASSERT_EQ(pare({"calibrate", sample(), "--data", text(), "--samples", "2", "--context", "64",
                  "--statistics", "absmax", "-o", poor})
                .exit_code,
            0);
  result = pare({"quantize", sample(), "--statistics", poor, "--method", "gptq", "-o", folder + "/x.pare"});
  EXPECT_EQ(result.exit_code, 3) << result.error;
  EXPECT_THAT(result.error, HasSubstr("need second_moment"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/x.pare"));
}

// Exit 9 keeps the complete output and the report.
TEST(QuantizeCalibrated, FailedGateKeepsTheOutput) {
  const std::string folder = temporary_folder(), out = folder + "/a.pare";
  const CommandResult result =
      pare(calibrated(out, {"--scheme", "int3-g64", "--fail-if", "top1<0.1", "--fail-if", "kl>0.0001"}));
  EXPECT_EQ(result.exit_code, 9) << result.error;
  EXPECT_THAT(result.error, HasSubstr("--fail-if: kl>0.0001 holds (got "));
  EXPECT_EQ(result.error_lines(), 1);
  EXPECT_EQ(pare({"verify", out}).exit_code, 0);
  EXPECT_FALSE(std::filesystem::exists(out + ".pare-job"));
  const auto report = parse_json(bytes_of(out + ".report.json"), "report", {.max_bytes = 1u << 26});
  ASSERT_TRUE(report);
  EXPECT_GT(number(*report->find("damage"), "data.scored_tokens"), 0);
  EXPECT_THAT(report->find("command_line")->dump(), HasSubstr("top1<0.1"));
  // The page does not call the report stale.
  const CommandResult page = pare({"report", out});
  EXPECT_EQ(page.exit_code, 0) << page.error;
  EXPECT_EQ(page.out.find("stale"), std::string::npos);
  // Without data the gate needs something to measure on.
  const Words plain = {"quantize",  sample(),    "--scheme", "int4-g64",
                       "--fail-if", "kl>0.0001", "-o",       folder + "/b.pare"};
  CommandResult gated = pare(plain);
  EXPECT_EQ(gated.exit_code, 2);
  EXPECT_THAT(gated.error, HasSubstr("--report-data"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/b.pare"));
  gated = pare(plus(plain, {"--report-data", text(), "--report-tokens", "128", "--context", "64"}));
  EXPECT_EQ(gated.exit_code, 9) << gated.error;
  EXPECT_EQ(pare({"verify", folder + "/b.pare"}).exit_code, 0);
}

TEST(QuantizeCalibrated, FieldsOfTheJsonOutput) {
  const std::string folder = temporary_folder(), out = folder + "/a.pare";
  const Json done = json_of(pare(calibrated(out, {"--method", "gptq", "--scheme", "int4-g64", "--json"})));
  for (const char* key : {"schema_version", "quantized_tensors", "kept_tensors", "bits_per_weight",
                          "weight_bytes_before", "weight_bytes_after", "output_bytes", "seconds",
                          "peak_resident_bytes", "spilled_bytes", "fallbacks", "clamped_scales"})
    number(done, key);
  EXPECT_EQ(number(done, "output_bytes"), double(std::filesystem::file_size(out)));
  EXPECT_EQ(done.find("command")->as_string(), "quantize");
  EXPECT_EQ(done.find("method")->as_string(), "gptq");
  const Json& manifest = *done.find("manifest");
  EXPECT_EQ(number(*manifest.find("options"), "samples"), 6);
  EXPECT_EQ(number(*manifest.find("options"), "calibration.context"), 64);
  for (const Json& record : manifest.find("tensors")->items()) {
    if (record.find("kind")->as_string() != "quantized") continue;
    const Json& more = *record.find("extra");
    EXPECT_EQ(number(more, "tokens"), 6 * 64);
    EXPECT_GT(number(more, "output_error"), 0.0);
    EXPECT_LT(number(more, "output_error"), 0.5);
    EXPECT_GE(number(more, "damping"), 0.01);
    EXPECT_EQ(number(more, "damping_retries"), 0);
    EXPECT_EQ(more.find("xxh3_128")->as_string().size(), 32u);
  }
  // The same is inside the file.
  EXPECT_EQ(json_of(pare({"inspect", out, "--json"})).find("manifest")->dump_sorted(),
            manifest.dump_sorted());
}

TEST(QuantizeCalibrated, DryRunWritesNothing) {
  const std::string folder = temporary_folder();
  for (const char* method : {"gptq", "awq"}) {
    const Json plan = json_of(pare(
        calibrated(folder + "/a.pare", {"--method", method, "--scheme", "int4-g64", "--dry-run", "--json"})));
    EXPECT_TRUE(plan.find("dry_run")->as_bool());
    EXPECT_GT(number(plan, "peak_memory_estimate_bytes"), 0);
  }
  const CommandResult result = pare(calibrated(folder + "/a.pare", {"--method", "gptq", "--dry-run"}));
  EXPECT_THAT(result.out, HasSubstr("nothing was written"));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

// Exit 2, the option named, before anything is read.
TEST(QuantizeCalibrated, ContradictionsAndUsage) {
  const std::string folder = temporary_folder(), out = folder + "/a.pare";
  const Words data = {"--data", text()};
  for (const auto& [words, named] : std::vector<std::pair<Words, std::string>>{
           {{"--method", "gptq"}, "--method: needs calibration data; give --data FILE (got gptq)"},
           {{"--method", "awq"}, "--method: needs calibration data"},
           {{"--method", "smoothquant"}, "--method: needs calibration data"},
           {{"--method", "importance"}, "--method: needs calibration data"},
           {{"--activations", "static"}, "--activations: needs calibration data"},
           {{"--target-bpw", "4"}, "--target-bpw: needs calibration data"},
           {{"--target-size", "4MB"}, "--target-size: needs calibration data"},
           {{"--inputs", "both"}, "--inputs: "},
           {{"--method", "magic"}, "--method: "},
           {{"--method", "gptq+hqq", "--data", text()}, "--method: "},
           {{"--method", "awq+smoothquant", "--data", text()}, "--method: "},
           {{"--method", "rtn+mse", "--clip", "none"}, "--clip: "},
           {{"--scheme", "int99"}, "--scheme: "},
           {{"--scheme", ""}, "--scheme: "},
           {{"--embedding", "int0"}, "--embedding: "},
           {{"--head", "what"}, "--head: "},
           {{"--set", "layers.*=int99"}, "--set: "},
           {{"--set", "x"}, "--set: "},
           {{"--kv", "int3"}, "--kv"},
           {{"--observer", "median"}, "--observer: "},
           {plus(data, {"--statistics", "s"}), "--data: cannot be given together with --statistics"},
           {plus(data, {"--resume", "--restart"}), "--resume: cannot be given together with --restart"},
           {plus(data, {"--target-bpw", "4", "--target-size", "4MB"}),
            "--target-bpw: cannot be given together with --target-size"},
           {plus(data, {"--fail-if", "kl>0.1", "--no-report"}), "--fail-if: "},
           {plus(data, {"--report-data", text(), "--no-report"}), "--report-data: "},
           {plus(data, {"--fail-if", "loss>0.1"}), "--fail-if"},
           {plus(data, {"--fail-if", "kl"}), "--fail-if"},
           {plus(data, {"--damping", "-1"}), "--damping"},
           {plus(data, {"--samples", "0"}), "--samples"},
           {{"--resume"}, "--resume: no job is kept without calibration data"},
           {{"--work-dir", folder + "/w"}, "--work-dir: no job"},
           {{"--keep-work"}, "--keep-work: no job"}}) {
    const CommandResult result = pare(plus({"quantize", sample(), "-o", out}, words));
    EXPECT_EQ(result.exit_code, 2) << named << ": " << result.error;
    EXPECT_EQ(result.error_lines(), 1);
    EXPECT_THAT(result.error, HasSubstr("pare: error: " + named));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  // A file that is not a report of ours is not overwritten at the end of the work.
  std::ofstream(out + ".report.json") << "mine";
  EXPECT_EQ(pare(calibrated(out, {})).exit_code, 2);
  EXPECT_EQ(bytes_of(out + ".report.json"), "mine");
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(QuantizeCalibrated, ReportIsReplacedWithItsOutput) {
  const std::string folder = temporary_folder(), out = folder + "/a.pare";
  ASSERT_EQ(pare(calibrated(out, {})).exit_code, 0);
  const std::string first = bytes_of(out + ".report.json");
  std::filesystem::remove(out);
  ASSERT_EQ(pare(calibrated(out, {"--scheme", "int4-g64"})).exit_code, 0);
  EXPECT_NE(bytes_of(out + ".report.json"), first);
}

// --kv: recorded as what the model is run with, unless the command says otherwise.
TEST(QuantizeCalibrated, KeysAndValuesAsCodes) {
  const std::string folder = temporary_folder();
  const auto run_json = [](const Words& words) { return json_of(pare(plus(words, {"--json"}))); };
  for (const char* method : {"rtn", "gptq"}) {
    const std::string out = folder + "/" + method + ".pare";
    const Words words = method == std::string("rtn")
                            ? Words{"quantize", sample(), "--scheme", "int4-g64", "--kv", "int8", "-o", out}
                            : calibrated(out, {"--method", "gptq", "--scheme", "int4-g64", "--kv", "int8"});
    const Json done = run_json(words);
    EXPECT_EQ(done.find("manifest")->find("options")->find("kv")->as_string(), "int8");
    const Words run = {"run", out, "-p", "The night", "-n", "4", "--temperature", "0"};
    const Json by_default = run_json(run), none = run_json(plus(run, {"--kv", "none"})),
               four = run_json(plus(run, {"--kv", "int4"}));
    EXPECT_EQ(by_default.find("kv")->as_string(), "int8");
    EXPECT_EQ(none.find("kv")->as_string(), "none");
    EXPECT_LT(number(four, "kv_cache_bytes"), number(by_default, "kv_cache_bytes"));
    EXPECT_LT(number(by_default, "kv_cache_bytes"), number(none, "kv_cache_bytes"));
  }
  const Words evaluate = {"evaluate", folder + "/rtn.pare", "--data", text(),  "--context",
                          "64",       "--tokens",           "256",    "--json"};
  const std::string by_default = pare(evaluate).out, none = pare(plus(evaluate, {"--kv", "none"})).out;
  EXPECT_THAT(by_default, HasSubstr("\"kv\": \"int8\""));
  EXPECT_THAT(none, HasSubstr("\"kv\": \"none\""));
}

}  // namespace
}  // namespace pare::test
