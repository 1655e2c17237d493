// What a training job commits; declared in distill_training.h.
#include "cli/distill_training.h"

namespace pare::cli {
namespace {

Error damaged(const std::string& path) {
  return Error{.exit = Exit::malformed,
               .path = path,
               .where = "position",
               .what = "not the position of a training job; --restart begins anew"};
}

void add_object(const Json& state, std::vector<Hash128>& objects) {
  const Json* name = state.find("object");
  if (name == nullptr || !name->is_string()) return;
  if (const auto hash = Hash128::from_hex(name->as_string())) objects.push_back(*hash);
}

}  // namespace

Json TrainingPosition::to_json() const {
  Json json = Json::object();
  json["kind"] = "training";
  json["steps"] = steps;
  json["micro_batch"] = micro_batch;
  json["seconds_per_step"] = seconds_per_step;
  json["key"] = privacy_key;
  Json list = Json::array();
  for (const ValidationPoint& point : validations) {
    Json pair = Json::array();
    pair.push_back(Json(point.step));
    pair.push_back(Json(point.cross_entropy));
    list.push_back(std::move(pair));
  }
  json["validations"] = std::move(list);
  json["best_step"] = best_step ? Json(*best_step) : Json();
  json["best"] = best;
  json["ended"] = ended;
  json["state"] = state;
  json["output"] = output;
  return json;
}

int64_t TrainingPosition::steps_taken() const {
  const Json* json = state.find("json");
  const Json* taken = json == nullptr ? nullptr : json->find("optimizer_steps");
  return taken != nullptr && taken->kind() == Json::Kind::integer ? taken->as_int() : 0;
}

std::vector<Hash128> TrainingPosition::objects() const {
  std::vector<Hash128> objects;
  add_object(state, objects);
  if (best != state) add_object(best, objects);
  return objects;
}

Result<TrainingPosition> read_training_position(const Json& json, const std::string& path) {
  TrainingPosition position;
  if (json.is_null()) return position;
  const auto text = [&](const char* key) {
    const Json* value = json.find(key);
    return value != nullptr && value->is_string() ? &value->as_string() : nullptr;
  };
  const auto integer = [&](const char* key) {
    const Json* value = json.find(key);
    return value != nullptr && value->kind() == Json::Kind::integer ? value : nullptr;
  };
  const std::string* kind = text("kind");
  const std::string *ended = text("ended"), *output = text("output");
  const Json *steps = integer("steps"), *micro_batch = integer("micro_batch"),
             *list = json.find("validations"), *key = json.find("key"),
             *seconds = json.find("seconds_per_step"), *best = json.find("best"), *state = json.find("state");
  const bool is_whole = kind != nullptr && *kind == "training" && ended != nullptr && output != nullptr &&
                        steps != nullptr && micro_batch != nullptr && list != nullptr && list->is_array() &&
                        key != nullptr && key->is_integer() && seconds != nullptr && seconds->is_number() &&
                        best != nullptr && state != nullptr;
  if (!is_whole) return damaged(path);
  for (const Json& pair : list->items()) {
    if (!pair.is_array() || pair.size() != 2 || pair[0].kind() != Json::Kind::integer || !pair[1].is_number())
      return damaged(path);
    position.validations.push_back({.step = pair[0].as_int(), .cross_entropy = pair[1].as_double()});
  }
  position.steps = steps->as_int();
  position.micro_batch = micro_batch->as_int();
  position.seconds_per_step = seconds->as_double();
  position.privacy_key = key->as_uint();
  if (const Json* step = integer("best_step")) position.best_step = step->as_int();
  position.best = *best;
  position.ended = *ended;
  position.state = *state;
  position.output = *output;
  return position;
}

Status commit_training(JobFolder& folder, const TrainingPosition& position) {
  return folder.commit(position.to_json(), position.objects());
}

}  // namespace pare::cli
