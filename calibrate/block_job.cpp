#include "calibrate/block_job.h"

#include <array>
#include <map>
#include <utility>

#include "calibrate/tensor_archive.h"
#include "engine/core/memory.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// The position of a job: {decision: what was chosen before, measured: {note, objects}, blocks: [description
// of the block's tensors], notes: [of the step], records: manifest entries, states: [objects], output: its
// checksum}.
struct Position {
  Json decision;
  JobMeasurement measured;
  std::string output;
  Json blocks = Json::array();
  Json notes = Json::array();  // of the step, one per block
  std::vector<TensorRecord> records;
  std::vector<Hash128> states;

  int next_block() const { return int(blocks.size()); }
};

Error damaged_position(const JobFolder& folder) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = folder.path(),
               .where = "position",
               .what = "not the position of a compression job; --restart begins anew",
               .got = {},
               .limit = {}};
}

// Names of objects in a list. Nothing when it is none.
std::optional<std::vector<Hash128>> read_objects(const Json& list) {
  if (!list.is_array()) return std::nullopt;
  std::vector<Hash128> objects;
  for (const Json& object : list.items()) {
    const auto hash = object.is_string() ? Hash128::from_hex(object.as_string()) : std::nullopt;
    if (!hash) return std::nullopt;
    objects.push_back(*hash);
  }
  return objects;
}

Json object_list(const std::vector<Hash128>& objects) {
  Json list = Json::array();
  for (const Hash128& object : objects) list.push_back(Json(object.hex()));
  return list;
}

Result<Position> read_position(const JobFolder& folder) {
  Position position;
  if (folder.position().is_null()) return position;
  const Json* blocks = folder.position().find("blocks");
  const Json* records = folder.position().find("records");
  const Json* states = folder.position().find("states");
  const Json* notes = folder.position().find("notes");
  if (notes == nullptr || !notes->is_array()) return damaged_position(folder);
  position.notes = *notes;
  if (blocks == nullptr || !blocks->is_array() || records == nullptr || states == nullptr ||
      !states->is_array())
    return damaged_position(folder);
  position.blocks = *blocks;
  if (const Json* decision = folder.position().find("decision")) position.decision = *decision;
  if (const Json* output = folder.position().find("output")) {
    if (!output->is_string()) return damaged_position(folder);
    position.output = output->as_string();
  }
  PARE_TRY(Manifest manifest, Manifest::from_json(*records, folder.path()));
  position.records = std::move(manifest.tensors);
  auto found = read_objects(*states);
  if (!found) return damaged_position(folder);
  position.states = *std::move(found);
  if (const Json* measured = folder.position().find("measured");
      measured != nullptr && !measured->is_null()) {
    const Json* note = measured->find("note");
    const Json* objects = measured->find("objects");
    if (note == nullptr || objects == nullptr) return damaged_position(folder);
    found = read_objects(*objects);
    if (!found) return damaged_position(folder);
    position.measured = {.note = *note, .objects = *std::move(found)};
  }
  return position;
}

Status commit(JobFolder& folder, const Position& position) {
  Json json = Json::object();
  json["decision"] = position.decision;
  json["blocks"] = position.blocks;
  json["notes"] = position.notes;
  Manifest records;
  records.tensors = position.records;
  json["records"] = records.to_json();
  json["states"] = object_list(position.states);
  if (!position.measured.note.is_null()) {
    Json& measured = json["measured"] = Json::object();
    measured["note"] = position.measured.note;
    measured["objects"] = object_list(position.measured.objects);
  }
  json["output"] = position.output;
  std::vector<Hash128> objects = position.states;
  objects.insert(objects.end(), position.measured.objects.begin(), position.measured.objects.end());
  for (const Json& block : position.blocks.items())
    objects.push_back(*Hash128::from_hex(block.find("object")->as_string()));
  return folder.commit(std::move(json), std::move(objects));
}

// A scaled weight that its file type cannot hold (NU03).
Status require_fits(const Tensor& values, DType dtype, const std::string& name, const std::string& path) {
  int64_t first = 0;
  const int64_t count = count_overflow(values, dtype, &first);
  if (count == 0) return {};
  return Error{
      .exit = Exit::numeric,
      .rule = "NU03",
      .path = path,
      .where = quote(name) + index_text(values.shape(), first),
      .what = "scaled weight too large for its type; quantize the tensor too, or leave out the scaling",
      .got = std::to_string(count) + " values",
      .limit = std::string(dtype_name(dtype))};
}

// Moves the block's changed tensors from the overlay into the job.
Result<Json> archive_block(const BlockJob& job, int block, EditedSource& source, JobFolder& folder) {
  std::vector<ArchivedTensor> tensors;
  for (const TensorSpec& spec : job.model.tensors) {
    if (spec.block != block || !source.is_edited(spec.name)) continue;
    PARE_TRY(WeightData data, source.load(spec.name));
    const StoredTensor* before = job.source->find(spec.name);
    // A scaled router stays float: rounding it would send tokens elsewhere than they went in this run.
    const bool stays_float =
        spec.role == Role::router || !data.is_dense() || data.dense().shape().rank() == 1;
    if (!stays_float && !before->scheme) {
      // Changed in value alone (scaled, and excluded from rounding by the user): back to the type it had.
      PARE_CHECK(require_fits(data.dense(), before->dtype, spec.name, job.source->path()));
      PARE_TRY(Tensor dense, converted(data.dense(), before->dtype));
      data.form = std::move(dense);
    }
    tensors.push_back({.name = spec.name, .data = std::move(data)});
  }
  PARE_TRY(Json description, put_tensors(folder, tensors));
  for (const ArchivedTensor& tensor : tensors) source.discard(tensor.name);
  return description;
}

Status save_states(BlockPipeline& pipeline, JobFolder& folder, Position& position) {
  position.states.clear();
  for (int64_t chunk = 0; chunk < pipeline.state_chunks(); ++chunk) {
    PARE_TRY(const Tensor state, pipeline.state_chunk(chunk));
    PARE_TRY(const Hash128 hash, folder.put({state.raw(), state.size_bytes()}));
    position.states.push_back(hash);
  }
  return {};
}

Status restore_states(BlockPipeline& pipeline, const JobFolder& folder, const Position& position) {
  if (int64_t(position.states.size()) != pipeline.state_chunks()) return damaged_position(folder);
  for (int64_t chunk = 0; chunk < pipeline.state_chunks(); ++chunk) {
    PARE_TRY(const auto file, folder.get(position.states[size_t(chunk)]));
    PARE_CHECK(pipeline.restore_state_chunk(chunk, file->bytes()));
    file->drop(0, file->bytes().size());
  }
  return {};
}

}  // namespace

TensorRecord copied_record(const StoredTensor& stored) {
  TensorRecord record;
  record.name = stored.name;
  record.kind = std::string(stored.form_name());
  record.scheme = stored.is_quantized() ? stored.scheme->text() : stored.form_text();
  record.shape = {stored.shape.sizes().begin(), stored.shape.sizes().end()};
  record.method_asked = record.method_applied = "copy";
  return record;
}

Result<Json> job_decision(const JobFolder& folder) {
  PARE_TRY(const Position position, read_position(folder));
  return position.decision;
}

Status commit_decision(JobFolder& folder, Json decision) {
  PARE_TRY(Position position, read_position(folder));
  position.decision = std::move(decision);
  return commit(folder, position);
}

Result<JobMeasurement> job_measurement(const JobFolder& folder) {
  PARE_TRY(Position position, read_position(folder));
  return std::move(position.measured);
}

Status commit_measurement(JobFolder& folder, JobMeasurement measurement) {
  PARE_TRY(Position position, read_position(folder));
  position.measured = std::move(measurement);
  return commit(folder, position);
}

Result<std::string> job_output(const JobFolder& folder) {
  PARE_TRY(const Position position, read_position(folder));
  return position.output;
}

Status commit_output(JobFolder& folder, std::string checksum) {
  PARE_TRY(Position position, read_position(folder));
  position.output = std::move(checksum);
  return commit(folder, position);
}

namespace {

// After a block: its tensors and the states that the next one needs, as the position to continue from.
Status commit_block(const BlockJob& job, int block, EditedSource& edited, JobStep& step,
                    BlockPipeline* pipeline, JobFolder& folder, Position& position) {
  for (TensorRecord& record : step.take_records()) position.records.push_back(std::move(record));
  PARE_TRY(Json archived, archive_block(job, block, edited, folder));
  position.blocks.push_back(std::move(archived));
  position.notes.push_back(step.take_note());
  position.states.clear();
  if (pipeline != nullptr && block + 1 < int(job.model.config.block_count()))
    PARE_CHECK(save_states(*pipeline, folder, position));
  PARE_CHECK(commit(folder, position));
  job.block_done(block);
  if (interrupted()) return folder.interrupted_error();
  return {};
}

// One block with statistics that were saved before.
Status compress_saved(const BlockJob& job, Model& model, EditedSource& edited, int block, JobStep& step) {
  constexpr std::array kSites = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};
  PARE_CHECK(model.load_block(block));
  model.prefetch_block(block + 1);
  BlockEdit edit(model, edited, block);
  std::map<Site, SiteStatistics> survey;
  for (const Site site : kSites) {
    if (step.survey(block, site).empty()) continue;
    PARE_TRY(survey[site], job.saved_statistics(block, site, step.survey(block, site)));
    if (step.takes_device_surveys()) {
      PARE_TRY(survey[site].second_moment, moved(survey[site].second_moment, job.device));
    }
  }
  PARE_CHECK(step.edit(edit, survey));
  survey.clear();
  for (const Site site : kSites) {
    if (step.wanted(block, site).empty()) continue;
    PARE_TRY(SiteStatistics statistics, job.saved_statistics(block, site, step.wanted(block, site)));
    PARE_CHECK(step.adapt(site, statistics));
    if (step.takes_device_moments()) {
      PARE_TRY(statistics.second_moment, moved(statistics.second_moment, job.device));
    }
    PARE_CHECK(step.compress(edit, {.site = site, .statistics = statistics}));
    PARE_CHECK(job.advance(0));
  }
  model.drop_block(block);
  return {};
}

// Files of statistics have one entry per site, not one per expert.
Status refuse_saved_mixtures(const BlockJob& job) {
  if (!job.saved_statistics) return {};
  for (const BlockConfig& block : job.model.config.blocks) {
    if (!block.is_mixture()) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "CF10",
                 .path = job.source->path(),
                 .where = "mixture of experts",
                 .what = "saved statistics do not tell experts apart; give --data instead of --statistics",
                 .got = {},
                 .limit = {}};
  }
  return {};
}

}  // namespace

Result<BlockJobResult> run_blocks(const BlockJob& job, JobStep& step, JobFolder& folder) {
  BlockJobResult result;
  PARE_TRY(Position position, read_position(folder));
  result.first_block = position.next_block();
  const int blocks = int(job.model.config.block_count());
  if (result.first_block == blocks) return result;
  PARE_CHECK(refuse_saved_mixtures(job));
  const auto edited = std::make_shared<EditedSource>(job.source);
  for (int block = 0; block < result.first_block; ++block)
    PARE_CHECK(step.resume_note(block, position.notes[size_t(block)]));
  if (job.saved_statistics || job.windows.samples == 0) {
    PARE_TRY(const auto model, Model::open(edited, Device::cpu()));
    for (int block = result.first_block; block < blocks; ++block) {
      PARE_CHECK(compress_saved(job, *model, *edited, block, step));
      PARE_CHECK(commit_block(job, block, *edited, step, nullptr, folder, position));
    }
    return result;
  }
  PipelineOptions options;
  options.memory_limit = job.memory_limit;
  options.spill_folder = folder.path();
  options.device = job.device;
  options.device_limit = job.device_limit;
  options.original_stream = step.wants_cross_moment();
  options.advance = job.advance;
  PARE_TRY(const auto pipeline,
           BlockPipeline::create(edited, job.original != nullptr ? job.original : job.source, job.windows,
                                 std::move(options)));
  if (result.first_block > 0) {
    PARE_CHECK(restore_states(*pipeline, folder, position));
  } else {
    PARE_CHECK(pipeline->embed());
  }
  for (int block = result.first_block; block < blocks; ++block) {
    PARE_CHECK(pipeline->run_block(block, step));
    PARE_CHECK(commit_block(job, block, *edited, step, pipeline.get(), folder, position));
  }
  result.spilled_bytes = pipeline->spilled_bytes();
  return result;
}

Result<std::vector<Json>> block_notes(const JobFolder& folder) {
  PARE_TRY(const Position position, read_position(folder));
  return position.notes.items();
}

Result<std::shared_ptr<EditedSource>> finished_source(const BlockJob& job, const JobFolder& folder) {
  PARE_TRY(const Position position, read_position(folder));
  const auto source = std::make_shared<EditedSource>(job.source);
  for (const Json& block : position.blocks.items()) {
    PARE_TRY(std::vector<ArchivedTensor> tensors, get_tensors(folder, block));
    for (ArchivedTensor& tensor : tensors) source->set(tensor.name, std::move(tensor.data));
  }
  return source;
}

Status write_changed(const BlockJob& job, const JobFolder& folder, const Converter& convert, WeightSink& sink,
                     Manifest& manifest) {
  PARE_TRY(const Position position, read_position(folder));
  std::map<std::string, const TensorRecord*> records;
  for (const TensorRecord& record : position.records) records[record.name] = &record;
  int loaded_block = -1;
  std::map<std::string, WeightData> changed;  // of the loaded block
  for (const TensorSpec& spec : job.model.tensors) {
    const StoredTensor* stored = job.source->find(spec.name);
    if (stored == nullptr) continue;
    if (spec.block >= 0 && spec.block < int(position.blocks.size()) && spec.block != loaded_block) {
      changed.clear();
      PARE_TRY(auto tensors, get_tensors(folder, position.blocks[size_t(spec.block)]));
      for (ArchivedTensor& tensor : tensors) changed.emplace(tensor.name, std::move(tensor.data));
      loaded_block = spec.block;
    }
    TensorRecord record;
    WeightData data;
    if (const auto found = changed.find(spec.name); found != changed.end()) {
      data = std::move(found->second);
      changed.erase(found);
      if (const auto known = records.find(spec.name); known != records.end()) {
        record = *known->second;
      } else {
        record = copied_record(data.described(spec.name));
        record.method_asked = record.method_applied = "scale";
      }
    } else {
      PARE_TRY(data, job.source->load(spec.name));
      if (data.is_dense()) {
        PARE_CHECK(require_finite(data.dense(), spec.name, job.source->path()));
      }
      // A step may have looked at it and left it as it is.
      const auto known = records.find(spec.name);
      record = known != records.end() ? *known->second : copied_record(*stored);
    }
    PARE_CHECK(convert(spec, data, record));
    PARE_CHECK(sink.put(spec.name, data));
    manifest.tensors.push_back(std::move(record));
    job.source->release(spec.name);
    sample_private_bytes();
  }
  return job.source->check_unchanged();
}

}  // namespace pare
