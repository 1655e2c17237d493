#include "formats/file_kind.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "formats/fault.h"
#include "formats/pare_format.h"

namespace pare {
namespace {

constexpr size_t kLookedAt = 64 << 10;  // bytes at each end

struct Refusal {
  Exit exit;
  const char* rule;
  const char* what;
};

constexpr const char* kPickle = "pickle can run code; convert to safetensors";

bool contains(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

bool starts_with_ignoring_case(std::string_view text, std::string_view lower) {
  if (text.size() < lower.size()) return false;
  return std::equal(lower.begin(), lower.end(), text.begin(), [](char wanted, char c) {
    return wanted == (c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  });
}

bool is_safetensors(std::string_view head, uint64_t file_bytes) {
  if (head.size() < 9 || head[8] != '{') return false;
  uint64_t length = 0;
  std::memcpy(&length, head.data(), sizeof length);
  return length <= file_bytes - 8;
}

bool is_html(std::string_view head) {
  while (!head.empty() && std::string_view(" \t\r\n").find(head[0]) != std::string_view::npos)
    head.remove_prefix(1);
  if (head.starts_with("\xef\xbb\xbf")) head.remove_prefix(3);
  return starts_with_ignoring_case(head, "<!doctype html") || starts_with_ignoring_case(head, "<html") ||
         starts_with_ignoring_case(head, "<?xml");
}

// Protocols 2 to 5 announce themselves; 0 and 1 are opcodes up to the full stop that ends every pickle.
bool is_pickle(std::string_view head, std::string_view tail) {
  if (head.size() >= 2 && head[0] == '\x80' && head[1] >= 2 && head[1] <= 5) return true;
  if (head.size() < 2 || tail.empty() || tail.back() != '.') return false;
  if (head[0] == 'c') return contains(head.substr(0, 256), "\n");  // global: module and name on two lines
  static constexpr std::array<std::string_view, 10> kOpenings = {"(d", "(l", "(c", "(i", "(t",
                                                                 "]q", "}q", "(V", "(S", "(I"};
  return std::any_of(kOpenings.begin(), kOpenings.end(),
                     [&](std::string_view o) { return head.starts_with(o); });
}

Refusal refusal_of_zip(std::string_view head, std::string_view tail) {
  const auto has = [&](std::string_view word) { return contains(head, word) || contains(tail, word); };
  if (has("constants.pkl") || has("/code/")) return {Exit::unsupported, "RF03", kPickle};
  if (has("data.pkl") || has(".pkl")) return {Exit::unsupported, "RF02", kPickle};
  if (has(".npy"))
    return {Exit::unsupported, "RF04",
            "NumPy archive (.npz) can hold pickle, which can run code; convert to safetensors"};
  if (has(".weights.h5"))
    return {Exit::unsupported, "RF05", "Keras archive is not supported; convert to safetensors"};
  return {Exit::unsupported, "RF02", "zip archive is not a model that pare reads; convert to safetensors"};
}

// nullptr rule: nothing recognised.
Refusal refusal_of(std::string_view head, std::string_view tail, std::string_view path) {
  if (head.starts_with("version https://git-lfs.github.com/spec/")) {
    return {Exit::malformed, "RF06", "git-lfs pointer; run git lfs pull"};
  }
  if (is_html(head)) return {Exit::malformed, "RF07", "HTML; download failed?"};
  if (head.starts_with("PK\x03\x04") || head.starts_with("PK\x05\x06")) return refusal_of_zip(head, tail);
  if (head.starts_with("\x93NUMPY")) {
    return {Exit::unsupported, "RF04",
            "NumPy array (.npy) can hold pickle, which can run code; convert to safetensors"};
  }
  if (head.starts_with("\x89HDF\r\n\x1a\n"))
    return {Exit::unsupported, "RF05", "HDF5 (Keras) is not supported; convert to safetensors"};
  const bool is_protobuf = head.size() >= 3 && head[0] == '\x08' && head[1] > 0 && head[1] < 32 &&
                           (head[2] == '\x12' || head[2] == '\x3a' || head[2] == '\x42');
  if (is_protobuf && path.ends_with(".pb")) {
    return {Exit::unsupported, "RF05", "TensorFlow saved model is not supported; convert to safetensors"};
  }
  if (is_protobuf) return {Exit::unsupported, "RF05", "ONNX is not supported; convert to safetensors"};
  if (is_pickle(head, tail)) return {Exit::unsupported, "RF01", kPickle};
  return {Exit::ok, nullptr, nullptr};
}

}  // namespace

Result<DetectedFile> detect_file(const InputFile& file) {
  const size_t looked_at = static_cast<size_t>(std::min<uint64_t>(file.size(), kLookedAt));
  std::string head(looked_at, '\0'), tail(looked_at, '\0');
  PARE_CHECK(file.read_at(0, std::as_writable_bytes(std::span(head))));
  PARE_CHECK(file.read_at(file.size() - looked_at, std::as_writable_bytes(std::span(tail))));

  DetectedFile detected;
  if (head.starts_with(kPareMagic)) {
    detected.kind = FileKind::pare;
  } else if (is_safetensors(head, file.size())) {
    detected.kind = FileKind::safetensors;
  } else if (head.starts_with("GGUF")) {
    detected.kind = FileKind::gguf;
  } else if (const Refusal refusal = refusal_of(head, tail, file.path()); refusal.rule != nullptr) {
    detected.kind = FileKind::refused;
    detected.refusal = fault(refusal.exit, refusal.rule, file.path(), "", refusal.what);
  }
  return detected;
}

Status refuse_other_formats(const InputFile& file) {
  PARE_TRY(const DetectedFile detected, detect_file(file));
  if (detected.kind == FileKind::refused) return detected.refusal;
  return {};
}

}  // namespace pare
