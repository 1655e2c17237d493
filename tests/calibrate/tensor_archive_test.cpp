// Every form of a tensor into a job folder and back; descriptions that do not fit are refused.
#include "calibrate/tensor_archive.h"

#include <cstring>
#include <functional>

#include <gtest/gtest.h>

#include "calibrate/step.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "tests/support/random_sparse.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using test::pattern_of;
using test::random_codes;
using test::random_mask;
using test::random_matrix;

constexpr int64_t kOut = 18, kIn = 40;

template <typename T>
std::shared_ptr<const T> shared(T value) {
  return std::make_shared<const T>(std::move(value));
}

QuantizedTensor regrouped_codes() {
  QuantizedTensor tensor = random_codes("int4-g16-asym", kOut, kIn, 3);
  tensor.group_index = checked(Tensor::allocate(DType::i32, {kIn}));
  for (int64_t i = 0; i < kIn; ++i) tensor.group_index.mutable_data<int32_t>()[i] = int32_t((i * 7) % 3);
  tensor.activation = ActivationQuant{};
  return tensor;
}

SparseTensor sparse_values(const char* pattern) {
  const Mask mask = random_mask(pattern_of(pattern), kOut, kIn, 0.4, 5);
  return checked(
      SparseTensor::from_dense(random_matrix(DType::bf16, kOut, kIn, 6), mask, pattern_of(pattern)));
}

SparseTensor sparse_codes(const char* pattern, const char* scheme) {
  const Mask mask = random_mask(pattern_of(pattern), kOut, kIn, 0.4, 7);
  return checked(SparseTensor::from_quantized(random_codes(scheme, kOut, kIn, 8), mask, pattern_of(pattern)));
}

LowRankTensor factors(LowRankTensor::Base base) {
  return {.shape = {kOut, kIn},
          .left = random_matrix(DType::f16, kOut, 3, 1),
          .right = random_matrix(DType::f16, 3, kIn, 2),
          .base = std::move(base)};
}

std::vector<ArchivedTensor> all_forms() {
  std::vector<ArchivedTensor> tensors;
  const auto add = [&](auto form, bool transposed = false) {
    tensors.push_back({.name = "tensor " + std::to_string(tensors.size()),
                       .data = WeightData{.form = std::move(form), .transposed = transposed}});
  };
  add(random_matrix(DType::bf16, kOut, kIn, 1));
  add(random_matrix(DType::f32, 1, 7, 2).reshaped({7}));
  add(shared(random_codes("int3-g16-sym", kOut, kIn, 3)), true);
  add(shared(random_codes("int4-g16-asymf", kOut, kIn, 4)));
  add(shared(random_codes("codebook3-g16", kOut, kIn, 4)));
  add(shared(regrouped_codes()));
  for (const char* pattern : {"unstructured", "2:4", "block-4x4"}) {
    add(shared(sparse_values(pattern)), true);
    add(shared(sparse_codes(pattern, "int4-g16-asym")));
  }
  add(shared(factors(std::monostate())), true);
  add(shared(factors(random_matrix(DType::bf16, kOut, kIn, 9))));
  add(shared(factors(shared(random_codes("int4-g16-asym", kOut, kIn, 3)))));
  add(shared(factors(shared(sparse_values("2:4")))));
  add(shared(factors(shared(sparse_codes("unstructured", "int8")))));
  return tensors;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

JobFolder new_folder(const std::string& name) {
  return checked(JobFolder::open(test::memory_folder() + "/" + name, Json::object(), JobMode::fresh));
}

TEST(TensorArchive, EveryFormComesBack) {
  JobFolder folder = new_folder("archive_forms");
  const std::vector<ArchivedTensor> before = all_forms();
  const Json description = checked(put_tensors(folder, before));
  const std::vector<ArchivedTensor> after = checked(get_tensors(folder, description));
  ASSERT_EQ(after.size(), before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const StoredTensor was = before[i].data.described(before[i].name);
    const StoredTensor is = after[i].data.described(after[i].name);
    EXPECT_EQ(is.name, was.name);
    EXPECT_EQ(is.form_text(), was.form_text()) << i;
    EXPECT_EQ(is.bytes, was.bytes) << i;
    EXPECT_EQ(after[i].data.transposed, before[i].data.transposed) << i;
    EXPECT_TRUE(same(checked(after[i].data.to_dense_tensor()), checked(before[i].data.to_dense_tensor())))
        << i << ": " << was.form_text();
  }
  // The same tensors again are the same object and the same text.
  EXPECT_EQ(checked(put_tensors(folder, after)).dump(), description.dump());
  checked(folder.remove());
}

Json& entry_of(Json& description, const std::string& form) {
  for (Json& entry : description["tensors"].items())
    if (entry["form"].as_string() == form && (form != "low_rank" || entry.find("base") != nullptr))
      return entry;
  PARE_ASSERT(false, "no {}", form);
  return description;
}

TEST(TensorArchive, DamagedDescriptionsAreRefused) {
  JobFolder folder = new_folder("archive_damaged");
  const Json good = checked(put_tensors(folder, all_forms()));
  using Damage = std::function<void(Json&)>;
  const std::vector<std::pair<const char*, Damage>> kinds = {
      {"offset behind the end", [](Json& e) { e["parts"].items()[0]["offset"] = uint64_t(1) << 40; }},
      {"offset unaligned", [](Json& e) { e["parts"].items()[0]["offset"] = 8; }},
      {"negative offset", [](Json& e) { e["parts"].items()[0]["offset"] = int64_t(-64); }},
      {"other bytes", [](Json& e) { e["parts"].items()[0]["bytes"] = 64; }},
      {"overflowing shape",
       [](Json& e) {
         e["parts"].items()[0]["shape"] =
             Json(Json::Array{Json(int64_t(1) << 40), Json(int64_t(1) << 40), Json(int64_t(1) << 40)});
       }},
      {"negative shape",
       [](Json& e) { e["parts"].items()[0]["shape"] = Json(Json::Array{Json(int64_t(-1))}); }},
      {"no dtype", [](Json& e) { e["parts"].items()[0].erase("dtype"); }},
      {"unknown dtype", [](Json& e) { e["parts"].items()[0]["dtype"] = "F17"; }},
      {"unknown role", [](Json& e) { e["parts"].items()[0]["role"] = "keys"; }},
      {"role twice", [](Json& e) { e["parts"].push_back(e["parts"].items()[0]); }},
      {"no parts", [](Json& e) { e["parts"] = Json::array(); }},
      {"parts no list", [](Json& e) { e["parts"] = "none"; }},
      {"unknown form", [](Json& e) { e["form"] = "woven"; }},
      {"transposed no boolean", [](Json& e) { e["transposed"] = 1; }},
  };
  for (const char* form : {"dense", "quantized", "sparse", "low_rank"}) {
    for (const auto& [what, damage] : kinds) {
      Json bad = good;
      damage(entry_of(bad, form));
      const auto result = get_tensors(folder, bad);
      ASSERT_FALSE(result) << form << ": " << what;
      EXPECT_EQ(result.error().exit, Exit::malformed) << form << ": " << what;
      EXPECT_EQ(result.error().path, folder.path());
    }
  }
  const std::vector<std::pair<const char*, Damage>> of_forms = {
      {"sparse", [](Json& e) { e["pattern"] = "5:4"; }},
      {"sparse", [](Json& e) { e.erase("pattern"); }},
      {"sparse", [](Json& e) { e["pattern"] = "2:4"; }},
      {"sparse",
       [](Json& e) {
         e["shape"] = Json(Json::Array{Json(int64_t(kOut)), Json(int64_t(kIn + 1))});
       }},
      {"quantized", [](Json& e) { e.erase("scheme"); }},
      {"quantized", [](Json& e) { e["scheme"]["bits"] = 2; }},
      {"quantized", [](Json& e) { e["shape"] = Json(Json::Array{Json(int64_t(kOut))}); }},
      {"low_rank", [](Json& e) { e["base"]["form"] = "low_rank"; }},
      {"low_rank", [](Json& e) { e["base"] = 1; }},
      {"low_rank", [](Json& e) { e["base"]["parts"] = Json::array(); }},
  };
  for (size_t i = 0; i < of_forms.size(); ++i) {
    Json bad = good;
    of_forms[i].second(entry_of(bad, of_forms[i].first));
    const auto result = get_tensors(folder, bad);
    ASSERT_FALSE(result) << of_forms[i].first << " " << i;
    EXPECT_EQ(result.error().exit, Exit::malformed) << i;
  }
  checked(folder.remove());
}

// A step's replacement is what the model multiplies with, whatever its form and the file's orientation.
TEST(BlockEdit, ReplacesByAnyForm) {
  install_backend(make_cpu_backend());
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2}) {
    const auto base = test::tiny_model(config);
    const auto edited = std::make_shared<EditedSource>(base);
    const auto model = checked(Model::open(edited, Device::cpu()));
    checked(model->load_block(0));
    BlockEdit edit(*model, *edited, 0);
    const TensorSpec& spec = *edit.linears(Site::mlp_out).front();
    const Tensor before = checked(edit.values(spec));
    const Mask mask = random_mask(pattern_of("2:4"), before.size(0), before.size(1), 0.5, 1);
    checked(edit.replace(
        spec,
        WeightData{.form = shared(checked(SparseTensor::from_dense(before, mask, pattern_of("2:4"))))}));
    EXPECT_TRUE(checked(edited->load(spec.name)).is_sparse());
    EXPECT_EQ(checked(edited->load(spec.name)).transposed, spec.transposed);
    Tensor masked = checked(converted(before, DType::f32));
    mask.apply(masked);
    EXPECT_TRUE(same(checked(edit.values(spec)), masked)) << "sparse values are values";
    const LowRankTensor low{.shape = before.shape(),
                            .left = random_matrix(DType::f32, before.size(0), 2, 1),
                            .right = random_matrix(DType::f32, 2, before.size(1), 2),
                            .base = {}};
    checked(edit.replace(spec, WeightData{.form = shared(LowRankTensor(low))}));
    EXPECT_TRUE(same(checked(edit.values(spec)), checked(low.to_dense())));
    checked(edit.replace(spec, WeightData{.form = shared(test::int8_of(before))}));
    const auto refused = edit.values(spec);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().exit, Exit::unsupported);
  }
}

}  // namespace
}  // namespace pare
