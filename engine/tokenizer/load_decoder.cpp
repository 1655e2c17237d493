#include "engine/tokenizer/load.h"

namespace pare {
namespace {

Result<DecoderStep> load_metaspace(const Fields& step) {
  PARE_TRY(const uint32_t replacement, step.character("replacement", "\u2581"));
  PARE_TRY(const std::string scheme, step.text("prepend_scheme", "always"));
  PARE_TRY(const bool prefix_space, step.boolean("add_prefix_space", true));
  if (scheme != "always" && scheme != "first" && scheme != "never")
    return step.unknown_type("prepend scheme", scheme);
  return make_metaspace_decoder(replacement, prefix_space && scheme != "never");
}

Result<DecoderStep> load_ctc(const Fields& step) {
  PARE_TRY(std::string pad, step.text("pad_token", "<pad>"));
  PARE_TRY(std::string delimiter, step.text("word_delimiter_token", "|"));
  PARE_TRY(const bool cleanup, step.boolean("cleanup", true));
  return make_ctc_decoder(std::move(pad), std::move(delimiter), cleanup);
}

Result<DecoderStep> load_step(const Step& step, Growth& growth) {
  const std::string& type = step.type;
  const Fields& fields = step.fields;
  if (type == "ByteLevel") return make_byte_level_decoder();
  if (type == "Fuse") return make_fuse_decoder();
  if (type == "ByteFallback") return make_byte_fallback_decoder();
  if (type == "Metaspace") return load_metaspace(fields);
  if (type == "CTC") return load_ctc(fields);
  if (type == "Replace") {
    PARE_TRY(ReplaceRule rule, load_replace(fields));
    PARE_CHECK(growth.add(fields, rule));
    return make_replace_decoder(std::move(rule));
  }
  if (type == "Strip") {
    PARE_TRY(const uint32_t content, fields.character("content", " "));
    PARE_TRY(const uint64_t start, fields.count("start", 0));
    PARE_TRY(const uint64_t stop, fields.count("stop", 0));
    return make_strip_decoder(content, start, stop);
  }
  if (type == "WordPiece") {
    PARE_TRY(std::string prefix, fields.text("prefix", "##"));
    PARE_TRY(const bool cleanup, fields.boolean("cleanup", true));
    return make_wordpiece_decoder(std::move(prefix), cleanup);
  }
  if (type == "BPEDecoder") {
    PARE_TRY(std::string suffix, fields.text("suffix", "</w>"));
    return make_bpe_decoder(std::move(suffix));
  }
  return fields.unknown_type("decoder", type);
}

}  // namespace

Result<DecoderChain> load_decoder(const Fields& root) {
  DecoderChain chain;
  Growth growth;
  PARE_TRY(const std::vector<Step> steps, flatten_chain(root, "decoder", "decoders"));
  for (const Step& step : steps) {
    PARE_TRY(DecoderStep made, load_step(step, growth));
    chain.add(std::move(made));
  }
  if (!root.has("decoder")) chain.add(make_space_join_decoder());
  return chain;
}

}  // namespace pare
