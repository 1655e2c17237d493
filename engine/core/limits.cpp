#include "engine/core/limits.h"

namespace pare::limits {

std::span<const Limit> all() {
  static constexpr Limit kLimits[] = {
      {"header (safetensors, .pare directory)", kHeaderBytes, "bytes", Exit::resource},
      {"json nesting depth", kJsonDepth, "levels", Exit::malformed},
      {"json string", kJsonStringBytes, "bytes", Exit::resource},
      {"json nodes in one document", kJsonNodes, "nodes", Exit::resource},
      {"config.json and other small json files", kConfigBytes, "bytes", Exit::resource},
      {"tokenizer.json", kTokenizerBytes, "bytes", Exit::resource},
      {"tensors in one model", kTensors, "tensors", Exit::resource},
      {"tensor name", kTensorNameBytes, "bytes", Exit::malformed},
      {"rank", kRank, "dimensions", Exit::unsupported},
      {"one dimension, exclusive", kDimension, "elements", Exit::malformed},
      {"shards in one index", kShards, "files", Exit::resource},
      {"path", kPathBytes, "bytes", Exit::malformed},
      {"path component", kPathComponentBytes, "bytes", Exit::malformed},
      {"vocabulary", kVocabulary, "tokens", Exit::resource},
      {"merges", kMerges, "merges", Exit::resource},
      {"token or piece", kTokenBytes, "bytes", Exit::malformed},
      {"token ids beyond twice the tokens", kTokenIdSlack, "ids", Exit::malformed},
      {"steps of one tokenizer chain", kTokenizerSteps, "steps", Exit::unsupported},
      {"growth of a text in one tokenizer chain", kTokenizerGrowth, "times", Exit::unsupported},
      {"layers", kLayers, "layers", Exit::malformed},
      {"experts", kExperts, "experts", Exit::malformed},
      {"hidden and feed-forward size", kHiddenSize, "channels", Exit::malformed},
      {"text or jsonl line", kTextLineBytes, "bytes", Exit::resource},
      {"regex pattern", kRegexPatternBytes, "bytes", Exit::unsupported},
      {"regex group nesting", kRegexNesting, "levels", Exit::unsupported},
      {"regex repeat count", kRegexRepeat, "repeats", Exit::unsupported},
      {"regex match limit, base", kRegexMatchBase, "steps", Exit::resource},
      {"regex match limit, per subject byte", kRegexMatchPerByte, "steps", Exit::resource},
      {"regex depth limit", kRegexDepth, "levels", Exit::resource},
      {"regex heap limit", kRegexHeapBytes, "bytes", Exit::resource},
      {"regex total steps per text, base", kRegexStepsBase, "steps", Exit::resource},
      {"regex total steps per text, per byte", kRegexStepsPerByte, "steps", Exit::resource},
      {"recipe", kRecipeBytes, "bytes", Exit::resource},
      {"recipe depth", kRecipeDepth, "levels", Exit::malformed},
      {"recipe rules", kRecipeRules, "rules", Exit::resource},
      {"chat template source", kTemplateBytes, "bytes", Exit::resource},
      {".pare sections", kPareSections, "sections", Exit::resource},
      {"error name", kErrorNameBytes, "bytes", Exit::ok},
      {"error line", kErrorLineBytes, "bytes", Exit::ok},
  };
  return kLimits;
}

}  // namespace pare::limits
