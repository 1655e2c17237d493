#include "prune/gradient_scores.h"

#include <array>
#include <cmath>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int64_t kPiece = 1 << 16;  // weights of a piece of work

constexpr std::array<std::pair<std::string_view, GradientScore>, 4> kScores = {{
    {"first", GradientScore::first},
    {"per-sample", GradientScore::per_sample},
    {"mixed", GradientScore::mixed},
    {"fisher", GradientScore::fisher},
}};

// Products of small numbers, in double: a score must not underflow to a tie.
float score_of(GradientScore score, double w, double first, double second) {
  switch (score) {
    case GradientScore::first:
    case GradientScore::per_sample:
      return float(std::abs(w * first));
    case GradientScore::mixed:
      return float(std::abs(w * first - 0.5 * w * w * second));
    case GradientScore::fisher:
      return float(0.5 * w * w * first);
  }
  return 0.0f;
}

}  // namespace

Result<GradientScore> parse_taylor_form(std::string_view text) {
  for (const auto& [name, score] : kScores)
    if (name == text && score != GradientScore::fisher) return score;
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--taylor-form",
               .where = {},
               .what = "not a form of the Taylor score",
               .got = quote(text),
               .limit = "first, per-sample, mixed",
               .limit_label = "expected"};
}

std::string_view gradient_score_name(GradientScore score) {
  return kScores[size_t(score)].first;
}

std::vector<GradientMoment> moments_of(GradientScore score) {
  switch (score) {
    case GradientScore::first:
      return {GradientMoment::mean};
    case GradientScore::per_sample:
      return {GradientMoment::absolute};
    case GradientScore::mixed:
      return {GradientMoment::mean, GradientMoment::square};
    case GradientScore::fisher:
      return {GradientMoment::square};
  }
  return {};
}

Result<Tensor> gradient_scores(GradientScore score, const Tensor& weight,
                               const std::vector<Tensor>& moments) {
  PARE_ASSERT(moments.size() == moments_of(score).size() && weight.dtype() == DType::f32 &&
                  weight.is_contiguous() && moments.front().shape() == weight.shape(),
              "[scores] {} moments of {}", moments.size(), weight.shape().text());
  PARE_TRY(Tensor scores, Tensor::allocate(DType::f32, weight.shape()));
  const float* w = weight.data<float>();
  const float* first = moments.front().data<float>();
  const float* second = moments.back().data<float>();
  float* to = scores.mutable_data<float>();
  parallel_ranges(weight.numel(), kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      to[i] = score_of(score, double(w[i]), double(first[i]), double(second[i]));
  });
  return scores;
}

}  // namespace pare
