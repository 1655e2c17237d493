// What ops refuse: shapes, types and devices that do not agree are bugs of ours and must not reach a backend.
#include "engine/tensor/ops.h"

#include <gtest/gtest.h>

#include "engine/backends/reference/reference_backend.h"

namespace pare {
namespace {

class OpsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (!has_backend(Device::reference())) install_backend(make_reference_backend());
  }
  static Tensor make(const Shape& shape, DType dtype = DType::f32, Device device = Device::reference()) {
    return *Tensor::allocate(dtype, shape, device);
  }
  Workspace none_;
};

TEST_F(OpsTest, BackendsAreFoundByDevice) {
  EXPECT_EQ(backend_for(Device::reference()).device(), Device::reference());
  EXPECT_FALSE(has_backend(Device::cuda(3)));
  EXPECT_THROW(backend_for(Device::cuda(3)), InternalError);
  Backend* first = &backend_for(Device::reference());
  install_backend(make_reference_backend());
  EXPECT_NE(&backend_for(Device::reference()), first) << "the last one wins";
  EXPECT_EQ(first->device(), Device::reference()) << "and the first one lives on";
  int reference_backends = 0;
  for (Backend* backend : installed_backends())
    reference_backends += backend->device() == Device::reference() ? 1 : 0;
  EXPECT_EQ(reference_backends, 1);
}

TEST_F(OpsTest, Norms) {
  Tensor out = make({2, 8}), narrow = make({2, 7}), half = make({2, 8}, DType::bf16);
  Tensor elsewhere = make({2, 8}, DType::f32, Device::cpu());
  EXPECT_THROW(ops::rms_norm(make({2, 8}), make({7}), 1e-5f, false, out), InternalError);
  EXPECT_THROW(ops::rms_norm(make({2, 8}), make({8}), 1e-5f, false, narrow), InternalError);
  EXPECT_THROW(ops::rms_norm(make({2, 8}), make({8}), 1e-5f, false, half), InternalError);
  EXPECT_THROW(ops::rms_norm(make({2, 8}), make({8}), 1e-5f, false, elsewhere), InternalError);
  EXPECT_THROW(ops::rms_norm(make({2, 8}), make({8}, DType::f16), 1e-5f, false, out), InternalError);
  EXPECT_THROW(ops::layer_norm(make({2, 8}), make({8}), make({9}), 1e-5f, out), InternalError);
}

TEST_F(OpsTest, Rotary) {
  Tensor x = make({3, 12}), positions = make({3}, DType::i32);
  ops::rotary(x, positions, make({4, 2}), make({4, 2}), 3);
  EXPECT_THROW(ops::rotary(x, positions, make({4, 3}), make({4, 3}), 3), InternalError)
      << "6 of 4 components";
  EXPECT_THROW(ops::rotary(x, positions, make({4, 2}), make({4, 2}), 5), InternalError) << "5 heads in 12";
  EXPECT_THROW(ops::rotary(x, make({2}, DType::i32), make({4, 2}), make({4, 2}), 3), InternalError);
  positions.mutable_data<int32_t>()[1] = 4;
  EXPECT_THROW(ops::rotary(x, positions, make({4, 2}), make({4, 2}), 3), InternalError) << "beyond the table";
}

TEST_F(OpsTest, Attention) {
  const ops::AttentionShape shape{.sequences = 1,
                                  .query_tokens = 2,
                                  .key_tokens = 3,
                                  .query_offset = 1,
                                  .heads = 2,
                                  .kv_heads = 1,
                                  .head_dim = 4,
                                  .scale = 1.0f};
  Tensor q = make({2, 8}), k = make({3, 4}), out = make({2, 8});
  ops::attention(q, k, k, shape, out);
  ops::attention_cached(q, make({1, 1, 5, 4}), make({1, 1, 5, 4}), shape, out);
  EXPECT_THROW(ops::attention(q, make({2, 4}), k, shape, out), InternalError);
  EXPECT_THROW(ops::attention_cached(q, make({1, 1, 2, 4}), make({1, 1, 2, 4}), shape, out), InternalError);
  EXPECT_THROW(ops::attention_cached(q, make({1, 1, 5, 4}), make({1, 1, 6, 4}), shape, out), InternalError);
  ops::AttentionShape bad = shape;
  bad.query_offset = 2;
  EXPECT_THROW(ops::attention(q, k, k, bad, out), InternalError) << "a query without a key of its own";
  bad = shape;
  bad.heads = 3;
  EXPECT_THROW(ops::attention(make({2, 12}), k, k, bad, out), InternalError);
}

TEST_F(OpsTest, ElementwiseAndEmbedding) {
  Tensor out = make({2, 8});
  EXPECT_THROW(ops::activation(Activation::silu, make({2, 7}), out), InternalError);
  EXPECT_THROW(ops::gated_activation(Activation::silu, make({2, 8}), make({8, 2}), out), InternalError);
  EXPECT_THROW(ops::add(make({2, 16}).columns(0, 8), make({2, 8}), out), InternalError)
      << "add has no strides";
  EXPECT_THROW(ops::softcap(out, 0.0f), InternalError);
  Tensor ids = make({2}, DType::i32);
  ops::embedding(ids, make({5, 8}, DType::f16), 1.0f, false, out);
  EXPECT_THROW(ops::embedding(ids, make({5, 9}), 1.0f, false, out), InternalError);
  EXPECT_THROW(ops::embedding(ids, make({5, 8}, DType::i8), 1.0f, false, out), InternalError);
  for (const int32_t id : {5, -1}) {
    ids.mutable_data<int32_t>()[1] = id;
    EXPECT_THROW(ops::embedding(ids, make({5, 8}), 1.0f, false, out), InternalError) << id;
  }
}

TEST_F(OpsTest, Matmul) {
  Tensor out = make({2, 5});
  ops::matmul(make({2, 3}), make({5, 3}), Tensor(), false, out, none_);
  EXPECT_THROW(ops::matmul(make({2, 4}), make({5, 3}), Tensor(), false, out, none_), InternalError);
  EXPECT_THROW(ops::matmul(make({3, 3}), make({5, 3}), Tensor(), false, out, none_), InternalError);
  EXPECT_THROW(ops::matmul(make({2, 3}), make({5, 3}), make({4}), false, out, none_), InternalError);
  EXPECT_THROW(ops::matmul(make({2, 3}), make({5, 4}).columns(0, 3), Tensor(), false, out, none_),
               InternalError);
  EXPECT_THROW(ops::matmul(make({2, 3}), make({5, 3}, DType::i8), Tensor(), false, out, none_),
               InternalError);
  EXPECT_THROW(ops::matmul(make({2, 3}), PackedMatrix{}, Tensor(), false, out, none_), InternalError);
  const auto weight =
      std::make_shared<QuantizedTensor>(*QuantizedTensor::allocate(*QuantScheme::parse("int8"), 5, 3));
  const PackedMatrix packed = *backend_for(Device::reference()).prepack(weight);
  EXPECT_EQ(packed.size_bytes(), 5u * 3 + 5 * 2);
  EXPECT_THROW(ops::matmul(make({2, 3}), packed, Tensor(), false, out, none_), InternalError)
      << "no workspace";
  Workspace workspace =
      *Workspace::reserve(ops::matmul_workspace_bytes(Device::reference(), packed, 2), Device::reference());
  ops::matmul(make({2, 3}), packed, Tensor(), false, out, workspace);
  EXPECT_EQ(workspace.used(), 0u) << "the op gives its scratch memory back";
}

TEST_F(OpsTest, Logits) {
  Tensor targets = make({2}, DType::i32), best = make({2}, DType::i32);
  Tensor sums = make({2}, DType::f64), nll = make({2}, DType::f64), narrow = make({2}, DType::f32);
  ops::cross_entropy(make({2, 5}), targets, sums, nll, best);
  EXPECT_THROW(ops::cross_entropy(make({2, 5}), targets, narrow, nll, best), InternalError);
  EXPECT_THROW(ops::cross_entropy(make({3, 5}), targets, sums, nll, best), InternalError);
  targets.mutable_data<int32_t>()[0] = 5;
  EXPECT_THROW(ops::cross_entropy(make({2, 5}), targets, sums, nll, best), InternalError);
  EXPECT_THROW(ops::divergence(make({2, 5}), make({2, 6}), sums, sums, nll), InternalError);
}

}  // namespace
}  // namespace pare
