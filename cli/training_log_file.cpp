#include "cli/training_log_file.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "engine/core/file.h"
#include "engine/core/json.h"

namespace pare::cli {
namespace {

constexpr size_t kChunk = size_t(1) << 20;
constexpr uint64_t kLineBytes = uint64_t(1) << 20;  // options included; longer ones are not ours

// Every whole line without its end, and the offset behind it.
Status for_each_line(const std::string& path, const std::function<void(std::string_view, uint64_t)>& use) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  std::string rest;
  std::vector<std::byte> chunk(kChunk);
  uint64_t line_end = 0;
  for (uint64_t at = 0; at < file.size();) {
    const size_t count = size_t(std::min<uint64_t>(kChunk, file.size() - at));
    PARE_CHECK(file.read_at(at, std::span(chunk).first(count)));
    at += count;
    rest.append(reinterpret_cast<const char*>(chunk.data()), count);
    size_t begin = 0;
    for (size_t end; (end = rest.find('\n', begin)) != std::string::npos; begin = end + 1) {
      line_end += end + 1 - begin;
      use(std::string_view(rest).substr(begin, end - begin), line_end);
    }
    rest.erase(0, begin);
  }
  return {};
}

// The object of a line; null when it is none of ours.
Json parsed(std::string_view line, const std::string& path) {
  auto json = parse_json(line, path, {.max_bytes = kLineBytes});
  return json ? *std::move(json) : Json();
}

bool is_event(std::string_view line, std::string_view name) {
  constexpr std::string_view kBegin = "{\"event\":\"";
  return line.starts_with(kBegin) && line.substr(kBegin.size()).starts_with(name) &&
         line.substr(kBegin.size() + name.size()).starts_with("\"");
}

int64_t integer(const Json& json, std::string_view key) {
  const Json* value = json.find(key);
  return value != nullptr && value->kind() == Json::Kind::integer ? value->as_int() : 0;
}

// What is not a number was not finite when it was written.
double real(const Json& json, std::string_view key, double missing) {
  const Json* value = json.find(key);
  if (value == nullptr) return missing;
  return value->is_number() ? value->as_double() : std::numeric_limits<double>::infinity();
}

std::string text(const Json& json, std::string_view key) {
  const Json* value = json.find(key);
  return value != nullptr && value->is_string() ? value->as_string() : std::string();
}

// Adds up what the lines say.
class CurveReader {
 public:
  void add(const Json& line) {
    const std::string event = text(line, "event");
    if (event == "start") {
      curve_.command = text(line, "command");
      if (const Json* options = line.find("options")) curve_.loss_name = text(*options, "loss");
      flops_per_token_ = real(line, "flops_per_token", 0.0);
      peak_flops_ = real(line, "peak_flops", 0.0);
      has_start_ = true;
    } else if (event == "step") {
      add_step(line);
    } else if (event == "validation") {
      const int64_t step = integer(line, "step");
      curve_.validation.push_back({step, real(line, "cross_entropy", 0.0)});
      if (line.find("loss") != nullptr) curve_.validation_loss.push_back({step, real(line, "loss", 0.0)});
    }
  }

  bool is_empty() const { return !has_start_; }

  TrainingCurve finish() {
    if (curve_.seconds > 0.0) {
      curve_.tokens_per_second = double(curve_.input_tokens) / curve_.seconds;
      if (rated_seconds_ > 0.0) curve_.peak_share = share_seconds_ / rated_seconds_;
    }
    const bool is_same = std::equal(curve_.loss.begin(), curve_.loss.end(), curve_.cross_entropy.begin(),
                                    curve_.cross_entropy.end());
    if (is_same) curve_.cross_entropy.clear();
    curve_.loss = thin(curve_.loss);
    curve_.cross_entropy = thin(curve_.cross_entropy);
    curve_.validation = thin(curve_.validation);
    curve_.validation_loss = thin(curve_.validation_loss);
    return std::move(curve_);
  }

 private:
  void add_step(const Json& line) {
    const double seconds = real(line, "seconds", 0.0);
    const int64_t tokens = integer(line, "input_tokens");
    curve_.input_tokens += tokens;
    curve_.seconds += seconds;
    if (peak_flops_ > 0.0) {
      rated_seconds_ += seconds;
      share_seconds_ += flops_per_token_ * double(tokens) / peak_flops_;
    }
    const Json* skipped = line.find("skipped");
    if (skipped != nullptr && skipped->is_bool() && skipped->as_bool()) return;
    const int64_t step = integer(line, "step");
    curve_.steps = std::max(curve_.steps, step + 1);
    curve_.loss.push_back({step, real(line, "loss", 0.0)});
    curve_.cross_entropy.push_back({step, real(line, "cross_entropy", 0.0)});
  }

  TrainingCurve curve_;
  bool has_start_ = false;
  double flops_per_token_ = 0.0, peak_flops_ = 0.0;
  double rated_seconds_ = 0.0, share_seconds_ = 0.0;  // of steps whose peak is known
};

}  // namespace

Result<uint64_t> log_bytes_until(const std::string& path, int64_t generation) {
  uint64_t bytes = 0;
  if (!path_exists(path)) return bytes;
  PARE_CHECK(for_each_line(path, [&](std::string_view line, uint64_t end) {
    if (!is_event(line, "checkpoint")) return;
    const Json json = parsed(line, path);
    if (!json.is_null() && integer(json, "generation") <= generation) bytes = end;
  }));
  return bytes;
}

Result<TrainingCurve> read_training_curve(const std::string& path) {
  CurveReader reader;
  PARE_CHECK(for_each_line(path, [&](std::string_view line, uint64_t) {
    const Json json = parsed(line, path);
    if (!json.is_null()) reader.add(json);
  }));
  if (reader.is_empty()) {
    return Error{.exit = Exit::malformed,
                 .rule = {},
                 .path = path,
                 .where = {},
                 .what = "not the log of a training run",
                 .got = {},
                 .limit = {}};
  }
  return reader.finish();
}

bool is_training_log(const std::string& path) {
  constexpr std::string_view kBegin = R"({"event":"start")";
  const auto file = InputFile::open(path);
  if (!file || file->size() < kBegin.size()) return false;
  std::string begin(kBegin.size(), ' ');
  return file->read_at(0, std::as_writable_bytes(std::span(begin))).has_value() && begin == kBegin;
}

}  // namespace pare::cli
