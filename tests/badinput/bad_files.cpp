#include <cstring>

#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

std::string good_safetensors() {
  return safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", std::string(8, '\0'));
}

std::string model_folder(const std::string& folder,
                         const std::vector<std::pair<std::string, std::string>>& files) {
  write_file(folder + "/config.json", "{}");
  for (const auto& [name, bytes] : files) write_file(folder + "/" + name, bytes);
  return folder;
}

}  // namespace pare::test
