#include "cli/usage_error.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <vector>

#include "engine/core/text.h"

namespace pare::cli {
namespace {

// The command that the words name, or the program itself.
const CLI::App& chosen_app(const CLI::App& app, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
      if (verb->get_name() == argv[i]) return *verb;
    if (argv[i][0] != '-') break;
  }
  return app;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string first_sentence(std::string text) {
  const size_t end = text.find('\n');
  if (end != std::string::npos) text.resize(end);
  while (!text.empty() && (text.back() == '.' || text.back() == ' ')) text.pop_back();
  const auto is_upper = [&](size_t i) { return i < text.size() && text[i] >= 'A' && text[i] <= 'Z'; };
  const bool is_name = is_upper(0) && is_upper(1);  // of an argument: "MODEL is required"
  if (is_upper(0) && !is_name) text[0] = char(text[0] - 'A' + 'a');
  return text;
}

// The word that CLI11's message complains about: of several the first option, since the words after an
// unknown option are often its value. `message`: "The following argument was not expected: WORD" or "...
// arguments were not expected: A B".
std::string unexpected_word(const std::string& message, int argc, char** argv) {
  const size_t colon = message.find(": ");
  const std::string list = " " + (colon == std::string::npos ? message : message.substr(colon + 2)) + " ";
  std::string first;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.empty() || list.find(" " + word + " ") == std::string::npos) continue;
    if (word[0] == '-') return word;
    if (first.empty()) first = word;
  }
  return first.empty() ? list.substr(1, list.size() - 2) : first;
}

Error unknown_word(const CLI::App& app, const CLI::App& verb, const std::string& word) {
  Error error{.exit = Exit::usage,
              .rule = "CL07",
              .path = sanitize(word),
              .where = {},
              .what = {},
              .got = {},
              .limit = {}};
  const std::string bare = word.substr(0, word.find('='));
  if (bare.starts_with("--trust-remote-code") || bare.starts_with("--trust_remote_code")) {
    error.rule = "CL10";
    error.what = "not supported by design; pare never runs code from a model";
    return error;
  }
  std::vector<std::string> known;
  if (word.starts_with("-")) {
    known = option_names(verb);
    error.what = "unknown option";
  } else if (&verb == &app) {
    for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; }))
      known.push_back(child->get_name());
    error.what = "unknown command";
  } else {
    error.what = "one argument too many";
  }
  const std::string nearest = nearest_word(bare, known.data(), known.data() + known.size());
  if (!nearest.empty()) error.what += "; did you mean " + nearest + "?";
  return error;
}

}  // namespace

Error usage_error(const CLI::App& app, const CLI::ParseError& parse_error, int argc, char** argv) {
  const CLI::App& verb = chosen_app(app, argc, argv);
  const bool has_commands = !app.get_subcommands([](const CLI::App*) { return true; }).empty();
  if (has_commands && &verb == &app && argc > 1 && argv[1][0] != '-') return unknown_word(app, verb, argv[1]);
  if (dynamic_cast<const CLI::ExtrasError*>(&parse_error) != nullptr) {
    return unknown_word(app, verb, unexpected_word(parse_error.what(), argc, argv));
  }
  std::string text = first_sentence(parse_error.what());
  Error error{.exit = Exit::usage,
              .rule = "CL06",
              .path = "pare " + verb.get_name(),
              .where = {},
              .what = text,
              .got = {},
              .limit = {}};
  if (&verb == &app) error.path = app.get_name();
  // Most messages begin with the option's name: "--threads: value x not in range".
  const size_t colon = text.find(':');
  if (colon != std::string::npos && text.starts_with("--")) {
    error.path = text.substr(0, colon);
    error.what = first_sentence(text.substr(std::min(text.size(), colon + 2)));
  } else if (text.starts_with("--")) {
    const size_t space = text.find(' ');
    error.path = text.substr(0, space);
    error.what = space == std::string::npos ? "missing" : text.substr(space + 1);
  }
  return error;
}

}  // namespace pare::cli
