// calibrate/loss_gradients.h: gradients of the loss on calibration data, for the tensors that are asked for.
//
//   L_n   mean cross-entropy of the next token over window n, nats
//   g_n   dL_n / dw of the float weights, f32; the windows go through the whole model one at a time
//
// What is kept of g_n is the caller's choice (GradientSums): per weight as in weight_gradients.h, or per
// unit. Logits are never whole: final norm, head and loss run in chunks of rows. Sums go over the windows in
// their order, so that they depend neither on threads nor on memory nor on where the run was stopped. On a
// GPU the model is trained there and gradients come to the host window by window, where they are summed.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "calibrate/block_job.h"
#include "engine/core/file.h"
#include "engine/models/parameter.h"

namespace pare {

// What is kept of the gradients, window after window.
class GradientSums {
 public:
  virtual ~GradientSums() = default;

  // Whether the gradient of this tensor is looked at; vectors too. The same answer every time.
  virtual bool wants(const TensorSpec& spec) const = 0;
  // Takes the memory, all zeros. Exit 6.
  virtual Status start() = 0;
  virtual uint64_t size_bytes() const = 0;  // before start() too
  // After each window: parameters with their gradients, matrices as [out, in]. Those that were wanted.
  virtual void add(const ParameterList& parameters) = 0;
  // Everything that add() has made, in a fixed order and size; read and written by a job that is resumed.
  virtual std::vector<std::span<std::byte>> state() = 0;
  // Once, after the last of `windows` windows: state() becomes what is kept for good. Exit 7 (NU14).
  virtual Status finish(int64_t windows) = 0;
};

struct LossGradientOptions {
  double commit_seconds = 60.0;  // work that a killed run may lose; the result does not depend on it
  std::function<void(int64_t windows)> window_done = [](int64_t) {};
};

struct LossGradients {
  int64_t windows = 0;
  double loss = 0.0;                         // mean of L_n
  std::shared_ptr<const MappedFile> values;  // the parts of state() after finish(), one after the other
};

// Beyond what is resident: float weights with their gradients for what is wanted, the rest as stored,
// activations of one window with one block at a time, sums, a chunk of logits. Exit 3, 4.
Result<uint64_t> loss_gradient_bytes(const std::shared_ptr<const WeightSource>& source,
                                     const ModelDescription& model, int64_t context,
                                     const GradientSums& sums);

// Runs the job's windows through job.source, from where the folder was left. Activations of all blocks are
// kept where job.memory_limit allows it, else blocks run again in the backward pass. The finished values are
// the job's measurement (block_job.h).
//   exit 3, 4, 6 (CL05: above the ceiling, with the amount); 7 NU16: a loss that is not finite, with its
//   window; 75 after a commit when a stop signal came
Result<LossGradients> measure_loss_gradients(const BlockJob& job, const LossGradientOptions& options,
                                             GradientSums& sums, JobFolder& folder);

// Those of a job that has measured them; exit 3 when it has not, or they have another size.
Result<LossGradients> measured_gradients(const JobFolder& folder, uint64_t bytes);

}  // namespace pare
