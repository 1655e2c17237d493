// Rows PK01 to PK34, all with checksums that match unless the checksum is the point (PK31). Truncation at
// every byte and bit flips stand in tests/formats/pare_test.cpp.
#include <functional>

#include "tests/badinput/bad_case.h"
#include "tests/badinput/container_file.h"
#include "tests/formats/tiny_model.h"

namespace pare::test {
namespace {

// Any bytes under the name m.pare.
BadCase raw(const char* id, const char* name, std::function<std::string()> bytes, Exit exit,
            std::vector<std::string> words) {
  return {id, name,
          [bytes](const std::string& folder) {
            write_file(folder + "/m.pare", bytes());
            return folder + "/m.pare";
          },
          exit, std::move(words)};
}

// The tiny model changed, every checksum right.
BadCase changed(const char* id, const char* name, std::function<void(ContainerFile&)> change, Exit exit,
                std::vector<std::string> words) {
  return raw(
      id, name,
      [change] {
        ContainerFile file = ContainerFile::tiny();
        change(file);
        return file.assembled();
      },
      exit, std::move(words));
}

// The same with a file of sparse and low-rank matrices.
BadCase changed_forms(const char* id, const char* name, std::function<void(ContainerFile&)> change, Exit exit,
                      std::vector<std::string> words) {
  return raw(
      id, name,
      [change] {
        ContainerFile file = ContainerFile::forms();
        change(file);
        return file.assembled();
      },
      exit, std::move(words));
}

std::string tiny() {
  return ContainerFile::tiny().assembled();
}

std::string little_endian(uint64_t value, size_t bytes) {
  std::string text;
  for (size_t i = 0; i < bytes; ++i) text += char(value >> (8 * i));
  return text;
}

BadCase superblock(const char* id, const char* name, size_t at, uint32_t value, Exit exit,
                   std::vector<std::string> words) {
  return changed(
      id, name, [=](ContainerFile& f) { f.payload.replace(at, 4, little_endian(value, 4)); }, exit,
      std::move(words));
}

void add_frame(std::vector<BadCase>& cases) {
  const auto bad = Exit::malformed;
  cases.push_back(raw("PK01", "no bytes", [] { return std::string(); }, bad, {"length", "trailer missing"}));
  cases.push_back(
      raw("PK01", "superblock only", [] { return tiny().substr(0, 64); }, bad, {"trailer missing"}));
  cases.push_back(
      raw("PK01", "half", [] { return tiny().substr(0, tiny().size() / 2); }, bad, {"trailer", "missing"}));
  cases.push_back(raw("PK03", "trailing bytes", [] { return tiny() + "12345"; }, bad, {"5 trailing bytes"}));
  cases.push_back(
      raw("PK18", "two containers", [] { return tiny() + tiny(); }, bad,
          {"trailer.file_bytes", std::to_string(tiny().size()), std::to_string(2 * tiny().size())}));
  cases.push_back(raw("PK15", "wrong magic", [] { return "PAREMDM" + tiny().substr(7); }, bad, {"magic"}));
  cases.push_back(raw("PK16", "flag without its checksum",
                      [] {
                        std::string bytes = tiny();
                        bytes[12] = 1;
                        return bytes;
                      },
                      bad, {"header", "checksum mismatch"}));
  cases.push_back(superblock("PK16", "reserved bytes", 40, 1, bad, {"reserved"}));
  cases.push_back(superblock("PK19", "version 0", 8, 0, bad, {"version", "got 0"}));
  cases.push_back(superblock("PK04", "version 2", 8, 2, Exit::unsupported, {"version", "got 2"}));
  cases.push_back(superblock("PK04", "version 2^32-1", 8, ~0u, Exit::unsupported, {"version", "4294967295"}));
  cases.push_back(superblock("PK21", "encrypted", 12, 1, Exit::unsupported, {"encryption", "not supported"}));
  cases.push_back(superblock("PK21", "signed", 12, 2, Exit::unsupported, {"signature"}));
  cases.push_back(superblock("PK21", "unknown flag", 12, 1u << 31, Exit::unsupported, {"flags"}));
  cases.push_back(raw("PK02", "directory byte",
                      [] {
                        std::string bytes = tiny();
                        bytes[bytes.find("minor_version")] ^= 1;
                        return bytes;
                      },
                      bad, {"directory", "checksum mismatch"}));
  cases.push_back({"PK14",
                   "temporary",
                   [](const std::string& folder) {
                     write_file(folder + "/.pare-tmp-01234567-0123456789abcdef", tiny());
                     return folder + "/.pare-tmp-01234567-0123456789abcdef";
                   },
                   bad,
                   {"unfinished output"}});
  cases.push_back({"PK01",
                   "a good file under another name",
                   [](const std::string& folder) {
                     write_file(folder + "/m.dat", tiny());
                     return folder + "/m.dat";
                   },
                   Exit::ok,
                   {}});
}

void add_directory(std::vector<BadCase>& cases) {
  const auto bad = Exit::malformed;
  const auto later = Exit::unsupported;
  cases.push_back(changed("PK04", "required feature",
                          [](ContainerFile& f) { f.directory["required_features"].push_back("holograms"); },
                          later, {"holograms"}));
  cases.push_back(changed("PK05", "optional feature and member",
                          [](ContainerFile& f) {
                            f.directory["optional_features"].push_back("holograms");
                            f.directory["colour"] = "blue";
                          },
                          Exit::ok, {}));
  cases.push_back(changed("PK19", "newer minor", [](ContainerFile& f) { f.directory["minor_version"] = 7; },
                          Exit::ok, {}));
  cases.push_back(changed("PK20", "checksum algorithm",
                          [](ContainerFile& f) { f.directory["checksum"] = "md5"; }, later,
                          {"checksum", "md5"}));
  cases.push_back(changed("PK20", "form",
                          [](ContainerFile& f) { f.tensor("norm.weight")["form"] = "fractal"; }, later,
                          {"\"norm.weight\".form", "fractal"}));
  cases.push_back(changed("PK20", "encoding",
                          [](ContainerFile& f) { f.directory["assets"].items()[0]["encoding"] = "lzma"; },
                          later, {"assets[0].encoding", "lzma"}));
  for (const char* key : {"config", "manifest", "tensors", "assets"}) {
    cases.push_back(changed("PK30", (std::string("without ") + key).c_str(),
                            [key](ContainerFile& f) { f.directory.erase(key); }, bad, {key, "missing"}));
  }
  cases.push_back(raw("PK30", "config twice",
                      [] {
                        const ContainerFile f = ContainerFile::tiny();
                        std::string text = f.directory.dump();
                        return f.assembled_with("{\"config\":\"{}\"," + text.substr(1));
                      },
                      bad, {"\"config\"", "duplicate"}));
  cases.push_back(raw("PK30", "deep",
                      [] {
                        const ContainerFile f = ContainerFile::tiny();
                        return f.assembled_with("{\"x\":" + std::string(16, '[') + std::string(16, ']') +
                                                "," + f.directory.dump().substr(1));
                      },
                      bad, {"depth", "16"}));
  cases.push_back(changed("PK22", "not listed",
                          [](ContainerFile& f) { f.directory["manifest"]["tensors"].items().pop_back(); },
                          bad, {"\"scalar\"", "not listed"}));
  cases.push_back(changed("PK22", "absent",
                          [](ContainerFile& f) {
                            Json record = f.directory["manifest"]["tensors"].items()[0];
                            record["name"] = "ghost";
                            f.directory["manifest"]["tensors"].push_back(record);
                          },
                          bad, {"\"ghost\"", "not there"}));
  cases.push_back(
      changed("PK22", "kind",
              [](ContainerFile& f) { f.directory["manifest"]["tensors"].items()[0]["kind"] = "quantized"; },
              bad, {"\"embed.weight\".kind"}));
  cases.push_back(changed(
      "PK22", "scheme",
      [](ContainerFile& f) { f.directory["manifest"]["tensors"].items()[1]["scheme"] = "int8-ch-sym"; }, bad,
      {"\"up.weight\".scheme"}));
  cases.push_back(
      changed("PK22", "shape",
              [](ContainerFile& f) { f.directory["manifest"]["tensors"].items()[0]["shape"].items()[0] = 6; },
              bad, {"\"embed.weight\".shape"}));
  cases.push_back(changed("PK23", "duplicate name",
                          [](ContainerFile& f) { f.tensor("norm.weight")["name"] = "embed.weight"; }, bad,
                          {"\"embed.weight\"", "tensors[0]", "tensors[3]"}));
  for (const auto& [name, text] :
       std::vector<std::pair<const char*, std::string>>{{"empty", ""},
                                                        {"NUL", std::string("a\0b", 3)},
                                                        {"escape", "a\x1b[2J"},
                                                        {"climbs", "../../x"},
                                                        {"long", std::string(513, 'n')}}) {
    cases.push_back(changed("PK34", name,
                            [text = text](ContainerFile& f) { f.tensor("norm.weight")["name"] = text; }, bad,
                            {"tensors[3]"}));
  }
  cases.push_back(
      changed("PK34", "asset that climbs",
              [](ContainerFile& f) { f.directory["assets"].items()[0]["name"] = "LICENSE/../../x"; }, bad,
              {"assets[0].name"}));
  cases.push_back(changed("PK29", "alias",
                          [](ContainerFile& f) {  // the empty tensor has no bytes that would be left over
                            Json& tensor = f.tensor("empty");
                            tensor["form"] = "alias";
                            tensor["target"] = "ghost";
                            tensor["parts"] = Json::array();
                            f.directory["manifest"]["tensors"].items()[4]["kind"] = "alias";
                          },
                          bad, {"\"empty\".target", "\"ghost\""}));
  cases.push_back(changed("PK29", "alias of itself",
                          [](ContainerFile& f) {
                            Json& tensor = f.tensor("empty");
                            tensor["form"] = "alias";
                            tensor["target"] = "empty";
                            tensor["parts"] = Json::array();
                          },
                          bad, {"\"empty\".target", "alias of an alias"}));
  cases.push_back(changed("PK33", "sections",
                          [](ContainerFile& f) {
                            Json sections = Json::array();
                            for (int i = 0; i < 257; ++i)
                              sections.push_back(f.directory["assets"].items()[0]);
                            f.directory["sections"] = sections;
                          },
                          Exit::resource, {"259", "256"}));
  cases.push_back(raw("PK33", "tensors",
                      [] {
                        ContainerFile f = ContainerFile::tiny();
                        std::string records = "[{}";
                        for (int i = 0; i < 1'000'000; ++i) records += ",{}";
                        f.directory.erase("tensors");
                        return f.assembled_with("{\"tensors\":" + records + "]," +
                                                f.directory.dump().substr(1));
                      },
                      Exit::resource, {"1000001", "1000000"}));
}

void add_ranges(std::vector<BadCase>& cases) {
  const auto bad = Exit::malformed;
  const auto norm = [](ContainerFile& f, const char* key, Json value) {
    f.part("norm.weight", "values")[key] = std::move(value);
  };
  cases.push_back(
      changed("PK24", "overlap",
              [=](ContainerFile& f) { norm(f, "offset", f.part("embed.weight", "values")["offset"]); }, bad,
              {"\"norm.weight\"", "\"embed.weight\"", "overlap"}));
  cases.push_back(changed(
      "PK25", "unaligned",
      [=](ContainerFile& f) { norm(f, "offset", f.part("norm.weight", "values")["offset"].as_uint() + 4); },
      bad, {"\"norm.weight\"", "64"}));
  cases.push_back(
      changed("PK25", "hole", [](ContainerFile& f) { f.payload += std::string(64, '\0'); }, bad, {"hole"}));
  cases.push_back(changed("PK25", "order",
                          [](ContainerFile& f) {
                            auto& tensors = f.directory["tensors"].items();
                            std::swap(tensors[0], tensors[3]);
                          },
                          bad, {"order"}));
  cases.push_back(changed("PK26", "inside the header", [=](ContainerFile& f) { norm(f, "offset", 0); }, bad,
                          {"\"norm.weight\"", "limit"}));
  cases.push_back(changed("PK26", "past the end",
                          [=](ContainerFile& f) { norm(f, "offset", uint64_t(1) << 40); }, bad,
                          {"\"norm.weight\"", "limit"}));
  cases.push_back(changed("PK27", "wraps", [=](ContainerFile& f) { norm(f, "offset", ~uint64_t(0)); }, bad,
                          {"\"norm.weight\"", "wrap"}));
  cases.push_back(
      changed("PK27", "negative", [=](ContainerFile& f) { norm(f, "offset", -64); }, bad, {"offset", "-64"}));
  cases.push_back(
      changed("PK27", "real", [=](ContainerFile& f) { norm(f, "bytes", 28.0); }, bad, {"bytes", "28.0"}));
  cases.push_back(
      changed("PK27", "shape",
              [=](ContainerFile& f) {
                norm(f, "shape", Json(Json::Array{Json(int64_t(1) << 40), Json(int64_t(1) << 40)}));
              },
              bad, {"overflows"}));
  cases.push_back(changed("PK28", "too few bytes", [=](ContainerFile& f) { norm(f, "bytes", 24); }, bad,
                          {"got 24", "expected 28"}));
  cases.push_back(changed("PK28", "other shape",
                          [](ContainerFile& f) { f.tensor("norm.weight")["shape"].items()[0] = 8; }, bad,
                          {"\"norm.weight\"", "[8]"}));
  cases.push_back(changed("PK28", "other scheme",
                          [](ContainerFile& f) { f.tensor("up.weight")["scheme"]["bits"] = 3; }, bad,
                          {"\"up.weight\".codes"}));
  cases.push_back(changed("PK06", "swapped parts",
                          [](ContainerFile& f) {
                            // equal sizes: the bytes trade places, the records stay
                            const size_t a = f.part("up.weight", "scales")["offset"].as_uint(),
                                         n = f.part("up.weight", "scales")["bytes"].as_uint();
                            std::string bytes = f.payload.substr(a, n);
                            std::swap(bytes[0], bytes[2]);
                            f.payload.replace(a, n, bytes);
                          },
                          bad, {"\"up.weight\".scales", "checksum mismatch"}));
  cases.back().rule = "PK17";
  cases.push_back(changed("PK17", "padding",
                          [](ContainerFile& f) {
                            const size_t end = f.part("norm.weight", "values")["offset"].as_uint() + 28;
                            f.payload[end] = 1;
                          },
                          bad, {"byte", "padding", "norm.weight"}));
}

// What is wrong with a sparse or low-rank tensor that the directory alone tells.
void add_form_records(std::vector<BadCase>& cases) {
  const auto row = [&](const char* id, const char* name, std::function<void(ContainerFile&)> change,
                       std::vector<std::string> words, Exit exit = Exit::malformed) {
    cases.push_back(changed_forms(id, name, std::move(change), exit, std::move(words)));
  };
  row("PK11", "no pattern", [](ContainerFile& f) { f.tensor("half")["pattern"] = "2:17"; },
      {"\"half\".pattern", "\"2:17\""});
  row("PK11", "another pattern", [](ContainerFile& f) { f.tensor("half")["pattern"] = "1:4"; },
      {"\"half\".kept"});
  row("PK11", "pattern with other parts",
      [](ContainerFile& f) { f.tensor("half")["pattern"] = "unstructured"; },
      {"\"half\".parts", "indices", "mask"});
  row("PK11", "more kept than there are", [](ContainerFile& f) { f.tensor("loose")["kept"] = 56; },
      {"\"loose\".kept", "56", "55"});
  row("PK11", "kept of codes", [](ContainerFile& f) { f.tensor("loose_codes")["kept"] = 0; },
      {"\"loose_codes\".codes"});
  row("PK27", "kept is negative", [](ContainerFile& f) { f.tensor("loose")["kept"] = -1; },
      {"\"loose\".kept", "-1"});
  row("PK30", "no kept", [](ContainerFile& f) { f.tensor("loose").erase("kept"); },
      {"\"loose\".kept", "missing"});
  row("PK28", "values of another length",
      [](ContainerFile& f) { f.part("half", "values")["shape"].items()[0] = 16; }, {"\"half\"", "bytes"});
  row("PK09", "activation without codes",
      [](ContainerFile& f) { f.tensor("half")["activation"] = ActivationQuant{}.to_json(); },
      {"\"half\".activation"});
  row("PK11", "rank differs",
      [](ContainerFile& f) {
        f.part("product", "left")["shape"].items()[0] = 2;
        f.part("product", "left")["shape"].items()[1] = 4;
        f.tensor("product")["shape"].items()[0] = 2;
      },
      {"\"product\".right"});
  row("PK11", "base of another form",
      [](ContainerFile& f) { f.tensor("repaired")["base"]["form"] = "low_rank"; },
      {"\"repaired\".base.form", "low_rank"});
  row("PK11", "base that is not there", [](ContainerFile& f) { f.tensor("repaired").erase("base"); },
      {"\"repaired\".parts"});
  row(
      "PK20", "base of a later version",
      [](ContainerFile& f) { f.tensor("repaired")["base"]["form"] = "wavelet"; },
      {"\"repaired\".base.form", "wavelet"}, Exit::unsupported);
}

// The same that only the values tell, every checksum right.
void add_form_values(std::vector<BadCase>& cases) {
  const auto row = [&](const char* id, const char* name, const char* tensor, const char* role, size_t at,
                       const std::string& bytes, std::vector<std::string> words,
                       Exit exit = Exit::malformed) {
    cases.push_back(changed_forms(
        id, name, [=](ContainerFile& f) { f.set_bytes(tensor, role, at, bytes); }, exit, std::move(words)));
  };
  const std::string ones(8, '\xff');
  row("PK11", "first row pointer", "loose", "row_pointers", 0, std::string(1, '\1'),
      {"\"loose\".row_pointers[0]"});
  row("PK11", "row pointer not monotone", "loose", "row_pointers", 16, ones,
      {"\"loose\".row_pointers[2]", "-1"});
  row("PK11", "row pointer of blocks", "blocks", "row_pointers", 8, std::string("\0\0\0\0\0\0\0\x7f", 8),
      {"\"blocks\".row_pointers[1]"});
  row("PK11", "mask against pointers", "loose_codes", "mask", 0, ones.substr(0, 1),
      {"\"loose_codes\".row_pointers[1]"});
  row("PK11", "bits behind the mask", "loose", "mask", 1, ones.substr(0, 1), {"\"loose\".mask[0]"});
  row("PK11", "index out of order", "half", "indices", 0, std::string(1, '\x41'), {"\"half\".indices[0,1]"});
  row("PK11", "index out of range", "half", "indices", 1, std::string(1, '\x02'), {"\"half\".indices[0,4]"});
  row("PK07", "scale of sparse codes", "half_codes", "scales", 0, std::string(2, '\0'),
      {"half_codes", "[0,0]"}, Exit::numeric);
  row("PK08", "zero point of sparse codes", "half_codes", "zero_points", 1, std::string(1, '\x10'),
      {"half_codes", "[0,1]"});
  row("PK11", "mask of a base", "repaired_half", "base.indices", 0, std::string(1, '\x00'),
      {"repaired_half", "indices"});
  row("NU01", "NaN of sparse values", "half", "values", 4, std::string("\0\0\xc0\x7f", 4), {"\"half\"[1]"},
      Exit::numeric);
  row("NU02", "infinity of a factor", "product", "right", 0, std::string("\0\0\x80\x7f", 4),
      {"\"product\"[0,0]"}, Exit::numeric);
}

void add_values(std::vector<BadCase>& cases) {
  const auto bad = Exit::malformed;
  cases.push_back(
      changed("PK07", "infinite scale",
              [](ContainerFile& f) { f.set_bytes("up.weight", "scales", 2, std::string("\x00\x7c", 2)); },
              Exit::numeric, {"up.weight", "[0,1]"}));
  cases.push_back(
      changed("PK07", "zero scale",
              [](ContainerFile& f) { f.set_bytes("up.weight", "scales", 0, std::string(2, '\0')); },
              Exit::numeric, {"up.weight", "[0,0]"}));
  cases.push_back(
      changed("PK08", "code off the grid",
              [](ContainerFile& f) { f.set_bytes("down.weight", "codes", 7, std::string(1, '\0')); }, bad,
              {"down.weight", "[1,1]"}));
  cases.push_back(
      changed("PK08", "bits behind the last code",
              [](ContainerFile& f) { f.set_bytes("up.weight", "codes", 9, std::string(1, '\xff')); }, bad,
              {"up.weight"}));
  for (const auto& [name, bits, exit] : std::vector<std::tuple<const char*, int, Exit>>{
           {"bits 0", 0, bad}, {"bits 17", 17, bad}, {"bits 12", 12, Exit::unsupported}}) {
    cases.push_back(changed(
        "PK09", name, [bits = bits](ContainerFile& f) { f.tensor("up.weight")["scheme"]["bits"] = bits; },
        exit, {"\"up.weight\".bits"}));
  }
  cases.push_back(changed("PK09", "group 0",
                          [](ContainerFile& f) { f.tensor("up.weight")["scheme"]["group_size"] = 0; }, bad,
                          {"\"up.weight\".group_size"}));
  cases.push_back(changed("PK11", "sparse without parts",
                          [](ContainerFile& f) {
                            f.tensor("embed.weight")["form"] = "sparse";
                            f.tensor("embed.weight")["transposed"] = false;
                            f.tensor("embed.weight")["pattern"] = "2:4";
                            f.tensor("embed.weight")["kept"] = 20;
                          },
                          bad, {"\"embed.weight\".parts"}));
  cases.push_back(changed("PK11", "low rank without parts",
                          [](ContainerFile& f) {
                            f.tensor("embed.weight")["form"] = "low_rank";
                            f.tensor("embed.weight")["transposed"] = false;
                          },
                          bad, {"\"embed.weight\".parts"}));
  cases.push_back(
      changed("PK12", "huge expansion",
              [](ContainerFile& f) { f.directory["assets"].items()[1]["decoded_bytes"] = 200'000'000; }, bad,
              {"decoded_bytes", "200000000"}));
  cases.push_back(changed("PK12", "other size",
                          [](ContainerFile& f) { f.directory["assets"].items()[1]["decoded_bytes"] = 303; },
                          bad, {"tokenizer.json", "got 302", "expected 303"}));
}

}  // namespace

std::vector<BadCase> container_cases() {
  std::vector<BadCase> cases;
  add_frame(cases);
  add_directory(cases);
  add_ranges(cases);
  add_values(cases);
  add_form_records(cases);
  add_form_values(cases);
  return cases;
}

}  // namespace pare::test
