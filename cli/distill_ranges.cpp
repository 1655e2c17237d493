#include "cli/distill_ranges.h"

#include <algorithm>

#include "calibrate/activation_range.h"
#include "calibrate/block_pipeline.h"
#include "cli/command.h"
#include "engine/core/job_folder.h"

namespace pare::cli {
namespace {

constexpr int64_t kWindows = 16;

Result<CalibrationWindows> first_windows(const TrainingData& data) {
  CalibrationWindows windows;
  windows.samples = std::min(kWindows, data.windows());
  windows.context = data.context();
  PARE_TRY(const TrainingBatch batch, data.batch(0, windows.samples));
  const int32_t* ids = batch.ids.data<int32_t>();
  windows.ids.assign(ids, ids + batch.ids.numel());
  return windows;
}

}  // namespace

Result<std::map<std::string, ActivationQuant>> static_input_grids(const DistillRun& run) {
  const RangeOptions rule;
  PARE_TRY(CalibrationWindows windows, first_windows(*run.data.training));
  PipelineOptions options;
  options.memory_limit = run.limit_bytes;
  options.device = run.device;
  if (!run.device.is_host()) {
    options.device_limit = run.limit_bytes;
    PARE_TRY(options.memory_limit, memory_limit(run.common));
  }
  if (run.folder != nullptr) options.spill_folder = run.folder->path();
  auto source = std::make_shared<EditedSource>(run.models.student);
  PARE_TRY(const auto pipeline,
           BlockPipeline::create(std::move(source), nullptr, std::move(windows), std::move(options)));
  PARE_CHECK(pipeline->embed());
  std::map<std::string, ActivationQuant> grids;
  for (int block = 0; block < pipeline->block_count(); ++block) {
    std::map<Site, SiteStatistics> seen;
    PARE_CHECK(pipeline->observe_block(
        block, [&](Site) { return statistics_needed(rule.observer); }, seen));
    for (const TensorSpec& spec : run.models.student_model.tensors) {
      if (!spec.is_linear || spec.block != block) continue;
      PARE_TRY(const ActivationRange range, activation_range(seen.at(spec.site), rule));
      const ActivationGrid grid = fit_activation_grid(range, rule.bits, rule.is_symmetric);
      grids[spec.name] = ActivationQuant{.mode = ActivationQuant::Mode::static_tensor, .scale = grid.scale};
    }
  }
  return grids;
}

}  // namespace pare::cli
