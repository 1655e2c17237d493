// Rows RF01 to RF07: recognised by content, whatever the name.
#include "tests/badinput/bad_case.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

void add(std::vector<BadCase>& cases, const char* id, const char* name, const std::string& bytes, Exit exit,
         std::vector<std::string> words) {
  // as a shard under a safetensors name, and as a file of its own
  cases.push_back({id, std::string(name) + " as shard",
                   [=](const std::string& folder) {
                     return model_folder(folder, {{"model.safetensors", bytes}});
                   },
                   exit, words});
  cases.push_back({id, std::string(name) + " as file",
                   [=](const std::string& folder) {
                     write_file(folder + "/model.dat", bytes);
                     return folder + "/model.dat";
                   },
                   exit, words});
}

}  // namespace

std::vector<BadCase> refused_cases() {
  const std::vector<std::string> pickle = {"pickle can run code; convert to safetensors"};
  std::vector<BadCase> cases;
  add(cases, "RF01", "protocol 0", "(dp0\nS'w'\np1\nI1\ns.", Exit::unsupported, pickle);
  add(cases, "RF01", "protocol 0 global", "cos\nsystem\n(S'id'\ntR.", Exit::unsupported, pickle);
  add(cases, "RF01", "protocol 1", "}q\x01(U\x01wK\x01u.", Exit::unsupported, pickle);
  for (char protocol = 2; protocol <= 5; ++protocol) {
    add(cases, "RF01", ("protocol " + std::to_string(int(protocol))).c_str(),
        std::string("\x80") + protocol + "}q\x01.", Exit::unsupported, pickle);
  }
  const std::string zip = std::string("PK\x03\x04") + std::string(26, '\0');
  add(cases, "RF02", "torch zip", zip + "archive/data.pkl" + std::string(40, '\0'), Exit::unsupported,
      pickle);
  add(cases, "RF03", "TorchScript",
      zip + "m/data.pkl" + std::string(40, '\0') + "m/constants.pkl" + "m/code/__torch__.py",
      Exit::unsupported, pickle);
  add(cases, "RF04", "npz", zip + "w.npy" + std::string(40, '\0'), Exit::unsupported, {"npz"});
  add(cases, "RF04", "npy", std::string("\x93NUMPY\x01\0v\0{'descr': '|O'}", 26), Exit::unsupported, {"npy"});
  add(cases, "RF05", "HDF5", std::string("\x89HDF\r\n\x1a\n") + std::string(64, '\0'), Exit::unsupported,
      {"HDF5"});
  add(cases, "RF05", "keras", zip + "model.weights.h5" + std::string(40, '\0'), Exit::unsupported, {"Keras"});
  add(cases, "RF05", "ONNX", std::string("\x08\x07\x12\x07pytorch") + std::string(32, '\1'),
      Exit::unsupported, {"ONNX"});
  add(cases, "RF06", "git-lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
      Exit::malformed, {"git-lfs pointer; run git lfs pull"});
  add(cases, "RF07", "HTML", "<!DOCTYPE html><html><body>404</body></html>", Exit::malformed,
      {"HTML; download failed?"});
  cases.push_back({"RF02", "only a .bin in the folder",
                   [=](const std::string& folder) {
                     return model_folder(
                         folder, {{"pytorch_model.bin", zip + "archive/data.pkl" + std::string(40, '\0')}});
                   },
                   Exit::unsupported, pickle});
  return cases;
}

}  // namespace pare::test
