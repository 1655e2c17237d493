// formats/pare_format.h: the .pare container as values; docs/pare-format.md describes the bytes. Internal to
// formats.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "engine/tensor/activation_quant.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/quant_scheme.h"
#include "engine/tensor/shape.h"

namespace pare {

inline constexpr std::string_view kPareMagic{"PAREMDL\0", 8};
inline constexpr uint32_t kPareVersion = 1;      // readers refuse any other
inline constexpr int64_t kPareMinorVersion = 0;  // additions that an older reader may skip
inline constexpr uint64_t kSuperblockBytes = 64;
inline constexpr uint64_t kTrailerBytes = 64;
inline constexpr uint64_t kPartAlignment = 64;
inline constexpr uint64_t kDirectoryDepth = 16;
inline constexpr uint32_t kFlagEncrypted = 1u << 0;
inline constexpr uint32_t kFlagSigned = 1u << 1;
// An asset is compressed only as far as a reader will believe: more would let a small file claim a large
// memory.
inline constexpr uint64_t kMaxExpansion = 64;

enum class PareForm { dense, quantized, sparse, low_rank, alias };

// A run of bytes in the payload.
struct ParePart {
  std::string role;         // "values", "codes", "scales", ...
  DType dtype = DType::u8;  // of tensors
  Shape shape;              // of tensors
  uint64_t offset = 0, bytes = 0;
  Hash128 sum;
};

// What the parts of a tensor, or of the base of a low-rank one, mean.
struct PareContent {
  PareForm form = PareForm::dense;
  std::optional<QuantScheme> scheme;          // quantized, and sparse with codes
  std::optional<ActivationQuant> activation;  // with a scheme, optional: how its input is rounded
  std::optional<SparsityPattern> pattern;     // sparse
  int64_t kept = 0;                           // sparse: weights that are there
};

struct PareTensor : PareContent {
  std::string name;
  Shape shape;              // logical; of dense tensors as stored
  bool transposed = false;  // not dense: the checkpoint stores [in, out]
  std::optional<PareContent>
      base;            // low_rank, optional: what the product is added to; its parts are "base.ROLE"
  std::string target;  // alias: the tensor whose parts are used
  std::vector<ParePart> parts;

  const ParePart* part(std::string_view role) const {
    for (const ParePart& part : parts)
      if (part.role == role) return &part;
    return nullptr;
  }
  // The scheme of the codes that are there, also of a base.
  const QuantScheme* any_scheme() const {
    if (base) return base->scheme ? &*base->scheme : nullptr;
    return scheme ? &*scheme : nullptr;
  }
};

// Bytes that are no tensor: a file that travels along, or a section of a later version.
struct PareBlob {
  std::string name;
  std::string encoding;  // "none" or "zstd"
  uint64_t decoded_bytes = 0;
  bool is_required = false;  // sections: a reader that does not know it must refuse the file
  ParePart part;
};

struct PareDirectory {
  int64_t minor_version = kPareMinorVersion;
  std::string config_text;
  std::vector<PareBlob> assets;
  std::vector<PareBlob> sections;
  std::vector<PareTensor> tensors;
  Json manifest = Json::object();
  std::vector<std::string>
      skipped;  // optional features, sections and members that this version does not know
};

std::string_view form_name(PareForm form);

}  // namespace pare
