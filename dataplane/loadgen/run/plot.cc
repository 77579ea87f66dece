#include "dataplane/loadgen/run/plot.h"

#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace dataplane::loadgen {
namespace {

constexpr double width = 720, height = 260;
constexpr double left = 66, right = 14, top = 34, bottom = 44;
constexpr std::size_t colours = 6; // classes of the style sheet

std::string number(double value) {
    std::array<char, 32> digits{};
    std::snprintf(digits.data(), digits.size(), "%.1f", value);
    return digits.data();
}

/// One axis: from values to pixels, and where its ticks are.
class Axis {
public:
    /// \param round_up  whether a linear axis ends at a tick
    Axis(double least, double most, double from, double to, bool log, bool round_up = true)
        : from_(from), to_(to), log_(log) {
        if (log_) {
            least_ = std::floor(std::log10(least));
            most_ = std::max(least_ + 1, std::ceil(std::log10(most)));
            for (double power = least_; power <= most_; ++power)
                ticks_.push_back(std::pow(10, power));
            return;
        }
        if (!(most > least)) most = least + 1;
        const double raw = (most - least) / 5;
        const double size = std::pow(10, std::floor(std::log10(raw)));
        const double step = raw / size <= 1   ? size
                            : raw / size <= 2 ? 2 * size
                            : raw / size <= 5 ? 5 * size
                                              : 10 * size;
        least_ = least;
        most_ = round_up ? std::ceil(most / step) * step : most;
        for (double tick = std::ceil(least / step) * step; tick <= most_ + step / 2; tick += step)
            ticks_.push_back(tick);
    }
    [[nodiscard]] double at(double value) const {
        const double place = log_ ? std::log10(value) : value;
        return from_ + (place - least_) / (most_ - least_) * (to_ - from_);
    }
    [[nodiscard]] const std::vector<double>& ticks() const noexcept { return ticks_; }

private:
    double least_ = 0, most_ = 1, from_, to_;
    bool log_;
    std::vector<double> ticks_;
};

std::string text_at(double x, double y, std::string_view anchor, std::string_view text,
                    std::string_view extra = "") {
    return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" +
           std::string(anchor) + "\"" + std::string(extra) + ">" + escaped(text) + "</text>";
}

std::string tick_text(double value) {
    return value == 0 ? "0" : std::abs(value) >= 1e6 ? shown(value / 1e6) + "M" : shown(value);
}

std::string frame(std::string_view title, std::string_view x_label, std::string_view y_label) {
    std::string svg = "<svg viewBox=\"0 0 " + number(width) + " " + number(height) +
                      "\" role=\"img\" aria-label=\"" + escaped(title) + "\">";
    svg += text_at(left, 18, "start", title, " class=\"title\"");
    svg += text_at((left + width - right) / 2, height - 6, "middle", x_label);
    const std::string middle = number((top + height - bottom) / 2);
    svg += text_at(14, (top + height - bottom) / 2, "middle", y_label,
                   " transform=\"rotate(-90 14 " + middle + ")\"");
    return svg;
}

std::string grid(const Axis& x, const Axis& y) {
    std::string svg;
    for (const double tick : y.ticks()) {
        const std::string at = number(y.at(tick));
        svg += "<path class=\"grid\" d=\"M" + number(left) + " " + at + "H" +
               number(width - right) + "\"/>";
        svg += text_at(left - 6, y.at(tick) + 4, "end", tick_text(tick));
    }
    for (const double tick : x.ticks()) {
        if (x.at(tick) > width - right + 1) continue;
        svg += "<path class=\"grid\" d=\"M" + number(x.at(tick)) + " " + number(top) + "V" +
               number(height - bottom) + "\"/>";
        svg += text_at(x.at(tick), height - bottom + 16, "middle", tick_text(tick));
    }
    return svg;
}

std::string nothing(std::string svg) {
    return svg + text_at(width / 2, height / 2, "middle", "nothing was recorded") + "</svg>";
}

} // namespace

std::string escaped(std::string_view text) {
    std::string safe;
    for (const char c : text) {
        switch (c) {
        case '<':
            safe += "&lt;";
            break;
        case '>':
            safe += "&gt;";
            break;
        case '&':
            safe += "&amp;";
            break;
        case '"':
            safe += "&quot;";
            break;
        default:
            if (static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t') safe += c;
        }
    }
    return safe;
}

std::string draw(const Chart& chart) {
    std::string svg = frame(chart.title, chart.x_label, chart.y_label);
    double least = std::numeric_limits<double>::max(), most = 0;
    for (const Line& line : chart.lines) {
        for (const double value : line.values) {
            if (!std::isfinite(value) || (chart.log_y && value <= 0)) continue;
            least = std::min(least, value);
            most = std::max(most, value);
        }
    }
    if (chart.x.empty() || least > most) return nothing(std::move(svg));
    const Axis x(0, chart.x.back(), left, width - right, false, false);
    const Axis y(chart.log_y ? least : 0, most, height - bottom, top, chart.log_y);
    if (chart.shade_to > chart.shade_from) {
        svg += "<rect class=\"shade\" x=\"" + number(x.at(chart.shade_from)) + "\" y=\"" +
               number(top) + "\" width=\"" + number(x.at(chart.shade_to) - x.at(chart.shade_from)) +
               "\" height=\"" + number(height - bottom - top) + "\"/>";
    }
    svg += grid(x, y);
    double legend = width - right;
    for (std::size_t i = chart.lines.size(); i-- > 0;) { // right to left above the plot
        const Line& line = chart.lines[i];
        const std::string colour = "s" + std::to_string(i % colours);
        std::string path;
        bool pen_down = false;
        for (std::size_t k = 0; k < line.values.size() && k < chart.x.size(); ++k) {
            const double value = line.values[k];
            if (!std::isfinite(value) || (chart.log_y && value <= 0)) {
                pen_down = false;
                continue;
            }
            if (chart.dots) {
                svg += "<circle class=\"dot " + colour + "\" cx=\"" + number(x.at(chart.x[k])) +
                       "\" cy=\"" + number(y.at(value)) + "\" r=\"4\"/>";
                continue;
            }
            path += (pen_down ? "L" : "M") + number(x.at(chart.x[k])) + " " + number(y.at(value));
            if (!pen_down) path += "h0.1"; // a single point shows too
            pen_down = true;
        }
        svg += "<path class=\"line " + colour + "\" d=\"" + path + "\"><title>" +
               escaped(line.name) + "</title></path>";
        svg += text_at(legend, 18, "end", line.name, " class=\"legend " + colour + "\"");
        legend -= 12 + 6.6 * static_cast<double>(line.name.size());
    }
    return svg + "</svg>";
}

std::string draw(const BarChart& chart) {
    std::string svg = frame(chart.title, chart.x_label, chart.y_label);
    double least = std::numeric_limits<double>::max(), most = 0, highest = 0;
    for (const Bar& bar : chart.bars) {
        if (bar.count <= 0 || bar.from <= 0) continue;
        least = std::min(least, bar.from);
        most = std::max(most, bar.to);
        highest = std::max(highest, bar.count);
    }
    if (highest == 0) return nothing(std::move(svg));
    const Axis x(least, most, left, width - right, true);
    const Axis y(0, highest, height - bottom, top, false);
    svg += grid(x, y);
    for (const Bar& bar : chart.bars) {
        if (bar.count <= 0 || bar.from <= 0) continue;
        const double from = x.at(bar.from);
        svg += "<rect class=\"bar\" x=\"" + number(from) + "\" y=\"" + number(y.at(bar.count)) +
               "\" width=\"" + number(std::max(0.8, x.at(bar.to) - from - 0.4)) + "\" height=\"" +
               number(std::max(0.5, height - bottom - y.at(bar.count))) + "\"><title>" +
               shown(bar.from) + " to " + shown(bar.to) + ": " + shown(bar.count) +
               "</title></rect>";
    }
    double row = top + 10;
    for (const auto& [name, value] : chart.marks) {
        if (value < least || value > most * 1.01) continue;
        const double at = x.at(value);
        svg += "<path class=\"mark\" d=\"M" + number(at) + " " + number(top) + "V" +
               number(height - bottom) + "\"/>";
        svg += text_at(at - 4, row, "end", name);
        row += 14;
    }
    return svg + "</svg>";
}

} // namespace dataplane::loadgen
