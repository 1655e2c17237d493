// bench/torch_peer.h: bench/peers/torch_dense.py as a child process that answers one request at a time, so
// that its calls and ours can be taken in turns. While it waits it uses no processor.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>
#include <string>

#include "engine/core/json.h"

namespace pare::bench {

class TorchPeer {
 public:
  struct Answer {
    double seconds, processor_seconds;
    double loss;  // mean over the targets of all windows, nats
  };

  // Waits until the model is loaded. Nothing when the interpreter or the script fail, after a line on stderr.
  static std::unique_ptr<TorchPeer> start(const std::string& python, const std::string& script,
                                          const std::string& model);
  ~TorchPeer();
  TorchPeer(const TorchPeer&) = delete;
  TorchPeer& operator=(const TorchPeer&) = delete;

  const std::string& name() const { return name_; }
  const std::string& version() const { return version_; }
  // Windows of `context` tokens side by side. Ends the program when the child is gone.
  Answer evaluate(std::span<const int32_t> ids, int64_t context, int threads);

 private:
  TorchPeer() = default;
  bool spawn(const std::string& python, const std::string& script, const std::string& model);
  Result<Json> read_answer();
  pid_t child_ = -1;
  int to_child_ = -1, from_child_ = -1;
  std::string pending_, name_, version_;
};

}  // namespace pare::bench
