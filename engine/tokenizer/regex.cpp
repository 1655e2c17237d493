#include "engine/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/core.h>
#include <pcre2.h>

#include <new>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/regex_syntax.h"
#include "engine/tokenizer/unicode.h"

namespace pare {
namespace {

template <auto kFree>
struct Release {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Release<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Release<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Release<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Release<pcre2_match_data_free>>;

struct StepCounter {
  uint64_t steps = 0, limit = 0;
};

// Called before every item of the pattern (automatic callouts): counts across all start positions, which
// PCRE2's own match limit does not.
int count_step(pcre2_callout_block*, void* data) {
  auto& counter = *static_cast<StepCounter*>(data);
  return ++counter.steps > counter.limit ? PCRE2_ERROR_CALLOUT : 0;
}

template <typename T>
T* allocated(T* object) {
  if (object == nullptr) throw std::bad_alloc();
  return object;
}

// Names of limits and their values, by the error that PCRE2 reports.
std::pair<std::string_view, uint64_t> exceeded(int code, uint64_t match_limit, uint64_t step_limit) {
  switch (code) {
    case PCRE2_ERROR_MATCHLIMIT:
      return {"match limit", match_limit};
    case PCRE2_ERROR_DEPTHLIMIT:
      return {"depth limit", limits::kRegexDepth};
    case PCRE2_ERROR_HEAPLIMIT:
      return {"heap limit", limits::kRegexHeapBytes};
    default:
      return {"match limit on total steps", step_limit};
  }
}

}  // namespace

struct Regex::State {
  std::string pattern, path, where;
  Code code;
};

Regex::Regex(std::unique_ptr<State> state) : state_(std::move(state)) {}
Regex::~Regex() = default;
const std::string& Regex::pattern() const {
  return state_->pattern;
}

Result<std::shared_ptr<const Regex>> Regex::compile(std::string_view pattern, const std::string& path,
                                                    const std::string& where) {
  PARE_TRY(const std::string translated, translate_pattern(pattern, path, where));
  const CompileContext context(allocated(pcre2_compile_context_create(nullptr)));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), static_cast<uint32_t>(4 * limits::kRegexNesting));
  int code = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE | PCRE2_AUTO_CALLOUT;
  Code compiled(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(), options,
                              &code, &offset, context.get()));
  if (compiled == nullptr) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(code, message, sizeof message);
    const bool unknown_property =
        code == PCRE2_ERROR_UNKNOWN_UNICODE_PROPERTY || code == PCRE2_ERROR_LOOKBEHIND_NOT_FIXED_LENGTH;
    return Error{.exit = unknown_property ? Exit::unsupported : Exit::malformed,
                 .rule = unknown_property ? "TK11" : "TK08",
                 .path = path,
                 .where = where,
                 .what = fmt::format("pattern does not compile: {} at pattern offset {}",
                                     reinterpret_cast<const char*>(message), offset),
                 .got = quote(pattern)};
  }
  auto state = std::make_unique<State>();
  state->pattern = pattern;
  state->path = path;
  state->where = where;
  state->code = std::move(compiled);
  return std::shared_ptr<const Regex>(new Regex(std::move(state)));
}

Status Regex::find_all(std::string_view text, std::vector<Piece>& matches) const {
  const uint64_t match_limit =
      std::min<uint64_t>(limits::kRegexMatchBase + limits::kRegexMatchPerByte * text.size(), UINT32_MAX);
  StepCounter counter{0, limits::kRegexStepsBase + limits::kRegexStepsPerByte * text.size()};
  const MatchContext context(allocated(pcre2_match_context_create(nullptr)));
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(match_limit));
  pcre2_set_depth_limit(context.get(), static_cast<uint32_t>(limits::kRegexDepth));
  pcre2_set_heap_limit(context.get(), static_cast<uint32_t>(limits::kRegexHeapBytes / 1024));
  pcre2_set_callout(context.get(), count_step, &counter);
  const MatchData data(allocated(pcre2_match_data_create(1, nullptr)));

  size_t from = 0;
  size_t last_end = std::string_view::npos;  // end of the last match
  while (from <= text.size()) {
    const int found = pcre2_match(state_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  from, PCRE2_NO_UTF_CHECK, data.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      const auto [limit, value] = exceeded(found, match_limit, counter.limit);
      return Error{.exit = Exit::resource,
                   .rule = "TK09",
                   .path = state_->path,
                   .where = state_->where,
                   .what = fmt::format("pattern {} exceeds the {} at text offset {}", quote(state_->pattern),
                                       limit, from),
                   .got = "",
                   .limit = std::to_string(value)};
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
    const Piece match{range[0], range[1]};
    if (match.begin == match.end && match.end == last_end) {
      if (from >= text.size()) break;
      from += unicode::decode_at(text.data() + from).bytes;
      continue;
    }
    matches.push_back(match);
    from = last_end = match.end;
  }
  return {};
}

}  // namespace pare
