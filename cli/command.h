// cli/command.h: what every command shares: its options, how it ends, and how it prints.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"
#include "engine/tensor/device.h"

namespace CLI {
class App;
}

namespace pare::cli {

// Options that every command accepts.
struct CommonOptions {
  std::string device = "auto";  // auto, cpu, cuda, cuda:N, reference, check
  std::string max_vram;         // "20GB"; empty: 95 % of what is free on the GPU
  std::string gpu_math;         // bf16 or f32, of products on a GPU; empty: bf16
  int threads = 0;              // 0: one per CPU
  uint64_t seed = 0;
  std::string max_memory;           // "8GB"; empty: 90 % of what is available
  std::string cpu_profile;          // generic, avx2, avx512; empty: what the machine has
  std::string log_format = "text";  // text, json
  bool json = false;
  bool quiet = false;
  int verbose = 0;
  bool follow_symlinks = false;
  bool allow_unindexed = false;
  bool strict = false;
  bool ignore_activation_quant = false;
  std::string weights;                      // file inside a model folder
  std::vector<std::string> command_line{};  // the words after the program's name, as typed
};

// The commands of the program, and which of them the command line chose.
class Commands {
 public:
  explicit Commands(CommonOptions& common) : common_(common) {}
  CommonOptions& common() { return common_; }
  // `run` is called when `verb` was chosen; its Exit is the program's (0, or 9 for a failed gate).
  void on(CLI::App* verb, std::function<Result<Exit>()> run) { entries_.push_back({verb, std::move(run)}); }
  Result<Exit> run_chosen() const;
  std::string chosen_name() const;

 private:
  struct Entry {
    CLI::App* verb;
    std::function<Result<Exit>()> run;
  };
  CommonOptions& common_;
  std::vector<Entry> entries_;
};

// Adds the common options to a command; `computes`: also device, threads, memory and CPU options.
void add_common(CLI::App* verb, Commands& commands, bool computes);

// Sets up threads and backends of hosts from the options, and looks at those of devices without opening one.
// Exit 2. Called once, before a command that computes.
Status start_engine(const CommonOptions& common);
// The device that `--device` names; `auto` is the CPU. Exit 2.
Result<Device> named_device(const CommonOptions& common);
// The same, opened: called when options and inputs are known to be good. Exit 4, 6 (CL11).
Result<Device> chosen_device(const CommonOptions& common);
// Says that `what` is done by the host where a GPU was asked for.
void note_host_work(Device device, const char* what);
// Whether products will be of operands rounded to bf16: on a GPU unless --gpu-math says otherwise.
bool rounds_products(const CommonOptions& common);
// Where a walk over blocks computes, and how many bytes it may take there (0 on hosts, which have another
// ceiling): a GPU that was asked for, with the libraries that solve matrices there, else the CPU.
struct WalkDevice {
  Device device = Device::cpu();
  uint64_t limit = 0;
};
Result<WalkDevice> walk_device(const CommonOptions& common);

// Bytes that the job may use of the host (exit 2 for a malformed value), or of a device that was chosen.
Result<uint64_t> memory_limit(const CommonOptions& common, Device device = Device::cpu());
// Exit 6 (CL05) when `need` is above that limit; `remedy` names the flag that lowers it.
Status check_memory(const CommonOptions& common, uint64_t need, const std::string& remedy,
                    Device device = Device::cpu());

// Everything printed on stdout goes through here; the flush is checked (CL15).
void print(std::string_view text);
void print_line(std::string_view text);
void print_json(const Json& json);  // one object, pretty-printed
Status flush_stdout();

// While alive, what is printed goes into text() instead: of a command that runs as a step of another.
class PrintCapture {
 public:
  PrintCapture();
  ~PrintCapture();
  PrintCapture(const PrintCapture&) = delete;
  PrintCapture& operator=(const PrintCapture&) = delete;
  const std::string& text() const { return text_; }

 private:
  friend void print(std::string_view text);
  std::string text_;
  PrintCapture* outer_;
};
// `value` by printf's format for one number.
std::string formatted(double value, const char* format);

// A table with columns padded to their widest cell; numbers are right-aligned by a leading '>' in the header.
class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string text(const std::string& indent = "  ") const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace pare::cli
