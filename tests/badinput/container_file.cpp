#include "tests/badinput/container_file.h"

#include <cstring>
#include <stdexcept>

#include "engine/core/limits.h"
#include "formats/pare_directory.h"
#include "formats/pare_frame.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare::test {

namespace {

ContainerFile taken_apart(const NamedWeights& weights) {
  const std::string path = temporary_folder() + "/tiny.pare";
  write_model(path, weights, tiny_options());
  const std::string bytes = read_file(path);
  const InputFile input = *InputFile::open(path);
  const PareFrame frame = *read_pare_frame(input);
  ContainerFile file;
  file.payload = bytes.substr(0, frame.directory_offset);
  file.directory = *parse_json(bytes.substr(frame.directory_offset, frame.directory_bytes), path,
                               {.max_bytes = limits::kHeaderBytes});
  return file;
}

}  // namespace

ContainerFile ContainerFile::tiny() {
  return taken_apart(tiny_weights());
}

ContainerFile ContainerFile::forms() {
  return taken_apart(form_weights());
}

Json& ContainerFile::tensor(const std::string& name) {
  for (Json& tensor : directory["tensors"].items()) {
    if (tensor["name"] == Json(name)) return tensor;
  }
  throw std::logic_error("no tensor " + name);
}

Json& ContainerFile::part(const std::string& tensor_name, const std::string& role) {
  for (Json& part : tensor(tensor_name)["parts"].items()) {
    if (part["role"] == Json(role)) return part;
  }
  throw std::logic_error("no part " + role);
}

void ContainerFile::set_bytes(const std::string& tensor_name, const std::string& role, size_t at,
                              const std::string& bytes) {
  Json& changed = part(tensor_name, role);
  const size_t offset = changed["offset"].as_uint();
  payload.replace(offset + at, bytes.size(), bytes);
  changed["xxh3"] = xxh3_128(std::string_view(payload).substr(offset, changed["bytes"].as_uint())).hex();
}

std::string ContainerFile::assembled() const {
  Json signed_directory = directory;
  if (const Json* tensors = signed_directory.find("tensors"); tensors != nullptr && tensors->is_array()) {
    for (Json& tensor : signed_directory["tensors"].items()) {
      if (tensor.is_object()) tensor["xxh3"] = record_sum(tensor).hex();
    }
  }
  return assembled_with(signed_directory.dump());
}

std::string ContainerFile::assembled_with(const std::string& text) const {
  const PareFrame frame{payload.size(), text.size(), xxh3_128(std::string_view(text))};
  auto trailer = trailer_bytes(frame);
  // The superblock may have been changed too: its sum over both ends, computed as the format says.
  Xxh3Stream sum;
  const auto bytes = std::as_bytes(std::span(payload.data(), payload.size()));
  sum.update(bytes.first(64));
  sum.update(std::span(trailer).first(32));
  sum.update(std::span(trailer).subspan(48));
  const auto canonical = sum.digest().canonical();
  std::memcpy(trailer.data() + 32, canonical.data(), 16);
  return payload + text + std::string(reinterpret_cast<const char*>(trailer.data()), trailer.size());
}

}  // namespace pare::test
