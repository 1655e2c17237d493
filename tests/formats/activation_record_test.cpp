// How inputs are rounded, in the .pare record: written, read, checked, and absent from older files.
#include <gtest/gtest.h>

#include "formats/open_model.h"
#include "formats/pare_directory.h"
#include "formats/pare_tensor_record.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

ActivationQuant still() {
  return {
      .mode = ActivationQuant::Mode::static_tensor, .symmetric = false, .scale = 0.0123f, .zero_point = -5};
}

TEST(ActivationRecord, RoundTripThroughAFile) {
  const std::string path = test::temporary_folder() + "/m.pare";
  test::NamedWeights weights;
  const std::vector<std::optional<ActivationQuant>> kinds{std::nullopt, ActivationQuant{}, still()};
  for (size_t i = 0; i < kinds.size(); ++i) {
    QuantizedTensor tensor = test::random_quantized(*QuantScheme::parse("int8-ch"), 4, 16, i);
    tensor.activation = kinds[i];
    weights.emplace_back("w" + std::to_string(i),
                         WeightData{std::make_shared<const QuantizedTensor>(tensor), false});
  }
  test::write_model(path, weights, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  for (size_t i = 0; i < kinds.size(); ++i) {
    EXPECT_EQ((*source)->tensors()[i].activation, kinds[i]);
    const auto loaded = (*source)->load("w" + std::to_string(i));
    ASSERT_TRUE(loaded) << format_error(loaded.error());
    EXPECT_EQ(loaded->quantized()->activation, kinds[i]);
  }
}

TEST(ActivationRecord, AnImpossibleScaleIsNeverWritten) {
  QuantizedTensor tensor = test::random_quantized(*QuantScheme::parse("int8-ch"), 4, 16, 1);
  tensor.activation = still();
  tensor.activation->scale = 0.0f;
  const auto status = tensor.validate("m.pare", "w");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::malformed);
}

Json record_of(PareForm form) {
  PareTensor tensor;
  tensor.name = "w";
  tensor.form = form;
  tensor.shape = Shape{4, 16};
  if (form == PareForm::quantized) tensor.scheme = *QuantScheme::parse("int8-ch");
  return tensor_record(tensor);
}

Result<PareTensor> reread(Json record) {
  record["xxh3"] = record_sum(record).hex();
  return parse_tensor_record(record, "m.pare", 0);
}

TEST(ActivationRecord, OldRecordsHaveNone) {
  const Json record = record_of(PareForm::quantized);
  EXPECT_EQ(record.find("activation"), nullptr);
  const auto tensor = reread(record);
  ASSERT_TRUE(tensor) << format_error(tensor.error());
  EXPECT_FALSE(tensor->activation);
}

TEST(ActivationRecord, MalformedOnesAreRefused) {
  Json record = record_of(PareForm::quantized);
  record["activation"] = still().to_json();
  ASSERT_TRUE(reread(record));
  Json broken = record;
  broken["activation"]["scale"] = -1.0;
  const auto tensor = reread(broken);
  ASSERT_FALSE(tensor);
  EXPECT_EQ(tensor.error().exit, Exit::malformed);
  EXPECT_NE(tensor.error().where.find("activation.scale"), std::string::npos) << tensor.error().where;
  broken = record;
  broken["activation"] = "int8";
  EXPECT_EQ(reread(broken).error().exit, Exit::malformed);
  Json dense = record_of(PareForm::dense);
  dense["activation"] = still().to_json();
  EXPECT_EQ(reread(dense).error().exit, Exit::malformed);
}

}  // namespace
}  // namespace pare
