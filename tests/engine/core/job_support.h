// tests/engine/core/job_support.h: a small job for tests of JobFolder: n commits whose content is known.
#pragma once

#include <string>
#include <vector>

#include "engine/core/job_folder.h"

namespace pare::test {

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

inline Json object_of(Json::Object members) {
  Json object = Json::object();
  object.members() = std::move(members);
  return object;
}

// The identity of a quantization, as a command would give it.
inline Json sample_identity() {
  Json::Array inputs;
  for (const char* name : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    inputs.push_back(object_of(
        {{"name", name}, {"bytes", int64_t{4976698664}}, {"xxh3_128", "91fe0c1d2e3f40515263748596a7b8c9"}}));
  }
  return object_of({
      {"program", object_of({{"version", "0.9.1"}, {"build", "gcc-12.2 -O3 openblas-0.3.21"}})},
      {"command", "quantize"},
      {"options",
       object_of(
           {{"scheme", "int4-g128"}, {"method", "gptq"}, {"damping", 0.01}, {"allow_fallback", false}})},
      {"recipe", object_of({{"hash", "5f1d4b7c88aa01e25f1d4b7c88aa01e2"}})},
      {"inputs", std::move(inputs)},
      {"tokenizer", object_of({{"hash", "0123456789abcdef0123456789abcdef"}})},
      {"calibration", object_of({{"hash", "02c9b3d4e5f60718293a4b5c6d7e8f90"}})},
      {"seed", 42},
      {"arithmetic", object_of({{"cpu", "avx2"}, {"device", "cpu"}})},
  });
}

// Objects of commit n: one of its own, and one that it shares with its neighbour.
inline std::string own_object(int n) {
  return "own " + std::to_string(n) + std::string(5000, static_cast<char>('a' + n % 26));
}
inline std::string shared_object(int n) {
  return "shared " + std::to_string(n / 2);
}

inline Status commit_step(JobFolder& job, int n) {
  PARE_TRY(const Hash128 own, job.put(bytes_of(own_object(n))));
  PARE_TRY(const Hash128 shared, job.put(bytes_of(shared_object(n))));
  Json position = Json::object();
  position["step"] = n;
  position["own"] = own.hex();
  position["shared"] = shared.hex();
  return job.commit(std::move(position), {own, shared});
}

// The step of the last commit, 0 before the first; -1 when its objects are not the right ones.
inline int step_of(const JobFolder& job) {
  if (job.position().is_null()) return 0;
  const int step = static_cast<int>(job.position().find("step")->as_int());
  for (const auto& [name, expected] : {std::pair{"own", own_object(step)}, {"shared", shared_object(step)}}) {
    const auto object = job.get(*Hash128::from_hex(job.position().find(name)->as_string()));
    if (!object) return -1;
    const auto bytes = (*object)->bytes();
    if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) != expected) return -1;
  }
  return step;
}

// A job with `steps` commits, closed again.
inline Status make_job(const std::string& path, int steps) {
  PARE_TRY(JobFolder job, JobFolder::open(path, sample_identity(), JobMode::fresh));
  for (int n = 1; n <= steps; ++n) PARE_CHECK(commit_step(job, n));
  return {};
}

inline Result<JobFolder> resume_job(const std::string& path) {
  return JobFolder::open(path, sample_identity(), JobMode::resume);
}

}  // namespace pare::test
