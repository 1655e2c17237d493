#include "distill/gradient_exchange.h"

namespace pare {
namespace {

class SingleProcess : public GradientExchange {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Status sum(std::span<float>) override { return {}; }
  Status sum(std::span<double>) override { return {}; }
  Status broadcast(std::span<float>, int) override { return {}; }
};

}  // namespace

std::unique_ptr<GradientExchange> single_process() {
  return std::make_unique<SingleProcess>();
}

}  // namespace pare
