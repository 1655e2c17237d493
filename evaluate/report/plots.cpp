#include "evaluate/report/plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "evaluate/report/facts.h"
#include "evaluate/report/html.h"

namespace pare::report {
namespace {

constexpr double kWidth = 360, kHeight = 200, kLeft = 56, kRight = 10, kTop = 8, kBottom = 34;

// Maps values to the frame and writes what stands around it.
class Frame {
 public:
  Frame(const PlotText& text, double x_low, double x_high, double y_low, double y_high)
      : x_low_(x_low),
        x_span_(x_high > x_low ? x_high - x_low : 1.0),
        y_low_(y_low),
        y_span_(y_high > y_low ? y_high - y_low : 1.0) {
    // Identifiers are not needed: title and desc are children of the image they name.
    out_ = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title><desc>{}</desc>", kWidth,
                       kHeight, escape(text.title), escape(text.description));
    out_ += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                        (kLeft + kWidth - kRight) / 2, kHeight - 4, escape(text.x_label));
    out_ += fmt::format("<text transform=\"translate(11 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
                        (kTop + kHeight - kBottom) / 2, escape(text.y_label));
  }

  double x(double value) const { return kLeft + (value - x_low_) / x_span_ * (kWidth - kLeft - kRight); }
  double y(double value) const {
    return kHeight - kBottom - (value - y_low_) / y_span_ * (kHeight - kTop - kBottom);
  }
  void x_tick(double value, const std::string& label) {
    out_ += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>", x(value),
                        kHeight - kBottom + 14, escape(label));
  }
  void y_tick(double value, const std::string& label) {
    out_ += fmt::format("<path class=\"grid\" d=\"M{} {:.1f}H{}\"/>", kLeft, y(value), kWidth - kRight);
    out_ += fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", kLeft - 4, y(value) + 4,
                        escape(label));
  }
  void linear_y_ticks() {
    const double step = nice_step(y_span_, 5);
    for (int i = 0; y_low_ + step * i <= y_low_ + y_span_ * 1.0001; ++i)
      y_tick(y_low_ + step * i, number(y_low_ + step * i));
  }
  // Powers of ten; y is the logarithm.
  void decade_y_ticks() {
    const int low = int(y_low_), high = int(y_low_ + y_span_);
    const int decades = std::max(1, int((high - low) / 6.0 + 0.9999));
    for (int power = low; power <= high; power += decades)
      y_tick(power, power < -2 ? fmt::format("1e{}", power) : number(std::pow(10.0, power)));
  }
  void add(std::string_view svg) { out_ += svg; }
  // Joined by lines; marks: with a ring or a dot at each.
  void line(const std::vector<std::pair<double, double>>& points, const char* line_class,
            const char* mark_class) {
    if (points.empty()) return;
    std::string path;
    for (const auto& [px, py] : points)
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x(px), y(py));
    out_ += fmt::format("<path class=\"{}\" d=\"{}\"/>", line_class, path);
    if (mark_class == nullptr) return;
    const double radius = points.size() > 16 ? 2.2 : 3.0;
    for (const auto& [px, py] : points)
      out_ += fmt::format("<circle class=\"{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", mark_class, x(px),
                          y(py), radius);
  }
  std::string close() { return out_ + "</svg>"; }

 private:
  double x_low_, x_span_, y_low_, y_span_;
  std::string out_;
};

std::vector<std::pair<double, double>> real_points(const Points& points) {
  std::vector<std::pair<double, double>> out;
  for (const auto& [block, value] : points)
    if (std::isfinite(value)) out.emplace_back(double(block), value);
  return out;
}

double largest(const Points& points, double top) {
  for (const auto& [block, value] : points)
    if (std::isfinite(value)) top = std::max(top, value);
  return top;
}

// Outline of a histogram: edges.size() == heights.size() + 1.
std::string steps(const Frame& frame, const std::vector<double>& edges, const std::vector<double>& heights,
                  double floor) {
  std::string path = fmt::format("M{:.1f} {:.1f}", frame.x(edges.front()), frame.y(floor));
  for (size_t i = 0; i < heights.size(); ++i)
    path += fmt::format("V{:.1f}H{:.1f}", frame.y(std::max(heights[i], floor)), frame.x(edges[i + 1]));
  return path + fmt::format("V{:.1f}Z", frame.y(floor));
}

}  // namespace

double nice_step(double span, int count) {
  if (!(span > 0.0)) return 1.0;
  const double rough = span / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (rough <= factor * power * 1.0001) return factor * power;
  return 10.0 * power;
}

std::string line_plot(const PlotText& text, const Points& ours, const Points& plain, int blocks, double top) {
  top = std::max(1e-12, largest(plain, largest(ours, top)));
  Frame frame(text, -0.5, std::max(blocks, 1) - 0.5, 0.0, top * 1.05);
  frame.linear_y_ticks();
  const int step = std::max(1, int(nice_step(double(blocks), 7)));
  for (int block = 0; block < blocks; block += step) frame.x_tick(block, std::to_string(block));
  frame.line(real_points(plain), "plain", "ring");
  frame.line(real_points(ours), "ours", "mark");
  return frame.close();
}

std::string bar_plot(const PlotText& text, const std::vector<std::pair<std::string, double>>& bars) {
  double top = 1e-12;
  for (const auto& [label, value] : bars) top = std::max(top, value);
  const double count = double(std::max<size_t>(1, bars.size()));
  Frame frame(text, 0.0, count, 0.0, top * 1.05);
  frame.linear_y_ticks();
  const size_t step = std::max<size_t>(1, size_t(nice_step(count, 9)));
  for (size_t i = 0; i < bars.size(); ++i) {
    const double x = double(i), y = frame.y(bars[i].second);
    frame.add(
        fmt::format("<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>",
                    frame.x(x + 0.1), y, frame.x(x + 0.9) - frame.x(x + 0.1), frame.y(0.0) - y));
    const bool is_number = !bars[i].first.empty() && bars[i].first[0] >= '0' && bars[i].first[0] <= '9';
    if (!is_number ? bars.size() <= 12 : (bars.size() <= 12 || i % step == 0))
      frame.x_tick(x + 0.5, bars[i].first);
  }
  return frame.close();
}

std::string wide_bar_plot(const PlotText& text, const std::vector<WideBar>& bars) {
  double top = 1e-12;
  for (const WideBar& bar : bars) top = std::max(top, bar.value);
  const double row = 46, height = row * double(bars.size()) + 8;
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\"><title>{}</title><desc>{}</desc>",
                                kWidth, height, escape(text.title), escape(text.description));
  for (size_t i = 0; i < bars.size(); ++i) {
    const double y = row * double(i) + 4;
    out += fmt::format("<text x=\"2\" y=\"{:.1f}\">{}: {}</text>", y + 12, escape(bars[i].label),
                       escape(bars[i].value_text));
    out += fmt::format("<rect class=\"{}\" x=\"2\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"16\" rx=\"2\"/>",
                       i == 0 && bars.size() > 1 ? "bar old" : "bar", y + 18,
                       std::max(1.0, (kWidth - 4) * bars[i].value / top));
  }
  return out + "</svg>";
}

std::string curve_plot(const PlotText& text, std::vector<CurveMark> points) {
  std::erase_if(points, [](const CurveMark& p) { return !std::isfinite(p.x) || !std::isfinite(p.y); });
  std::stable_sort(points.begin(), points.end(),
                   [](const CurveMark& a, const CurveMark& b) { return a.x < b.x; });
  double top = 1e-12;
  for (const CurveMark& point : points) top = std::max(top, point.y);
  double bottom = top;
  for (const CurveMark& point : points)
    if (point.y > 0.0 || point.chosen) bottom = std::min(bottom, point.y);
  // Losses fall by a factor per bit: on an even scale all that matters would lie on the floor. No loss at all
  // (16 bits) has no place on this scale; the table has it.
  const bool is_logarithmic = bottom > 0.0 && top > 20.0 * bottom;
  if (is_logarithmic) std::erase_if(points, [](const CurveMark& p) { return p.y <= 0.0; });
  const double low = points.empty() ? 0.0 : std::floor(points.front().x);
  const double high = points.empty() ? 1.0 : std::ceil(std::max(points.back().x, low + 1.0));
  const auto y_of = [&](double y) { return is_logarithmic ? std::log10(y) : y; };
  const double floor = is_logarithmic ? std::floor(y_of(bottom)) : 0.0;
  const double ceiling = is_logarithmic ? std::ceil(y_of(top)) : top * 1.05;
  Frame frame(text, low, high, floor, ceiling);
  if (is_logarithmic) {
    frame.decade_y_ticks();
  } else {
    frame.linear_y_ticks();
  }
  const double step = nice_step(std::max(high - low, 1e-9), 6);
  for (int i = int(std::ceil(low / step)); step * i <= high * 1.0001; ++i)
    frame.x_tick(step * i, number(step * i));
  std::vector<std::pair<double, double>> line;
  for (const CurveMark& point : points) line.emplace_back(point.x, y_of(point.y));
  frame.line(line, "plain", points.size() > 40 ? nullptr : "ring");
  for (const CurveMark& point : points)
    if (point.chosen)
      frame.add(fmt::format("<circle class=\"mark\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\"/>", frame.x(point.x),
                            frame.y(y_of(point.y))));
  return frame.close();
}

std::string step_plot(const PlotText& text, const std::vector<StepPoint>& training,
                      const std::vector<StepPoint>& held_out) {
  double low = std::numeric_limits<double>::infinity(), high = -low, last = 1.0;
  for (const auto& points : {training, held_out}) {
    for (const StepPoint& point : points) {
      last = std::max(last, point.step);
      if (!std::isfinite(point.value)) continue;
      low = std::min(low, point.value);
      high = std::max(high, point.value);
    }
  }
  if (low > high) low = 0.0, high = 1.0;
  const bool is_logarithmic = low > 0.0 && high > 20.0 * low;
  double floor, ceiling;
  if (is_logarithmic) {
    floor = std::floor(std::log10(low));
    ceiling = std::ceil(std::log10(high));
  } else {
    // Not from zero: what training changes is small beside what is left.
    const double span = high > low ? high - low : std::max(1e-3, 0.1 * std::fabs(high));
    const double step = nice_step(span * 1.05, 5);
    floor = step * std::floor(low / step);
    ceiling = high + 0.05 * span;
  }
  Frame frame(text, 0.0, last, floor, ceiling);
  is_logarithmic ? frame.decade_y_ticks() : frame.linear_y_ticks();
  const double x_step = std::max(1.0, nice_step(last, 6));
  for (int i = 0; x_step * i <= last * 1.0001; ++i) frame.x_tick(x_step * i, number(x_step * i));
  const auto drawn = [&](const std::vector<StepPoint>& points) {
    std::vector<std::pair<double, double>> line;
    for (const StepPoint& point : points)
      if (std::isfinite(point.value))
        line.emplace_back(point.step, is_logarithmic ? std::log10(point.value) : point.value);
    return line;
  };
  frame.line(drawn(training), "ours", nullptr);
  frame.line(drawn(held_out), "plain", held_out.size() > 60 ? nullptr : "ring");
  return frame.close();
}

std::string magnitude_plot(const PlotText& text, const MagnitudeHistogram& before,
                           const MagnitudeHistogram& after) {
  // Bins of both that hold anything, whole octaves.
  int first = MagnitudeHistogram::kBins, last = 0;
  double smallest = 1.0;
  for (const MagnitudeHistogram* histogram : {&before, &after}) {
    const double total = double(std::max<uint64_t>(1, histogram->total()));
    for (int i = 0; i < int(histogram->counts.size()); ++i) {
      const uint64_t count = histogram->counts[size_t(i)];
      if (count == 0) continue;
      first = std::min(first, i), last = std::max(last, i);
      smallest = std::min(smallest, double(count) / total);
    }
  }
  if (first > last) first = 0, last = MagnitudeHistogram::kBins - 1;
  first -= first % 4, last += 3 - last % 4;
  const double floor = std::max(-9.0, std::floor(std::log10(smallest)));
  const int low = MagnitudeHistogram::kLowestExponent + first / 4;
  const int high = MagnitudeHistogram::kLowestExponent + (last + 1) / 4;
  Frame frame(text, low, high, floor, 0.0);
  for (int power = int(floor); power <= 0; power += floor < -5 ? 2 : 1)
    frame.y_tick(power, power == 0 ? "1" : fmt::format("1e{}", power));
  const int step = std::max(1, (high - low + 5) / 6);
  for (int exponent = low; exponent <= high; exponent += step)
    frame.x_tick(exponent, number(std::ldexp(1.0, exponent)));
  std::vector<double> edges;
  for (int i = first; i <= last + 1; ++i) edges.push_back(std::log2(MagnitudeHistogram::edge(i)));
  const auto outline = [&](const MagnitudeHistogram& histogram) {
    const double total = double(std::max<uint64_t>(1, histogram.total()));
    std::vector<double> heights;
    for (int i = first; i <= last; ++i) {
      const uint64_t count = histogram.counts.empty() ? 0 : histogram.counts[size_t(i)];
      heights.push_back(count == 0 ? floor : std::log10(double(count) / total));
    }
    return steps(frame, edges, heights, floor);
  };
  frame.add("<path class=\"before\" d=\"" + outline(before) + "\"/>");
  frame.add("<path class=\"ours\" d=\"" + outline(after) + "\"/>");
  return frame.close();
}

std::string value_plot(const PlotText& text, const ValueHistogram& before, const ValueHistogram& after) {
  const double limit = before.limit > 0.0 && std::isfinite(before.limit) ? before.limit : 1.0;
  const auto shares = [](const ValueHistogram& histogram) {
    std::vector<double> heights(ValueHistogram::kBins);
    const double total = double(std::max<uint64_t>(1, histogram.total()));
    for (size_t i = 0; i < histogram.counts.size(); ++i) heights[i] = double(histogram.counts[i]) / total;
    return heights;
  };
  const std::vector<double> old_heights = shares(before), new_heights = shares(after);
  double top = 1e-12;
  for (size_t i = 0; i < old_heights.size(); ++i) top = std::max({top, old_heights[i], new_heights[i]});
  Frame frame(text, -limit, limit, 0.0, top * 1.05);
  frame.linear_y_ticks();
  const double step = nice_step(limit, 2);
  for (int i = int(-limit * 0.95 / step); i * step <= limit * 0.95; ++i)
    frame.x_tick(i * step, number(i * step));
  std::vector<double> edges;
  for (int i = 0; i <= ValueHistogram::kBins; ++i)
    edges.push_back(limit * (2.0 * i / ValueHistogram::kBins - 1.0));
  frame.add("<path class=\"before\" d=\"" + steps(frame, edges, old_heights, 0.0) + "\"/>");
  frame.add("<path class=\"ours\" d=\"" + steps(frame, edges, new_heights, 0.0) + "\"/>");
  return frame.close();
}

}  // namespace pare::report
