// formats/tokenizer_files.h: the texts a tokenizer is made of, from wherever they lie.
#pragma once

#include <string>

#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare {

// From the assets of an open model. Exit 3 when it has no tokenizer.json.
Result<TokenizerFiles> tokenizer_files(const WeightSource& source);

// From a folder or a tokenizer.json file (its neighbours are used when present). Exit 3 when there is none, 5
// unreadable.
Result<TokenizerFiles> tokenizer_files(const std::string& path);

}  // namespace pare
