#include "distill/training_data.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/hash.h"
#include "engine/core/random.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int32_t kMasked = -1;

Error option_error(const char* rule, const char* option, std::string what, std::string got,
                   std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = rule,
               .path = option,
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

Error too_few(const TrainingStream& stream, std::string what, int64_t got, int64_t need) {
  return Error{.exit = Exit::malformed,
               .rule = "DT07",
               .path = stream.name,
               .where = "tokens",
               .what = std::move(what),
               .got = fmt::format("{}", got),
               .limit = fmt::format("{}", need),
               .limit_label = "need"};
}

Status check_options(const std::vector<TrainingStream>& streams, const TrainingDataOptions& options) {
  if (options.context < 2)
    return option_error("CL06", "--context", "too short to learn from", fmt::format("{}", options.context),
                        "at least 2");
  if (!(options.held_out_share >= 0.0 && options.held_out_share < 1.0))
    return option_error("CL06", "--held-out", "not a share", fmt::format("{}", options.held_out_share),
                        "0 to below 1");
  int64_t with_weight = 0;
  for (const TrainingStream& stream : streams) {
    if (!(stream.weight >= 0.0) || !std::isfinite(stream.weight))
      return option_error("CL06", "--data", fmt::format("not a weight of {}", quote(stream.name)),
                          fmt::format("{}", stream.weight), "a positive number");
    with_weight += stream.weight > 0.0 ? 1 : 0;
  }
  if (with_weight != 0 && with_weight != int64_t(streams.size()))
    return option_error("CL13", "--data", "weights for all files or for none", fmt::format("{}", with_weight),
                        fmt::format("0 or {}", streams.size()));
  return {};
}

Status check_ids(const TrainingStream& stream, int64_t vocabulary) {
  if (vocabulary <= 0) return {};
  const std::vector<int32_t>& ids = stream.tokens->ids;
  const auto bad =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocabulary; });
  if (bad == ids.end()) return {};
  return Error{.exit = Exit::malformed,
               .rule = "DT14",
               .path = stream.name,
               .where = fmt::format("token {}", bad - ids.begin()),
               .what = "not a token of this model",
               .got = fmt::format("{}", *bad),
               .limit = fmt::format("{}", vocabulary - 1)};
}

// Weights as whole numbers: windows where none is given, else shares of the largest in 2^-32.
std::vector<uint64_t> whole_weights(const std::vector<TrainingStream>& streams,
                                    const std::vector<int64_t>& windows, DataPart part) {
  std::vector<uint64_t> weights;
  double largest = 0.0;
  for (const TrainingStream& stream : streams) largest = std::max(largest, stream.weight);
  for (size_t s = 0; s < streams.size(); ++s) {
    const bool by_size = part == DataPart::held_out || largest == 0.0;
    const double share = by_size ? 0.0 : streams[s].weight / largest;
    weights.push_back(by_size ? uint64_t(windows[s]) : uint64_t(std::max(1ll, std::llround(share * 0x1p32))));
  }
  return weights;
}

}  // namespace

struct TrainingData::State {
  // A stream's windows [begin, end) are those of this part.
  struct Part {
    int64_t begin = 0, end = 0, all = 0, before = 0;  // before: windows of the streams in front of it
    int64_t count() const { return end - begin; }
  };
  struct Order {
    int64_t epoch = -1;
    std::vector<uint64_t> windows;
  };

  std::vector<TrainingStream> streams;
  TrainingDataOptions options;
  DataPart part = DataPart::training;
  std::vector<Part> parts;
  std::optional<StreamMixer> mixer;  // set by create()
  std::string input_hash;
  mutable std::mutex mutex;
  mutable std::vector<Order>
      orders;  // per stream the last even and the last odd epoch: readers stand on both sides of an end

  bool is_shuffled() const { return options.shuffle && part != DataPart::held_out; }

  WindowId window_of(int64_t sample) const {
    const StreamMixer::Draw draw = mixer->at(sample);
    const Part& own = parts[size_t(draw.stream)];
    const int64_t epoch = draw.number / own.count(), place = draw.number % own.count();
    if (!is_shuffled()) return {draw.stream, own.begin + place};
    PARE_ASSERT(epoch <= INT64_C(0xffffffff), "[training_data] epoch {}", epoch);
    const std::lock_guard lock(mutex);
    Order& order = orders[size_t(2 * draw.stream + epoch % 2)];
    if (order.epoch != epoch) {
      order.epoch = -1;
      order.windows = Random(options.seed, RandomPurpose::shuffling, uint32_t(draw.stream))
                          .permutation(uint64_t(own.count()), uint32_t(epoch));
      order.epoch = epoch;
    }
    return {draw.stream, own.begin + int64_t(order.windows[size_t(place)])};
  }

  // First token that a window foretells, and how many of them lie inside the part.
  std::pair<int64_t, int64_t> targets_of(const WindowId& id) const {
    const int64_t context = options.context, begin = id.window * context;
    if (options.bos_id >= 0) return {begin, context};
    const Part& own = parts[size_t(id.stream)];
    // What follows the last window of a part is the first of the other, or, behind all windows, a remainder
    // that belongs to nobody.
    const int64_t end =
        own.end == own.all ? int64_t(streams[size_t(id.stream)].tokens->ids.size()) : own.end * context;
    return {begin + 1, std::min(context, end - begin - 1)};
  }

  int64_t fill(const WindowId& id, int32_t* ids, int32_t* targets) const {
    const TokenStream& stream = *streams[size_t(id.stream)].tokens;
    copy_inputs(id, ids);
    const std::pair<int64_t, int64_t> range = targets_of(id);
    const int64_t first = range.first, count = range.second;
    const int32_t* source = stream.ids.data() + first;
    std::copy_n(source, count, targets);
    std::fill(targets + count, targets + options.context, kMasked);
    int64_t masked = 0;
    for_masked_starts(id, [&](int64_t position) {
      targets[position - first] = kMasked;
      ++masked;
    });
    return count - masked;
  }

  void copy_inputs(const WindowId& id, int32_t* ids) const {
    const int64_t context = options.context;
    const int32_t* source = streams[size_t(id.stream)].tokens->ids.data() + id.window * context;
    const bool has_bos = options.bos_id >= 0;
    if (has_bos) *ids++ = options.bos_id;
    std::copy_n(source, context - (has_bos ? 1 : 0), ids);
  }

  // Each place once where a document begins among the targets; behind a BOS of ours it may be learned.
  template <typename Visit>
  void for_masked_starts(const WindowId& id, Visit visit) const {
    if (!options.mask_document_starts) return;
    const auto [first, count] = targets_of(id);
    const std::vector<int64_t>& starts = streams[size_t(id.stream)].tokens->document_starts;
    const int64_t from = options.bos_id >= 0 ? first + 1 : first;
    int64_t last = -1;
    for (auto at = std::lower_bound(starts.begin(), starts.end(), from); at != starts.end(); ++at) {
      if (*at >= first + count) break;
      if (*at != last) visit(*at);
      last = *at;
    }
  }
};

TrainingData::TrainingData() : state_(std::make_unique<State>()) {}
TrainingData::TrainingData(TrainingData&&) noexcept = default;
TrainingData& TrainingData::operator=(TrainingData&&) noexcept = default;
TrainingData::~TrainingData() = default;

Result<TrainingData> TrainingData::create(std::vector<TrainingStream> streams,
                                          const TrainingDataOptions& options, DataPart part) {
  PARE_ASSERT(!streams.empty(), "[training_data] no stream");
  PARE_CHECK(check_options(streams, options));
  TrainingData data;
  State& s = *data.state_;
  std::vector<int64_t> counts;
  Sha256 sha;
  sha.update(std::as_bytes(std::span("pare training inputs 1")));
  const std::array<int64_t, 2> rules{options.context, options.bos_id >= 0 ? options.bos_id : -1};
  sha.update(std::as_bytes(std::span(rules)));
  int64_t before = 0;
  for (const TrainingStream& stream : streams) {
    PARE_CHECK(check_ids(stream, options.vocabulary));
    const auto tokens = int64_t(stream.tokens->ids.size());
    const int64_t windows = tokens / options.context;
    if (windows < 1)
      return too_few(stream, "fewer than one window; lower --context", tokens, options.context);
    const bool holds_out = options.held_out_share > 0.0;
    const int64_t held_out =
        holds_out ? std::max<int64_t>(1, std::llround(options.held_out_share * double(windows))) : 0;
    if (part != DataPart::all && holds_out && held_out >= windows)
      return too_few(stream, "no window is left to train on; lower --context", tokens, 2 * options.context);
    State::Part own{.begin = 0, .end = windows, .all = windows, .before = before};
    if (part == DataPart::training) own.end = windows - held_out;
    if (part == DataPart::held_out) own.begin = windows - held_out;
    if (own.count() < 1)
      return option_error("CL06", "--held-out", "nothing is held out",
                          fmt::format("{}", options.held_out_share), "a share above 0");
    before += windows;
    counts.push_back(own.count());
    s.parts.push_back(own);
    sha.update(std::as_bytes(std::span(stream.tokens->token_hash.data(), stream.tokens->token_hash.size())));
  }
  s.input_hash = sha.hex().substr(0, 32);
  s.mixer.emplace(whole_weights(streams, counts, part));
  s.orders.resize(2 * streams.size());
  s.options = options;
  s.part = part;
  s.streams = std::move(streams);
  return data;
}

Result<TrainingBatch> TrainingData::batch(int64_t first_sample, int64_t sequences) const {
  PARE_ASSERT(first_sample >= 0 && sequences >= 1, "[training_data] {} samples from {}", sequences,
              first_sample);
  const State& s = *state_;
  const int64_t context = s.options.context;
  TrainingBatch batch;
  batch.sequences = sequences;
  batch.tokens = sequences * context;
  PARE_TRY(batch.ids, Tensor::allocate(DType::i32, {batch.tokens}));
  PARE_TRY(batch.targets, Tensor::allocate(DType::i32, {batch.tokens}));
  for (int64_t i = 0; i < sequences; ++i) {
    const WindowId id = s.window_of(first_sample + i);
    batch.counted_targets += s.fill(id, batch.ids.mutable_data<int32_t>() + i * context,
                                    batch.targets.mutable_data<int32_t>() + i * context);
    batch.windows.push_back(id);
  }
  return batch;
}

WindowId TrainingData::window_of(int64_t sample) const {
  return state_->window_of(sample);
}

int64_t TrainingData::counted_targets(int64_t first_sample, int64_t sequences) const {
  int64_t counted = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const WindowId id = state_->window_of(first_sample + i);
    counted += state_->targets_of(id).second;
    state_->for_masked_starts(id, [&](int64_t) { --counted; });
  }
  return counted;
}

int64_t TrainingData::context() const {
  return state_->options.context;
}

int64_t TrainingData::windows() const {
  int64_t windows = 0;
  for (const State::Part& part : state_->parts) windows += part.count();
  return windows;
}

int64_t TrainingData::tokens_per_epoch() const {
  return windows() * context();
}

const TrainingDataOptions& TrainingData::options() const {
  return state_->options;
}

int64_t TrainingData::samples_per_pass() const {
  const auto is_complete = [&](int64_t samples) {
    const std::vector<int64_t> counts = state_->mixer->counts(samples);
    for (size_t s = 0; s < counts.size(); ++s)
      if (counts[s] < state_->parts[s].count()) return false;
    return true;
  };
  int64_t low = windows(), high = low;
  while (!is_complete(high)) high *= 2;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (is_complete(middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return high;
}

int64_t TrainingData::all_windows() const {
  return state_->parts.back().before + state_->parts.back().all;
}

int64_t TrainingData::index_of(const WindowId& id) const {
  return state_->parts[size_t(id.stream)].before + id.window;
}

void TrainingData::inputs_of(int64_t index, int32_t* ids) const {
  PARE_ASSERT(index >= 0 && index < all_windows(), "[training_data] window {}", index);
  size_t stream = 0;
  while (index >= state_->parts[stream].before + state_->parts[stream].all) ++stream;
  state_->copy_inputs({int32_t(stream), index - state_->parts[stream].before}, ids);
}

const std::string& TrainingData::input_hash() const {
  return state_->input_hash;
}

Json TrainingData::to_json() const {
  const State& s = *state_;
  Json streams = Json::array();
  for (size_t i = 0; i < s.streams.size(); ++i) {
    const TokenStream& tokens = *s.streams[i].tokens;
    Json entry = Json::object();
    entry["token_hash"] = tokens.token_hash;
    entry["text_hash"] = tokens.text_hash;
    entry["documents"] = tokens.documents;
    entry["tokens"] = int64_t(tokens.ids.size());
    entry["windows"] = s.parts[i].count();
    entry["weight"] = s.streams[i].weight;
    streams.push_back(std::move(entry));
  }
  Json json = Json::object();
  json["streams"] = std::move(streams);
  json["context"] = s.options.context;
  json["seed"] = s.options.seed;
  json["shuffle"] = s.options.shuffle;
  json["mask_document_starts"] = s.options.mask_document_starts;
  json["bos_id"] = int64_t(s.options.bos_id);
  json["held_out_share"] = s.options.held_out_share;
  json["input_hash"] = s.input_hash;
  return json;
}

}  // namespace pare
