#include "formats/gguf/tensor_records.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "engine/core/checked.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/fault.h"
#include "formats/tensor_name.h"

namespace pare {
namespace {

class RecordReader {
 public:
  RecordReader(GgufCursor& cursor, std::string_view path) : cursor_(cursor), path_(path) {}

  Result<GgufTensor> read(uint64_t index) {
    GgufTensor tensor;
    where_ = fmt::format("tensor {}", index);
    PARE_CHECK(read_name(tensor.name));
    where_ = fmt::format("tensor {} {}", index, quote(tensor.name));
    PARE_TRY(const uint32_t rank, number<uint32_t>("n_dims"));
    if (rank > limits::kGgufRank)
      return bad("GG24", "n_dims is over the limit", std::to_string(rank), std::to_string(limits::kGgufRank));
    std::array<int64_t, limits::kGgufRank> extents{};
    for (uint32_t i = 0; i < rank; ++i) PARE_CHECK(read_extent(extents[rank - 1 - i]));
    tensor.shape = Shape(std::span(extents.data(), rank));
    PARE_TRY(const uint32_t type, number<uint32_t>("type"));
    PARE_CHECK(read_type(type, tensor.type));
    PARE_CHECK(compute_bytes(tensor));
    PARE_TRY(tensor.offset, number<uint64_t>("offset"));
    return tensor;
  }

 private:
  template <typename T>
  Result<T> number(const char* what) {
    if (const auto value = cursor_.number<T>()) return *value;
    return malformed("GG31", path_, where_, fmt::format("file ends before its {}", what),
                     std::to_string(cursor_.remaining()), std::to_string(sizeof(T)), "need");
  }

  Error bad(const char* rule, std::string what, std::string got, std::string limit = {}) const {
    return malformed(rule, path_, where_, std::move(what), std::move(got), std::move(limit), "limit");
  }

  Status read_name(std::string& name) {
    PARE_TRY(const uint64_t length, number<uint64_t>("name"));
    if (length == 0 || length > limits::kGgufNameBytes)
      return bad("GG30", "length of the name", std::to_string(length),
                 fmt::format("1 to {}", limits::kGgufNameBytes));
    const auto bytes = cursor_.take(length);
    if (!bytes)
      return malformed("GG31", path_, where_, "file ends inside its name",
                       std::to_string(cursor_.remaining()), std::to_string(length), "need");
    name = gguf_text(*bytes);
    if (!is_valid_utf8(name)) return bad("GG30", "name is not UTF-8", quote(name));
    if (const std::string_view fault = fault_of_tensor_name(name); !fault.empty())
      return bad("GG30", std::string(fault), quote(name));
    return {};
  }

  Status read_extent(int64_t& extent) {
    PARE_TRY(const uint64_t value, number<uint64_t>("dimensions"));
    if (value >= limits::kDimension) {
      return bad("GG25", "dimensions: one is over the limit", std::to_string(static_cast<int64_t>(value)),
                 fmt::format("below {}", limits::kDimension));
    }
    extent = static_cast<int64_t>(value);
    return {};
  }

  Status read_type(uint32_t id, GgufType& type) const {
    if (find_gguf_type(id) != nullptr) {
      type = static_cast<GgufType>(id);
      return {};
    }
    const std::string_view name = unread_gguf_type(id);
    if (name.empty()) return bad("GG27", "unknown type", std::to_string(static_cast<int32_t>(id)));
    std::string known;
    for (const GgufTypeInfo& info : gguf_types())
      known += (known.empty() ? "" : ", ") + std::string(info.name);
    return unsupported("GG27", path_, where_, "type is not supported", std::string(name), known);
  }

  Status compute_bytes(GgufTensor& tensor) const {
    const GgufTypeInfo& info = gguf_type_info(tensor.type);
    const auto elements = checked_elements(tensor.shape.sizes());
    if (!elements) return bad("GG25", "dimensions: their product overflows", tensor.shape.text(), "2^63 - 1");
    const uint64_t row = tensor.shape.rank() == 0 ? 1 : static_cast<uint64_t>(tensor.shape[-1]);
    if (row % info.block_elements != 0) {
      return malformed("GG28", path_, where_,
                       fmt::format("dimension 0 is not a multiple of the block size of {}", info.name),
                       std::to_string(row), std::to_string(info.block_elements), "block size");
    }
    const Checked bytes = Checked(*elements / info.block_elements) * info.block_bytes;
    if (!bytes.valid() || bytes.value() > static_cast<uint64_t>(INT64_MAX))
      return bad("GG26", "bytes overflow", tensor.shape.text(), "2^63 - 1");
    tensor.bytes = bytes.value();
    return {};
  }

  GgufCursor& cursor_;
  std::string_view path_;
  std::string where_;
};

Status check_duplicates(const std::vector<GgufTensor>& tensors, std::string_view path) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return tensors[a].name != tensors[b].name ? tensors[a].name < tensors[b].name : a < b;
  });
  for (size_t i = 1; i < order.size(); ++i) {
    if (tensors[order[i - 1]].name != tensors[order[i]].name) continue;
    return malformed("GG30", path, fmt::format("tensor {} {}", order[i], quote(tensors[order[i]].name)),
                     "name stands twice", fmt::format("tensor {} too", order[i - 1]));
  }
  return {};
}

}  // namespace

Status read_gguf_tensors(GgufCursor& cursor, uint64_t count, std::string_view path,
                         std::vector<GgufTensor>& tensors) {
  RecordReader reader(cursor, path);
  for (uint64_t i = 0; i < count; ++i) {
    PARE_TRY(GgufTensor tensor, reader.read(i));
    tensors.push_back(std::move(tensor));
  }
  return check_duplicates(tensors, path);
}

Status place_gguf_tensors(GgufHeader& header, uint64_t header_end, uint64_t file_bytes,
                          std::string_view path) {
  header.data_begin = Checked(header_end).aligned_up(header.alignment).value();  // far below 2^63
  Checked running = 0;
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    GgufTensor& tensor = header.tensors[i];
    const auto where = [&](size_t index) {
      return fmt::format("tensor {} {}", index, quote(header.tensors[index].name));
    };
    if (tensor.offset != running.value()) {
      const bool after_previous = i > 0 && tensor.offset > header.tensors[i - 1].offset - header.data_begin;
      if (tensor.offset < running.value() && after_previous && tensor.offset % header.alignment == 0) {
        const uint64_t region = tensor.offset - (header.tensors[i - 1].offset - header.data_begin);
        return malformed("GG31", path, where(i - 1), "type needs more bytes than its region holds",
                         std::to_string(region), std::to_string(header.tensors[i - 1].bytes), "need");
      }
      const char* what = tensor.offset % header.alignment != 0 ? "offset is not aligned"
                         : tensor.offset < running.value()     ? "offset overlaps the tensors before it"
                                                               : "offset leaves a gap";
      return malformed("GG29", path, where(i), what, std::to_string(tensor.offset),
                       std::to_string(running.value()));
    }
    const Checked end = running + tensor.bytes;
    const Checked padded = end.aligned_up(header.alignment);
    const Checked file_end = padded + header.data_begin;
    if (!end.valid() || !padded.valid() || !file_end.valid())
      return malformed("GG26", path, where(i), "sum of the sizes overflows", std::to_string(tensor.bytes));
    tensor.offset += header.data_begin;
    if (tensor.offset + tensor.bytes > file_bytes) {
      const uint64_t there = tensor.offset >= file_bytes ? 0 : file_bytes - tensor.offset;
      return malformed("GG31", path, where(i),
                       fmt::format("file ends inside its data, {} bytes missing", tensor.bytes - there),
                       std::to_string(there), std::to_string(tensor.bytes), "need");
    }
    running = padded;
  }
  const uint64_t end = header.tensors.empty() ? header.data_begin : header.data_begin + running.value();
  if (file_bytes > end) {
    return malformed("GG32", path, "end", fmt::format("{} trailing bytes", file_bytes - end),
                     std::to_string(file_bytes), std::to_string(end));
  }
  return {};
}

}  // namespace pare
