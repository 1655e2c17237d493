#include "engine/core/limits.h"
#include "engine/tokenizer/load.h"

namespace pare {
namespace {

Result<NormalizerStep> load_bert(const Fields& step) {
  BertOptions options;
  PARE_TRY(options.clean_text, step.boolean("clean_text", true));
  PARE_TRY(options.handle_chinese_chars, step.boolean("handle_chinese_chars", true));
  PARE_TRY(options.lowercase, step.boolean("lowercase", true));
  PARE_TRY(options.strip_accents, step.boolean("strip_accents", options.lowercase));
  return make_bert(options);
}

Result<NormalizerStep> load_precompiled(const Fields& step) {
  const Json* field = step.find("precompiled_charsmap");
  if (field == nullptr || !field->is_string()) {
    return step.malformed("TK16", "precompiled_charsmap", "not a base64 string, at offset 0");
  }
  const auto blob = decode_base64(field->as_string());
  if (!blob) return step.malformed("TK16", "precompiled_charsmap", "bad base64, at offset 0");
  PARE_TRY(Charsmap map, Charsmap::parse(*blob, step.path(), step.where()));
  return make_precompiled(std::move(map));
}

Result<NormalizerStep> load_step(const Step& step, Growth& growth) {
  const std::string& type = step.type;
  const Fields& fields = step.fields;
  if (type == "NFC") return make_unicode_form(unicode::Form::nfc);
  if (type == "NFD") return make_unicode_form(unicode::Form::nfd);
  if (type == "NFKC") return make_unicode_form(unicode::Form::nfkc);
  if (type == "NFKD") return make_unicode_form(unicode::Form::nfkd);
  if (type == "Lowercase") return make_lowercase();
  if (type == "StripAccents") return make_strip_accents();
  if (type == "Nmt") return make_nmt();
  if (type == "BertNormalizer") return load_bert(fields);
  if (type == "Precompiled") return load_precompiled(fields);
  if (type == "ByteLevel") {
    PARE_CHECK(growth.add(fields, 2));
    return make_byte_level_normalizer();
  }
  if (type == "Strip") {
    PARE_TRY(const bool left, fields.boolean("strip_left", true));
    PARE_TRY(const bool right, fields.boolean("strip_right", true));
    return make_strip(left, right);
  }
  if (type == "Replace") {
    PARE_TRY(ReplaceRule rule, load_replace(fields));
    PARE_CHECK(growth.add(fields, rule));
    return make_replace(std::move(rule));
  }
  if (type == "Prepend") {
    PARE_TRY(std::string prefix, fields.text("prepend"));
    if (prefix.size() > limits::kTokenBytes) {
      return fields.malformed("TK07", "prepend", "text longer than a token may be, 4 KiB",
                              std::to_string(prefix.size()));
    }
    return make_prepend(std::move(prefix));
  }
  return fields.unknown_type("normalizer", type);
}

}  // namespace

Result<NormalizerChain> load_normalizer(const Fields& root) {
  NormalizerChain chain;
  Growth growth;
  PARE_TRY(const std::vector<Step> steps, flatten_chain(root, "normalizer", "normalizers"));
  for (const Step& step : steps) {
    PARE_TRY(NormalizerStep made, load_step(step, growth));
    chain.add(std::move(made));
  }
  return chain;
}

}  // namespace pare
