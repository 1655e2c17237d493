// evaluate/report/html.h: the pieces a page is made of; internal to evaluate/report.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pare::report {

// & < > " ' become entities. Everything that did not come from our own source goes through it.
std::string escape(std::string_view text);

struct Column {
  std::string title;
  bool is_number = false;  // right-aligned, tabular digits
  bool is_long = false;    // sentences: wide enough to be read
};
// A table in a box that scrolls sideways by itself. Cells are escaped here.
std::string html_table(std::string_view caption, std::span<const Column> columns,
                       const std::vector<std::vector<std::string>>& rows);

// The style sheet of the page, for screen, dark mode, phone and print.
std::string_view style_sheet();

}  // namespace pare::report
