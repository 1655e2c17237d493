#include <fmt/core.h>

#include "engine/core/text.h"
#include "engine/tokenizer/load.h"

namespace pare {
namespace {

Result<int32_t> checked_id(const Fields& fields, std::string_view key, const Json& value, int64_t id_bound) {
  if (value.kind() == Json::Kind::integer && value.as_int() >= 0 && value.as_int() < id_bound) {
    return static_cast<int32_t>(value.as_int());
  }
  Error error = fields.malformed("TK06", key, "token id out of range",
                                 value.is_integer() ? value.dump() : value.kind_name());
  error.limit = std::to_string(id_bound);
  return error;
}

// [text, id] of BertProcessing and RobertaProcessing.
Result<int32_t> load_pair(const Fields& step, std::string_view key, int64_t id_bound) {
  PARE_TRY(const Json* pair, step.array(key));
  if (pair->size() != 2) return step.wrong_kind(key, "a [token, id] pair");
  return checked_id(step, key, (*pair)[1], id_bound);
}

// The ids that a special token of the template stands for.
Result<std::vector<int32_t>> load_special(const Fields& step, const Json& piece, std::string_view place,
                                          int64_t id_bound) {
  const Json* id = piece.find("id");
  if (id == nullptr || !id->is_string()) return step.malformed("TK01", place, "special token without an id");
  const Json* table = step.find("special_tokens");
  const Json* entry = table == nullptr ? nullptr : table->find(id->as_string());
  const Json* list = entry == nullptr ? nullptr : entry->find("ids");
  if (list == nullptr || !list->is_array()) {
    return step.malformed("TK06", place, "special token is not in special_tokens", quote(id->as_string()));
  }
  std::vector<int32_t> ids;
  for (const Json& value : list->items()) {
    PARE_TRY(const int32_t checked,
             checked_id(step, fmt::format("special_tokens[{}]", quote(id->as_string())), value, id_bound));
    ids.push_back(checked);
  }
  return ids;
}

Result<Framing> load_template(const Fields& step, int64_t id_bound) {
  PARE_TRY(const Json* single, step.array("single"));
  Framing framing;
  bool sequence_seen = false;
  for (size_t i = 0; i < single->size(); ++i) {
    const std::string place = fmt::format("single[{}]", i);
    const Json& piece = (*single)[i];
    if (const Json* sequence = piece.find("Sequence")) {
      const Json* id = sequence->find("id");
      const bool is_a = id != nullptr && id->is_string() && id->as_string() == "A";
      if (!is_a || sequence_seen) {
        return Error{.exit = Exit::unsupported,
                     .rule = "TK12",
                     .path = step.path(),
                     .where = step.at(place),
                     .what = "template of one sequence must use \"A\" once"};
      }
      sequence_seen = true;
    } else if (const Json* special = piece.find("SpecialToken")) {
      PARE_TRY(const std::vector<int32_t> ids, load_special(step, *special, place, id_bound));
      std::vector<int32_t>& side = sequence_seen ? framing.after : framing.before;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      return step.malformed("TK01", place, "neither a sequence nor a special token", piece.kind_name());
    }
  }
  if (!sequence_seen) return step.malformed("TK01", "single", "template without a sequence");
  return framing;
}

Result<Framing> load_step(const Step& step, int64_t id_bound) {
  if (step.type == "ByteLevel") return Framing{};  // offsets only
  if (step.type == "TemplateProcessing") return load_template(step.fields, id_bound);
  if (step.type == "BertProcessing" || step.type == "RobertaProcessing") {
    PARE_TRY(const int32_t cls, load_pair(step.fields, "cls", id_bound));
    PARE_TRY(const int32_t sep, load_pair(step.fields, "sep", id_bound));
    return Framing{{cls}, {sep}};
  }
  return step.fields.unknown_type("post-processor", step.type);
}

}  // namespace

Result<Framing> load_post_processor(const Fields& root, int64_t id_bound) {
  Framing framing;
  PARE_TRY(const std::vector<Step> steps, flatten_chain(root, "post_processor", "processors"));
  for (const Step& step : steps) {  // each step frames what the one before made
    PARE_TRY(const Framing outer, load_step(step, id_bound));
    framing.before.insert(framing.before.begin(), outer.before.begin(), outer.before.end());
    framing.after.insert(framing.after.end(), outer.after.begin(), outer.after.end());
  }
  return framing;
}

}  // namespace pare
