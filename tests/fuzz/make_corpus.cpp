// make_corpus FOLDER: writes the seeds of the fuzz targets of formats: small files that are accepted, and a
// few that are nearly so. The files under tests/fuzz/corpus were made by it.
#include <filesystem>

#include "tests/badinput/bad_case.h"
#include "tests/badinput/container_file.h"
#include "tests/formats/tiny_model.h"
#include "tests/fuzz/teacher_cache_seed.h"

namespace {

using pare::test::BadCase;

// The weights of every row that is a folder with one small file.
void write_rows(const std::vector<BadCase>& rows, const std::string& file, const std::string& folder) {
  namespace fs = std::filesystem;
  constexpr uintmax_t kLargest = 1500;
  int count = 0;
  for (const BadCase& row : rows) {
    const fs::path work = fs::temp_directory_path() / "pare-make-corpus";
    fs::remove_all(work);
    fs::create_directories(work);
    row.make(work.string());
    const fs::path made = work / file;
    if (fs::is_regular_file(made) && fs::file_size(made) <= kLargest) {
      fs::copy_file(made, fs::path(folder) / (row.id + "-" + std::to_string(count++)),
                    fs::copy_options::overwrite_existing);
    }
    fs::remove_all(work);
  }
}

// Whole files, files cut short, and files with one changed byte, each behind the byte that says which it is.
void write_caches(const std::string& folder) {
  const auto write = [&](const std::string& name, char kind, const std::string& bytes) {
    pare::test::write_file(folder + "/" + name, kind + bytes);
  };
  const std::pair<std::string, std::string> seeds[] = {{"index", pare::fuzz::seed_index()},
                                                       {"part", pare::fuzz::seed_part()},
                                                       {"tokens", pare::fuzz::seed_tokens()}};
  for (char kind = 0; kind < 3; ++kind) {
    const auto& [name, whole] = seeds[size_t(kind)];
    write(name, kind, whole);
    write(name + "-cut", kind, whole.substr(0, whole.size() - 20));
    write(name + "-longer", kind, whole + "0");
    for (const size_t at : {size_t(1), whole.size() / 3, whole.size() / 2, whole.size() - 10}) {
      std::string changed = whole;
      changed[at] = char(changed[at] ^ 1);
      write(name + "-changed-" + std::to_string(at), kind, changed);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::string root = argv[1];
  for (const char* target : {"safetensors_fuzz", "pare_fuzz", "gguf_fuzz", "teacher_cache_fuzz"})
    std::filesystem::create_directories(root + "/" + target);
  write_rows(pare::test::safetensors_cases(), "model.safetensors", root + "/safetensors_fuzz");
  write_rows(pare::test::gguf_cases(), "m.gguf", root + "/gguf_fuzz");
  const auto tiny = pare::test::ContainerFile::tiny();
  pare::test::write_file(root + "/pare_fuzz/tiny", tiny.assembled());
  pare::test::write_file(root + "/pare_fuzz/forms", pare::test::ContainerFile::forms().assembled());
  for (const BadCase& row : pare::test::container_cases()) {
    const std::string folder = std::filesystem::temp_directory_path() / "pare-make-corpus";
    std::filesystem::create_directories(folder);
    const std::string path = row.make(folder);
    const std::string bytes = pare::test::read_file(path);
    // one per rule keeps the corpus small; the tiny model has about 4 kB
    if (bytes.size() < 8192) pare::test::write_file(root + "/pare_fuzz/" + row.id, bytes);
    std::filesystem::remove_all(folder);
  }
  write_caches(root + "/teacher_cache_fuzz");
  return 0;
}
