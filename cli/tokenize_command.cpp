#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/model_argument.h"
#include "cli/text_data.h"
#include "engine/core/file.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/tokenizer_files.h"

namespace pare::cli {
namespace {

struct Options {
  std::string model;
  std::string text, jsonl;
  bool has_text = false;
  bool add_special = false, no_parse_special = false, decode = false, skip_special = false;
};

Error usage(const std::string& option, const std::string& what) {
  return Error{
      .exit = Exit::usage, .rule = "CL13", .path = option, .where = {}, .what = what, .got = {}, .limit = {}};
}

// A tokenizer.json or folder with one, else a model.
Result<std::shared_ptr<const Tokenizer>> open_tokenizer(const std::string& model,
                                                        const CommonOptions& common) {
  if (model.ends_with(".json") || (is_directory(model) && !path_exists(model + "/config.json"))) {
    PARE_TRY(const TokenizerFiles files, tokenizer_files(model));
    return Tokenizer::load(files);
  }
  PARE_TRY(const auto source, open_source(model, common));
  return load_tokenizer(*source);
}

Json ids_json(const std::vector<int32_t>& ids) {
  Json json = Json::array();
  for (int32_t id : ids) json.push_back(Json(id));
  return json;
}

Error line_error(const std::string& path, size_t number, const std::string& field, const std::string& what) {
  return Error{.exit = Exit::malformed,
               .rule = "DT03",
               .path = path,
               .where = std::to_string(number) + ":" + field,
               .what = what,
               .got = {},
               .limit = {}};
}

Result<std::vector<int32_t>> read_ids(const Json& json, const Tokenizer& tokenizer, const std::string& path,
                                      size_t number) {
  const Json* list = json.find("ids");
  if (list == nullptr || !list->is_array())
    return line_error(path, number, "ids", list == nullptr ? "missing" : "not an array");
  std::vector<int32_t> ids;
  for (const Json& item : list->items()) {
    if (!item.is_integer()) return line_error(path, number, "ids", "not an integer");
    const int64_t id = item.as_int();
    if (id < 0 || id >= tokenizer.vocabulary_size()) {
      Error error = line_error(path, number, "ids", "no such token");
      error.got = std::to_string(id);
      error.limit = std::to_string(tokenizer.vocabulary_size() - 1);
      return error;
    }
    ids.push_back(int32_t(id));
  }
  return ids;
}

// One line in, one line out, in order.
Result<Exit> run_lines(const Options& options, const Tokenizer& tokenizer) {
  PARE_TRY(const std::string text, read_text_file(options.jsonl, uint64_t(4) << 30));
  std::string_view rest = text;
  for (size_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(rest.size(), end + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    auto json = parse_json(line, options.jsonl, {.max_bytes = limits::kTextLineBytes}, "DT02");
    if (!json) {
      json.error().where = std::to_string(number) + ":" + json.error().where;
      return json.error();
    }
    Json out = Json::object();
    if (options.decode) {
      PARE_TRY(const std::vector<int32_t> ids, read_ids(*json, tokenizer, options.jsonl, number));
      out["text"] = tokenizer.decode(ids, options.skip_special);
    } else {
      const Json* field = json->find("text");
      if (field == nullptr || !field->is_string())
        return line_error(options.jsonl, number, "text", field == nullptr ? "missing" : "not a string");
      PARE_TRY(const std::vector<int32_t> ids,
               tokenizer.encode(field->as_string(), {.add_special = options.add_special,
                                                     .parse_special = !options.no_parse_special}));
      out["ids"] = ids_json(ids);
    }
    print_line(out.dump());
  }
  return Exit::ok;
}

// "1 2 3" or "1,2,3"
Result<std::vector<int32_t>> ids_of_text(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(" ,", at), text.size());
    if (end > at) {
      const auto id = parse_int(std::string_view(text).substr(at, end - at));
      if (!id || *id < 0 || *id >= tokenizer.vocabulary_size()) {
        return Error{.exit = Exit::usage,
                     .rule = "CL06",
                     .path = "--text",
                     .where = {},
                     .what = "not a token id of this tokenizer",
                     .got = quote(text.substr(at, end - at)),
                     .limit = std::to_string(tokenizer.vocabulary_size() - 1)};
      }
      ids.push_back(int32_t(*id));
    }
    at = end + 1;
  }
  return ids;
}

Result<Exit> run_text(const Options& options, const Tokenizer& tokenizer, const CommonOptions& common) {
  if (options.decode) {
    PARE_TRY(const std::vector<int32_t> ids, ids_of_text(options.text, tokenizer));
    const std::string text = tokenizer.decode(ids, options.skip_special);
    if (common.json) {
      Json json = Json::object();
      json["schema_version"] = 1;
      json["text"] = text;
      print_json(json);
    } else {
      print_line(text);
    }
    return Exit::ok;
  }
  PARE_TRY(const std::vector<int32_t> ids,
           tokenizer.encode(options.text, {.add_special = options.add_special,
                                           .parse_special = !options.no_parse_special}));
  if (common.json) {
    Json json = Json::object(), tokens = Json::array();
    json["schema_version"] = 1;
    json["ids"] = ids_json(ids);
    for (int32_t id : ids) tokens.push_back(Json(tokenizer.token_text(id)));
    json["tokens"] = std::move(tokens);
    print_json(json);
    return Exit::ok;
  }
  Table table({">id", "token", "text"});
  for (int32_t id : ids)
    table.row({std::to_string(id), sanitize(tokenizer.token_text(id)),
               quote(tokenizer.decode(std::span(&id, 1), false))});
  print(table.text(""));
  print_line(std::to_string(ids.size()) + " tokens");
  return Exit::ok;
}

Result<Exit> run_tokenize(const Options& options, const CommonOptions& common) {
  if (options.has_text == !options.jsonl.empty())
    return usage("--text", "give exactly one of --text and --jsonl");
  PARE_TRY(const auto tokenizer, open_tokenizer(options.model, common));
  return options.has_text ? run_text(options, *tokenizer, common) : run_lines(options, *tokenizer);
}

}  // namespace

void add_tokenize(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("tokenize", "text to token ids and back");
  verb->add_option("MODEL", options->model, "a model, or a tokenizer.json")->required();
  verb->add_option("--text", options->text, "the text (with --decode: ids, separated by spaces)")
      ->each([options](const std::string&) { options->has_text = true; })
      ->type_name("TEXT");
  verb->add_option("--jsonl", options->jsonl,
                   "one object per line: `text` in, `ids` out; with --decode the other way round")
      ->type_name("FILE");
  verb->add_flag("--add-special", options->add_special,
                 "frame with the tokenizer's template tokens (BOS ...)");
  verb->add_flag("--no-parse-special", options->no_parse_special,
                 "special tokens written in the text are ordinary text");
  verb->add_flag("--decode", options->decode, "ids to text");
  verb->add_flag("--skip-special", options->skip_special, "with --decode: leave special tokens out");
  add_common(verb, commands, false);
  commands.on(verb, [options, &commands] { return run_tokenize(*options, commands.common()); });
}

}  // namespace pare::cli
