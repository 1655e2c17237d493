// The report page: well-formed, complete, harmless; the file beside an output: every field checked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <sstream>

#include "engine/core/file.h"
#include "evaluate/damage_json.h"
#include "evaluate/report/facts.h"
#include "evaluate/report/html.h"
#include "evaluate/report/plots.h"
#include "evaluate/report/report_input.h"
#include "evaluate/run_report.h"
#include "tests/support/backends.h"
#include "tests/support/markup.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kHostile = "<script>alert(1)</script>&\"'\x1b[2J";

// A report with every part there is; numbers are made up, but all different.
ReportInput example() {
  use(arithmetics_of_this_host().back());
  static const auto original = tiny_model(kTinyLlama);
  static const auto compressed = [] {
    auto source = tiny_model(kTinyLlama);
    for (const TensorSpec& spec : checked(describe_model(*source)).tensors)
      if (spec.is_linear) source->add(spec.name, int8_of(source->dense(spec.name)), false);
    return source;
  }();
  static std::vector<int32_t> ids;
  if (ids.empty())
    for (int i = 0; i < 120; ++i) ids.push_back((i * i + 7) % 40);
  ReportInput input;
  input.name = "out.pare";
  input.format = "pare";
  input.output_bytes = 54321;
  input.blocks = 3;
  Manifest& manifest = input.manifest;
  manifest.program_version = "0.1.0";
  manifest.command = "quantize";
  manifest.options["scheme"] = "int8-ch-sym";
  manifest.options["method"] = "gptq";
  manifest.seed = 4711;
  Json file = Json::object();
  file["name"] = "model.safetensors";
  file["bytes"] = Json(int64_t(123456));
  file["xxh3_128"] = "00112233445566778899aabbccddeeff";
  manifest.inputs.push_back(file);
  const ModelDescription model = checked(describe_model(*compressed));
  for (const TensorSpec& spec : model.tensors) {
    TensorRecord record{.name = spec.name,
                        .kind = "dense",
                        .scheme = {},
                        .shape = {},
                        .method_asked = "copy",
                        .method_applied = "copy",
                        .relative_error = {},
                        .max_error = {},
                        .bits_per_weight = {},
                        .clipped_share = {},
                        .fallback = {}};
    if (spec.is_linear) {
      const double n = double(manifest.tensors.size());
      record.kind = "quantized";
      record.scheme = "int8-ch-sym";
      record.shape = {spec.out(), spec.in()};
      record.method_asked = record.method_applied = "gptq";
      record.relative_error = 0.01 + n * 1.1e-4;
      record.max_error = 0.5 + n * 0.013;
      record.bits_per_weight = 8.25;
      record.extra["output_error"] = 0.02 + n * 1.3e-4;
      record.extra["rtn_output_error"] = 0.03 + n * 1.7e-4;
      record.extra["damping"] = 0.01;
      record.extra["tokens"] = Json(int64_t(120));
      Json search = Json::object();
      search["kind"] = "awq";
      search["ratio"] = 0.35;
      record.extra["scale_search"] = std::move(search);
    }
    manifest.tensors.push_back(std::move(record));
  }
  RunReport run;
  run.command = "quantize";
  run.command_line = {"quantize", "in model", "-o", "out.pare"};
  run.seconds = 12.5;
  run.peak_resident_bytes = 987654321;
  run.peak_device_bytes = 123456789;
  run.threads = 3;
  run.cpu_profile = "avx2";
  run.weight_bytes_before = 222222;
  run.curve = {{3.0, 0.9, false}, {4.5, 0.25, true}, {6.0, 0.0625, false}};
  run.curve_unit = "KL, nats per token";
  run.damage = checked(damage_report(original, compressed, damage_tokens(ids, 12, 10, "made-up text"),
                                     nullptr, {}, [](int64_t) { return Status(); }));
  const auto rate = [](double median) {
    return Rate{
        .median = median, .lower_quartile = median - 1.5, .upper_quartile = median + 2.5, .repetitions = 9};
  };
  run.speed = SpeedComparison{
      .device = "cpu", .prompt_tokens = 119, .decode_tokens = 31, .original = {}, .compressed = {}};
  run.speed->original = {.decode = rate(41.25), .prefill = rate(307.5), .loaded_bytes = 271000000};
  run.speed->compressed = {.decode = rate(57.75), .prefill = rate(308.5), .loaded_bytes = 163000000};
  run.training = TrainingCurve{.command = "distill",
                               .loss_name = "ce+kl",
                               .steps = 1003,
                               .input_tokens = 4567890,
                               .seconds = 321.5,
                               .tokens_per_second = 14207.5,
                               .peak_share = 0.437,
                               .loss = {{0, 2.125}, {500, 0.8125}, {1002, 0.4375}},
                               .cross_entropy = {{0, 4.375}, {500, 3.5625}, {1002, 3.3125}},
                               .validation = {{0, 4.28125}, {600, 3.4375}, {1003, 3.40625}},
                               .validation_loss = {{0, 2.0}, {1003, 0.46875}}};
  input.run = std::move(run);
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    input.tensors.push_back({.name = spec.name,
                             .block = spec.block,
                             .part = spec.is_linear ? "linear" : "",
                             .site = spec.is_linear ? std::string(site_name(spec.site)) : "",
                             .bytes = compressed->find(spec.name)->bytes,
                             .elements = spec.shape.numel(),
                             .record = nullptr});
  }
  return input;
}

// Lines joined again, so that a phrase is found wherever the text form breaks it.
std::string unwrapped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const char plain = c == '\n' ? ' ' : c;
    if (plain != ' ' || out.empty() || out.back() != ' ') out += plain;
  }
  return out;
}

// Records are found by place: they point into the manifest of this very input.
void link(ReportInput& input) {
  for (size_t i = 0; i < input.tensors.size(); ++i) input.tensors[i].record = &input.manifest.tensors[i];
}

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    input_ = example();
    link(input_);
  }
  ReportInput input_;
};

TEST_F(ReportTest, PageIsWellFormedAndNeedsNothingElse) {
  const std::string page = report_html(input_);
  EXPECT_EQ(markup_fault(page), "");
  for (const char* word : {"http:", "https:", "//", "<script", "<img", "<link", "<iframe", "@import", "url(",
                           "src=", "href=", "javascript"})
    EXPECT_THAT(page, Not(HasSubstr(word)));
  for (const char* word : {"lang=\"en\"", "name=\"viewport\"", "prefers-color-scheme", "@media print",
                           "scope=\"col\"", "Content-Security-Policy"})
    EXPECT_THAT(page, HasSubstr(word));
  // Every plot says what it shows.
  EXPECT_EQ(occurrences(page, "role=\"img\""), occurrences(page, "<desc>"));
  EXPECT_GT(occurrences(page, "role=\"img\""), 10);
  EXPECT_THAT(page, Not(HasSubstr("Know this first")));
  if (const char* folder = std::getenv("PARE_KEEP_REPORT")) {
    FileWriter writer = checked(FileWriter::create(std::string(folder) + "/page.html", {.force = true}));
    checked(writer.write(page));
    checked(writer.publish());
  }
}

TEST_F(ReportTest, EveryNumberAppearsOnPageAndInText) {
  const std::string page = report_html(input_), text = unwrapped(report_text(input_));
  std::vector<std::string> expected = {"4711",
                                       "00112233445566778899aabbccddeeff",
                                       "123456",
                                       "made-up text",
                                       "pare quantize &#39;in model&#39; -o out.pare",
                                       "987.7 MB",
                                       "12.5 s",
                                       "avx2"};
  const DamageReport& damage = *input_.run->damage;
  const Json json = to_json(damage);
  for (const auto& [key, value] : json.members()) {
    if (!value.is_number()) continue;
    const bool is_share = key.starts_with("top1");  // shown in percent
    expected.push_back(report::number(is_share ? 100.0 * value.as_double() : value.as_double()));
  }
  for (const char* side : {"original", "compressed"})
    for (const auto& [key, value] : json.find(side)->members())
      if (key != "tokens") expected.push_back(report::number(value.as_double()));
  for (const WorstToken& worst : damage.worst) {
    for (const double value : {worst.kl, worst.nll, worst.original_nll})
      expected.push_back(report::number(value));
    expected.push_back(std::to_string(worst.position));
  }
  for (const CurvePoint& point : input_.run->curve) expected.push_back(report::number(point.loss));
  for (const TensorRecord& record : input_.manifest.tensors) {
    if (record.scheme.empty()) continue;
    expected.push_back(record.name);
    expected.push_back(report::number(*record.relative_error));
    expected.push_back(report::number(record.extra.find("output_error")->as_double()));
    expected.push_back(report::number(record.extra.find("rtn_output_error")->as_double()));
  }
  expected.push_back("scale search kind awq, ratio 0.35");
  for (const char* value : {"41.2 → 57.8 tokens/s (1.40x)", "308 → 308 tokens/s (no speed-up on this device)",
                            "Prompt of 119 tokens", "271.0 MB → 163.0 MB", "41.25 (39.75 to 43.75)",
                            "308.5 (307 to 311)", "9 times 31 tokens"})
    expected.push_back(value);
  for (const char* value : {"ce+kl", "1,003", "4,567,890", "5 min 22 s", "14208 tokens/s (43.7 % of",
                            "2.125 → 0.4375", "4.375 → 3.312", "72.33 → 30.15", "3.438"})
    expected.push_back(value);
  for (const std::string& value : expected) {
    EXPECT_THAT(page, HasSubstr(value));
    const bool is_quoted = value.find("&#39;") != std::string::npos;
    EXPECT_THAT(text, HasSubstr(is_quoted ? "pare quantize 'in model' -o out.pare" : value));
  }
  for (const BlockDamage& block : damage.blocks)
    EXPECT_THAT(text, HasSubstr(report::number(block.relative_error)));
}

// Coordinates of the line of a plot, from its path.
std::vector<std::pair<double, double>> path_points(const std::string& plot, const std::string& line_class) {
  const size_t begin = plot.find("<path class=\"" + line_class + "\" d=\"M");
  std::vector<std::pair<double, double>> points;
  if (begin == std::string::npos) return points;
  const size_t at = plot.find("d=\"", begin) + 3;
  std::string path = plot.substr(at, plot.find('"', at) - at);
  std::replace_if(
      path.begin(), path.end(), [](char c) { return c == 'M' || c == 'L'; }, ' ');
  std::istringstream in(path);
  for (double x, y; in >> x >> y;) points.emplace_back(x, y);
  return points;
}

TEST(StepPlot, FallsFromLeftToRight) {
  const std::string plot =
      report::step_plot({}, {{0, 3.5}, {50, 3.25}, {100, 3.0}}, {{0, 3.75}, {100, 3.125}});
  EXPECT_EQ(markup_fault("<!DOCTYPE html>\n" + plot), "");
  const auto line = path_points(plot, "ours"), held_out = path_points(plot, "plain");
  ASSERT_EQ(line.size(), 3u);
  ASSERT_EQ(held_out.size(), 2u);
  EXPECT_LT(line[0].first, line[1].first);
  EXPECT_NEAR(line[1].first - line[0].first, line[2].first - line[1].first, 0.11);
  // On an even scale equal steps are equally far apart; y grows downwards.
  EXPECT_NEAR(line[1].second - line[0].second, line[2].second - line[1].second, 0.11);
  EXPECT_GT(line[1].second, line[0].second);
  EXPECT_LT(held_out[0].second, line[0].second);
  EXPECT_EQ(occurrences(plot, "class=\"ring\""), 2);
}

TEST(StepPlot, LogarithmicWhereTheLossFallsFar) {
  const std::string plot = report::step_plot({}, {{0, 10.0}, {1, 1.0}, {2, 0.1}}, {});
  const auto line = path_points(plot, "ours");
  ASSERT_EQ(line.size(), 3u);
  EXPECT_NEAR(line[1].second - line[0].second, line[2].second - line[1].second, 0.11);
  EXPECT_THAT(plot, HasSubstr(">0.1</text>"));
  // Never where zero or less must be shown.
  const auto even = path_points(report::step_plot({}, {{0, 10.0}, {1, 5.0}, {2, 0.0}}, {}), "ours");
  ASSERT_EQ(even.size(), 3u);
  EXPECT_NEAR(even[1].second - even[0].second, even[2].second - even[1].second, 0.11);
}

TEST(StepPlot, AnyPointsMakeAPlot) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const std::vector<report::StepPoint>& points : {std::vector<report::StepPoint>{},
                                                       {{0, 1.0}},
                                                       {{0, infinity}},
                                                       {{0, 0.0}, {1, 0.0}},
                                                       {{3, -2.0}, {4, infinity}}}) {
    const std::string plot = report::step_plot({}, points, points);
    EXPECT_EQ(markup_fault("<!DOCTYPE html>\n" + plot), "");
    EXPECT_THAT(plot, Not(HasSubstr("nan")));
    EXPECT_THAT(plot, Not(HasSubstr("inf")));
  }
}

TEST_F(ReportTest, LossCurves) {
  // A run of one minute, thinned: marks would be a smear, and no picture may grow with the run.
  std::vector<TrainingPoint> points;
  for (int64_t i = 0; i < 100000; ++i) points.push_back({i, 3.0 + 1.0 / double(i + 1)});
  input_.run->training->loss = thin(points);
  const std::string page = report_html(input_);
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_LE(path_points(page.substr(page.find("<h2>Training")), "ours").size(), kCurvePoints);
  EXPECT_THAT(page, HasSubstr("loss: ce+kl"));
  EXPECT_THAT(page, HasSubstr("held-out perplexity, by training"));
  // Cross entropy alone is one plot.
  const auto plots = [](const std::string& html) {
    const size_t begin = html.find("<h2>Training");
    return occurrences(html.substr(begin, html.find("<h2>", begin + 1) - begin), "role=\"img\"");
  };
  EXPECT_EQ(plots(page), 2);
  input_.run->training->cross_entropy.clear();
  EXPECT_EQ(plots(report_html(input_)), 1);
  input_.run->training.reset();
  EXPECT_THAT(report_html(input_), Not(HasSubstr("<h2>Training")));
  EXPECT_THAT(report_text(input_), Not(HasSubstr("TRAINING")));
}

TEST_F(ReportTest, EqualInputGivesEqualBytes) {
  ReportInput again = example();
  link(again);
  EXPECT_TRUE(report_html(input_) == report_html(again));
  EXPECT_TRUE(report_text(input_) == report_text(again));
  EXPECT_TRUE(report_json(input_).dump() == report_json(again).dump());
}

TEST_F(ReportTest, NamesFromFilesStayText) {
  input_.name = kHostile;
  for (size_t i = 0; i < input_.tensors.size(); ++i) {
    TensorRecord& record = input_.manifest.tensors[i];
    record.name = input_.tensors[i].name = kHostile;
    if (!record.scheme.empty()) record.scheme = record.method_applied = record.fallback = kHostile;
    record.extra[kHostile] = kHostile;
  }
  input_.manifest.options["scheme"] = kHostile;
  input_.run->warnings = {kHostile};
  input_.run->command_line = {kHostile};
  input_.run->damage->source = kHostile;
  input_.run->training->loss_name = input_.run->training->command = kHostile;
  input_.run->damage->worst[0].token = input_.run->damage->worst[0].context = kHostile;
  for (WeightDamage& weight : input_.run->damage->weights) weight.name = weight.scheme = kHostile;
  const std::string page = report_html(input_), text = report_text(input_);
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;"));
  for (const std::string& form : {page, text}) EXPECT_EQ(form.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("\\x1b[2J"));
}

TEST_F(ReportTest, WarningsComeFirst) {
  input_.manifest.tensors[1].fallback = "Hessian not positive definite";
  input_.manifest.tensors[2].extra["heavily_damped"] = true;
  input_.run->warnings = {"memory was short"};
  input_.run_is_stale = true;
  const std::string page = report_html(input_);
  EXPECT_EQ(markup_fault(page), "");
  const size_t warnings = page.find("Know this first");
  ASSERT_NE(warnings, std::string::npos);
  EXPECT_LT(warnings, page.find("class=\"tiles\""));
  for (const char* word : {"Hessian not positive definite", "close to plain rounding", "memory was short",
                           "made for another output"}) {
    EXPECT_THAT(page, HasSubstr(word));
    EXPECT_THAT(unwrapped(report_text(input_)), HasSubstr(word));
  }
}

TEST_F(ReportTest, WithoutTheFileBesideItSaysWhatIsMissing) {
  input_.run.reset();
  for (TensorRecord& record : input_.manifest.tensors) record.extra = Json::object();
  const std::string page = report_html(input_);
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_THAT(page, HasSubstr("No out.pare.report.json lies beside the output"));
  EXPECT_THAT(page, HasSubstr("No output errors were recorded"));
  EXPECT_THAT(page, HasSubstr("relative weight error"));
  EXPECT_THAT(unwrapped(report_text(input_)), HasSubstr("pare evaluate out.pare --reference"));
  EXPECT_TRUE(report_json(input_).find("report")->is_null());
}

TEST_F(ReportTest, ValuesThatAreNotFiniteDoNotBreakThePage) {
  Damage& damage = input_.run->damage->damage;
  damage.kl.value = damage.kl_max = std::numeric_limits<double>::infinity();
  input_.run->damage->blocks[1].relative_error = std::numeric_limits<double>::infinity();
  for (SiteDamage& site : input_.run->damage->sites) site.original = site.compressed = MagnitudeHistogram();
  for (WeightDamage& weight : input_.run->damage->weights) weight.original.limit = 0.0;
  const std::string page = report_html(input_);
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_THAT(page, HasSubstr("∞"));
  EXPECT_THAT(page, Not(HasSubstr("nan")));
}

TEST_F(ReportTest, FileBesideTheOutput) {
  const std::string folder = temporary_folder();
  EXPECT_EQ(run_report_path("a/out/"), "a/out.report.json");
  EXPECT_FALSE(checked(read_run_report(folder + "/out.pare")).has_value());
  input_.run->manifest_hash = manifest_hash(input_.manifest);
  checked(write_run_report(folder + "/out.pare", *input_.run, false));
  const auto back = checked(read_run_report(folder + "/out.pare"));
  ASSERT_TRUE(back.has_value());
  EXPECT_TRUE(to_json(*back).dump() == to_json(*input_.run).dump());
  const Status twice = write_run_report(folder + "/out.pare", *input_.run, false);
  ASSERT_FALSE(twice.has_value());
  EXPECT_EQ(twice.error().exit, Exit::usage);
  // The list of files is known only when a folder is finished.
  Manifest other = input_.manifest;
  other.files.push_back(Json::object());
  EXPECT_EQ(manifest_hash(other), manifest_hash(input_.manifest));
  other.seed = 1;
  EXPECT_NE(manifest_hash(other), manifest_hash(input_.manifest));
}

struct BadReport {
  const char* name;
  const char* rule;
  const char* where;
  void (*damage)(Json& json);
};

TEST_F(ReportTest, EveryFieldIsChecked) {
  const Json good = to_json(*input_.run);
  static const BadReport cases[] = {
      {"no version", "RP02", "schema_version", [](Json& j) { j.erase("schema_version"); }},
      {"newer version", "RP05", "schema_version", [](Json& j) { j["schema_version"] = 2; }},
      {"another kind", "RP04", "kind", [](Json& j) { j["kind"] = "something"; }},
      {"text for a number", "RP03", "run.seconds", [](Json& j) { j["run"]["seconds"] = "long"; }},
      {"negative bytes", "RP04", "sizes.output_bytes", [](Json& j) { j["sizes"]["output_bytes"] = -1; }},
      {"bytes above 2^63", "RP04", "sizes.output_bytes",
       [](Json& j) { j["sizes"]["output_bytes"] = UINT64_MAX; }},
      {"list for an object", "RP03", "run", [](Json& j) { j["run"] = Json::array(); }},
      {"warning that is no text", "RP03", "warnings", [](Json& j) { j["warnings"].push_back(Json(1)); }},
      {"damage that is no object", "RP03", "damage", [](Json& j) { j["damage"] = 1; }},
      {"damage without KL", "RP02", "damage.kl_mean", [](Json& j) { j["damage"].erase("kl_mean"); }},
      {"half a pair", "RP02", "damage.original.perplexity",
       [](Json& j) { j["damage"]["original"].erase("perplexity"); }},
      {"block out of range", "RP04", "damage.blocks[0].block",
       [](Json& j) { j["damage"]["blocks"].items()[0]["block"] = -1; }},
      {"a block that is no object", "RP03", "damage.blocks[1]",
       [](Json& j) { j["damage"]["blocks"].items()[1] = 3; }},
      {"unknown site", "RP04", "damage.activations[0].site",
       [](Json& j) { j["damage"]["activations"].items()[0]["site"] = "attn"; }},
      {"too few bins", "RP04", "damage.activations[2].original.counts",
       [](Json& j) { j["damage"]["activations"].items()[2]["original"]["counts"].items().pop_back(); }},
      {"negative count", "RP04", "damage.weights[0].compressed.counts",
       [](Json& j) { j["damage"]["weights"].items()[0]["compressed"]["counts"].items()[5] = -3; }},
      {"huge count", "RP04", "damage.weights[0].compressed.counts",
       [](Json& j) {
         j["damage"]["weights"].items()[0]["compressed"]["counts"].items()[5] = uint64_t(1) << 60;
       }},
      {"token id out of range", "RP04", "damage.worst_tokens[0].id",
       [](Json& j) { j["damage"]["worst_tokens"].items()[0]["id"] = int64_t(1) << 40; }},
      {"speed that is no object", "RP03", "speed", [](Json& j) { j["speed"] = "fast"; }},
      {"speed below zero", "RP04", "speed.compressed.decode.lower_quartile",
       [](Json& j) { j["speed"]["compressed"]["decode"]["lower_quartile"] = -2.0; }},
      {"training that is no object", "RP03", "training", [](Json& j) { j["training"] = "long"; }},
      {"training without steps", "RP02", "training.steps", [](Json& j) { j["training"].erase("steps"); }},
      {"a point of three", "RP03", "training.loss",
       [](Json& j) { j["training"]["loss"].items()[1].push_back(Json(1)); }},
      {"a step below zero", "RP03", "training.validation",
       [](Json& j) { j["training"]["validation"].items()[0].items()[0] = -1; }},
      {"curve without points", "RP02", "curve.points", [](Json& j) { j["curve"].erase("points"); }},
  };
  for (const BadReport& bad : cases) {
    Json json = good;
    bad.damage(json);
    const auto result = run_report_from_json(json, "x.report.json");
    ASSERT_FALSE(result.has_value()) << bad.name;
    EXPECT_EQ(result.error().rule, bad.rule) << bad.name;
    EXPECT_EQ(result.error().where, bad.where) << bad.name;
    EXPECT_EQ(result.error().exit, bad.rule == std::string("RP05") ? Exit::unsupported : Exit::malformed)
        << bad.name;
  }
  Json more = good;
  more["something_new"] = 1;
  EXPECT_TRUE(run_report_from_json(more, "x").has_value());
  EXPECT_EQ(run_report_from_json(Json::array(), "x").error().rule, "RP03");
}

TEST(ReportPieces, NumbersAndText) {
  EXPECT_EQ(report::number(0.0), "0");
  EXPECT_EQ(report::number(1.23456), "1.235");
  EXPECT_EQ(report::number(123456.0), "123456");
  EXPECT_EQ(report::number(1.5e-5), "1.5e-05");
  EXPECT_EQ(report::escape("<a b='c'>&\""), "&lt;a b=&#39;c&#39;&gt;&amp;&quot;");
  EXPECT_EQ(report::shown("a\\\\b\n"), "a\\\\b\\x0a");
  EXPECT_EQ(report::shown("\\"), "\\");
  EXPECT_EQ(report::shown(""), "");
  EXPECT_EQ(report::nice_step(10.0, 5), 2.0);
  EXPECT_EQ(report::nice_step(0.0, 5), 1.0);
}

TEST(ReportPieces, LossesOfManySizesAreLogarithmic) {
  const report::PlotText text{.title = "t", .description = "d", .x_label = "x", .y_label = "y"};
  const std::string wide = report::curve_plot(
      text, {{2.0, 5.0, false}, {4.5, 0.1, true}, {8.0, 0.002, false}, {16.0, 0.0, false}});
  for (const char* tick : {">1e-3<", ">0.01<", ">0.1<", ">1<", ">10<"}) EXPECT_THAT(wide, HasSubstr(tick));
  EXPECT_EQ(occurrences(wide, "<circle"), 4);  // three of four points, the chosen one twice
  const std::string narrow = report::curve_plot(text, {{4.0, 2.0, false}, {8.0, 1.0, true}});
  EXPECT_THAT(narrow, HasSubstr(">0.5<"));
  EXPECT_THAT(narrow, Not(HasSubstr(">0.1<")));
}

}  // namespace
}  // namespace pare::test
