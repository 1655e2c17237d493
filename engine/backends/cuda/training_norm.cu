// rms_norm_backward, layer_norm_backward. x and dout are read once: a row stays in registers while its sums
// are made, and the threads that own its columns add up their part of dgain and dbias over the rows of their
// block.
//
// With d = x - mean (rms: d = x), u = dout g, r = 1 / sqrt(mean(d^2) + eps), n = d r:
//   dx (+)= r (u - mean(u) - n mean(u n)),   dgain += sum_t dout n,   dbias += sum_t dout     (rms: no
//   mean(u))
// Sums over a row are in double: a mean a thousand times the deviation must not cancel. Those over tokens are
// in float within a block (at most kMostRows rows), then in double over the blocks, in an order that depends
// on the shape alone.
#include <algorithm>

#include "engine/backends/cuda/quads.h"
#include "engine/backends/cuda/training_class.h"

namespace pare::cuda {
namespace {

constexpr int64_t kMostRows = 32;  // that a thread adds up in float
constexpr int64_t kBlocks = 512;   // wanted at least, for two waves of two blocks on each multiprocessor
constexpr int64_t kWidest = 8192;  // channels in registers: 16 quads of 16 bytes per thread for four arrays
constexpr int kColumnThreads = 256;

// Both norms. Of rms norms dbias is null.
struct NormBackward {
  const float* x;
  const float* gain;
  const float* dout;
  float* dx;
  float* gain_sums;  // [blocks, sums_stride] or null
  float* bias_sums;
  double* moments;  // [2 * tokens]: mean and r, for rows that do not fit into registers; or null
  int64_t tokens, channels, x_stride, dout_stride, dx_stride, sums_stride;
  double eps, inverse_channels;
  float plus;  // added to the gain: 1 or -0
  int rows;    // of each thread
  bool accumulate;
};

// a and b summed over a row, in one exchange.
template <int Lanes>
__device__ __forceinline__ void row_sums(double& a, double& b) {
  constexpr int kSpan = Lanes < kWarp ? Lanes : kWarp;
#pragma unroll
  for (int offset = kSpan / 2; offset > 0; offset /= 2) {
    a += __shfl_xor_sync(kAllLanes, a, offset);
    b += __shfl_xor_sync(kAllLanes, b, offset);
  }
  if constexpr (Lanes > kWarp) {
    __shared__ double partial[2][kWarp];
    constexpr int kWarps = Lanes / kWarp;
    const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
    __syncthreads();  // partial may still be read by the row before
    if (lane == 0) partial[0][warp] = a, partial[1][warp] = b;
    __syncthreads();
    a = warp_sum(lane < kWarps ? partial[0][lane] : 0.0);
    b = warp_sum(lane < kWarps ? partial[1][lane] : 0.0);
  }
}

template <bool IsLayer>
__device__ __forceinline__ float distance_of(float x, double mean) {
  return IsLayer ? float(double(x) - mean) : x;
}

__device__ __forceinline__ double sum_of(const Quad& q) {
  return double((q.v[0] + q.v[1]) + (q.v[2] + q.v[3]));
}

// Sums of the groups of a block, one group after the other.
template <int Lanes, int Quads>
__device__ __forceinline__ void store_sums(const Quad (&sums)[size_t{Quads}], const NormBackward& a,
                                           float* out) {
  const int lane = int(threadIdx.x) % Lanes;
  float* row = out + int64_t(blockIdx.x) * a.sums_stride;
  if constexpr (Lanes > kWarp) {
#pragma unroll
    for (int i = 0; i < Quads; ++i) {
      const int64_t c = int64_t(i * Lanes + lane) * kQuad;
      if (c < a.channels) store_quad<true>(row, c, a.sums_stride, sums[i]);
    }
  } else {
    __shared__ float4 quads[size_t{kRowThreads * Quads}];
    auto* shared = reinterpret_cast<float*>(quads);
    const int group = int(threadIdx.x) / Lanes;
    __syncthreads();  // the sums before these may still be read
#pragma unroll
    for (int i = 0; i < Quads; ++i)
      store_quad<true>(shared, ((group * Quads + i) * Lanes + lane) * kQuad, kRowThreads * Quads * kQuad,
                       sums[i]);
    __syncthreads();
    const int quad = int(threadIdx.x);
    if (quad >= Lanes * Quads || quad * kQuad >= a.channels) return;
    Quad total{};
    for (int g = 0; g < kRowThreads / Lanes; ++g) {
      const Quad part =
          load_quad<true>(shared, (g * Quads * Lanes + quad) * kQuad, kRowThreads * Quads * kQuad);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) total.v[j] += part.v[j];
    }
    store_quad<true>(row, int64_t(quad) * kQuad, a.sums_stride, total);
  }
}

// Rows blockIdx.x * rows ... of the block; Lanes, Quads, Wide as in quads.h.
template <bool IsLayer, int Lanes, int Quads, bool Wide>
__global__ void __launch_bounds__(kThreadsOf<Lanes>) norm_backward_kernel(NormBackward a) {
  using Index = RowIndex<Quads>;
  constexpr int kGroups = kRowsOf<Lanes>;
  Quad gain_sums[size_t{Quads > 0 ? Quads : 1}] = {}, bias_sums[size_t{Quads > 0 ? Quads : 1}] = {};
  const int64_t first = int64_t(blockIdx.x) * a.rows * kGroups + int(threadIdx.x) / Lanes % kGroups;
  for (int i = 0; i < a.rows; ++i) {  // all groups take all turns: they share warps
    const int64_t t = first + int64_t(i) * kGroups;
    const Index channels = t < a.tokens ? Index(a.channels) : Index(0);
    Row<Lanes, Quads, Wide> x(a.x + t * a.x_stride, channels);
    Row<Lanes, Quads, Wide> dout(a.dout + t * a.dout_stride, channels);
    const auto gained = [&](Index c, Quad d) {  // u
      const Quad gain = load_quad<Wide>(a.gain, c, channels);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) d.v[j] *= gain.v[j] + a.plus;
      return d;
    };
    double mean = 0.0, mean_u = 0.0;
    if constexpr (IsLayer) {
      x.each([&](Index, const Quad& q) {
        mean += (double(q.v[0]) + double(q.v[1])) + (double(q.v[2]) + double(q.v[3]));
      });
      dout.each([&](Index c, const Quad& d) { mean_u += sum_of(gained(c, d)); });
      row_sums<Lanes>(mean, mean_u);
      mean *= a.inverse_channels;
      mean_u *= a.inverse_channels;
    }
    double squares = 0.0, product = 0.0;  // of d, and of u d
    dout.each_with(x, [&](Index c, const Quad& d, const Quad& q) {
      const int inside = inside_of(c, channels);
      const Quad u = gained(c, d);
      Quad square, mixed;
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const float distance = j < inside ? distance_of<IsLayer>(q.v[j], mean) : 0.0f;
        square.v[j] = distance * distance;
        mixed.v[j] = u.v[j] * distance;
      }
      squares += sum_of(square);
      product += sum_of(mixed);
    });
    row_sums<Lanes>(squares, product);
    const double inverse = rsqrt(fma(squares, a.inverse_channels, a.eps));
    if (Quads == 0 && a.moments != nullptr) {  // dx comes later: dout may lie in its place
      if (threadIdx.x == 0 && t < a.tokens) a.moments[2 * t] = mean, a.moments[2 * t + 1] = inverse;
      continue;
    }
    const float r = float(inverse), shift = float(mean_u),
                slope = float(product * inverse * a.inverse_channels);
    int visits = 0;  // known at compile time: the loop is unrolled
    dout.each_with(x, [&](Index c, const Quad& d, const Quad& q) {
      [[maybe_unused]] const int own = visits++;
      if (c >= channels) return;
      const Quad u = gained(c, d);
      Quad out{};
      float* dx = a.dx + t * a.dx_stride;
      if (a.accumulate) out = load_quad<Wide>(dx, c, channels);
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const float normal = distance_of<IsLayer>(q.v[j], mean) * r;
        out.v[j] = fmaf(r, (u.v[j] - shift) - normal * slope, out.v[j]);
        if constexpr (Quads > 0) {
          gain_sums[own].v[j] = fmaf(d.v[j], normal, gain_sums[own].v[j]);
          if (IsLayer) bias_sums[own].v[j] += d.v[j];
        }
      }
      store_quad<Wide>(dx, c, channels, out);
    });
  }
  if constexpr (Quads > 0) {
    if (a.gain_sums != nullptr) store_sums<Lanes, Quads>(gain_sums, a, a.gain_sums);
    if (IsLayer && a.bias_sums != nullptr) store_sums<Lanes, Quads>(bias_sums, a, a.bias_sums);
  }
}

// The sums over tokens of wide rows, from their moments. blockIdx.x: rows, blockIdx.y: columns.
template <bool IsLayer, bool Wide>
__global__ void __launch_bounds__(kColumnThreads) norm_columns_kernel(NormBackward a) {
  const int64_t c = (int64_t(blockIdx.y) * kColumnThreads + threadIdx.x) * kQuad;
  if (c >= a.channels) return;
  const int64_t begin = int64_t(blockIdx.x) * a.rows,
                end = begin + a.rows < a.tokens ? begin + a.rows : a.tokens;
  Quad gain{}, bias{};
  for (int64_t t = begin; t < end; ++t) {
    const Quad x = load_quad<Wide>(a.x + t * a.x_stride, c, a.channels);
    const Quad d = load_quad<Wide>(a.dout + t * a.dout_stride, c, a.channels);
    const double mean = a.moments[2 * t];
    const float r = float(a.moments[2 * t + 1]);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      gain.v[j] = fmaf(d.v[j], distance_of<IsLayer>(x.v[j], mean) * r, gain.v[j]);
      bias.v[j] += d.v[j];
    }
  }
  const int64_t place = int64_t(blockIdx.x) * a.sums_stride;
  if (a.gain_sums != nullptr) store_quad<true>(a.gain_sums + place, c, a.sums_stride, gain);
  if (a.bias_sums != nullptr) store_quad<true>(a.bias_sums + place, c, a.sums_stride, bias);
}

// into[c] += the sum of column c over `rows` blocks. A warp's lanes are columns, the warps share the rows.
constexpr int kFoldWarps = 8;
__global__ void __launch_bounds__(kFoldWarps* kWarp)
    fold_sums_kernel(const float* sums, int64_t rows, int64_t stride, int64_t channels, float* into) {
  __shared__ double partial[kFoldWarps][kWarp];
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t c = int64_t(blockIdx.x) * kWarp + lane;
  double sum = 0.0;
  if (c < channels) {
#pragma unroll 4
    for (int64_t row = warp; row < rows; row += kFoldWarps) sum += double(sums[row * stride + c]);
  }
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || c >= channels) return;
  for (int w = 1; w < kFoldWarps; ++w) sum += partial[w][lane];
  into[c] = float(double(into[c]) + sum);
}

// As with_row_shape() of quads.h, with at most four quads: x, dout and two arrays of sums are in registers.
template <typename Run>
void with_backward_shape(int64_t channels, Run run) {
  if (channels <= 64) return run.template operator()<16, 1>();
  if (channels <= 128) return run.template operator()<32, 1>();
  if (channels <= 512) return run.template operator()<32, 4>();
  if (channels <= 1024) return run.template operator()<256, 1>();
  if (channels <= 2048) return run.template operator()<256, 2>();
  if (channels <= 4096) return run.template operator()<256, 4>();
  if (channels <= kWidest) return run.template operator()<512, 4>();
  return run.template operator()<1024, 0>();
}

template <bool IsLayer>
void norm_backward(Context& context, const char* name, NormBackward a, float* scratch, float* dgain,
                   float* dbias) {
  bool is_wide = rows_are_wide(a.x, a.x_stride) && rows_are_wide(a.gain, 0);
  is_wide = is_wide && rows_are_wide(a.dout, a.dout_stride) && rows_are_wide(a.dx, a.dx_stride);
  a.sums_stride = (a.channels + kQuad - 1) / kQuad * kQuad;
  with_backward_shape(a.channels, [&]<int Lanes, int Quads>() {
    constexpr int64_t kGroups = kRowsOf<Lanes>;
    const auto kernel = is_wide ? norm_backward_kernel<IsLayer, Lanes, Quads, true>
                                : norm_backward_kernel<IsLayer, Lanes, Quads, false>;
    const int64_t wanted = (a.tokens + kBlocks * kGroups - 1) / (kBlocks * kGroups);
    a.rows = int(std::min(wanted, kMostRows));
    const int64_t blocks = (a.tokens + kGroups * a.rows - 1) / (kGroups * a.rows);
    const LaunchShape shape{.grid = blocks_for(blocks, 1), .block = kThreadsOf<Lanes>};
    const int64_t sums = blocks * a.sums_stride;
    if (dgain != nullptr || dbias != nullptr) {
      float* memory = context.scratch_of<float>(sums * (dgain != nullptr && dbias != nullptr ? 2 : 1));
      if (memory == nullptr) return;
      a.gain_sums = dgain != nullptr ? memory : nullptr;
      a.bias_sums = dbias != nullptr ? memory + (dgain != nullptr ? sums : 0) : nullptr;
      if constexpr (Quads == 0) {
        a.moments = reinterpret_cast<double*>(scratch);
        context.launch(name, kernel, shape, a);
        const LaunchShape columns{
            .grid = dim3(blocks_for(blocks, 1), blocks_for(a.channels, kColumnThreads * kQuad)),
            .block = kColumnThreads};
        context.launch(name,
                       is_wide ? norm_columns_kernel<IsLayer, true> : norm_columns_kernel<IsLayer, false>,
                       columns, a);
        a.moments = nullptr;
      }
    }
    context.launch(name, kernel, shape, a);
    const LaunchShape fold{.grid = blocks_for(a.channels, kWarp), .block = kFoldWarps * kWarp};
    if (dgain != nullptr)
      context.launch(name, fold_sums_kernel, fold, a.gain_sums, blocks, a.sums_stride, a.channels, dgain);
    if (dbias != nullptr)
      context.launch(name, fold_sums_kernel, fold, a.bias_sums, blocks, a.sums_stride, a.channels, dbias);
  });
}

// What the two kinds of arguments have in common.
template <typename Args>
NormBackward common_of(const Args& a) {
  return {.x = a.x,
          .gain = a.gain,
          .dout = a.dout,
          .dx = a.dx,
          .gain_sums = nullptr,
          .bias_sums = nullptr,
          .moments = nullptr,
          .tokens = a.tokens,
          .channels = a.channels,
          .x_stride = a.x_stride,
          .dout_stride = a.dout_stride,
          .dx_stride = a.dx_stride,
          .sums_stride = 0,
          .eps = double(a.eps),
          .inverse_channels = 1.0 / double(a.channels),
          .plus = -0.0f,
          .rows = 1,
          .accumulate = a.accumulate};
}

}  // namespace

void CudaTraining::rms_norm_backward(const RmsNormBackwardArgs& a) {
  NormBackward common = common_of(a);
  if (a.gain_plus_one) common.plus = 1.0f;
  norm_backward<false>(context_, "rms_norm_backward", common, a.scratch, a.dgain, nullptr);
}

void CudaTraining::layer_norm_backward(const LayerNormBackwardArgs& a) {
  norm_backward<true>(context_, "layer_norm_backward", common_of(a), a.scratch, a.dgain, a.dbias);
}

}  // namespace pare::cuda
