#include "tests/support/backends.h"

#include <cctype>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/reference/reference_backend.h"

namespace pare::test {

std::vector<Arithmetic> arithmetics_of_this_host() {
  std::vector<Arithmetic> all{{"reference", Device::reference(), 0}};
  for (const cpu::Isa isa : {cpu::Isa::generic, cpu::Isa::avx2, cpu::Isa::avx512})
    if (isa <= cpu::host_isa())
      all.push_back({"cpu-" + std::string(cpu::isa_name(isa)), Device::cpu(), int(isa)});
  return all;
}

Device use(const Arithmetic& arithmetic) {
  install_backend(arithmetic.device == Device::reference() ? make_reference_backend()
                                                           : make_cpu_backend(cpu::Isa(arithmetic.level)));
  return arithmetic.device;
}

std::string test_name(std::string text) {
  for (char& c : text)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return text;
}

}  // namespace pare::test
