#include "cli/distill_teacher.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "cli/distill_memory.h"
#include "cli/model_argument.h"
#include "distill/cached_teacher.h"
#include "distill/head_loss.h"
#include "distill/teacher_cache.h"
#include "engine/core/file.h"
#include "engine/core/memory.h"
#include "engine/core/progress.h"
#include "engine/models/weight.h"

namespace pare::cli {
namespace {

constexpr int64_t kTokensAtOnce = 4096;

// Weights in memory while blocks come and go: the largest block, embedding and head.
uint64_t one_by_one_bytes(const DistillModels& models) {
  const int64_t blocks = models.teacher_model.config.block_count();
  std::vector<uint64_t> of_block(size_t(blocks), 0);
  uint64_t outside = 0;
  for (const TensorSpec& spec : models.teacher_model.tensors) {
    const uint64_t bytes = Weight::planned_bytes(*models.teacher->find(spec.name));
    if (spec.block >= 0 && spec.block < blocks) {
      of_block[size_t(spec.block)] += bytes;
    } else {
      outside += bytes;
    }
  }
  return outside + (of_block.empty() ? 0 : *std::max_element(of_block.begin(), of_block.end()));
}

// Stream, logits of a chunk and workspace, from shapes.
uint64_t batch_bytes(const Model& model, const Batch& batch) {
  const int64_t vocabulary = model.config().vocabulary_size;
  const int64_t rows = loss_chunk_rows(batch.tokens(), vocabulary, kLossBytes);
  return uint64_t(batch.tokens() * model.config().hidden_size + rows * vocabulary) * sizeof(float) +
         model.workspace_bytes(batch, rows);
}

struct CachePass {
  int64_t windows = 1;  // at a time
  bool one_by_one = false;
};

// The teacher whole where it fits, with batches of moderate size; else block by block, with as many windows
// at a time as fit, for every batch reads all weights again.
Result<CachePass> plan_pass(const DistillArguments& arguments, const DistillModels& models,
                            const Model& model, const TeacherCacheHeader& header, uint64_t limit) {
  const uint64_t held = held_bytes(model.device());
  const auto need = [&](bool one_by_one, int64_t windows) {
    return held + (one_by_one ? one_by_one_bytes(models) : running_bytes(*models.teacher)) +
           batch_bytes(model, {.sequences = windows, .tokens_per_sequence = header.context});
  };
  CachePass pass{.windows = std::max<int64_t>(1, kTokensAtOnce / header.context)};
  pass.one_by_one = arguments.teacher_blocks != "whole" || need(false, 1) > limit;
  if (pass.one_by_one)
    while (pass.windows < 4096 && need(true, 2 * pass.windows) <= limit) pass.windows *= 2;
  while (pass.windows > 1 && need(pass.one_by_one, pass.windows) > limit) pass.windows /= 2;
  const uint64_t least = need(pass.one_by_one, pass.windows);
  if (least > limit) return too_much_memory(model.device(), limit, least, "lower --context, or");
  return pass;
}

Status write_cache(const DistillArguments& arguments, const DistillModels& models, const DistillData& data,
                   const TeacherCacheHeader& header, Device device, uint64_t limit) {
  const std::string& folder = arguments.cache_teacher;
  const bool is_begun = path_exists(job_path_of(folder) + "/job.json");
  const JobMode mode = !is_begun ? JobMode::fresh : arguments.restart ? JobMode::restart : JobMode::resume;
  PARE_TRY(TeacherCacheWriter writer, TeacherCacheWriter::open(folder, header, mode));
  PARE_TRY(std::unique_ptr<Model> model, Model::open(models.teacher, device));
  PARE_TRY(const CachePass pass, plan_pass(arguments, models, *model, header, limit));
  const std::unique_ptr<Teacher> teacher = live_teacher(std::move(model), pass.one_by_one);
  const Batch largest{.sequences = pass.windows, .tokens_per_sequence = header.context};
  const int64_t chunk = loss_chunk_rows(largest.tokens(), teacher->vocabulary_size(), kLossBytes);
  PARE_CHECK(teacher->reserve(largest, chunk, {}));
  Progress progress("teacher", header.windows * header.context, "tokens");
  progress.advance(writer.next_window() * header.context);
  const CacheTeacherOptions options{
      .sequences = pass.windows, .chunk_rows = chunk, .advance = [&](int64_t windows) {
        progress.advance(windows * header.context);
      }};
  PARE_CHECK(cache_teacher(*teacher, device, *data.training, options, writer));
  return writer.finish();
}

TeacherCacheExpected expected_of(const TeacherCacheHeader& header) {
  return {.teacher_hash = header.teacher_hash,
          .input_hash = header.input_hash,
          .vocabulary = header.vocabulary,
          .context = header.context,
          .windows = header.windows,
          .k = header.k,
          .temperature = header.temperature};
}

}  // namespace

double TeacherCacheUse::bytes_per_token() const {
  return double(header.total_bytes()) / double(std::max<int64_t>(1, header.windows * header.context));
}

uint64_t expected_teacher_bytes(const DistillArguments& arguments, const DistillModels& models) {
  if (models.teacher == nullptr || !arguments.cache_teacher.empty()) return 0;
  const uint64_t stream =
      uint64_t(kTokensAtOnce * models.teacher_model.config.hidden_size) * sizeof(float) * 8 + kLossBytes / 2;
  return stream +
         (arguments.teacher_blocks == "whole" ? running_bytes(*models.teacher) : one_by_one_bytes(models));
}

Result<TeacherCacheHeader> teacher_cache_header(const DistillArguments& arguments,
                                                const DistillModels& models, const DistillData& data,
                                                const LossConfig& loss) {
  TeacherCacheHeader header;
  header.teacher_hash = models.teacher_hash;
  header.input_hash = data.training->input_hash();
  // Ids that only one of them has do not exist for the loss.
  header.vocabulary =
      std::min(models.teacher_model.config.vocabulary_size, models.student_model.config.vocabulary_size);
  header.context = data.training->context();
  header.windows = data.training->all_windows();
  header.k = arguments.top_k;
  header.temperature = loss.temperature;
  PARE_CHECK(header.resolve());
  return header;
}

Result<TeacherCacheUse> ensure_teacher_cache(const DistillArguments& arguments, const DistillModels& models,
                                             const DistillData& data, const LossConfig& loss, Device device,
                                             uint64_t limit, ProcessGroup& group) {
  TeacherCacheUse use;
  PARE_TRY(use.header, teacher_cache_header(arguments, models, data, loss));
  if (group.is_first()) {
    if (!teacher_cache_exists(arguments.cache_teacher)) {
      PARE_CHECK(write_cache(arguments, models, data, use.header, device, limit));
      use.was_made = true;
    }
  }
  use.was_made = group.any(use.was_made);  // the others wait here
  PARE_TRY(const TeacherCacheReader reader,
           TeacherCacheReader::open(arguments.cache_teacher, expected_of(use.header)));
  use.header = reader.header();
  return use;
}

Result<std::unique_ptr<Teacher>> open_teacher(const DistillArguments& arguments, const DistillModels& models,
                                              const DistillData& data, const LossConfig& loss,
                                              Device device) {
  if (models.teacher == nullptr) return std::unique_ptr<Teacher>();
  if (!arguments.cache_teacher.empty()) {
    PARE_TRY(const TeacherCacheHeader header, teacher_cache_header(arguments, models, data, loss));
    PARE_TRY(TeacherCacheReader reader,
             TeacherCacheReader::open(arguments.cache_teacher, expected_of(header)));
    return cached_teacher(std::make_shared<const TeacherCacheReader>(std::move(reader)), device,
                          models.student_model.config.vocabulary_size);
  }
  PARE_TRY(std::unique_ptr<Model> model, Model::open(models.teacher, device));
  return live_teacher(std::move(model), arguments.teacher_blocks != "whole");
}

}  // namespace pare::cli
