#include "cli/evaluate_report.h"

#include "cli/job_damage.h"
#include "cli/model_argument.h"
#include "cli/output_model.h"
#include "engine/core/file.h"
#include "engine/core/progress.h"
#include "engine/tokenizer/token_windows.h"
#include "evaluate/damage_report.h"

namespace pare::cli {
namespace {

constexpr std::string_view kMeasuredBy = "damage measured by";  // a member of RunReport::extra

std::string joined(const std::vector<std::string>& words) {
  std::string line = "pare";
  for (const std::string& word : words) line.append(" ").append(word);
  return line;
}

}  // namespace

Result<RunReport> report_to_extend(const WeightSource& model, const WeightSource& reference,
                                   const CommonOptions& common, bool force) {
  if (model.manifest() == nullptr) {
    return Error{.exit = Exit::unsupported,
                 .rule = "RP07",
                 .path = model.path(),
                 .where = "manifest",
                 .what = "missing: only what pare wrote can be reported",
                 .got = {},
                 .limit = {}};
  }
  const std::string path = run_report_path(model.path()), hash = manifest_hash(*model.manifest());
  auto beside = read_run_report(model.path());
  if (!beside && !force) return beside.error();
  const bool is_own = beside && *beside && (*beside)->manifest_hash == hash;
  const bool loses_nothing = is_own && !(*beside)->damage;
  WriteOptions write{.force = force || loses_nothing};
  write.inputs = model.file_identities();
  PARE_CHECK(check_output(path, write));
  if (is_own) {
    RunReport report = std::move(**beside);
    report.extra[std::string(kMeasuredBy)] = joined(common.command_line);
    return report;
  }
  RunReport report;
  report.command = "evaluate";
  report.command_line = common.command_line;
  report.manifest_hash = hash;
  report.weight_bytes_before = stored_bytes(reference);
  report.weight_bytes_after = stored_bytes(model);
  PARE_TRY(report.output_bytes, bytes_on_disk(model.path()));
  return report;
}

Result<std::string> write_damage_report(RunReport report, std::shared_ptr<const WeightSource> model,
                                        std::shared_ptr<const WeightSource> reference,
                                        const Tokenizer& tokenizer, const EvaluationInput& input,
                                        const std::string& source, const CommonOptions& common) {
  const DamageTokens tokens{.ids = input.ids,
                            .windows = input.windows,
                            .bos_id = input.bos_id,
                            .source = source,
                            .token_hash = token_hash(input.ids)};
  DamageOptions options;
  PARE_TRY(options.device, device_of_report(*reference, *model, tokens, common));
  PARE_TRY(const uint64_t bytes, damage_report_bytes(*reference, *model, tokens, options));
  PARE_CHECK(check_memory(common, bytes, "lower --tokens, or raise --max-memory", options.device));
  const std::string output = model->path();
  {
    int64_t rows = 0;
    for (const EvaluationWindow& window : input.windows) rows += window.length;
    PARE_TRY(const ModelDescription description, describe_model(*model));
    Progress progress("report", 2 * rows * int64_t(description.config.block_count()), "tokens");
    PARE_TRY(report.damage, damage_report(std::move(reference), std::move(model), tokens, &tokenizer, options,
                                          [&](int64_t done) -> Status {
                                            progress.advance(done);
                                            return {};
                                          }));
  }
  // What may be replaced was decided before the work.
  PARE_CHECK(write_run_report(output, report, /*force=*/true));
  return run_report_path(output);
}

}  // namespace pare::cli
