#include "distill/intermediate_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>

#include "distill/parameter_pieces.h"
#include "engine/core/random.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

Error bad_value(const char* where, const char* what, std::string got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "intermediate losses",
               .where = where,
               .what = what,
               .got = std::move(got),
               .limit = std::move(limit)};
}

std::string_view kind_name(HiddenLossKind kind) {
  return kind == HiddenLossKind::none ? "none" : kind == HiddenLossKind::mse ? "mse" : "cosine";
}

// Entries N(0, 1 / columns), which keeps norms on average.
Result<std::shared_ptr<Parameter>> make_projection(const std::string& name, int64_t rows, int64_t columns,
                                                   Device device, uint64_t seed) {
  PARE_TRY(Tensor value, Tensor::allocate(DType::f32, {rows, columns}));
  const Random random(seed, RandomPurpose::random_projection, name);
  const float deviation = 1.0f / std::sqrt(float(columns));
  for (int64_t i = 0; i < value.numel(); ++i)
    value.mutable_data<float>()[i] = deviation * random.normal(uint64_t(i));
  PARE_TRY(value, moved(value, device));
  return Parameter::make(name, Parameter::Kind::adapter, std::move(value));
}

struct Widths {
  int64_t queries, keys;
};
Widths widths_of(const BlockConfig& block) {
  return {.queries = block.heads * block.head_dim, .keys = block.kv_heads * block.head_dim};
}

}  // namespace

Result<HiddenLossKind> hidden_loss_kind_from_name(std::string_view name) {
  for (const HiddenLossKind kind : {HiddenLossKind::none, HiddenLossKind::mse, HiddenLossKind::cosine})
    if (name == kind_name(kind)) return kind;
  return bad_value("hidden", "no such loss of hidden states", std::string(name), "none, mse, cosine");
}

Json IntermediateConfig::to_json() const {
  Json json = Json::object();
  json["hidden"] = kind_name(hidden);
  Json layers = Json::array();
  for (const int layer : surviving_layers) layers.push_back(Json(layer));
  json["surviving_layers"] = std::move(layers);
  json["attention"] = attention;
  json["relation_heads"] = relation_heads;
  json["weight"] = weight;
  return json;
}

Result<std::vector<int>> map_layers(int64_t student_blocks, int64_t teacher_blocks,
                                    const std::vector<int>& surviving) {
  std::vector<int> map;
  if (surviving.empty()) {
    for (int64_t l = 0; l < student_blocks; ++l) {
      const double place = double((l + 1) * teacher_blocks) / double(student_blocks);
      map.push_back(std::max(0, int(std::lround(place)) - 1));
    }
    return map;
  }
  if (int64_t(surviving.size()) != student_blocks)
    return bad_value("surviving layers", "one for each of the student's blocks is needed",
                     fmt::format("{}", surviving.size()), fmt::format("{}", student_blocks));
  for (size_t i = 0; i < surviving.size(); ++i) {
    if (surviving[i] < 0 || surviving[i] >= teacher_blocks)
      return bad_value("surviving layers", "no such block in the teacher", fmt::format("{}", surviving[i]),
                       fmt::format("0 to {}", teacher_blocks - 1));
    if (i > 0 && surviving[i] <= surviving[i - 1])
      return bad_value("surviving layers", "not ascending", fmt::format("{}", surviving[i]),
                       fmt::format("above {}", surviving[i - 1]));
  }
  return surviving;
}

struct IntermediateLoss::State {
  struct HiddenPair {
    int student, teacher;                   // indices of hidden states
    std::shared_ptr<Parameter> projection;  // null where the sizes are equal
    double variance = 1.0;                  // of the teacher's state
  };
  struct AttentionPair {
    int student = -1, teacher = -1;  // blocks; none without attention
    int64_t heads = 0;
  };
  IntermediateConfig config;
  TeacherNeeds needs;
  std::vector<HiddenPair> hidden;
  AttentionPair attention;
  ParameterList projections;
  bool is_causal = true, is_measured = false;
  double weight = 1.0;
  int64_t student_size = 0, teacher_size = 0;
  Widths student_widths{}, teacher_widths{};
  Device device;
  std::optional<Workspace> workspace;

  // Sums of this rank, on the device until a step ends, so that nothing waits in between: f64, the value of
  // each pair of hidden states, then of attention; of the first step's data also sum and squares of each
  // teacher's state.
  Tensor sums;
  std::vector<double> counts;  // elements behind sum and squares
  double measured_logit_loss = 0.0;
  Tensor ids;  // i32 [largest batch]: targets on the device

  Status allocate() {
    PARE_TRY(sums, Tensor::allocate(DType::f64, {int64_t(3 * hidden.size() + 1)}, device));
    start();
    return {};
  }
  void start() {
    clear(sums);
    counts.assign(hidden.size(), 0.0);
    measured_logit_loss = 0.0;
  }
  Tensor value(size_t pair) const { return sums.rows(int64_t(pair), int64_t(pair) + 1); }
  Tensor attention_value() const { return value(hidden.size()); }
  Tensor moments(size_t pair) const {
    const auto first = int64_t(hidden.size() + 1 + 2 * pair);
    return sums.rows(first, first + 2);
  }
  Result<std::vector<double>> read_sums() const {
    PARE_TRY(const Tensor here, moved(sums, device.is_host() ? device : Device::cpu()));
    return std::vector<double>(here.data<double>(), here.data<double>() + here.numel());
  }
  Result<Tensor> on_device(const Tensor& targets) const {
    const Tensor flat = targets.reshaped({targets.numel()});
    if (device.is_host()) return flat.on(device);
    const Tensor own = ids.rows(0, flat.numel());
    PARE_CHECK(copy_into(flat, own));
    return own;
  }
  // The sum of what the values weigh, before the weight of all.
  double total(std::span<const double> sums) const {
    double sum = sums[hidden.size()];
    for (size_t i = 0; i < hidden.size(); ++i) sum += sums[i] / hidden[i].variance;
    return sum;
  }
  void balance(double logit_loss, double sum) {
    if (config.weight == 0.0 && sum > 0.0 && std::isfinite(sum) && std::isfinite(logit_loss))
      weight = logit_loss / sum;
  }
  Status pair_attention(const ModelConfig& student, const ModelConfig& teacher, int teacher_block);
};

IntermediateLoss::IntermediateLoss() : state_(std::make_unique<State>()) {}
IntermediateLoss::~IntermediateLoss() = default;

Status IntermediateLoss::State::pair_attention(const ModelConfig& student, const ModelConfig& teacher,
                                               int teacher_block) {
  attention = {
      .student = int(student.block_count()) - 1, .teacher = teacher_block, .heads = config.relation_heads};
  const BlockConfig& theirs = teacher.blocks[size_t(teacher_block)];
  student_widths = widths_of(student.blocks.back());
  teacher_widths = widths_of(theirs);
  int64_t common = 0;
  for (const int64_t width :
       {student_widths.queries, student_widths.keys, teacher_widths.queries, teacher_widths.keys})
    common = std::gcd(common, width);
  if (attention.heads == 0) {
    for (int64_t heads = std::min(theirs.heads, common); heads > 0 && attention.heads == 0; --heads)
      if (common % heads == 0) attention.heads = heads;
  }
  if (attention.heads < 1 || common % attention.heads != 0)
    return bad_value("relation heads", "does not divide the widths of queries and keys on both sides",
                     fmt::format("{}", attention.heads), fmt::format("a divisor of {}", common));
  needs.attention = {teacher_block};
  return {};
}

Result<std::unique_ptr<IntermediateLoss>> IntermediateLoss::make(const IntermediateConfig& config,
                                                                 const TrainingModel& student,
                                                                 const ModelConfig& teacher, uint64_t seed) {
  if (!(config.weight >= 0.0 && std::isfinite(config.weight)))
    return bad_value("weight", "outside its range", fmt::format("{}", config.weight),
                     "0 (balanced) or above");
  std::unique_ptr<IntermediateLoss> loss(new IntermediateLoss);
  State& state = *loss->state_;
  state.config = config;
  state.device = student.device();
  state.is_causal = student.config().is_causal;
  state.student_size = student.config().hidden_size;
  state.teacher_size = teacher.hidden_size;
  if (config.weight > 0.0) state.weight = config.weight;
  PARE_TRY(const std::vector<int> map,
           map_layers(student.config().block_count(), teacher.block_count(), config.surviving_layers));
  if (config.hidden != HiddenLossKind::none) {
    std::set<int> wanted;
    for (size_t block = 0; block < map.size(); ++block) {
      State::HiddenPair pair{.student = int(block) + 1, .teacher = map[block] + 1, .projection = {}};
      if (state.student_size != state.teacher_size) {
        PARE_TRY(pair.projection,
                 make_projection(fmt::format("projection:{}", pair.student), state.teacher_size,
                                 state.student_size, state.device, seed));
        state.projections.push_back(pair.projection);
      }
      wanted.insert(pair.teacher);
      state.hidden.push_back(std::move(pair));
    }
    state.needs.hidden.assign(wanted.begin(), wanted.end());
  }
  if (config.attention) PARE_CHECK(state.pair_attention(student.config(), teacher, map.back()));
  PARE_CHECK(state.allocate());
  return loss;
}

const TeacherNeeds& IntermediateLoss::needs() const {
  return state_->needs;
}
const ParameterList& IntermediateLoss::parameters() const {
  return state_->projections;
}
bool IntermediateLoss::is_measured() const {
  return state_->is_measured;
}

Status IntermediateLoss::reserve(const Batch& largest) {
  State& s = *state_;
  size_t bytes = 0;
  if (!s.hidden.empty())
    bytes = hidden_loss_bytes(s.device, largest.tokens(), s.student_size, s.teacher_size);
  if (s.attention.student >= 0)
    for (const auto& [own, others] : {std::pair(s.student_widths.queries, s.teacher_widths.queries),
                                      std::pair(s.student_widths.keys, s.teacher_widths.keys)})
      bytes = std::max(
          bytes, relation_loss_bytes(s.device, largest.tokens_per_sequence, own, others, s.attention.heads));
  PARE_TRY(s.workspace, Workspace::reserve(bytes, s.device));
  if (!s.device.is_host()) {
    PARE_TRY(s.ids, Tensor::allocate(DType::i32, {largest.tokens()}, s.device));
  }
  return {};
}

Status IntermediateLoss::measure(TrainingModel& student, const Teacher& teacher, const Batch& batch,
                                 const Tensor& targets, double logit_loss) {
  State& s = *state_;
  s.measured_logit_loss += logit_loss;
  PARE_TRY(const Tensor ids, s.on_device(targets));
  const int32_t* target_ids = targets.data<int32_t>();
  const auto counting =
      double(std::count_if(target_ids, target_ids + targets.numel(), [](int32_t id) { return id >= 0; }));
  Tensor none;
  for (size_t i = 0; i < s.hidden.size(); ++i) {
    const Tensor& target = teacher.hidden(s.hidden[i].teacher);
    Tensor value = s.value(i), moments = s.moments(i);
    hidden_loss(s.config.hidden, student.hidden(s.hidden[i].student), target, s.hidden[i].projection.get(),
                ids, 0.0, none, value, *s.workspace);
    if (s.config.hidden != HiddenLossKind::mse) continue;  // angles know no scale
    ops::state_moments(target, ids, moments);
    s.counts[i] += counting * double(target.size(1));
  }
  if (s.attention.student < 0) return {};
  AttentionParts parts;
  PARE_CHECK(student.attention_parts(s.attention.student, parts));
  const AttentionParts& theirs = teacher.attention(s.attention.teacher);
  Tensor value = s.attention_value();
  for (const auto& [own, other] :
       {std::pair(&parts.q, &theirs.q), std::pair(&parts.k, &theirs.k), std::pair(&parts.v, &theirs.v)})
    PARE_CHECK(relation_loss(*own, *other, batch, s.attention.heads, s.is_causal, ids, 0.0, none, value,
                             *s.workspace));
  return {};
}

Status IntermediateLoss::finish_measuring(GradientExchange& exchange) {
  State& s = *state_;
  PARE_TRY(std::vector<double> sums, s.read_sums());
  const size_t first_count = sums.size();
  sums.insert(sums.end(), s.counts.begin(), s.counts.end());
  sums.push_back(s.measured_logit_loss);
  PARE_CHECK(exchange.sum(std::span<double>(sums)));
  for (size_t i = 0; i < s.hidden.size() && s.config.hidden == HiddenLossKind::mse; ++i) {
    const double* moments = &sums[s.hidden.size() + 1 + 2 * i];
    const double count = std::max(1.0, sums[first_count + i]), mean = moments[0] / count;
    const double variance = moments[1] / count - mean * mean;
    s.hidden[i].variance = variance > 0.0 && std::isfinite(variance) ? variance : 1.0;
  }
  s.balance(sums.back(), s.total(sums));
  s.is_measured = true;
  s.start();
  return {};
}

Result<BackwardHooks> IntermediateLoss::hooks(TrainingModel& student, const Teacher& teacher,
                                              const Batch& batch, const Tensor& targets,
                                              double gradient_scale) {
  State* s = state_.get();
  const double scale = gradient_scale * s->weight;
  PARE_TRY(const Tensor own_ids, s->on_device(targets));
  const Tensor ids = own_ids;
  BackwardHooks hooks;
  if (!s->hidden.empty())
    hooks.hidden = [s, &student, &teacher, ids, scale](int index, Tensor& dhidden) -> Status {
      for (size_t i = 0; i < s->hidden.size(); ++i) {
        const State::HiddenPair& pair = s->hidden[i];
        if (pair.student != index) continue;
        Tensor value = s->value(i);
        hidden_loss(s->config.hidden, student.hidden(index), teacher.hidden(pair.teacher),
                    pair.projection.get(), ids, scale / pair.variance, dhidden, value, *s->workspace);
      }
      return {};
    };
  if (s->attention.student >= 0)
    hooks.attention = [s, &teacher, batch, ids, scale](int block, const AttentionParts& parts,
                                                       AttentionParts& gradients) -> Status {
      if (block != s->attention.student) return {};
      const AttentionParts& theirs = teacher.attention(s->attention.teacher);
      Tensor value = s->attention_value();
      const auto compare = [&](const Tensor& own, const Tensor& other, Tensor& gradient) {
        return relation_loss(own, other, batch, s->attention.heads, s->is_causal, ids, scale, gradient, value,
                             *s->workspace);
      };
      PARE_CHECK(compare(parts.q, theirs.q, gradients.q));
      PARE_CHECK(compare(parts.k, theirs.k, gradients.k));
      return compare(parts.v, theirs.v, gradients.v);
    };
  return hooks;
}

Result<double> IntermediateLoss::finish_step(GradientExchange& exchange, double logit_loss, int64_t tokens) {
  State& s = *state_;
  PARE_TRY(std::vector<double> sums, s.read_sums());
  PARE_CHECK(exchange.sum(std::span<double>(sums)));
  const double sum = s.total(sums);
  const double weighted = s.weight * sum / double(std::max<int64_t>(1, tokens));
  s.balance(logit_loss, sum);
  s.start();
  return weighted;
}

void IntermediateLoss::save(TrainerState& out) const {
  Json variances = Json::array();
  for (const State::HiddenPair& pair : state_->hidden) variances.push_back(Json(pair.variance));
  Json json = Json::object();
  json["is_measured"] = state_->is_measured;
  json["weight"] = state_->weight;
  json["variances"] = std::move(variances);
  out.json["intermediate"] = std::move(json);
}

Status IntermediateLoss::restore(const TrainerState& in, GradientExchange& exchange) {
  State& s = *state_;
  std::vector<double> numbers(s.hidden.size() + 2, 0.0);
  if (exchange.is_first()) {
    const Error damaged{.exit = Exit::malformed,
                        .rule = {},
                        .path = "training state",
                        .where = "intermediate",
                        .what = "missing or of another kind",
                        .got = {},
                        .limit = {}};
    const Json* json = in.json.find("intermediate");
    if (json == nullptr) return damaged;
    const Json* measured = json->find("is_measured");
    const Json* weight = json->find("weight");
    const Json* variances = json->find("variances");
    if (measured == nullptr || !measured->is_bool() || weight == nullptr || !weight->is_number() ||
        variances == nullptr || !variances->is_array() || variances->size() != s.hidden.size())
      return damaged;
    numbers[0] = measured->as_bool() ? 1.0 : 0.0;
    numbers[1] = weight->as_double();
    for (size_t i = 0; i < s.hidden.size(); ++i) {
      if (!(*variances)[i].is_number()) return damaged;
      numbers[i + 2] = (*variances)[i].as_double();
    }
  }
  PARE_CHECK(exchange.sum(std::span<double>(numbers)));
  s.is_measured = numbers[0] != 0.0;
  s.weight = numbers[1];
  for (size_t i = 0; i < s.hidden.size(); ++i) s.hidden[i].variance = numbers[i + 2];
  s.start();
  return {};
}

}  // namespace pare
