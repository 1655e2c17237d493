#include "formats/pare_directory.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "engine/core/limits.h"
#include "engine/core/manifest.h"
#include "formats/asset_files.h"
#include "formats/pare_json.h"
#include "formats/pare_tensor_record.h"

namespace pare {
namespace {

constexpr const char* kChecksum = "xxh3-128";

Json blob_record(const PareBlob& blob) {
  Json json = Json::object();
  json["name"] = blob.name;
  json["encoding"] = blob.encoding;
  json["decoded_bytes"] = blob.decoded_bytes;
  json["part"] = part_record(blob.part, false);
  return json;
}

// Nesting of the text, before anything is built from it.
Status check_depth(std::string_view text, std::string_view path) {
  uint64_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDirectoryDepth) {
        return malformed("PK30", path, fmt::format("directory byte {}", i), "nesting depth is over the limit",
                         std::to_string(depth), std::to_string(kDirectoryDepth), "limit");
      }
    } else if (c == '}' || c == ']') {
      depth -= depth > 0 ? 1 : 0;
    }
  }
  return {};
}

// Names of features: unknown required ones refuse the file, unknown optional ones are noted.
Status read_features(const MemberReader& reader, PareDirectory& directory) {
  PARE_TRY(const Json* required, reader.array("required_features"));
  for (const Json& feature : required->items()) {
    const std::string name = feature.is_string() ? feature.as_string() : feature.dump();
    return unsupported("PK04", reader.path, "required_features", "feature of a later version", quote(name));
  }
  PARE_TRY(const Json* optional, reader.array("optional_features"));
  for (const Json& feature : optional->items()) {
    directory.skipped.push_back("feature " +
                                quote(feature.is_string() ? feature.as_string() : feature.dump()));
  }
  return {};
}

Result<PareBlob> parse_blob(const Json& json, std::string_view path, const std::string& where) {
  if (!json.is_object()) return malformed("PK30", path, where, "not an object", json.kind_name());
  const MemberReader reader{json, path, where};
  PareBlob blob;
  PARE_TRY(blob.name, reader.text("name"));
  PARE_TRY(blob.encoding, reader.text("encoding"));
  if (blob.encoding != "none" && blob.encoding != "zstd") {
    return unsupported("PK20", path, where + ".encoding", "unknown to this version", quote(blob.encoding));
  }
  PARE_TRY(blob.decoded_bytes, reader.size("decoded_bytes"));
  PARE_TRY(const Json* part, reader.object_member("part"));
  PARE_TRY(blob.part, parse_part(*part, path, where + ".part", false));
  const bool plain = blob.encoding == "none";
  if (plain && blob.decoded_bytes != blob.part.bytes) {
    return reader.error("PK28", "decoded_bytes", "differs from the stored length",
                        std::to_string(blob.decoded_bytes), std::to_string(blob.part.bytes));
  }
  // Never more memory than the bytes that are really there can stand for.
  if (!plain && blob.decoded_bytes / kMaxExpansion > blob.part.bytes) {
    return reader.error("PK12", "decoded_bytes", "expands beyond belief",
                        fmt::format("{} from {} bytes", blob.decoded_bytes, blob.part.bytes),
                        fmt::format("at most {} times", kMaxExpansion));
  }
  return blob;
}

Status read_blobs(const MemberReader& reader, PareDirectory& directory) {
  PARE_TRY(const Json* assets, reader.array("assets"));
  const Json* sections = reader.object.find("sections");
  if (sections != nullptr && !sections->is_array())
    return reader.error("PK30", "sections", "not an array", sections->kind_name());
  const uint64_t count = assets->size() + (sections == nullptr ? 0 : sections->size());
  if (count > limits::kPareSections) {
    return over_cap("PK33", reader.path, "sections", "number of sections is over the limit", count,
                    limits::kPareSections);
  }
  std::string previous;
  for (size_t i = 0; i < assets->size(); ++i) {
    const std::string where = fmt::format("assets[{}]", i);
    PARE_TRY(PareBlob asset, parse_blob((*assets)[i], reader.path, where));
    // The name becomes the name of a file.
    if (!is_asset_name(asset.name))
      return malformed("PK34", reader.path, where + ".name", "not a file that travels with a model",
                       quote(asset.name));
    if (i > 0 && asset.name <= previous) {
      return malformed("PK30", reader.path, where + ".name", "assets are not sorted by name, or twice there",
                       quote(asset.name), "after " + quote(previous));
    }
    if (asset.decoded_bytes > limits::kTokenizerBytes) {
      return over_cap("PK33", reader.path, where + ".decoded_bytes", "asset is larger than the limit",
                      asset.decoded_bytes, limits::kTokenizerBytes);
    }
    previous = asset.name;
    directory.assets.push_back(std::move(asset));
  }
  for (size_t i = 0; sections != nullptr && i < sections->size(); ++i) {
    const std::string where = fmt::format("sections[{}]", i);
    PARE_TRY(PareBlob section, parse_blob((*sections)[i], reader.path, where));
    PARE_TRY(section.is_required, (MemberReader{(*sections)[i], reader.path, where}.flag("required")));
    if (section.is_required)
      return unsupported("PK04", reader.path, where, "required section of a later version",
                         quote(section.name));
    directory.skipped.push_back("section " + quote(section.name));
    directory.sections.push_back(std::move(section));
  }
  return {};
}

Status read_tensors(const MemberReader& reader, PareDirectory& directory) {
  PARE_TRY(const Json* tensors, reader.array("tensors"));
  if (tensors->size() > limits::kTensors) {
    return over_cap("PK33", reader.path, "tensors", "tensor count is over the limit", tensors->size(),
                    limits::kTensors);
  }
  std::map<std::string, size_t, std::less<>> seen;
  for (size_t i = 0; i < tensors->size(); ++i) {
    PARE_TRY(PareTensor tensor, parse_tensor_record((*tensors)[i], reader.path, i));
    PARE_CHECK(check_parts(tensor, reader.path));
    if (const auto [first, is_new] = seen.emplace(tensor.name, i); !is_new) {
      return malformed("PK23", reader.path, "tensor " + quote(tensor.name), "duplicate tensor name",
                       fmt::format("tensors[{}]", i), fmt::format("tensors[{}]", first->second), "first at");
    }
    directory.tensors.push_back(std::move(tensor));
  }
  for (const PareTensor& tensor : directory.tensors) {
    if (tensor.form != PareForm::alias) continue;
    const auto target = seen.find(tensor.target);
    const char* what = target == seen.end() ? "alias of a tensor that is not there"
                       : directory.tensors[target->second].form == PareForm::alias ? "alias of an alias"
                       : directory.tensors[target->second].shape != tensor.shape
                           ? "alias of a tensor with another shape"
                           : nullptr;
    if (what != nullptr)
      return malformed("PK29", reader.path, "tensor " + quote(tensor.name) + ".target", what,
                       quote(tensor.target));
  }
  return {};
}

// What the manifest says of each tensor is what is there, in the same order.
Status check_manifest(const PareDirectory& directory, std::string_view path) {
  PARE_TRY(const Manifest manifest, Manifest::from_json(directory.manifest, path));
  std::map<std::string_view, const TensorRecord*> listed;
  for (const TensorRecord& record : manifest.tensors) {
    if (!listed.emplace(record.name, &record).second)
      return malformed("PK22", path, "manifest " + quote(record.name), "listed twice");
  }
  for (const PareTensor& tensor : directory.tensors) {
    const std::string where = "manifest " + quote(tensor.name);
    const auto found = listed.find(tensor.name);
    if (found == listed.end()) return malformed("PK22", path, where, "tensor is not listed");
    const TensorRecord& record = *found->second;
    if (record.kind != form_name(tensor.form)) {
      return malformed("PK22", path, where + ".kind", "differs from the tensor", quote(record.kind),
                       std::string(form_name(tensor.form)));
    }
    const QuantScheme* codes = tensor.any_scheme();
    const std::string scheme = codes != nullptr ? codes->text() : std::string();
    if (record.scheme != scheme)
      return malformed("PK22", path, where + ".scheme", "differs from the tensor", quote(record.scheme),
                       quote(scheme));
    const auto sizes = tensor.shape.sizes();
    if (!std::equal(sizes.begin(), sizes.end(), record.shape.begin(), record.shape.end())) {
      Json listed_shape = Json::array();
      for (const int64_t extent : record.shape) listed_shape.push_back(extent);
      return malformed("PK22", path, where + ".shape", "differs from the tensor", listed_shape.dump(),
                       tensor.shape.text());
    }
    listed.erase(found);
  }
  if (!listed.empty())
    return malformed("PK22", path, "manifest " + quote(listed.begin()->first), "listed tensor is not there");
  return {};
}

}  // namespace

std::string pare_directory_text(const PareDirectory& directory) {
  Json json = Json::object();
  json["minor_version"] = kPareMinorVersion;
  json["required_features"] = Json::array();
  json["optional_features"] = Json::array();
  json["checksum"] = kChecksum;
  json["config"] = directory.config_text;
  Json assets = Json::array();
  for (const PareBlob& asset : directory.assets) assets.push_back(blob_record(asset));
  json["assets"] = std::move(assets);
  json["manifest"] = directory.manifest;
  Json tensors = Json::array();
  for (const PareTensor& tensor : directory.tensors) tensors.push_back(tensor_record(tensor));
  json["tensors"] = std::move(tensors);
  return json.dump();
}

Result<PareDirectory> parse_pare_directory(std::string_view text, std::string_view path) {
  PARE_CHECK(check_depth(text, path));
  const JsonLimits json_limits{.max_bytes = limits::kHeaderBytes, .offsets = true};
  PARE_TRY(const Json json, parse_json(text, path, json_limits, "PK30"));
  const MemberReader reader{json, path, ""};
  PareDirectory directory;
  PARE_TRY(const uint64_t minor, reader.size("minor_version"));
  directory.minor_version = static_cast<int64_t>(std::min<uint64_t>(minor, INT64_MAX));
  PARE_TRY(const std::string checksum, reader.text("checksum"));
  if (checksum != kChecksum)
    return unsupported("PK20", path, "checksum", "unknown to this version", quote(checksum), kChecksum);
  PARE_CHECK(read_features(reader, directory));
  PARE_TRY(directory.config_text, reader.text("config"));
  PARE_CHECK(read_blobs(reader, directory));
  PARE_CHECK(read_tensors(reader, directory));
  PARE_TRY(const Json* manifest, reader.object_member("manifest"));
  directory.manifest = *manifest;
  PARE_CHECK(check_manifest(directory, path));
  static constexpr std::array<std::string_view, 9> kKnown = {
      "minor_version", "required_features", "optional_features", "checksum", "config",
      "assets",        "sections",          "manifest",          "tensors"};
  for (const auto& [key, value] : json.members()) {
    if (std::find(kKnown.begin(), kKnown.end(), key) == kKnown.end())
      directory.skipped.push_back("member " + quote(key));
  }
  return directory;
}

}  // namespace pare
