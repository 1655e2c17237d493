// tests/fuzz/teacher_cache_seed.h: the caches that the inputs of teacher_cache_fuzz are changes of.
#pragma once

#include <string>

#include "distill/teacher_cache_header.h"
#include "distill/token_cache.h"

namespace pare::fuzz {

TeacherCacheHeader seed_header();  // 3 windows of 2 tokens in one part
std::string seed_part();           // bytes of part-00000.topk
std::string seed_index();          // of index.json
TokenCacheKey seed_key();
std::string seed_tokens();  // a cache of a few tokens

}  // namespace pare::fuzz
