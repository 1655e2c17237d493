#include "bench/torch_peer.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "bench/model_case.h"

extern char** environ;

namespace pare::bench {
namespace {

Error peer_error(std::string what) {
  return {.exit = Exit::io, .path = "torch_dense.py", .what = std::move(what), .got = {}, .limit = {}};
}

double number(const Json& answer, std::string_view key) {
  const Json* value = answer.find(key);
  if (value == nullptr || !value->is_number()) give_up(peer_error("answer without " + std::string(key)));
  return value->as_double();
}

}  // namespace

std::unique_ptr<TorchPeer> TorchPeer::start(const std::string& python, const std::string& script,
                                            const std::string& model) {
  ::signal(SIGPIPE, SIG_IGN);
  std::unique_ptr<TorchPeer> peer(new TorchPeer);
  if (!peer->spawn(python, script, model)) return nullptr;
  const Result<Json> hello = peer->read_answer();
  if (!hello) return nullptr;
  const Json *name = hello->find("name"), *version = hello->find("version");
  if (name == nullptr || version == nullptr) return nullptr;
  peer->name_ = name->as_string();
  peer->version_ = version->as_string();
  return peer;
}

TorchPeer::~TorchPeer() {
  if (to_child_ >= 0) ::close(to_child_);  // the end of its input is the end of the child
  if (from_child_ >= 0) ::close(from_child_);
  if (child_ > 0) ::waitpid(child_, nullptr, 0);
}

bool TorchPeer::spawn(const std::string& python, const std::string& script, const std::string& model) {
  int input[2], output[2];
  if (::pipe2(input, O_CLOEXEC) != 0) return false;
  if (::pipe2(output, O_CLOEXEC) != 0) {
    ::close(input[0]);
    ::close(input[1]);
    return false;
  }
  to_child_ = input[1];
  from_child_ = output[0];
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  std::array<std::string, 4> words{python, script, model, "--serve"};
  std::array<char*, 5> arguments{};
  for (size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  const int error = ::posix_spawnp(&child_, python.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(input[0]);
  ::close(output[1]);
  if (error != 0) child_ = -1;
  return error == 0;
}

Result<Json> TorchPeer::read_answer() {
  size_t end;
  while ((end = pending_.find('\n')) == std::string::npos) {
    std::array<char, 4096> part;
    const ssize_t count = ::read(from_child_, part.data(), part.size());
    if (count <= 0) return peer_error("ended without an answer");
    pending_.append(part.data(), size_t(count));
  }
  const std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  return parse_json(line, "torch_dense.py", {.max_bytes = 1 << 20});
}

TorchPeer::Answer TorchPeer::evaluate(std::span<const int32_t> ids, int64_t context, int threads) {
  Json list = Json::array();
  for (const int32_t id : ids) list.push_back(int64_t(id));
  Json request = Json::object();
  request["threads"] = threads;
  request["context"] = context;
  request["ids"] = std::move(list);
  const std::string line = request.dump() + "\n";
  for (size_t done = 0; done < line.size();) {
    const ssize_t count = ::write(to_child_, line.data() + done, line.size() - done);
    if (count <= 0) give_up(peer_error("takes no request"));
    done += size_t(count);
  }
  const Json answer = require(read_answer());
  return {number(answer, "seconds"), number(answer, "processor_seconds"), number(answer, "loss")};
}

}  // namespace pare::bench
