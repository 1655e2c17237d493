#include "cli/command.h"

#include <unistd.h>

#include <fmt/core.h>
#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/backends.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/log.h"
#include "engine/core/memory.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

std::string pending_output;
int output_errno = 0;
PrintCapture* capture = nullptr;  // the innermost

void write_pending() {
  size_t done = 0;
  while (done < pending_output.size() && output_errno == 0) {
    const ssize_t wrote = ::write(STDOUT_FILENO, pending_output.data() + done, pending_output.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) {
      output_errno = errno;
    } else {
      done += size_t(wrote);
    }
  }
  pending_output.clear();
}

Error usage(const std::string& option, const std::string& what, const std::string& got,
            const std::string& expected) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = option,
               .where = {},
               .what = what,
               .got = quote(got),
               .limit = expected,
               .limit_label = "expected"};
}

// Display width of UTF-8 text, one column per code point.
size_t width_of(const std::string& text) {
  size_t width = 0;
  for (char c : text) width += (static_cast<unsigned char>(c) & 0xc0) != 0x80 ? 1 : 0;
  return width;
}

}  // namespace

Result<Exit> Commands::run_chosen() const {
  for (const Entry& entry : entries_)
    if (entry.verb->parsed()) return entry.run();
  return Error{.exit = Exit::usage,
               .rule = "CL07",
               .path = "pare",
               .where = {},
               .what = "no command given; see pare --help",
               .got = {},
               .limit = {}};
}

std::string Commands::chosen_name() const {
  for (const Entry& entry : entries_)
    if (entry.verb->parsed()) return entry.verb->get_name();
  return {};
}

void add_common(CLI::App* verb, Commands& commands, bool computes) {
  CommonOptions& common = commands.common();
  verb->add_flag("--json", common.json, "print one JSON object on stdout instead of text");
  verb->add_flag("-q,--quiet", common.quiet, "no progress and no warnings");
  verb->add_flag("-v,--verbose", common.verbose, "say more on stderr; -vv says everything");
  verb->add_option("--log-format", common.log_format, "form of messages on stderr: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->type_name("FORM");
  verb->add_flag("--follow-symlinks", common.follow_symlinks,
                 "allow model files that are links out of their folder");
  verb->add_flag("--allow-unindexed", common.allow_unindexed,
                 "ignore tensors of a shard that the index does not name");
  verb->add_flag("--strict", common.strict, "a wrong total_size in the index is an error, not a warning");
  verb->add_flag(
      "--ignore-activation-quant", common.ignore_activation_quant,
      "read only the weights of a checkpoint whose activations are quantized in a way that is not executed");
  verb->add_option("--weights", common.weights,
                   "which weight file of a model folder to read, where there is a choice")
      ->type_name("FILE");
  if (!computes) return;
  verb->add_option("--device", common.device, "where to compute: auto, cpu, cuda, cuda:N, reference, check")
      ->type_name("DEVICE");
  verb->add_option(
          "--max-vram", common.max_vram,
          "device memory that --device cuda may use, for example 20GB (default: 95 % of what is free)")
      ->type_name("SIZE");
  verb->add_option("--gpu-math", common.gpu_math,
                   "products on a GPU: bf16 (default; tensor cores, sums in float) or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->type_name("FORM");
  verb->add_option("--threads", common.threads,
                   "CPU threads; 0 takes one per CPU. Results do not depend on it")
      ->check(CLI::Range(0, 4096))
      ->type_name("N");
  verb->add_option("--max-memory", common.max_memory,
                   "memory the job may use, for example 8GB (default: 90 % of what is free)")
      ->type_name("SIZE");
  verb->add_option("--cpu-profile", common.cpu_profile, "lower the CPU kernels to generic, avx2 or avx512")
      ->type_name("LEVEL");
}

Result<Device> named_device(const CommonOptions& common) {
  const std::string& name = common.device;
  if (name == "auto" || name == "cpu") return Device::cpu();
  if (name == "reference") return Device::reference();
  if (name == "check") return Device::check();
  if (name == "cuda") return Device::cuda(0);
  if (name.starts_with("cuda:")) {
    const auto index = parse_int(std::string_view(name).substr(5));
    if (!index || *index < 0 || *index > 1023)
      return usage("--device", "not a device", name, "cuda:0, cuda:1, ...");
    return Device::cuda(int(*index));
  }
  return usage("--device", "not a device", name, "auto, cpu, cuda, cuda:N, reference, check");
}

namespace {

Result<CudaOptions> cuda_options(const CommonOptions& common) {
  CudaOptions options{.math = common.gpu_math == "f32" ? cuda::MathMode::f32 : cuda::MathMode::bf16};
  if (common.max_vram.empty()) return options;
  const auto bytes = parse_bytes(common.max_vram);
  if (!bytes || *bytes == 0)
    return usage("--max-vram", "not a size", common.max_vram, "for example 20GB or 512MiB");
  options.max_bytes = *bytes;
  return options;
}

}  // namespace

Status start_engine(const CommonOptions& common) {
  PARE_TRY(const Device device, named_device(common));
  PARE_TRY(const CudaOptions options, cuda_options(common));
  static_cast<void>(options);
  if (device.kind != Device::Kind::cuda) {
    for (const auto& [option, value] :
         {std::pair("--max-vram", &common.max_vram), std::pair("--gpu-math", &common.gpu_math)}) {
      if (!value->empty())
        return usage(option, "is about a GPU; needs --device cuda", *value, "--device cuda");
    }
  }
  set_thread_count(common.threads);
  return install_backends(common.cpu_profile);
}

Result<Device> chosen_device(const CommonOptions& common) {
  PARE_TRY(const Device device, named_device(common));
  if (device.kind != Device::Kind::cuda || has_backend(device)) return device;
  PARE_TRY(const CudaOptions options, cuda_options(common));
  PARE_TRY(std::unique_ptr<Backend> backend, make_cuda_backend(device.index, options));
  install_backend(std::move(backend));
  return device;
}

void note_host_work(Device device, const char* what) {
  if (!device.is_host())
    log_warning(
        fmt::format("{} is done by the CPU; {} takes what is measured afterwards", what, device.name()));
}

bool rounds_products(const CommonOptions& common) {
  const auto device = named_device(common);
  return device && device->kind == Device::Kind::cuda && common.gpu_math != "f32";
}

Result<WalkDevice> walk_device(const CommonOptions& common) {
  PARE_TRY(const Device device, chosen_device(common));
  if (device.is_host()) return WalkDevice{};
  PARE_CHECK(cuda::open_libraries(backend_for(device)));
  PARE_TRY(const uint64_t limit, memory_limit(common, device));
  return WalkDevice{device, limit};
}

Result<uint64_t> memory_limit(const CommonOptions& common, Device device) {
  if (!device.is_host()) return cuda::memory_use(backend_for(device)).ceiling_bytes;
  if (common.max_memory.empty()) return available_bytes() / 10 * 9;
  const auto bytes = parse_bytes(common.max_memory);
  if (!bytes || *bytes == 0)
    return usage("--max-memory", "not a size", common.max_memory, "for example 8GB or 512MiB");
  return *bytes;
}

Status check_memory(const CommonOptions& common, uint64_t need, const std::string& remedy, Device device) {
  PARE_TRY(const uint64_t limit, memory_limit(common, device));
  if (need <= limit) return {};
  return Error{.exit = Exit::resource,
               .rule = "CL05",
               .path = device.is_host() ? "memory" : "memory of " + device.name(),
               .where = {},
               .what = "not enough for this job" + (remedy.empty() ? std::string() : "; " + remedy),
               .got = format_bytes(limit),
               .limit = format_bytes(need),
               .limit_label = "need"};
}

PrintCapture::PrintCapture() : outer_(capture) {
  capture = this;
}
PrintCapture::~PrintCapture() {
  capture = outer_;
}

void print(std::string_view text) {
  if (capture != nullptr) {
    capture->text_ += text;
    return;
  }
  pending_output += text;
  if (pending_output.size() > (1u << 16)) write_pending();
}

std::string formatted(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_line(std::string_view text) {
  print(text);
  print("\n");
}

void print_json(const Json& json) {
  print_line(json.dump(2));
}

Status flush_stdout() {
  write_pending();
  if (output_errno == 0) return {};
  const int error = output_errno;
  output_errno = 0;
  return Error{.exit = Exit::io,
               .rule = "CL15",
               .path = "stdout",
               .where = {},
               .what = std::strerror(error),
               .got = {},
               .limit = {}};
}

std::string Table::text(const std::string& indent) const {
  std::vector<size_t> widths(rows_[0].size(), 0);
  std::vector<bool> right(rows_[0].size(), false);
  for (size_t c = 0; c < widths.size(); ++c) right[c] = rows_[0][c].starts_with('>');
  auto cell = [&](size_t r, size_t c) {
    if (c >= rows_[r].size()) return std::string();
    return r == 0 && right[c] ? rows_[r][c].substr(1) : rows_[r][c];
  };
  for (size_t r = 0; r < rows_.size(); ++r)
    for (size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], width_of(cell(r, c)));
  std::string out;
  for (size_t r = 0; r < rows_.size(); ++r) {
    std::string line = indent;
    for (size_t c = 0; c < widths.size(); ++c) {
      const std::string text = cell(r, c), padding(widths[c] - width_of(text), ' ');
      line += (c == 0 ? "" : "  ") + (right[c] ? padding + text : text + padding);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    out += line + "\n";
  }
  return out;
}

}  // namespace pare::cli
