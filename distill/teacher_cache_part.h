// distill/teacher_cache_part.h: one file of a teacher cache.
//
//   bytes            content (numbers little-endian)
//   8                magic "PARETOPK"
//   8                number of the part, u64
//   8                windows in it, u64
//   8                bytes of a window, u64
//   16               XXH3-128 of the header of the cache, canonical
//   16               zeros
//   windows          one after another, `context` records each (top_k_record.h)
//   16 x windows     XXH3-128 of each window
//   16               XXH3-128 of the first 64 bytes and the sums of the windows: the sum of the part, in the
//   index too 8                bytes of the file, u64 8                magic
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "distill/teacher_cache_header.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/result.h"

namespace pare {

// windows: windows_of_part(part) * window_bytes() bytes. Appears under its name when it is complete; gives
// its sum.
Result<Hash128> write_teacher_cache_part(const std::string& path, const TeacherCacheHeader& header,
                                         int64_t part, std::span<const std::byte> windows);

class TeacherCachePart {
 public:
  // Maps the file. Exit 3: TC01 not such a part, or not of this length; TC02 the sum of the part, or one that
  // differs from `sum` (that of the index).
  static Result<TeacherCachePart> open(const InputFile& file, const TeacherCacheHeader& header, int64_t part,
                                       const Hash128* sum);

  const Hash128& sum() const { return sum_; }
  // Bytes of a window, counted within the part, its checksum verified now. Exit 3 (TC02).
  Result<std::span<const std::byte>> window(int64_t index) const;
  // The pages of a window are not needed any more.
  void release(int64_t index) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  uint64_t window_bytes_ = 0, windows_ = 0;
  Hash128 sum_;
};

}  // namespace pare
