// tests/distill/training_streams.h: streams whose tokens tell where they stand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "distill/training_data.h"

namespace pare::test {

// Token i of the stream is first_id + i.
inline TrainingStream counting_stream(int64_t tokens, int32_t first_id = 0, double weight = 0.0,
                                      std::vector<int64_t> document_starts = {0}) {
  auto stream = std::make_shared<TokenStream>();
  for (int64_t i = 0; i < tokens; ++i) stream->ids.push_back(first_id + int32_t(i));
  stream->documents = int64_t(document_starts.size());
  stream->document_starts = std::move(document_starts);
  stream->token_hash = token_hash(stream->ids);
  stream->text_hash = std::string(64, '0');
  return {.tokens = std::move(stream), .name = "stream of " + std::to_string(tokens), .weight = weight};
}

}  // namespace pare::test
