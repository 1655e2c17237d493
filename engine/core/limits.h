// engine/core/limits.h: every cap of `pare`. No other file contains such a constant.
// `pare limits` prints kLimits; the exit code tells what exceeding a cap means.
#pragma once

#include <cstdint>
#include <span>

#include "engine/core/exit_code.h"

namespace pare::limits {

inline constexpr uint64_t kHeaderBytes = 100'000'000;  // safetensors header, .pare directory
inline constexpr uint64_t kJsonDepth = 64;
inline constexpr uint64_t kJsonStringBytes = 16ull << 20;
inline constexpr uint64_t kJsonNodes = 10'000'000;
inline constexpr uint64_t kConfigBytes = 16ull << 20;      // config.json and other small JSON files
inline constexpr uint64_t kTokenizerBytes = 256ull << 20;  // tokenizer.json
inline constexpr uint64_t kTensors = 1'000'000;
inline constexpr uint64_t kTensorNameBytes = 512;
inline constexpr uint64_t kRank = 8;
inline constexpr uint64_t kDimension = 1ull << 48;  // exclusive
inline constexpr uint64_t kShards = 65'536;
inline constexpr uint64_t kGgufPairs = 65'536;
inline constexpr uint64_t kGgufKeyBytes = 65'535;
inline constexpr uint64_t kGgufStringBytes = 64ull << 20;
inline constexpr uint64_t kGgufArrayItems = 16'000'000;
inline constexpr uint64_t kGgufAlignment = 1ull << 20;
inline constexpr uint64_t kGgufNameBytes = 63;
inline constexpr uint64_t kGgufRank = 4;
inline constexpr uint64_t kPathBytes = 4'096;
inline constexpr uint64_t kPathComponentBytes = 255;
inline constexpr uint64_t kVocabulary = 4'000'000;
inline constexpr uint64_t kMerges = 8'000'000;
inline constexpr uint64_t kTokenBytes = 4'096;
inline constexpr uint64_t kTokenIdSlack = 65'536;           // ids stay below twice the tokens plus this
inline constexpr uint64_t kTokenizerSteps = 64;             // of one chain (normalizer, pre-tokenizer, decoder)
inline constexpr uint64_t kTokenizerGrowth = 256;           // how many times longer a chain may make a text
inline constexpr uint64_t kLayers = 4'096;
inline constexpr uint64_t kExperts = 4'096;
inline constexpr uint64_t kHiddenSize = 1ull << 20;
inline constexpr uint64_t kTextLineBytes = 64ull << 20;
inline constexpr uint64_t kRegexPatternBytes = 16'384;
inline constexpr uint64_t kRegexNesting = 64;
inline constexpr uint64_t kRegexRepeat = 1'000;
inline constexpr uint64_t kRegexMatchBase = 1'000'000;  // per match attempt, plus ...
inline constexpr uint64_t kRegexMatchPerByte = 16;      // ... this per subject byte
inline constexpr uint64_t kRegexDepth = 1'000;
inline constexpr uint64_t kRegexHeapBytes = 64ull << 20;
inline constexpr uint64_t kRegexStepsBase = 10'000'000;  // per text, plus ...
inline constexpr uint64_t kRegexStepsPerByte = 64;       // ... this per byte
inline constexpr uint64_t kRecipeBytes = 1ull << 20;
inline constexpr uint64_t kRecipeDepth = 32;
inline constexpr uint64_t kRecipeRules = 10'000;
inline constexpr uint64_t kRecipeNodes = 200'000;  // keys, values, lists and maps
inline constexpr uint64_t kRecipeSteps = 64;
inline constexpr uint64_t kTemplateBytes = 1ull << 20;
inline constexpr uint64_t kTemplateSteps = 1'000'000;
inline constexpr uint64_t kTemplateCallDepth = 64;
inline constexpr uint64_t kTemplateNesting = 64;               // of brackets and blocks, and of lists in lists
inline constexpr uint64_t kTemplateTextBytes = 16ull << 20;    // output, and any one string
inline constexpr uint64_t kTemplateListItems = 1'000'000;      // any one list
inline constexpr uint64_t kTemplateMemoryBytes = 128ull << 20;  // all values made while rendering
inline constexpr uint64_t kPareSections = 256;
inline constexpr uint64_t kErrorNameBytes = 120;
inline constexpr uint64_t kErrorLineBytes = 4'096;

// One row of `pare limits`.
struct Limit {
  const char* name;
  uint64_t value;
  const char* unit;
  Exit exit;  // of exceeding it
};
std::span<const Limit> all();

}  // namespace pare::limits
