// What options of a run must fulfil.
#include <fmt/format.h>

#include "distill/trainer.h"

namespace pare {
namespace {

Error bad_value(const char* where, const char* what, std::string got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "training",
               .where = where,
               .what = what,
               .got = std::move(got),
               .limit = std::move(limit)};
}

Status check_privacy(const TrainerOptions& options) {
  if (!options.privacy) return {};
  const PrivateTraining& privacy = *options.privacy;
  if (!(privacy.clip > 0.0 && privacy.clip <= 1e6))
    return bad_value("privacy clip", "outside its range", fmt::format("{}", privacy.clip),
                     "above 0, at most 1e6");
  if (!(privacy.noise > 0.0 && privacy.noise <= 1e6))
    return bad_value("privacy noise", "outside its range", fmt::format("{}", privacy.noise),
                     "above 0, at most 1e6");
  if (options.intermediate.enabled())
    return bad_value("privacy", "losses of intermediate states look at data outside the private sum", "both",
                     "one of them");
  if (options.scales_loss)
    return bad_value("privacy", "gradients of single sequences are not scaled; train in bf16 or f32", "f16",
                     "bf16, f32");
  if (options.skip_bad_steps > 0)
    return bad_value("privacy", "a step that is left out was spent all the same",
                     fmt::format("{}", options.skip_bad_steps), "0");
  return {};
}

}  // namespace

Status TrainerOptions::validate() const {
  PARE_CHECK(loss.validate());
  PARE_CHECK(optimizer.validate());
  PARE_CHECK(schedule.validate());
  if (batch < 1) return bad_value("batch", "no sequence in a step", fmt::format("{}", batch), "at least 1");
  if (micro_batch < 1)
    return bad_value("micro-batch", "no sequence at a time", fmt::format("{}", micro_batch), "at least 1");
  if (skip_bad_steps < 0)
    return bad_value("skip-bad-steps", "negative", fmt::format("{}", skip_bad_steps), "at least 0");
  if (loss_bytes == 0) return bad_value("loss bytes", "none", "0", "at least 1");
  return check_privacy(*this);
}

Status check_training_device(Device device, const TrainerOptions& options, int ranks) {
  if (device.is_host()) return {};
  const auto refused = [&](const char* where, const char* what) {
    return Error{.exit = Exit::unsupported,
                 .path = "training",
                 .where = where,
                 .what = what,
                 .got = device.name(),
                 .limit = "--device cpu",
                 .limit_label = "expected"};
  };
  if (options.privacy) return refused("privacy", "differentially private gradients are made on hosts only");
  if (ranks > 1) return refused("processes", "several processes train together on hosts only");
  return {};
}

}  // namespace pare
