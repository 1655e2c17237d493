// Selection on the device against the host's own (prune/select.h), bit for bit, where ties and digits hurt.
#include "engine/tensor/selection_backend.h"

#include <cmath>

#include "prune/scores.h"
#include "prune/select.h"
#include "tests/engine/backends/cuda_kernels/emulated.h"

namespace pare::test {
namespace {

struct Case {
  const char* name;
  std::function<float(int64_t index, const Random& random)> value;
};
const std::vector<Case>& cases() {
  static const std::vector<Case> all{
      {"uniform", [](int64_t i, const Random& r) { return r.uniform(uint64_t(i)) * 2.0f - 1.0f; }},
      {"equal", [](int64_t, const Random&) { return -0.75f; }},
      {"zeros of both signs", [](int64_t i, const Random&) { return i % 2 == 0 ? 0.0f : -0.0f; }},
      {"rising", [](int64_t i, const Random&) { return float(i); }},
      {"falling", [](int64_t i, const Random&) { return -1e6f + float(i); }},
      {"two values",
       [](int64_t i, const Random& r) { return r.below(2, uint64_t(i)) == 0 ? 1.0f : -1.0009765625f; }},
      {"few bits apart",
       [](int64_t i, const Random& r) { return 1.0f + float(r.below(5, uint64_t(i))) * 0x1p-23f; }},
      {"subnormal", [](int64_t i, const Random& r) { return 0x1p-149f * float(r.below(9, uint64_t(i))); }},
  };
  return all;
}

Tensor make(const Case& c, DType dtype, int64_t rows, int64_t columns) {
  const Tensor weight = *Tensor::allocate(DType::f32, {rows, columns});
  const Random random(7, RandomPurpose::test_data);
  for (int64_t i = 0; i < rows * columns; ++i) weight.mutable_data<float>()[i] = c.value(i, random);
  return *converted(weight, dtype);
}

// The weight on the device, inside of wider rows, with and without norms.
struct Subject {
  Tensor wide, norms_there, scores;
  SelectionScores args;

  Subject(const Tensor& weight, bool has_norms, int64_t padding) {
    const int64_t rows = weight.size(0), columns = weight.size(1);
    wide = *Tensor::allocate(weight.dtype(), {rows, columns + padding});
    const auto width = size_t(dtype_bytes(weight.dtype()));
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(wide.mutable_raw() + size_t(r * (columns + padding)) * width,
                  weight.raw() + size_t(r * columns) * width, size_t(columns) * width);
    wide = on_device(wide);
    const Tensor exact = *converted(weight, DType::f32);
    std::vector<float> norms(size_t(columns), 0.0f);
    for (size_t i = 0; i < norms.size(); ++i) norms[i] = 0.25f + float(i % 5);
    scores = has_norms ? *wanda_scores(exact, norms) : *magnitude_scores(exact);
    if (has_norms) norms_there = on_device(Tensor::wrap(norms.data(), DType::f32, {columns}));
    args = {.weight = wide.raw(),
            .dtype = weight.dtype(),
            .norms = has_norms ? norms_there.data<float>() : nullptr,
            .rows = rows,
            .columns = columns,
            .stride = columns + padding};
  }
};

Tensor mask_of(int64_t rows, int64_t columns, const std::function<void(uint8_t*)>& select) {
  const Tensor there = device_bytes(rows * ((columns + 7) / 8));
  select(there.mutable_data<uint8_t>());
  return on_host(there).reshaped({rows, (columns + 7) / 8});
}

void expect_same(const Tensor& got, const Result<Mask>& want) {
  ASSERT_TRUE(want.has_value());
  EXPECT_TRUE(same_bytes(got, want->bits()));
}

SelectionBackend& selection() {
  return *emulated().selection();
}

const std::vector<std::pair<int64_t, int64_t>> kShapes{{1, 1}, {3, 33}, {5, 130}, {2, 300}};

template <typename Run>
void for_all(Run run) {
  for (const Case& c : cases()) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const auto& [rows, columns] : kShapes) {
        for (const bool has_norms : {false, true}) {
          // all types and norms where digits differ; the rest hurts one type as much as another
          const bool is_plain = dtype == DType::f32 && !has_norms;
          if (!is_plain && std::string_view(c.name) != "uniform" && std::string_view(c.name) != "two values")
            continue;
          SCOPED_TRACE(testing::Message() << c.name << ", " << dtype_name(dtype) << " " << rows << "x"
                                          << columns << (has_norms ? ", norms" : ""));
          Tensor weight = make(c, dtype, rows, columns);
          const Subject subject(weight, has_norms, columns % 3);
          run(subject, weight);
        }
      }
    }
  }
}

TEST(CudaSelectionTest, RowsAsOnTheHost) {
  for_all([](const Subject& s, const Tensor&) {
    for (const int64_t count : {int64_t{0}, s.args.columns / 2, s.args.columns - 1, s.args.columns}) {
      expect_same(mask_of(s.args.rows, s.args.columns,
                          [&](uint8_t* mask) {
                            selection().select_rows({s.args, count, mask});
                          }),
                  select_rows(s.scores, count));
    }
  });
}

TEST(CudaSelectionTest, WideRowsAreReadAgain) {
  for (const size_t c : {0, 1}) {
    const Subject s(make(cases()[c], DType::f32, 2, 25000), false, 0);
    expect_same(mask_of(2, 25000,
                        [&](uint8_t* mask) {
                          selection().select_rows({s.args, 9999, mask});
                        }),
                select_rows(s.scores, 9999));
  }
}

TEST(CudaSelectionTest, MatrixAsOnTheHost) {
  for_all([](const Subject& s, const Tensor&) {
    const int64_t all = s.args.rows * s.args.columns;
    const Tensor workspace = device_bytes(int64_t(selection().select_matrix_workspace_bytes(s.args.rows)));
    for (const int64_t count : {int64_t{0}, all / 3, all - 1, all}) {
      expect_same(mask_of(s.args.rows, s.args.columns,
                          [&](uint8_t* mask) {
                            selection().select_matrix({s.args, count, mask, workspace.mutable_raw()});
                          }),
                  select_matrix(s.scores, count));
    }
  });
}

TEST(CudaSelectionTest, NOfMAsOnTheHost) {
  for_all([](const Subject& s, const Tensor&) {
    for (const auto& [n, m] : {std::pair{2, 4}, {1, 2}, {3, 5}, {4, 8}, {7, 16}}) {
      expect_same(mask_of(s.args.rows, s.args.columns,
                          [&](uint8_t* mask) {
                            selection().select_n_of_m({s.args, n, m, mask, nullptr});
                          }),
                  select_n_of_m(s.scores, n, m));
    }
  });
}

TEST(CudaSelectionTest, PlacesOfTwoOfFour) {
  const SparsityPattern pattern = *SparsityPattern::parse("2:4");
  for (const int64_t columns : {1, 2, 3, 4, 7, 32, 61, 258}) {
    const Tensor weight = make(cases()[0], DType::bf16, 5, columns);
    const Subject s(weight, false, 0);
    const Mask mask = *select_n_of_m(s.scores, 2, 4);
    const SparseTensor sparse = *SparseTensor::from_dense(weight, mask, pattern);
    const Tensor indices = device_bytes(sparse.indices.numel());
    expect_same(mask_of(5, columns,
                        [&](uint8_t* to) {
                          selection().select_n_of_m({s.args, 2, 4, to, indices.mutable_data<uint8_t>()});
                        }),
                mask);
    EXPECT_TRUE(same_bytes(on_host(indices).reshaped(sparse.indices.shape()), sparse.indices)) << columns;
  }
}

TEST(CudaSelectionTest, BlocksAsOnTheHost) {
  for_all([](const Subject& s, const Tensor&) {
    for (const char* text : {"block-4x4", "block-1x8", "block-3x2"}) {
      const SparsityPattern pattern = *SparsityPattern::parse(text);
      const int64_t rows = pattern.block_rows, columns = pattern.block_columns;
      const int64_t down = (s.args.rows + rows - 1) / rows, across = (s.args.columns + columns - 1) / columns;
      const Sparsity half = *Sparsity::parse("0.5");
      const Tensor workspace = device_bytes(
          int64_t(selection().select_blocks_workspace_bytes(s.args.rows, s.args.columns, rows, columns)));
      for (const bool is_balanced : {true, false}) {
        const int64_t count = half.count(is_balanced ? across : across * down);
        expect_same(mask_of(s.args.rows, s.args.columns,
                            [&](uint8_t* mask) {
                              selection().select_blocks(
                                  {s.args, rows, columns, count, is_balanced, mask, workspace.mutable_raw()});
                            }),
                    select_blocks(s.scores, pattern, half, is_balanced));
      }
    }
  });
}

TEST(CudaSelectionTest, MasksAreApplied) {
  for_all([](const Subject& s, const Tensor& weight) {
    const Mask mask = *select_rows(s.scores, s.args.columns / 2);
    const Tensor mask_there = on_device(mask.bits()), out = on_device(weight);
    selection().apply_mask({.weight = s.args.weight,
                            .out = out.mutable_raw(),
                            .dtype = s.args.dtype,
                            .mask = mask_there.data<uint8_t>(),
                            .rows = s.args.rows,
                            .columns = s.args.columns,
                            .weight_stride = s.args.stride,
                            .out_stride = s.args.columns});
    Tensor want = *converted(weight, weight.dtype());
    mask.apply(want);
    EXPECT_TRUE(same_bytes(on_host(out), want));
  });
}

TEST(CudaSelectionTest, NoOrderOfThreadsShows) {
  const Subject s(make(cases()[5], DType::bf16, 20, 100), false, 0);
  const Tensor workspace = device_bytes(int64_t(selection().select_matrix_workspace_bytes(20)));
  in_all_orders([&] {
    expect_same(mask_of(20, 100,
                        [&](uint8_t* mask) {
                          selection().select_rows({s.args, 37, mask});
                        }),
                select_rows(s.scores, 37));
    expect_same(mask_of(20, 100,
                        [&](uint8_t* mask) {
                          selection().select_matrix({s.args, 900, mask, workspace.mutable_raw()});
                        }),
                select_matrix(s.scores, 900));
  });
}

}  // namespace
}  // namespace pare::test
