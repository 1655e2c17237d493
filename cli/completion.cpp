#include "cli/completion.h"

#include "engine/core/version.h"

namespace pare::cli {
namespace {

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i == 0 ? "" : separator) + words[i];
  return text;
}

std::vector<std::string> names_of(const CommandText& command) {
  std::vector<std::string> names;
  for (const OptionText& option : command.options)
    names.insert(names.end(), option.names.begin(), option.names.end());
  return names;
}

std::vector<std::string> verbs_of(const std::vector<CommandText>& commands) {
  std::vector<std::string> verbs;
  for (const CommandText& command : commands)
    if (!command.name.empty()) verbs.push_back(command.name);
  return verbs;
}

// Inside single quotes of a POSIX shell.
std::string single_quoted(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else {
      out += c == '\n' ? ' ' : c;
    }
  }
  return out;
}

// zsh reads [ ] and : in descriptions.
std::string zsh_text(const std::string& text) {
  std::string out;
  for (char c : single_quoted(text)) {
    if (c == '[' || c == ']' || c == ':') out += '\\';
    out += c;
  }
  return out;
}

// A line of troff text: backslashes doubled, no leading control character, hyphens as typed.
std::string troff(const std::string& text) {
  std::string out;
  bool at_line_start = true;
  for (char c : text) {
    if (at_line_start && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
    at_line_start = c == '\n';
  }
  return out;
}

std::string troff_options(const CommandText& command) {
  std::string out;
  for (const OptionText& option : command.options) {
    const std::string name = option.names.empty() ? option.positional : joined(option.names, ", ");
    out += ".TP\n.B " + troff(name);
    if (!option.names.empty() && !option.value.empty()) out += " \\fI" + troff(option.value) + "\\fR";
    out += "\n" + troff(option.help);
    if (!option.default_value.empty()) out += troff(" (default: " + option.default_value + ")");
    out += "\n";
  }
  return out;
}

}  // namespace

std::string bash_completion(const std::vector<CommandText>& commands) {
  std::string out =
      "# bash completion for pare; made by `pare completion bash`\n_pare() {\n  local "
      "current=${COMP_WORDS[COMP_CWORD]}\n"
      "  local options files=1\n  case ${COMP_WORDS[1]} in\n";
  for (const CommandText& command : commands) {
    if (command.name.empty()) continue;
    out += "    " + command.name + ") options='" + joined(names_of(command), " ") + "' ;;\n";
  }
  out += "    *) options='" + joined(verbs_of(commands), " ") + " " + joined(names_of(commands[0]), " ") +
         "'; files=0 ;;\n  esac\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n    options='" +
         joined(verbs_of(commands), " ") + " " + joined(names_of(commands[0]), " ") +
         "'; files=0\n  fi\n"
         "  if [ \"$files\" -eq 1 ] && [ \"${current#-}\" = \"$current\" ]; then\n    COMPREPLY=($(compgen "
         "-f -- \"$current\"))\n"
         "  else\n    COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n  fi\n}\ncomplete -o filenames "
         "-F _pare pare\n";
  return out;
}

std::string zsh_completion(const std::vector<CommandText>& commands) {
  std::string out =
      "#compdef pare\n# zsh completion for pare; made by `pare completion zsh`\n_pare() {\n  local -a "
      "verbs\n  verbs=(\n";
  for (const CommandText& command : commands) {
    if (!command.name.empty()) out += "    '" + command.name + ":" + zsh_text(command.help) + "'\n";
  }
  out +=
      "  )\n  if (( CURRENT == 2 )); then\n    _describe 'command' verbs\n    return\n  fi\n  case $words[2] "
      "in\n";
  for (const CommandText& command : commands) {
    if (command.name.empty()) continue;
    out += "    " + command.name + ") _arguments";
    for (const OptionText& option : command.options) {
      for (const std::string& name : option.names) {
        out += " \\\n      '" + name + "[" + zsh_text(option.help) + "]" +
               (option.value.empty() ? "" : ":" + zsh_text(option.value) + ":_files") + "'";
      }
    }
    out += " \\\n      '*:file:_files' ;;\n";
  }
  out += "  esac\n}\n_pare \"$@\"\n";
  return out;
}

std::string fish_completion(const std::vector<CommandText>& commands) {
  std::string out = "# fish completion for pare; made by `pare completion fish`\n";
  for (const CommandText& command : commands) {
    if (command.name.empty()) continue;
    out += "complete -c pare -n __fish_use_subcommand -f -a " + command.name + " -d '" +
           single_quoted(command.help) + "'\n";
    for (const OptionText& option : command.options) {
      if (option.names.empty()) continue;
      out += "complete -c pare -n '__fish_seen_subcommand_from " + command.name + "'";
      for (const std::string& name : option.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      out += std::string(option.value.empty() ? "" : " -r") + " -d '" + single_quoted(option.help) + "'\n";
    }
  }
  return out;
}

std::string manual_page(const std::string& program, const std::vector<CommandText>& commands) {
  const CommandText& main = commands[0];
  std::string out =
      ".TH " + program + " 1 \"\" \"pare " + kVersion + "\" \"User Commands\"\n.SH NAME\n" + troff(program) +
      " \\- " +
      (commands.size() > 1 ? "compress language models offline" : "generate text with a compressed model") +
      "\n.SH SYNOPSIS\n.B " + troff(program) + "\n" +
      (commands.size() > 1 ? "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]" : "\\fIMODEL\\fR [\\fIOPTIONS\\fR]") +
      "\n.SH DESCRIPTION\n" + troff(main.help) + "\n";
  if (commands.size() == 1) {
    out += ".SH OPTIONS\n" + troff_options(main);
  } else {
    out += ".SH COMMANDS\n";
    for (const CommandText& command : commands) {
      if (command.name.empty()) continue;
      out += ".SS " + troff(program + " " + command.name) + "\n" + troff(command.help) + "\n" +
             troff_options(command);
      if (!command.footer.empty()) out += ".PP\n" + troff(command.footer) + "\n";
    }
  }
  out +=
      ".SH EXIT STATUS\n0 done; 2 usage; 3 malformed input; 4 valid but not supported; 5 input or output; 6 "
      "memory or a cap; 7 numeric;\n"
      "8 locked; 9 a quality gate failed; 75 interrupted and resumable; 130 stopped at once.\n"
      ".SH ENVIRONMENT\n.TP\n.B PARE_CPU_PROFILE\nLowers the CPU kernels to generic, avx2 or avx512.\n"
      ".TP\n.B HF_HUB_CACHE, HF_HOME\nWhere models named org/name are looked for. Nothing is ever "
      "downloaded.\n";
  return out;
}

}  // namespace pare::cli
