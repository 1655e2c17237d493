// Losses between states: the same bytes in any order of threads and blocks.
#include "engine/tensor/training_backend.h"

#include "tests/engine/backends/cuda_kernels/emulated.h"

namespace pare::test {
namespace {

Tensor random_floats(const Shape& shape, uint64_t seed) {
  Tensor tensor = *Tensor::allocate(DType::f32, shape);
  const Random random(seed, RandomPurpose::test_data);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.mutable_data<float>()[i] = 4.0f * random.uniform(uint64_t(i)) - 2.0f;
  return tensor;
}

TEST(CudaStatesTest, NoOrderOfThreadsShows) {
  TrainingBackend& training = *emulated().training();
  for (const int64_t size : {5, 130, 600, 1030}) {
    const int64_t rows = size > 500 ? size : 11;
    SCOPED_TRACE(testing::Message() << size);
    const Tensor x = random_floats({rows, size}, 1), teacher = on_device(random_floats({rows, size}, 2));
    Tensor ids = *Tensor::allocate(DType::i32, {rows});
    for (int64_t r = 0; r < rows; ++r) ids.mutable_data<int32_t>()[r] = r % 4 == 2 ? -1 : 1;
    // Of the large ones a few rows: what is computed is the same.
    const int64_t used = std::min<int64_t>(rows, 11);
    const Tensor ids_there = on_device(ids);
    std::vector<Tensor> first;
    in_all_orders([&] {
      const Tensor own = on_device(x), dx = on_device(random_floats({rows, size}, 3));
      const Tensor values = on_device(*Tensor::allocate(DType::f64, {used}));
      const Tensor others = on_device(*Tensor::allocate(DType::f64, {used}));
      Tensor sums = *Tensor::allocate(DType::f64, {3});
      sums = on_device(sums);
      training.state_distance({.x = own.data<float>(),
                               .teacher = teacher.data<float>(),
                               .ids = ids_there.data<int32_t>(),
                               .values = values.mutable_data<double>(),
                               .dx = dx.mutable_data<float>(),
                               .rows = used,
                               .columns = size,
                               .x_stride = size,
                               .teacher_stride = size,
                               .dx_stride = size,
                               .kind = StateDistance::cosine,
                               .accumulate = true,
                               .scale = 0.5});
      training.relation_rows({.scores = own.mutable_data<float>(),
                              .teacher = teacher.data<float>(),
                              .ids = ids_there.data<int32_t>(),
                              .values = others.mutable_data<double>(),
                              .rows = used,
                              .columns = size,
                              .stride = size,
                              .teacher_stride = size,
                              .scale = 0.3,
                              .teacher_scale = 0.4,
                              .gradient_scale = 2.0,
                              .causal = rows == size});
      training.state_moments({.x = teacher.data<float>(),
                              .ids = ids_there.data<int32_t>(),
                              .sums = sums.mutable_data<double>(),
                              .rows = used,
                              .columns = size,
                              .stride = size});
      training.add_sum({.x = values.data<double>(),
                        .out = sums.mutable_data<double>() + 2,
                        .count = used,
                        .factor = 0.25});
      const std::vector<Tensor> all{on_host(own), on_host(dx), on_host(values), on_host(others),
                                    on_host(sums)};
      if (first.empty()) first = all;
      for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bytes(all[i], first[i])) << i;
    });
  }
}

TEST(CudaStatesTest, NoOrderOfThreadsShowsInRoundedInputs) {
  TrainingBackend& training = *emulated().training();
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{37, 60}, {9, 700}, {3, 2100}}) {
    const Tensor x = on_device(random_floats({rows, columns}, 4));
    Tensor step = *Tensor::allocate(DType::f32, {2});
    step.mutable_data<float>()[0] = 0.01f;
    step.mutable_data<float>()[1] = 0.5f;
    std::vector<Tensor> first;
    in_all_orders([&] {
      const Tensor out = on_device(random_floats({rows, columns}, 5)),
                   dx = on_device(random_floats({rows, columns}, 6)), steps = on_device(step);
      RoundInputsArgs forward{.x = x.data<float>(),
                              .out = out.mutable_data<float>(),
                              .step = nullptr,
                              .rows = rows,
                              .columns = columns,
                              .x_stride = columns,
                              .out_stride = columns,
                              .activation = {.symmetric = false}};
      training.round_inputs(forward);
      training.round_inputs_backward({.x = x.data<float>(),
                                      .dx = dx.mutable_data<float>(),
                                      .step = steps.data<float>(),
                                      .dstep = steps.mutable_data<float>() + 1,
                                      .rows = rows,
                                      .columns = columns,
                                      .x_stride = columns,
                                      .dx_stride = columns,
                                      .activation = {.mode = ActivationQuant::Mode::static_tensor},
                                      .share = 0.1});
      const std::vector<Tensor> all{on_host(out), on_host(dx), on_host(steps)};
      if (first.empty()) first = all;
      for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(same_bytes(all[i], first[i])) << i;
    });
    EXPECT_NE(first[2].data<float>()[1], 0.5f);
  }
}

}  // namespace
}  // namespace pare::test
