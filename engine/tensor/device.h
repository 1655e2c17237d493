// engine/tensor/device.h: where a tensor lives and therefore which backend computes on it.
#pragma once

#include <string>

namespace pare {

struct Device {
  enum class Kind : unsigned char {
    reference,  // host memory, scalar code with double accumulation: the oracle
    cpu,        // host memory, vector kernels
    check,      // host memory, runs two backends and compares
    cuda,       // memory of GPU `index`
  };
  Kind kind = Kind::cpu;
  int index = 0;

  bool operator==(const Device&) const = default;
  bool is_host() const { return kind != Kind::cuda; }
  std::string name() const;  // "cpu", "reference", "check", "cuda:0"

  static Device cpu() { return {Kind::cpu, 0}; }
  static Device reference() { return {Kind::reference, 0}; }
  static Device check() { return {Kind::check, 0}; }
  static Device cuda(int index) { return {Kind::cuda, index}; }
};

}  // namespace pare
