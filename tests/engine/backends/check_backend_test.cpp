// The check backend must see a wrong result of any operation, and let a right one pass.
#include "engine/backends/check/check_backend.h"

#include "engine/backends/reference/backend_class.h"
#include "tests/engine/backends/test_backends.h"

#include <gmock/gmock.h>

namespace pare::test {
namespace {

// The reference with one result off by a relative amount.
class Wrong : public Backend {
 public:
  explicit Wrong(float factor) : factor_(factor) {}
  Device device() const override { return Device::cpu(); }
  std::string description() const override { return "wrong"; }
  Result<std::shared_ptr<Storage>> allocate(size_t bytes) override { return right_.allocate(bytes); }

  void rms_norm(const RmsNormArgs& a) override { right_.rms_norm(a), spoil(a.out, a.out_stride, a.tokens); }
  void layer_norm(const LayerNormArgs& a) override {
    right_.layer_norm(a), spoil(a.out, a.out_stride, a.tokens);
  }
  void rotary(const RotaryArgs& a) override { right_.rotary(a), spoil(a.x, a.stride, a.tokens); }
  void attention(const AttentionArgs& a) override {
    right_.attention(a), spoil(a.out, a.out_stride, a.sequences * a.query_tokens);
  }
  void activation(const ActivationArgs& a) override {
    right_.activation(a), spoil(a.out, a.out_stride, a.rows);
  }
  void gated_activation(const GatedActivationArgs& a) override {
    right_.gated_activation(a), spoil(a.out, a.out_stride, a.rows);
  }
  void add(const AddArgs& a) override { right_.add(a), spoil(a.out, 0, 1); }
  void softcap(const SoftcapArgs& a) override { right_.softcap(a), spoil(a.x, 0, 1); }
  void softmax(const SoftmaxArgs& a) override { right_.softmax(a), spoil(a.out, a.out_stride, a.rows); }
  void embedding(const EmbeddingArgs& a) override {
    right_.embedding(a), spoil(a.out, a.out_stride, a.tokens);
  }
  void quantized_embedding(const QuantizedEmbeddingArgs& a) override {
    right_.quantized_embedding(a), spoil(a.out, a.out_stride, a.tokens);
  }
  void cross_entropy(const CrossEntropyArgs& a) override {
    right_.cross_entropy(a);
    a.nll[a.rows - 1] *= double(factor_);
  }
  void divergence(const DivergenceArgs& a) override {
    right_.divergence(a);
    a.kl[a.rows - 1] *= double(factor_);
  }
  size_t matmul_workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  void matmul(const MatmulArgs& a) override { right_.matmul(a), spoil(a.out, a.out_stride, a.m); }
  Result<PackedMatrix> prepack(std::shared_ptr<const QuantizedTensor> weight) override {
    return right_.prepack(std::move(weight));
  }
  KernelChoice choose_sparse(const SparseSummary& weight) const override {
    return right_.choose_sparse(weight);
  }
  Result<PackedMatrix> prepack_sparse(std::shared_ptr<const SparseTensor> weight) override {
    return right_.prepack_sparse(std::move(weight));
  }
  Result<SparseTensor> unpack_sparse(const PackedMatrix& packed) override {
    return right_.unpack_sparse(packed);
  }
  Result<QuantizedTensor> unpack(const PackedMatrix& packed) override {
    Result<QuantizedTensor> tensor = right_.unpack(packed);
    if (wrong_codes) tensor->codes = *converted_codes(*tensor);
    return tensor;
  }
  size_t packed_matmul_workspace_bytes(const PackedMatrix& weight, int64_t m) const override {
    return right_.packed_matmul_workspace_bytes(weight, m);
  }
  void packed_matmul(const PackedMatmulArgs& a) override {
    right_.packed_matmul(a), spoil(a.out, a.out_stride, a.m);
  }

  bool wrong_codes = false;

 private:
  static Result<Tensor> converted_codes(const QuantizedTensor& tensor) {
    PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, tensor.codes.shape()));
    return codes;  // all zero
  }
  void spoil(float* out, int64_t stride, int64_t rows) const { out[(rows - 1) * stride + 1] *= factor_; }

  reference::ReferenceBackend right_;
  float factor_;
};

// Calls every operation once; returns those that the check did not let pass.
std::vector<std::string> failing_operations(Backend& tested) {
  install_backend(make_check_backend(tested, oracle()));
  std::vector<std::string> failed;
  const auto attempt = [&](const char* op, const std::function<void()>& call) {
    try {
      call();
    } catch (const InternalError& error) {
      failed.push_back(op);
      EXPECT_NE(std::string(error.what()).find("[check]"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("wrong"), std::string::npos) << error.what();
    }
  };
  const Tensor x = uniform({3, 8}, 1, 0.5f, 2.0f), gain = uniform({8}, 2, 1.0f, 2.0f);
  const Tensor table = uniform({8, 8}, 3, 0.5f, 1.0f);
  Tensor out = zeros(DType::f32, {3, 8});
  const Tensor half = uniform({4, 4}, 4, 0.5f, 0.7f);
  attempt("rms_norm", [&] { ops::rms_norm(x, gain, 1e-5f, false, out); });
  attempt("layer_norm", [&] { ops::layer_norm(x, gain, gain, 1e-5f, out); });
  attempt("rotary", [&] {
    Tensor turned = copy_of(x);
    ops::rotary(turned, indices({1, 2, 3}), half, half, 1);
  });
  attempt("attention", [&] {
    const ops::AttentionShape shape{.sequences = 1,
                                    .query_tokens = 3,
                                    .key_tokens = 3,
                                    .query_offset = 0,
                                    .heads = 2,
                                    .kv_heads = 2,
                                    .head_dim = 4,
                                    .scale = 0.5f};
    ops::attention(x, x, x, shape, out);
  });
  attempt("activation", [&] { ops::activation(Activation::silu, x, out); });
  attempt("gated_activation", [&] { ops::gated_activation(Activation::gelu, x, x, out); });
  attempt("add", [&] { ops::add(x, x, out); });
  attempt("softcap", [&] {
    Tensor capped = copy_of(x);
    ops::softcap(capped, 2.0f);
  });
  attempt("softmax", [&] { ops::softmax(x, out); });
  attempt("embedding", [&] { ops::embedding(indices({1, 2, 3}), table, 2.0f, false, out); });
  const QuantizedTensor codes = random_codes(*QuantScheme::parse("int4-ch-asymf"), 8, 8, 5, false);
  attempt("quantized_embedding", [&] { ops::embedding(indices({1, 2, 3}), codes, 2.0f, false, out); });
  Tensor sums = zeros(DType::f64, {3}), nll = zeros(DType::f64, {3}), best = zeros(DType::i32, {3});
  attempt("cross_entropy", [&] { ops::cross_entropy(x, indices({1, 2, 3}), sums, nll, best); });
  attempt("divergence", [&] { ops::divergence(x, uniform({3, 8}, 6), sums, sums, nll); });
  Workspace workspace = *Workspace::reserve(4096, Device::check());
  attempt("matmul", [&] { ops::matmul(x, table, Tensor(), false, out, workspace); });
  attempt("prepack", [&] {
    const PackedMatrix packed =
        *backend_for(Device::check()).prepack(std::make_shared<QuantizedTensor>(codes));
    attempt("packed_matmul", [&] { ops::matmul(x, packed, gain, false, out, workspace); });
  });
  return failed;
}

TEST(CheckBackendTest, LetsTheReferencePass) {
  static Wrong exact(1.0f);
  EXPECT_THAT(failing_operations(exact), testing::IsEmpty());
}

TEST(CheckBackendTest, SeesAnErrorInEveryOperation) {
  static Wrong wrong(1.01f);
  wrong.wrong_codes = false;
  EXPECT_EQ(failing_operations(wrong),
            (std::vector<std::string>{"rms_norm", "layer_norm", "rotary", "attention", "activation",
                                      "gated_activation", "add", "softcap", "softmax", "embedding",
                                      "quantized_embedding", "cross_entropy", "divergence", "matmul",
                                      "packed_matmul"}));
}

TEST(CheckBackendTest, SeesAnErrorOfAFewUnitsInTheLastPlace) {
  static Wrong wrong(1.0f + 0x1p-16f);
  EXPECT_GE(failing_operations(wrong).size(), 13u);
}

TEST(CheckBackendTest, SeesACodeLostInPacking) {
  static Wrong wrong(1.0f);
  wrong.wrong_codes = true;
  EXPECT_EQ(failing_operations(wrong), std::vector<std::string>{"prepack"});
}

TEST(CheckBackendTest, TheTextNamesTheWorstCoordinate) {
  static Wrong wrong(2.0f);
  install_backend(make_check_backend(wrong, oracle()));
  Tensor x = zeros(DType::f32, {2, 3}), out = zeros(DType::f32, {2, 3});
  for (int64_t i = 0; i < 6; ++i) x.mutable_data<float>()[i] = 4.0f;
  try {
    ops::add(x, x, out);
    FAIL() << "not seen";
  } catch (const InternalError& error) {
    EXPECT_THAT(error.what(),
                testing::HasSubstr("[check] add f32 [1, 6]: 1 of 6 values beyond the bound; worst at "
                                   "[0, 1]: wrong gives 16, reference: scalar, double accumulation "
                                   "gives 8"));
  }
}

}  // namespace
}  // namespace pare::test
