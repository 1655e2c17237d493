// tests/faults/faults_job.cpp: a long job in small, killed and interrupted by job_kill_test.cpp.
//
//   faults_job fresh|resume|restart OUTPUT STEP_MILLISECONDS KILL_AT
//
// Each of 6 steps turns the state into the next one and adds one object to the output, as a block of a model
// would. Before the system call with the number KILL_AT (from 0) the process kills itself; -1 never does.
// Ends with the exit code of its error, and prints that as one line.
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "engine/core/job_folder.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr int kSteps = 6;
constexpr size_t kStateBytes = 300'000, kObjectBytes = 40'000;

using Bytes = std::vector<std::byte>;

// Any function of state and step alone.
void advance(Bytes& state, int step) {
  uint64_t x = 0x9e3779b97f4a7c15u + static_cast<uint64_t>(step);
  for (std::byte& b : state) {
    x ^= static_cast<uint64_t>(b) + (x << 6) + (x >> 2);
    x *= 0xbf58476d1ce4e5b9u;
    b = static_cast<std::byte>(x >> 56);
  }
}

// In full: work is not shortened by a signal either.
void work(int64_t milliseconds) {
  timespec left = {milliseconds / 1000, milliseconds % 1000 * 1'000'000};
  while (::nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

Result<Bytes> load(const JobFolder& job, const std::string& hex) {
  const auto hash = Hash128::from_hex(hex);
  if (!hash) return Error{Exit::malformed, "", job.path(), "position", "not a hash", hex, ""};
  PARE_TRY(const auto object, job.get(*hash));
  return Bytes(object->bytes().begin(), object->bytes().end());
}

struct Position {
  int step = 0;
  std::string state;                 // object
  std::vector<std::string> results;  // objects
  std::string output;                // checksum of the output, once it is about to appear
};

Json to_json(const Position& position) {
  Json json = Json::object();
  json["step"] = position.step;
  json["state"] = position.state;
  json["results"] = Json::Array(position.results.begin(), position.results.end());
  json["output"] = position.output;
  return json;
}

Position from_json(const Json& json) {
  Position position;
  if (json.is_null()) return position;
  position.step = static_cast<int>(json.find("step")->as_int());
  position.state = json.find("state")->as_string();
  for (const Json& result : json.find("results")->items()) position.results.push_back(result.as_string());
  position.output = json.find("output")->as_string();
  return position;
}

Status commit(JobFolder& job, const Position& position) {
  std::vector<Hash128> objects;
  if (!position.state.empty()) objects.push_back(*Hash128::from_hex(position.state));
  for (const std::string& result : position.results) objects.push_back(*Hash128::from_hex(result));
  return job.commit(to_json(position), std::move(objects));
}

Result<std::string> hash_of_file(const std::string& path) {
  PARE_TRY(const std::string text, read_text_file(path, 1 << 30));
  return xxh3_128(text).hex();
}

Status write_output(JobFolder& job, Position& position, const std::string& path) {
  Bytes all;
  for (const std::string& result : position.results) {
    PARE_TRY(const Bytes bytes, load(job, result));
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  PARE_TRY(FileWriter writer, FileWriter::create(path, {.expected_bytes = all.size()}));
  PARE_CHECK(writer.write(all));
  position.output = xxh3_128(all).hex();
  PARE_CHECK(commit(job, position));  // before it appears
  return writer.publish();
}

Status run(JobMode mode, const std::string& output, int64_t step_milliseconds) {
  PARE_TRY(JobFolder job, JobFolder::open(job_path_of(output), mode));
  // With the lock held, so that no other job can finish after this look.
  if (mode != JobMode::resume) PARE_CHECK(check_output(output, {}));
  Json identity = Json::object();
  identity["command"] = "faults_job";
  identity["steps"] = kSteps;
  PARE_CHECK(job.start(identity));
  Position position = from_json(job.position());

  const bool is_done = job.was_published();
  if (!is_done) {
    Bytes state(kStateBytes);
    if (position.step > 0) {
      PARE_TRY(state, load(job, position.state));
    }
    while (position.step < kSteps) {
      advance(state, position.step);
      work(step_milliseconds);
      PARE_TRY(const Hash128 result, job.put(std::span(state).first(kObjectBytes)));
      PARE_TRY(const Hash128 next, job.put(state));
      position.results.push_back(result.hex());
      position.state = next.hex();
      ++position.step;
      PARE_CHECK(commit(job, position));
      if (interrupted()) return job.interrupted_error();
    }
    bool is_ours = false;
    if (!position.output.empty() && path_exists(output)) {
      PARE_TRY(const std::string found, hash_of_file(output));
      is_ours = found == position.output;
    }
    if (!is_ours) PARE_CHECK(write_output(job, position, output));
    PARE_CHECK(job.published());
  }
  return job.remove();
}

}  // namespace
}  // namespace pare

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  pare::install_signal_handlers();
  const pare::JobSignalScope scope;
  const int64_t kill_at = pare::parse_int(argv[4]).value_or(-1);
  pare::set_io_fault([kill_at, calls = int64_t{0}](std::string_view, const std::string&) mutable {
    if (calls++ == kill_at) ::kill(::getpid(), SIGKILL);
    return 0;
  });
  const std::string mode = argv[1];
  const pare::Status status = pare::run(mode == "resume"    ? pare::JobMode::resume
                                        : mode == "restart" ? pare::JobMode::restart
                                                            : pare::JobMode::fresh,
                                        argv[2], pare::parse_int(argv[3]).value_or(0));
  if (status) return 0;
  std::fprintf(stderr, "pare: error: %s\n", pare::format_error(status.error()).c_str());
  return static_cast<int>(status.error().exit);
}
