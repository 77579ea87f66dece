// plot.h: line charts and histograms as SVG text that needs nothing from outside.
//
// Scope      Values to markup. Colours come from the page's style sheet by class (s0, s1 ...), so that
//            light and dark are its business.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dataplane::loadgen {

struct Line {
    std::string name;
    std::vector<double> values; // one for each x; NaN leaves a gap
};

struct Chart {
    std::string title;
    std::string x_label, y_label;
    std::vector<double> x;
    std::vector<Line> lines;
    bool log_y = false;
    bool dots = false;                   // a mark for each value in place of a line through them
    double shade_from = 0, shade_to = 0; // x range that is marked; equal: none
};

struct Bar {
    double from = 0, to = 0; // on a logarithmic axis: above 0
    double count = 0;
};
struct BarChart {
    std::string title;
    std::string x_label, y_label;
    std::vector<Bar> bars;
    std::vector<std::pair<std::string, double>> marks; // named values on the x axis
};

/// A chart without a value to draw says so in its place.
[[nodiscard]] std::string draw(const Chart& chart);
[[nodiscard]] std::string draw(const BarChart& chart);
/// For text and attributes of HTML and SVG alike; what XML forbids is dropped.
[[nodiscard]] std::string escaped(std::string_view text);

} // namespace dataplane::loadgen
