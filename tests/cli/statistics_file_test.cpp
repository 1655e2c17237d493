// Statistics on disk: everything comes back, and whatever is wrong with a file is named.
#include "cli/statistics_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "calibrate/merge.h"
#include "calibrate/observer.h"
#include "calibrate/statistics_tensors.h"
#include "engine/core/random.h"
#include "tests/support/shared_data.h"

namespace pare::cli::test {
namespace {

using pare::test::temporary_folder;

constexpr int64_t kChannels = 5, kContext = 8, kSamples = 4;
constexpr StatisticSet kWanted = {Statistic::absmean, Statistic::absmax,    Statistic::square,
                                  Statistic::range,   Statistic::histogram, Statistic::second_moment};

Statistics sample(int64_t begin = 0, int64_t end = kSamples) {
  Statistics statistics;
  statistics.origin = {"00ff", "abcd", "1234", 18446744073709551615u, kSamples, kContext};
  statistics.windows = {begin, end};
  uint32_t stream = 0;
  for (const auto& [block, site] :
       {std::pair{0, Site::attention_in}, {0, Site::mlp_out}, {1, Site::mlp_in}}) {
    const Random random(5, RandomPurpose::test_data, ++stream);
    Tensor x = *Tensor::allocate(DType::f32, {(end - begin) * kContext, kChannels});
    for (int64_t i = 0; i < x.numel(); ++i) {
      x.mutable_data<float>()[i] = random.normal(uint64_t(begin * kContext * kChannels + i));
    }
    SiteStatistics one = start_site(kWanted, kChannels);
    EXPECT_TRUE(observe(one, kWanted, x, kContext));
    start_histogram(one, 8.0);
    EXPECT_TRUE(observe_histogram(one, x));
    one.second_moment = *Tensor::allocate(DType::f32, {kChannels, kChannels});
    for (int64_t i = 0; i < kChannels; ++i) one.second_moment.mutable_data<float>()[i * kChannels + i] = 1.5f;
    statistics.sites.emplace(std::pair(block, site), std::move(one));
  }
  return statistics;
}

// The stored tensors, to be damaged and written again.
using Named = std::vector<std::pair<std::string, Tensor>>;
Named tensors_of(const Statistics& statistics) {
  Named named;
  const StatisticsHeader header = header_of(statistics);
  for (const SiteEntry& entry : header.sites) {
    const auto specs = site_specs(entry, header.collected);
    const auto tensors = *site_tensors(*statistics.find(entry.block, entry.site), header.collected);
    for (size_t i = 0; i < specs.size(); ++i) named.emplace_back(specs[i].name, tensors[i]);
  }
  return named;
}

Result<Statistics> read_back(const Named& named, const std::string& header_text) {
  const std::string path = temporary_folder() + "/s.safetensors";
  std::vector<SafetensorsSpec> specs;
  for (const auto& [name, tensor] : named) specs.push_back({name, tensor.dtype(), tensor.shape()});
  SafetensorsMetadata metadata;
  if (!header_text.empty()) metadata = {{kStatisticsMetadataKey, header_text}};
  auto writer = SafetensorsWriter::create(path, {}, specs, metadata);
  for (const auto& [name, tensor] : named) EXPECT_TRUE(writer->write(tensor));
  EXPECT_TRUE(writer->finish());
  PARE_TRY(const StatisticsFile file, StatisticsFile::open(path));
  return file.load_all();
}

TEST(StatisticsFile, ComesBackWhole) {
  const std::string path = temporary_folder() + "/stats.safetensors";
  const Statistics written = sample();
  ASSERT_TRUE(save_statistics(path, {}, written));
  const auto file = StatisticsFile::open(path);
  ASSERT_TRUE(file) << file.error().what;
  EXPECT_TRUE(file->header().is_complete());
  const auto read = file->load_all();
  ASSERT_TRUE(read);
  EXPECT_EQ(read->origin, written.origin);
  ASSERT_EQ(read->sites.size(), 3u);
  for (const auto& [key, site] : written.sites) {
    const SiteStatistics& other = *read->find(key.first, key.second);
    EXPECT_EQ(other.tokens, site.tokens);
    EXPECT_EQ(other.samples, site.samples);
    EXPECT_EQ(other.abs_sum, site.abs_sum);
    EXPECT_EQ(other.abs_max, site.abs_max);
    EXPECT_EQ(other.square_sum, site.square_sum);
    EXPECT_EQ(other.low, site.low);
    EXPECT_EQ(other.moving_high, site.moving_high);
    EXPECT_EQ(other.first_low, site.first_low);
    EXPECT_EQ(other.histogram->positive, site.histogram->positive);
    EXPECT_EQ(other.histogram->negative, site.histogram->negative);
    EXPECT_EQ(other.histogram->limit, 8.0);
    EXPECT_EQ(other.second_moment.data<float>()[kChannels + 1], 1.5f);
  }
}

TEST(StatisticsFile, EveryDamageIsNamed) {
  const Statistics good = sample();
  const std::string text = statistics_header_text(header_of(good));
  ASSERT_TRUE(read_back(tensors_of(good), text));
  const auto damaged = [&](const char* name, auto change) {
    Named named = tensors_of(good);
    for (auto& [key, tensor] : named) {
      if (key == std::string("model.layers.0.attn.in.") + name) change(tensor);
    }
    const auto result = read_back(named, text);
    EXPECT_FALSE(result) << name;
    return result ? Error{} : result.error();
  };
  const auto set_f64 = [](double value) {
    return [=](Tensor& tensor) { tensor.mutable_data<double>()[3] = value; };
  };
  const Error nan = damaged("abs_sum", set_f64(NAN));
  EXPECT_EQ(nan.exit, Exit::numeric);
  EXPECT_EQ(nan.rule, "IM02");
  EXPECT_EQ(nan.where, "\"model.layers.0.attn.in.abs_sum\"[3]");
  EXPECT_EQ(damaged("square_sum", set_f64(-1e-9)).exit, Exit::numeric);
  EXPECT_EQ(damaged("range", set_f64(INFINITY)).exit, Exit::numeric);
  EXPECT_EQ(damaged("range", set_f64(-1e30)).exit, Exit::malformed);
  EXPECT_EQ(damaged("range", [](Tensor& t) { t.mutable_data<double>()[0] = -1e300; }).rule, "IM03");
  EXPECT_EQ(damaged("abs_max", [](Tensor& t) { t.mutable_data<float>()[0] = -1.0f; }).exit, Exit::numeric);
  EXPECT_EQ(damaged("counts", [](Tensor& t) { t.mutable_data<int64_t>()[0] = -1; }).exit, Exit::numeric);
  EXPECT_EQ(damaged("counts", [](Tensor& t) { t.mutable_data<int64_t>()[1] = 1 << 20; }).exit,
            Exit::malformed);
  EXPECT_EQ(damaged("histogram", [](Tensor& t) { ++t.mutable_data<uint64_t>()[7]; }).rule, "IM03");
  EXPECT_EQ(damaged("second_moment", [](Tensor& t) { t.mutable_data<float>()[1] = 0.25f; }).rule, "IM02");
  EXPECT_EQ(damaged("second_moment", [](Tensor& t) { t.mutable_data<float>()[0] = -0.25f; }).rule, "IM02");
  EXPECT_EQ(damaged("abs_max", [](Tensor& t) { t = *Tensor::allocate(DType::f32, {kChannels + 1}); }).rule,
            "IM03");
}

TEST(StatisticsFile, TensorsAndHeaderMustAgree) {
  const Statistics good = sample();
  const std::string text = statistics_header_text(header_of(good));
  Named missing = tensors_of(good);
  missing.erase(missing.begin() + 4);
  EXPECT_EQ(read_back(missing, text).error().rule, "IM04");
  Named extra = tensors_of(good);
  extra.emplace_back("model.layers.9.mlp.in.counts", *Tensor::allocate(DType::i64, {2}));
  EXPECT_EQ(read_back(extra, text).error().rule, "IM04");
  EXPECT_EQ(read_back(tensors_of(good), "").error().rule, "IM06");
  const auto edited = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    const auto result = read_back(tensors_of(good), changed);
    EXPECT_FALSE(result) << to;
    return result ? Exit::ok : result.error().exit;
  };
  EXPECT_EQ(edited("\"version\":1", "\"version\":2"), Exit::unsupported);
  EXPECT_EQ(edited("\"samples\":4", "\"samples\":-4"), Exit::malformed);
  EXPECT_EQ(edited("\"end_window\":4", "\"end_window\":5"), Exit::malformed);
  EXPECT_EQ(edited("\"attn.in\"", "\"attn.up\""), Exit::malformed);
  EXPECT_EQ(edited("absmean", "median"), Exit::malformed);
  EXPECT_EQ(edited("\"block\":1", "\"block\":0"), Exit::malformed);
  EXPECT_EQ(edited("\"channels\":5", "\"channels\":0"), Exit::malformed);
  EXPECT_EQ(edited("{", "["), Exit::malformed);
}

TEST(StatisticsFile, BelongsToOneModelAndData) {
  const std::string path = temporary_folder() + "/stats.safetensors";
  ASSERT_TRUE(save_statistics(path, {}, sample()));
  EXPECT_TRUE(open_statistics_of(path, "00ff", "abcd"));
  EXPECT_TRUE(open_statistics_of(path, "00ff", ""));
  const auto model = open_statistics_of(path, "other", "abcd");
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().exit, Exit::locked);
  EXPECT_EQ(model.error().rule, "IM05");
  EXPECT_EQ(model.error().got, "00ff");
  EXPECT_EQ(model.error().limit, "other");
  EXPECT_EQ(open_statistics_of(path, "00ff", "eeee").error().exit, Exit::locked);
}

TEST(StatisticsFile, PartsMergeInAnyOrderToTheSameBytes) {
  const std::string folder = temporary_folder();
  ASSERT_TRUE(save_statistics(folder + "/a", {}, sample(0, 1)));
  ASSERT_TRUE(save_statistics(folder + "/b", {}, sample(1, 3)));
  ASSERT_TRUE(save_statistics(folder + "/c", {}, sample(3, 4)));
  EXPECT_EQ(open_statistics_of(folder + "/b", "00ff", "").error().rule, "IM07");
  StatisticsHeader header;
  ASSERT_TRUE(
      merge_statistics({folder + "/a", folder + "/b", folder + "/c"}, folder + "/abc", false, &header));
  EXPECT_TRUE(header.is_complete());
  ASSERT_TRUE(
      merge_statistics({folder + "/c", folder + "/a", folder + "/b"}, folder + "/cab", false, nullptr));
  EXPECT_EQ(*read_text_file(folder + "/abc", 1 << 24), *read_text_file(folder + "/cab", 1 << 24));
  const auto merged = StatisticsFile::open(folder + "/abc")->load_all();
  ASSERT_TRUE(merged);
  EXPECT_EQ(merged->find(1, Site::mlp_in)->tokens, kSamples * kContext);
  EXPECT_EQ(merged->find(1, Site::mlp_in)->second_moment.data<float>()[0], 4.5f);

  EXPECT_EQ(merge_statistics({folder + "/a", folder + "/c"}, folder + "/ac", false, nullptr).error().rule,
            "IM07");
  EXPECT_FALSE(std::filesystem::exists(folder + "/ac"));
  EXPECT_EQ(merge_statistics({folder + "/a", folder + "/b"}, folder + "/a", true, nullptr).error().exit,
            Exit::usage);
}

}  // namespace
}  // namespace pare::cli::test
