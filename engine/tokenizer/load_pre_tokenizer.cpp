#include "engine/core/text.h"
#include "engine/tokenizer/load.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

Result<SplitBehavior> load_behavior(const Fields& step, std::optional<std::string> fallback = std::nullopt) {
  PARE_TRY(const std::string name, step.text("behavior", std::move(fallback)));
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  return step.unknown_type("split behavior", name);
}

Result<PreTokenizerStep> load_split(const Fields& step) {
  PARE_TRY(LoadedPattern pattern, load_pattern(step));
  PARE_TRY(const SplitBehavior behavior, load_behavior(step));
  PARE_TRY(const bool invert, step.boolean("invert", false));
  if (!pattern.is_regex) return make_literal_split(std::move(pattern.text), behavior, invert);
  if (behavior ==
      SplitBehavior::isolated) {  // matches tile the text: gaps, and so `invert`, make no difference
    if (const auto scanner = PatternScanner::recognise(pattern.text)) return make_scanner_split(*scanner);
  }
  PARE_TRY(auto regex, Regex::compile(pattern.text, step.path(), step.at("pattern.Regex")));
  return make_regex_split(std::move(regex), behavior, invert);
}

Result<PreTokenizerStep> load_metaspace(const Fields& step) {
  PARE_TRY(const uint32_t replacement, step.character("replacement", "\u2581"));
  PARE_TRY(const std::string scheme, step.text("prepend_scheme", "always"));
  PARE_TRY(const bool prefix_space, step.boolean("add_prefix_space", true));
  PARE_TRY(const bool split, step.boolean("split", true));
  if (!prefix_space || scheme == "never") return make_metaspace(replacement, PrependScheme::never, split);
  if (scheme == "always") return make_metaspace(replacement, PrependScheme::always, split);
  if (scheme == "first") return make_metaspace(replacement, PrependScheme::first, split);
  return step.unknown_type("prepend scheme", scheme);
}

Result<PreTokenizerStep> load_simple(const Step& step) {
  const std::string& type = step.type;
  const Fields& fields = step.fields;
  if (type == "Split") return load_split(fields);
  if (type == "Metaspace") return load_metaspace(fields);
  if (type == "Whitespace") return make_whitespace();
  if (type == "WhitespaceSplit") return make_class_split(unicode::is_space, SplitBehavior::removed);
  if (type == "Punctuation") {
    PARE_TRY(const SplitBehavior behavior, load_behavior(fields, "Isolated"));
    return make_class_split(unicode::is_punctuation, behavior);
  }
  if (type == "Digits") {
    PARE_TRY(const bool individual, fields.boolean("individual_digits", false));
    return make_class_split(unicode::is_number,
                            individual ? SplitBehavior::isolated : SplitBehavior::contiguous);
  }
  if (type == "CharDelimiterSplit") {
    PARE_TRY(const uint32_t delimiter, fields.character("delimiter"));
    return make_literal_split(unicode::encode(delimiter), SplitBehavior::removed, /*invert=*/false);
  }
  if (type == "FixedLength") {
    PARE_TRY(const uint64_t length, fields.count("length", 5));
    if (length == 0) return fields.malformed("TK01", "length", "must be positive", "0");
    return make_fixed_length(length);
  }
  return fields.unknown_type("pre-tokenizer", type);
}

}  // namespace

Result<LoadedPreTokenizer> load_pre_tokenizer(const Fields& root) {
  LoadedPreTokenizer loaded;
  int byte_maps = 0;
  PARE_TRY(const std::vector<Step> steps, flatten_chain(root, "pre_tokenizer", "pretokenizers"));
  for (const Step& step : steps) {
    loaded.ends_in_byte_map = step.type == "ByteLevel";
    if (step.type == "ByteLevel") {
      PARE_TRY(const bool prefix_space, step.fields.boolean("add_prefix_space", true));
      PARE_TRY(const bool use_regex, step.fields.boolean("use_regex", true));
      if (prefix_space) loaded.steps.push_back(make_prefix_space());
      if (use_regex) loaded.steps.push_back(make_scanner_split(PatternScanner(PatternScanner::Kind::gpt2)));
      loaded.steps.push_back(make_byte_map());
      ++byte_maps;
    } else if (step.type == "BertPreTokenizer") {
      loaded.steps.push_back(make_class_split(unicode::is_space, SplitBehavior::removed));
      loaded.steps.push_back(make_class_split(unicode::is_punctuation, SplitBehavior::isolated));
    } else {
      PARE_TRY(PreTokenizerStep made, load_simple(step));
      loaded.steps.push_back(std::move(made));
    }
  }
  loaded.ends_in_byte_map = loaded.ends_in_byte_map && byte_maps == 1;
  return loaded;
}

}  // namespace pare
