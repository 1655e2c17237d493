// bench/load.cpp: open_model and Model::load_all from the page cache, beside a plain read of the same bytes.
//
//   mapped      dense weights stay a view of the mapped file; nothing of them is read
//   touched     the same, and one byte of every page, as the first token would
//   verified    a .pare file, every checksum compared, codes repacked for the kernels
//   unverified  the same without the checksums
#include <fmt/format.h>

#include <numeric>

#include "bench/cases.h"
#include "bench/model_case.h"
#include "engine/core/file.h"

namespace pare::bench {
namespace {

constexpr size_t kRequest = 16 << 20;
constexpr int64_t kPage = 4096;

std::vector<std::string> weight_files(const std::string& model) {
  if (!is_directory(model)) return {model};
  std::vector<std::string> files;
  for (const std::string& name : require(list_directory(model)))
    if (name.starts_with("model") && name.ends_with(".safetensors")) files.push_back(model + "/" + name);
  return files;
}

struct Loading {
  std::string path;
  bool verified, touched;
  std::vector<InputFile> files{};
  std::vector<std::byte> buffer = std::vector<std::byte>(kRequest);
  std::unique_ptr<Model> model{};
  int64_t sum = 0;

  double file_bytes() const {
    double bytes = 0.0;
    for (const InputFile& file : files) bytes += double(file.size());
    return bytes;
  }
  void plain_read() {
    for (const InputFile& file : files) {
      for (uint64_t at = 0; at < file.size(); at += kRequest) {
        const size_t count = std::min<uint64_t>(kRequest, file.size() - at);
        require(file.read_at(at, std::span(buffer).first(count)));
      }
    }
  }
  void load() {
    model = load_model(open_source(path, verified), Device::cpu());
    if (touched) touch();
  }
  void touch() {
    for (const StoredTensor& stored : model->source().tensors()) {
      const WeightData data = require(model->source().load(stored.name));
      if (!data.is_dense()) continue;  // read by the check of its values
      const auto* bytes = reinterpret_cast<const volatile uint8_t*>(data.dense().raw());
      for (int64_t i = 0; i < int64_t(data.dense().size_bytes()); i += kPage) sum += bytes[i];
    }
  }
};

Case load_case(const std::string& path, const std::string& name, bool verified, bool touched) {
  auto l = std::make_shared<Loading>(Loading{.path = path, .verified = verified, .touched = touched});
  for (const std::string& file : weight_files(path)) l->files.push_back(require(InputFile::open(file)));
  Case c{.kernel = "open_model + Model::load_all", .bytes = l->file_bytes(), .shows_time = true};
  c.params["model"] = name;
  c.params["files"] = int64_t(l->files.size());
  c.own_limit = {.name = "file.read", .work = l->file_bytes(), .run = [l] { l->plain_read(); }};
  c.verify = [l] {
    l->load();
    std::vector<int32_t> ids(4);
    std::iota(ids.begin(), ids.end(), 1);
    return logits_error(*l->model, ids);
  };
  c.run = [l] { l->load(); };
  c.reset = [l] { l->model = nullptr; };
  return c;
}

}  // namespace

std::vector<NamedCase> load_cases(const ModelInputs& inputs) {
  std::vector<NamedCase> cases;
  const std::string name = base_name(inputs.model);
  const auto add = [&](const std::string& path, std::string_view form, std::string_view way, bool verified) {
    cases.push_back({fmt::format("load/cpu/warm/{}/{}/{}", name, form, way),
                     [=, touched = way == "touched"] { return load_case(path, name, verified, touched); },
                     true});
  };
  const std::string dense = weights_name(*open_source(inputs.model));
  add(inputs.model, dense, "mapped", true);
  add(inputs.model, dense, "touched", true);
  for (const std::string& path : inputs.compressed) {
    add(path, stem(path), "verified", true);
    add(path, stem(path), "unverified", false);
  }
  return cases;
}

}  // namespace pare::bench
