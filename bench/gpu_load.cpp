// bench/gpu_load.cpp: open_model and Model::load_all into the memory of a GPU, files in the page cache,
// beside a copy of as many bytes from pinned memory. The files are written when their case begins, and
// removed.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "bench/cases.h"
#include "bench/gpu_models.h"
#include "bench/gpu_support.h"
#include "engine/tensor/transfer.h"
#include "evaluate/evaluate.h"

namespace pare::bench {
namespace {

struct Written {
  explicit Written(std::string name) : path(std::move(name)) {}
  Written(const Written&) = delete;
  Written& operator=(const Written&) = delete;
  std::string path;
  ~Written() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

struct GpuLoading {
  GpuLoading(const std::string& path, std::string shape, std::string form)
      : file(path), shape(std::move(shape)), form(std::move(form)) {}
  Written file;
  std::string shape, form;
  std::unique_ptr<Model> model{};

  void load() {
    model = load_model(open_source(file.path), gpu_device());
    require(gpu().finish());
  }
  // Logits of some tokens on the same device, of the file and of the same weights as they were made: equal.
  double error() {
    load();
    const int64_t vocabulary = model->config().vocabulary_size;
    Tensor ids = require(Tensor::allocate(DType::i32, {1, 8}));
    for (int64_t i = 0; i < 8; ++i) ids.mutable_data<int32_t>()[i] = int32_t((1 + 37 * i) % vocabulary);
    const Tensor got = require(moved(require(all_logits(*model, ids, {})), Device::cpu()));
    model = nullptr;
    const auto made = load_model(require(made_model(shape, form)), gpu_device());
    const Tensor want = require(moved(require(all_logits(*made, ids, {})), Device::cpu()));
    double difference = 0.0, largest = 0.0;
    for (int64_t i = 0; i < want.numel(); ++i) {
      const auto value = double(want.data<float>()[i]);
      difference = std::max(difference, std::fabs(double(got.data<float>()[i]) - value));
      largest = std::max(largest, std::fabs(value));
    }
    return std::isfinite(difference) && largest > 0.0 ? difference / (1e-6 * largest) : 2.0;
  }
};

double bytes_below(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return double(std::filesystem::file_size(path));
  double bytes = 0.0;
  for (const auto& entry : std::filesystem::directory_iterator(path)) bytes += double(entry.file_size());
  return bytes;
}

Case gpu_load_case(const std::string& folder, const std::string& shape, const std::string& form,
                   bool is_container) {
  const std::string path =
      fmt::format("{}/bench-load-{}-{}{}", folder, shape, form, is_container ? ".pare" : "");
  (void)gpu();
  require(write_made_model(shape, form, path));
  auto l = std::make_shared<GpuLoading>(path, shape, form);
  Case c{.kernel = "open_model + Model::load_all", .bytes = bytes_below(path), .shows_time = true};
  c.params["model"] = shape;
  c.params["form"] = form;
  c.params["container"] = is_container ? "pare" : "safetensors";
  c.own_limit = gpu_limit(cuda::GpuProbe::upload);
  c.verify = [l] { return l->error(); };
  c.run = [l] { l->load(); };
  c.reset = [l] { l->model = nullptr; };
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_load_cases(const std::string& folder) {
  std::vector<NamedCase> cases;
  if (folder.empty()) return cases;
  const auto add = [&](const std::string& shape, const std::string& form, bool is_container, bool headline) {
    cases.push_back({fmt::format("load/gpu/{}/{}", shape, is_container ? form : form + "-safetensors"),
                     [=] { return gpu_load_case(folder, shape, form, is_container); }, headline});
  };
  for (const char* shape : {"1B", "8B"}) {
    add(shape, "bf16", true, true);
    add(shape, "w4+head4", true, true);
    add(shape, "bf16", false, false);
  }
  if (is_tiny()) {
    add("tiny", "bf16", true, false);
    add("tiny", "w4+head4", true, false);
    add("tiny", "bf16", false, false);
  }
  return cases;
}

}  // namespace pare::bench
