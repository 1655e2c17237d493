#include "distill/trainer_state.h"

#include "tests/distill/training_support.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::checked;

Json identity() {
  Json json = Json::object();
  json["command"] = "distill";
  return json;
}

TrainerState sample() {
  TrainerState state;
  state.json["steps"] = int64_t{12};
  state.json["ratio"] = 0.1;
  state.tensors.push_back({"w", test::normals({3, 7}, Device::cpu(), 1)});
  Tensor bits = checked(Tensor::allocate(DType::u8, {3, 1}));
  bits.mutable_data<uint8_t>()[1] = 0x55;
  state.tensors.push_back({"mask:w", bits});
  state.tensors.push_back({"empty", checked(Tensor::allocate(DType::f32, {0, 4}))});
  return state;
}

TEST(TrainerStateTest, ComesBackFromAJobFolder) {
  const std::string folder = test::temporary_folder() + "/job";
  const TrainerState before = sample();
  {
    JobFolder job = checked(JobFolder::open(folder, identity(), JobMode::fresh));
    StoredTrainerState stored = checked(put_state(job, before));
    checked(job.commit(stored.description, {stored.object}));
  }
  JobFolder job = checked(JobFolder::open(folder, identity(), JobMode::resume));
  const TrainerState after = checked(get_state(job, job.position()));
  EXPECT_EQ(checked(after.integer("steps")), 12);
  EXPECT_EQ(checked(after.real("ratio")), 0.1);
  ASSERT_EQ(after.tensors.size(), before.tensors.size());
  for (size_t i = 0; i < before.tensors.size(); ++i) {
    EXPECT_EQ(after.tensors[i].name, before.tensors[i].name);
    EXPECT_EQ(after.tensors[i].tensor.shape(), before.tensors[i].tensor.shape());
    EXPECT_TRUE(test::same_bytes(after.tensors[i].tensor, before.tensors[i].tensor));
  }
}

TEST(TrainerStateTest, WhatIsNotThereIsNamed) {
  const TrainerState state = sample();
  EXPECT_TRUE(state.tensor("w", DType::f32, {3, 7}));
  const auto absent = state.tensor("v", DType::f32, {3, 7});
  const auto reshaped = state.tensor("w", DType::f32, {7, 3});
  const auto retyped = state.tensor("mask:w", DType::f32, {3, 1});
  for (const auto* result : {&absent, &reshaped, &retyped}) {
    ASSERT_FALSE(*result);
    EXPECT_EQ(result->error().exit, Exit::malformed);
  }
  EXPECT_EQ(absent.error().where, "v");
  EXPECT_FALSE(state.integer("ratio"));
  EXPECT_FALSE(state.real("loss"));
}

// A description that was bent never reaches outside its object.
TEST(TrainerStateTest, BentDescriptionsAreRefused) {
  const std::string folder = test::temporary_folder() + "/job";
  JobFolder job = checked(JobFolder::open(folder, identity(), JobMode::fresh));
  const StoredTrainerState stored = checked(put_state(job, sample()));
  ASSERT_TRUE(get_state(job, stored.description));
  const auto bent = [&](const char* key, Json value) {
    Json description = stored.description;
    description["tensors"].items()[1][key] = std::move(value);
    return get_state(job, description);
  };
  Json huge = Json::array();
  for (int i = 0; i < 3; ++i) huge.push_back(Json(int64_t{1} << 40));
  for (const auto& result : {bent("offset", int64_t{1}), bent("offset", int64_t{64} << 40),
                             bent("offset", int64_t{-64}), bent("shape", huge), bent("shape", "3"),
                             bent("dtype", "F64"), bent("dtype", Json()), bent("name", 4)}) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().exit, Exit::malformed);
  }
  EXPECT_FALSE(get_state(job, Json::object()));
}

}  // namespace
}  // namespace pare
