// tests/faults/faults_writer.cpp: writes one output and is killed by kill_test.cpp while it does.
//
//   faults_writer file|dir PATH LETTER KILL_AT
//
// The output is made of LETTER only, followed by its XXH3-128, so that a torn one is seen. Before the system
// call with the number KILL_AT (from 0) the process kills itself; -1 never does.
#include <signal.h>
#include <unistd.h>

#include <string>

#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/manifest.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"

namespace pare {
namespace {

Status write_body(FileWriter& writer, char letter) {
  const std::string piece(64u << 10, letter);
  Xxh3Stream hash;
  for (int i = 0; i < 64; ++i) {
    PARE_CHECK(writer.write(piece));
    hash.update(std::as_bytes(std::span(piece)));
  }
  return writer.write(hash.digest().hex());
}

Status write_file(const std::string& path, char letter) {
  PARE_TRY(FileWriter writer, FileWriter::create(path, {.force = true, .expected_bytes = 1 << 20}));
  PARE_CHECK(write_body(writer, letter));
  return writer.publish();
}

Status write_folder(const std::string& path, char letter) {
  PARE_TRY(DirWriter writer, DirWriter::create(path, {.force = true}));
  Manifest manifest;
  for (const char* name : {"a", "b"}) {
    PARE_TRY(FileWriter file, writer.file(name));
    PARE_CHECK(write_body(file, letter));
    PARE_CHECK(file.publish());
    Json entry = Json::object();
    entry["name"] = name;
    manifest.files.push_back(std::move(entry));
  }
  PARE_CHECK(writer.add(kManifestFileName, manifest.to_json().dump()));
  return writer.publish();
}

}  // namespace
}  // namespace pare

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  pare::install_signal_handlers();
  const int64_t kill_at = pare::parse_int(argv[4]).value_or(-1);
  pare::set_io_fault([kill_at, calls = int64_t{0}](std::string_view, const std::string&) mutable {
    if (calls++ == kill_at) ::kill(::getpid(), SIGKILL);
    return 0;
  });
  const bool is_folder = std::string(argv[1]) == "dir";
  const pare::Status status =
      is_folder ? pare::write_folder(argv[2], argv[3][0]) : pare::write_file(argv[2], argv[3][0]);
  return status ? 0 : static_cast<int>(status.error().exit);
}
