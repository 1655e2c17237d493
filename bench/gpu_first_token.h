// bench/gpu_first_token.h: a cold start: from the beginning of a process to its first token.
#pragma once

#include <cstdint>
#include <string>

namespace pare::bench {

// Opens the GPU, loads `model` and runs a prompt of `prompt` ids; prints one JSON object on stdout: seconds
// of each stage, and since the process began. Returns the exit code.
int first_token(const std::string& model, int64_t prompt);

}  // namespace pare::bench
