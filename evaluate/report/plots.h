// evaluate/report/plots.h: plots as SVG of 360 by 200 units, so that text keeps its size on a phone; internal
// to evaluate/report. Colours come from classes of the style sheet. Every plot has a title and a description.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "evaluate/histogram.h"

namespace pare::report {

struct PlotText {
  std::string title;        // "q: output error by block"
  std::string description;  // what a reader who cannot see it should know
  std::string x_label, y_label;
};

using Points = std::vector<std::pair<int, double>>;  // (block, value), ascending

// Lines with marks over blocks; `plain` (dashed, rings) may be empty. y runs from 0 to at least `top`.
std::string line_plot(const PlotText& text, const Points& ours, const Points& plain, int blocks, double top);
// One bar per label.
std::string bar_plot(const PlotText& text, const std::vector<std::pair<std::string, double>>& bars);
// Horizontal bars with their value written beside them; the first is the old one.
struct WideBar {
  std::string label, value_text;
  double value = 0.0;
};
std::string wide_bar_plot(const PlotText& text, const std::vector<WideBar>& bars);
// Points (x, y) joined in order, the chosen one filled. y runs from 0, or is logarithmic where the largest is
// more than twenty times the smallest above 0.
struct CurveMark {
  double x = 0.0, y = 0.0;
  bool chosen = false;
};
std::string curve_plot(const PlotText& text, std::vector<CurveMark> points);
// A line over steps of training, and rings, joined by dashes, where it was measured on held-out text. y is
// logarithmic where the largest is more than twenty times the smallest, all above 0.
struct StepPoint {
  double step = 0.0, value = 0.0;
};
std::string step_plot(const PlotText& text, const std::vector<StepPoint>& training,
                      const std::vector<StepPoint>& held_out);
// Share of values over |x|, both axes logarithmic.
std::string magnitude_plot(const PlotText& text, const MagnitudeHistogram& before,
                           const MagnitudeHistogram& after);
// Share of values over x.
std::string value_plot(const PlotText& text, const ValueHistogram& before, const ValueHistogram& after);

// A step of 1, 2 or 5 times a power of ten so that about `count` of them cover `span`.
double nice_step(double span, int count);

}  // namespace pare::report
