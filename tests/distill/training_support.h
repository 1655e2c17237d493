// tests/distill/training_support.h: devices that train, tensors from lists, and two ranks in one process.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "distill/gradient_exchange.h"
#include "distill/teacher.h"
#include "engine/core/random.h"
#include "engine/models/parameter.h"
#include "engine/tensor/training_ops.h"
#include "tests/support/backends.h"
#include "tests/support/walk.h"

namespace pare::test {

// The reference, and the best level of the cpu backend.
inline std::vector<Arithmetic> training_arithmetics() {
  const std::vector<Arithmetic> all = arithmetics_of_this_host();
  return {all.front(), all.back()};
}

// Tests that run on every device that trains.
class TrainingTest : public testing::TestWithParam<Arithmetic> {
 protected:
  void SetUp() override {
    device_ = use(GetParam());
    if (!ops::can_train(device_)) GTEST_SKIP() << "nothing trains on " << device_.name();
  }
  Device device_;
};

#define PARE_TRAINING_SUITE(suite)                                                                  \
  INSTANTIATE_TEST_SUITE_P(Devices, suite, testing::ValuesIn(::pare::test::training_arithmetics()), \
                           [](const auto& info) { return ::pare::test::test_name(info.param.name); })

inline Tensor floats(const Shape& shape, const std::vector<float>& values, Device device) {
  Tensor tensor = checked(Tensor::allocate(DType::f32, shape, device));
  PARE_ASSERT(size_t(tensor.numel()) == values.size(), "{} values for {}", values.size(), shape.text());
  std::memcpy(tensor.mutable_raw(), values.data(), tensor.size_bytes());
  return tensor;
}

inline Tensor normals(const Shape& shape, Device device, uint32_t stream, float deviation = 1.0f) {
  const Random random(11, RandomPurpose::test_data, stream);
  Tensor tensor = checked(Tensor::allocate(DType::f32, shape, device));
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.mutable_data<float>()[i] = deviation * random.normal(uint64_t(i));
  return tensor;
}

inline std::shared_ptr<Parameter> parameter(std::string name, Parameter::Kind kind, Tensor value) {
  Tensor gradient = checked(Tensor::allocate(DType::f32, value.shape(), value.device()));
  return std::make_shared<Parameter>(Parameter{.name = std::move(name),
                                               .kind = kind,
                                               .value = std::move(value),
                                               .gradient = std::move(gradient),
                                               .mask = {}});
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.size_bytes() == b.size_bytes() && std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

inline std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

// A teacher that says what it was told to say: logits [tokens, vocabulary] of one batch.
class FixedTeacher : public Teacher {
 public:
  explicit FixedTeacher(Tensor logits) : logits_(std::move(logits)) {}
  int64_t vocabulary_size() const override { return logits_.size(1); }
  int64_t hidden_size() const override { return 0; }
  Status check(const LossConfig&, const TeacherNeeds&) const override { return {}; }
  Status reserve(const Batch&, int64_t, const TeacherNeeds&) override { return {}; }
  uint64_t held_bytes() const override { return logits_.size_bytes(); }
  Status start(const TeacherBatch&) override { return {}; }
  Result<TeacherRows> rows(int64_t begin, int64_t end) override {
    asked.push_back(end - begin);
    return TeacherRows{.logits = logits_.rows(begin, end), .top_ids = {}, .top_log_probs = {}};
  }
  const Tensor& hidden(int) const override { return logits_; }
  const AttentionParts& attention(int) const override { return parts_; }
  std::vector<int64_t> asked;  // rows of every call

 private:
  Tensor logits_;
  AttentionParts parts_;
};

// Ranks that are threads of one process. Every rank leaves its span on the table; all add in the order of
// ranks.
class ThreadGroup {
 public:
  explicit ThreadGroup(int size) : barrier_(size), floats_(size_t(size)), doubles_(size_t(size)) {}

  // Runs `body` on every rank and waits for all.
  void run(const std::function<void(GradientExchange&)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < int(floats_.size()); ++rank)
      threads.emplace_back([this, rank, &body] {
        Member member(*this, rank);
        body(member);
      });
    for (std::thread& thread : threads) thread.join();
  }

 private:
  class Member : public GradientExchange {
   public:
    Member(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return int(group_.floats_.size()); }
    Status sum(std::span<float> values) override { return add(values, group_.floats_); }
    Status sum(std::span<double> values) override { return add(values, group_.doubles_); }
    Status broadcast(std::span<float> values, int root) override {
      group_.floats_[size_t(rank_)] = values;
      group_.barrier_.arrive_and_wait();
      if (rank_ != root) std::memcpy(values.data(), group_.floats_[size_t(root)].data(), values.size_bytes());
      group_.barrier_.arrive_and_wait();
      return {};
    }

   private:
    template <typename T>
    Status add(std::span<T> values, std::vector<std::span<T>>& table) {
      table[size_t(rank_)] = values;
      group_.barrier_.arrive_and_wait();
      std::vector<T> total(table[0].begin(), table[0].end());
      for (size_t other = 1; other < table.size(); ++other) {
        PARE_ASSERT(table[other].size() == total.size(), "ranks add {} and {} values", total.size(),
                    table[other].size());
        for (size_t i = 0; i < total.size(); ++i) total[i] += table[other][i];
      }
      group_.barrier_.arrive_and_wait();
      std::copy(total.begin(), total.end(), values.begin());
      group_.barrier_.arrive_and_wait();
      return {};
    }
    ThreadGroup& group_;
    int rank_;
  };

  std::barrier<> barrier_;
  std::vector<std::span<float>> floats_;
  std::vector<std::span<double>> doubles_;
};

}  // namespace pare::test
