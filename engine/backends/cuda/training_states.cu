// Losses between states of student and teacher. Each row is read once and kept in registers (quads.h), next
// to that of the teacher. Sums are in double, in a tree of fixed shape: values are compared with those of
// hosts, and the loss of the whole is a difference of large numbers where both sides are close.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

template <int Lanes>
__device__ __forceinline__ int64_t own_row() {
  return int64_t(blockIdx.x) * kRowsOf<Lanes> + int(threadIdx.x) / Lanes % kRowsOf<Lanes>;
}
template <int Lanes>
__device__ __forceinline__ bool is_first_lane() {
  return int(threadIdx.x) % Lanes == 0;
}

// Two rows take twice the registers of one: half as many quads as with_row_shape() gives.
template <typename Run>
void with_pair_shape(int64_t columns, Run run) {
  if (columns <= 128) return run.template operator()<32, 1>();
  if (columns <= 512) return run.template operator()<32, 4>();
  if (columns <= 1024) return run.template operator()<256, 1>();
  if (columns <= 4096) return run.template operator()<256, 4>();
  if (columns <= 8192) return run.template operator()<512, 4>();
  return run.template operator()<1024, 0>();
}

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) state_distance_kernel(StateDistanceArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = own_row<Lanes>();
  const bool is_real = row < a.rows, counts = is_real && a.ids[row] >= 0;
  const Index columns = counts ? Index(a.columns) : Index(0);
  Row<Lanes, Quads, Wide> x(a.x + row * a.x_stride, columns);
  const Row<Lanes, Quads, Wide> teacher(a.teacher + row * a.teacher_stride, columns);
  const bool is_squared = a.kind == StateDistance::squared;
  double product = 0.0, squares = 0.0, teacher_squares = 0.0;  // of the difference alone, where squared
  x.each_with(teacher, [&](Index, const Quad& q, const Quad& t) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      const double own = double(q.v[j]), other = double(t.v[j]);
      if (is_squared) {
        squares = fma(own - other, own - other, squares);
      } else {
        product = fma(own, other, product);
        squares = fma(own, own, squares);
        teacher_squares = fma(other, other, teacher_squares);
      }
    }
  });
  squares = row_sum<Lanes>(squares);
  double value = squares / double(a.columns);
  // dx = own * x - others * teacher
  double own = a.scale * 2.0 / double(a.columns), others = own;
  if (!is_squared) {
    product = row_sum<Lanes>(product);
    teacher_squares = row_sum<Lanes>(teacher_squares);
    const double norm = fmax(sqrt(squares), kLeastStateNorm),
                 teacher_norm = fmax(sqrt(teacher_squares), kLeastStateNorm);
    const double cosine = product / (norm * teacher_norm);
    value = 1.0 - cosine;
    own = a.scale * cosine / (norm * norm);
    others = a.scale / (norm * teacher_norm);
  }
  if (is_real && is_first_lane<Lanes>()) a.values[row] = counts ? value : 0.0;
  if (a.dx == nullptr || !is_real) return;
  float* to = a.dx + row * a.dx_stride;
  if (!counts) {
    const Quad zeros{};
    for (int64_t c = int64_t(int(threadIdx.x) % Lanes) * kQuad; !a.accumulate && c < a.columns;
         c += Lanes * kQuad)
      store_quad<Wide>(to, c, a.columns, zeros);
    return;
  }
  x.each_with(teacher, [&](Index c, const Quad& q, const Quad& t) {
    if (c >= columns) return;
    Quad out{};
    if (a.accumulate) out = load_quad<Wide>(to, c, columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      const double gradient = is_squared ? own * (double(q.v[j]) - double(t.v[j]))
                                         : own * double(q.v[j]) - others * double(t.v[j]);
      out.v[j] += float(gradient);
    }
    store_quad<Wide>(to, c, columns, out);
  });
}

// What a row of scores is lowered by before exp, and the logarithm of the sum behind it.
struct Softmax {
  double largest, log_sum;
  // log p of a score; exp of a float is close enough, since p <= 1
  __device__ __forceinline__ double log_of(float score, double scale) const {
    return fma(double(score), scale, -largest) - log_sum;
  }
};

template <int Lanes, int Quads, bool Wide>
__device__ __forceinline__ Softmax softmax_of(Row<Lanes, Quads, Wide>& row, RowIndex<Quads> count,
                                              double scale) {
  using Index = RowIndex<Quads>;
  float largest = -INFINITY;
  row.each([&](Index c, const Quad& q) {
    const int inside = inside_of(c, count);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      if (j < inside && largest < q.v[j]) largest = q.v[j];
    }
  });
  Softmax softmax;
  softmax.largest = double(row_max<Lanes>(largest, -INFINITY)) * scale;
  double sum = 0.0;
  row.each([&](Index c, const Quad& q) {
    const int inside = inside_of(c, count);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      if (j < inside) sum += double(expf(float(fma(double(q.v[j]), scale, -softmax.largest))));
    }
  });
  softmax.log_sum = log(row_sum<Lanes>(sum));
  return softmax;
}

template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) relation_rows_kernel(RelationRowsArgs a) {
  using Index = RowIndex<Quads>;
  const int64_t row = own_row<Lanes>();
  const bool is_real = row < a.rows;
  int64_t seen = 0;
  if (is_real && a.ids[row] >= 0) seen = a.causal ? row + 1 : a.columns;
  const auto count = Index(seen);
  float* scores = a.scores + row * a.stride;
  Row<Lanes, Quads, Wide> student(scores, seen);
  Row<Lanes, Quads, Wide> teacher(a.teacher + row * a.teacher_stride, seen);
  const Softmax own = softmax_of(student, count, a.scale);
  const Softmax others = softmax_of(teacher, count, a.teacher_scale);
  const double factor = a.gradient_scale * a.scale;
  double value = 0.0;
  student.each_with(teacher, [&](Index c, const Quad& q, const Quad& t) {
    const int inside = inside_of(c, count);
    if (inside == 0) return;
    Quad out{};
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      if (j >= inside) continue;
      const double log_own = own.log_of(q.v[j], a.scale), log_others = others.log_of(t.v[j], a.teacher_scale);
      const auto p_own = double(expf(float(log_own))), p_others = double(expf(float(log_others)));
      if (!(p_others <= 0.0)) value = fma(p_others, log_others - log_own, value);
      out.v[j] = float(factor * (p_own - p_others));
    }
    store_quad<Wide>(scores, c, count, out);
  });
  value = row_sum<Lanes>(value);
  if (!is_real) return;
  if (is_first_lane<Lanes>()) a.values[row] = seen > 0 ? value : 0.0;
  for (int64_t c = seen + int(threadIdx.x) % Lanes; c < a.columns; c += Lanes) scores[c] = 0.0f;
}

// Sums of one row, [0]: of values, [rows]: of squares.
template <int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) state_moments_kernel(StateMomentsArgs a, double* to) {
  using Index = RowIndex<Quads>;
  const int64_t row = own_row<Lanes>();
  const bool is_real = row < a.rows, counts = is_real && a.ids[row] >= 0;
  Row<Lanes, Quads, Wide> x(a.x + row * a.stride, counts ? a.columns : 0);
  double sum = 0.0, squares = 0.0;
  x.each([&](Index, const Quad& q) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      sum += double(q.v[j]);
      squares = fma(double(q.v[j]), double(q.v[j]), squares);
    }
  });
  sum = row_sum<Lanes>(sum);
  squares = row_sum<Lanes>(squares);
  if (!is_real || !is_first_lane<Lanes>()) return;
  to[row] = sum;
  to[a.rows + row] = squares;
}

// One block, since what it adds up is one number per row: 64 KiB at 8192 tokens.
constexpr int kSumThreads = 1024;
__global__ void __launch_bounds__(kSumThreads) add_sum_kernel(AddSumArgs a) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < a.count; i += kSumThreads) sum += a.x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *a.out += a.factor * sum;
}

struct AddRowsOp {
  const float* x;
  float* out;
  int64_t x_stride, out_stride;

  template <bool Wide>
  __device__ void run(int64_t row, int64_t c, int64_t columns) const {
    const Quad q = load_quad<Wide>(x + row * x_stride, c, columns);
    Quad sum = load_quad<Wide>(out + row * out_stride, c, columns);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) sum.v[j] += q.v[j];
    store_quad<Wide>(out + row * out_stride, c, columns, sum);
  }
};

}  // namespace

void CudaTraining::state_distance(const StateDistanceArgs& a) {
  const bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.teacher, a.teacher_stride) &&
                       (a.dx == nullptr || rows_are_wide(a.dx, a.dx_stride));
  with_pair_shape(a.columns, [&]<int Lanes, int Quads>() {
    context_.launch(
        "state_distance",
        is_wide ? state_distance_kernel<Lanes, Quads, true> : state_distance_kernel<Lanes, Quads, false>,
        {.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>}, a);
  });
}

void CudaTraining::relation_rows(const RelationRowsArgs& a) {
  const bool is_wide = rows_are_wide(a.scores, a.stride) && rows_are_wide(a.teacher, a.teacher_stride);
  with_pair_shape(a.columns, [&]<int Lanes, int Quads>() {
    context_.launch(
        "relation_rows",
        is_wide ? relation_rows_kernel<Lanes, Quads, true> : relation_rows_kernel<Lanes, Quads, false>,
        {.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>}, a);
  });
}

void CudaTraining::state_moments(const StateMomentsArgs& a) {
  auto* of_rows = context_.scratch_of<double>(2 * a.rows);
  if (of_rows == nullptr) return;
  const bool is_wide = rows_are_wide(a.x, a.stride);
  with_pair_shape(a.columns, [&]<int Lanes, int Quads>() {
    context_.launch(
        "state_moments",
        is_wide ? state_moments_kernel<Lanes, Quads, true> : state_moments_kernel<Lanes, Quads, false>,
        {.grid = blocks_for(a.rows, kRowsOf<Lanes>), .block = kThreadsOf<Lanes>}, a, of_rows);
  });
  add_sum({.x = of_rows, .out = a.sums, .count = a.rows, .factor = 1.0});
  add_sum({.x = of_rows + a.rows, .out = a.sums + 1, .count = a.rows, .factor = 1.0});
}

void CudaTraining::add_sum(const AddSumArgs& a) {
  context_.launch("add_sum", add_sum_kernel, {.grid = 1, .block = kSumThreads}, a);
}

void CudaTraining::add_rows(const AddRowsArgs& a) {
  launch_elementwise(context_, "add_rows", AddRowsOp{a.x, a.out, a.x_stride, a.out_stride}, a.rows, a.columns,
                     rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.out, a.out_stride));
}

}  // namespace pare::cuda
