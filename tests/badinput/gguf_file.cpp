#include "tests/badinput/gguf_file.h"

#include <algorithm>
#include <cstring>

namespace pare::test {

std::string gguf_string(const std::string& text) {
  return raw(uint64_t(text.size())) + text;
}

std::string gguf_pair(const std::string& key, uint32_t type, const std::string& value) {
  return gguf_string(key) + raw(type) + value;
}
std::string gguf_pair(const std::string& key, uint32_t value) {
  return gguf_pair(key, 4, raw(value));
}
std::string gguf_pair(const std::string& key, float value) {
  return gguf_pair(key, 6, raw(value));
}
std::string gguf_pair(const std::string& key, const std::string& value) {
  return gguf_pair(key, 8, gguf_string(value));
}
std::string gguf_pair(const std::string& key, const char* value) {
  return gguf_pair(key, std::string(value));
}

std::string gguf_strings(const std::string& key, const std::vector<std::string>& values) {
  std::string bytes = raw(uint32_t{8}) + raw(uint64_t(values.size()));
  for (const std::string& value : values) bytes += gguf_string(value);
  return gguf_pair(key, 9, bytes);
}

std::string GgufRecord::bytes() const {
  std::string text = gguf_string(name) + raw(uint32_t(dims.size()));
  for (const uint64_t dim : dims) text += raw(dim);
  return text + raw(type) + raw(offset);
}

std::string GgufBytes::assembled(bool keep_offsets) const {
  std::string header = "GGUF" + raw(version) + raw(uint64_t(records.size())) + raw(uint64_t(pairs.size()));
  for (const std::string& pair : pairs) header += pair;
  const auto padded = [&](std::string bytes) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment, '\0');
    return bytes;
  };
  std::string data;
  for (GgufRecord record : records) {
    if (!keep_offsets) record.offset = data.size();
    header += record.bytes();
    data += padded(record.data);
  }
  return padded(header) + data;
}

GgufBytes GgufBytes::llama() {
  GgufBytes file;
  file.pairs = {gguf_pair("general.architecture", "llama"),
                gguf_pair("llama.context_length", 64u),
                gguf_pair("llama.embedding_length", 32u),
                gguf_pair("llama.block_count", 1u),
                gguf_pair("llama.feed_forward_length", 64u),
                gguf_pair("llama.attention.head_count", 2u),
                gguf_pair("llama.attention.head_count_kv", 1u),
                gguf_pair("llama.attention.layer_norm_rms_epsilon", 1e-5f),
                gguf_pair("llama.rope.freq_base", 10000.0f)};
  const auto add = [&](const char* name, std::vector<uint64_t> dims) {
    uint64_t count = 1;
    for (const uint64_t dim : dims) count *= dim;
    std::string data;
    for (uint64_t i = 0; i < count; ++i) data += raw(float(int(i * 7 % 13) - 6) / 16.0f);
    file.records.push_back({name, dims, 0, 0, data});
  };
  add("token_embd.weight", {32, 4});
  add("blk.0.attn_norm.weight", {32});
  add("blk.0.attn_q.weight", {32, 32});
  add("blk.0.attn_k.weight", {32, 16});
  add("blk.0.attn_v.weight", {32, 16});
  add("blk.0.attn_output.weight", {32, 32});
  add("blk.0.ffn_norm.weight", {32});
  add("blk.0.ffn_gate.weight", {32, 64});
  add("blk.0.ffn_up.weight", {32, 64});
  add("blk.0.ffn_down.weight", {64, 32});
  add("output_norm.weight", {32});
  return file;
}

GgufRecord& GgufBytes::record(const std::string& name) {
  return *std::find_if(records.begin(), records.end(), [&](const GgufRecord& r) { return r.name == name; });
}

void GgufBytes::erase(const std::string& key) {
  std::erase_if(pairs, [&](const std::string& pair) { return pair.starts_with(gguf_string(key)); });
}

void GgufBytes::set(const std::string& key, const std::string& pair) {
  erase(key);
  pairs.push_back(pair);
}

}  // namespace pare::test
