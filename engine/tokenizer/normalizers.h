// engine/tokenizer/normalizers.h: the rewriting of text before it is cut. A chain of small steps.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tokenizer/charsmap.h"
#include "engine/tokenizer/regex.h"
#include "engine/tokenizer/unicode.h"

namespace pare {

// What Replace looks for: a plain string, or a pattern.
struct ReplaceRule {
  std::string literal;
  std::shared_ptr<const Regex> regex;  // set: `literal` is not used
  std::string content;

  // All matches in `text` replaced. Error: TK09 of the pattern.
  Status apply(std::string_view text, std::string& out) const;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Replaces `text`, which is valid UTF-8 and stays so.
  virtual Status apply(std::string& text) const = 0;
};
using NormalizerStep = std::unique_ptr<const Normalizer>;

struct BertOptions {
  bool clean_text = true;            // drop control characters, white space -> space
  bool handle_chinese_chars = true;  // spaces round CJK ideographs
  bool strip_accents = true;         // NFD, then drop Mn
  bool lowercase = true;
};

NormalizerStep make_unicode_form(unicode::Form form);
NormalizerStep make_lowercase();
NormalizerStep make_strip(bool left, bool right);
NormalizerStep make_strip_accents();
NormalizerStep make_replace(ReplaceRule rule);
NormalizerStep make_prepend(std::string prefix);
NormalizerStep make_nmt();
NormalizerStep make_byte_level_normalizer();
NormalizerStep make_bert(const BertOptions& options);
NormalizerStep make_precompiled(Charsmap map);

class NormalizerChain {
 public:
  void add(NormalizerStep step) { steps_.push_back(std::move(step)); }
  bool empty() const { return steps_.empty(); }
  Status apply(std::string& text) const {
    for (const NormalizerStep& step : steps_) PARE_CHECK(step->apply(text));
    return {};
  }

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace pare
