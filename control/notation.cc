#include "control/notation.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <utility>
#include <vector>

namespace control {
namespace {

std::string_view trimmed(std::string_view text) {
    while (!text.empty() && text.front() == ' ')
        text.remove_prefix(1);
    while (!text.empty() && text.back() == ' ')
        text.remove_suffix(1);
    return text;
}

/// Takes digits, with "," between thousands allowed, off the front.
bool take_number(std::string_view& text, std::uint64_t& value) {
    value = 0;
    std::size_t used = 0;
    for (; used < text.size(); ++used) {
        if (text[used] == ',' && used > 0) continue;
        if (text[used] < '0' || text[used] > '9') break;
        if (value > 1'000'000'000'000'000ULL) return false; // no setting has more digits
        value = value * 10 + static_cast<std::uint64_t>(text[used] - '0');
    }
    if (used == 0 || text[used - 1] == ',') return false;
    text.remove_prefix(used);
    return true;
}

std::string_view take_letters(std::string_view& text) {
    std::size_t used = 0;
    while (used < text.size() && std::isalpha(static_cast<unsigned char>(text[used])) != 0)
        ++used;
    const std::string_view letters = text.substr(0, used);
    text.remove_prefix(used);
    return letters;
}

std::uint64_t seconds_of(std::string_view unit) {
    struct Unit {
        std::string_view name;
        std::uint64_t seconds;
    };
    static constexpr std::array<Unit, 18> units{{{"s", 1},
                                                 {"sec", 1},
                                                 {"secs", 1},
                                                 {"second", 1},
                                                 {"seconds", 1},
                                                 {"m", 60},
                                                 {"min", 60},
                                                 {"mins", 60},
                                                 {"minute", 60},
                                                 {"minutes", 60},
                                                 {"h", 3600},
                                                 {"hr", 3600},
                                                 {"hour", 3600},
                                                 {"hours", 3600},
                                                 {"d", 86400},
                                                 {"day", 86400},
                                                 {"days", 86400},
                                                 {"hrs", 3600}}};
    const auto found = std::find_if(units.begin(), units.end(),
                                    [&](const Unit& each) { return each.name == unit; });
    return found == units.end() ? 0 : found->seconds;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::size_t> row(b.size() + 1);
    for (std::size_t j = 0; j <= b.size(); ++j)
        row[j] = j;
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return row[b.size()];
}

} // namespace

bool parse_duration(std::string_view text, std::uint64_t& seconds) {
    seconds = 0;
    text = trimmed(text);
    if (text.empty()) return false;
    while (!text.empty()) {
        std::uint64_t count = 0;
        if (!take_number(text, count)) return false;
        text = trimmed(text);
        const std::uint64_t unit = seconds_of(take_letters(text));
        if (unit == 0 || count > 1'000'000'000) return false;
        seconds += count * unit;
        if (seconds > 1'000'000'000'000ULL) return false;
        text = trimmed(text);
    }
    return true;
}

bool parse_size(std::string_view text, std::uint64_t& bytes) {
    static constexpr std::array<std::pair<std::string_view, unsigned>, 5> units{
        {{"B", 0}, {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}}};
    text = trimmed(text);
    std::uint64_t count = 0;
    if (!take_number(text, count)) return false;
    text = trimmed(text);
    for (const auto& [name, shift] : units) {
        if (text != name) continue;
        if (count > (std::numeric_limits<std::uint64_t>::max() >> 1 >> shift)) return false;
        bytes = count << shift;
        return true;
    }
    return false;
}

bool parse_rate(std::string_view text, double& per_second) {
    text = trimmed(text);
    std::uint64_t count = 0;
    if (!take_number(text, count)) return false;
    text = trimmed(text);
    if (text.empty() || text.front() != '/') return false;
    text = trimmed(text.substr(1));
    const std::uint64_t unit = seconds_of(text);
    if (unit == 0) return false;
    per_second = static_cast<double>(count) / static_cast<double>(unit);
    return true;
}

bool is_host_name(std::string_view text) noexcept {
    if (text.empty() || text.size() > 253) return false;
    std::size_t label = 0;
    for (const char byte : text) {
        if (byte == '.') {
            if (label == 0) return false;
            label = 0;
            continue;
        }
        const bool allowed = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
                             (byte >= '0' && byte <= '9') || byte == '-' || byte == '_';
        if (!allowed || ++label > 63) return false;
    }
    return label != 0;
}

bool parse_port(std::string_view text, std::uint16_t& port) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    return error == std::errc{} && end == text.data() + text.size() && port != 0;
}

bool is_name(std::string_view text) noexcept {
    return !text.empty() && text.size() <= name_bytes_max &&
           std::all_of(text.begin(), text.end(), [](char byte) {
               return std::isalnum(static_cast<unsigned char>(byte)) != 0 || byte == '-' ||
                      byte == '_' || byte == '.';
           });
}

bool is_printable(std::string_view text) noexcept {
    return std::all_of(text.begin(), text.end(),
                       [](char byte) { return byte >= ' ' && byte <= '~'; });
}

std::string normal_device(std::string_view text) {
    constexpr std::size_t device_name_bytes_max = 63; // DPDK's RTE_DEV_NAME_MAX_LEN, less its NUL
    const std::string_view name = text.substr(0, text.find(','));
    const std::string_view arguments = text.substr(name.size());
    if (arguments == "," || !is_printable(arguments) || arguments.contains(' ')) return "";
    if (constexpr std::string_view prefix = "net_"; name.starts_with(prefix)) {
        const bool plain = std::all_of(name.begin(), name.end(), [](char byte) {
            return (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') || byte == '_';
        });
        return plain && name.size() > prefix.size() && name.size() <= device_name_bytes_max
                   ? std::string{text}
                   : "";
    }
    // DOMAIN:BUS:DEVICE.FUNCTION, each digit hexadecimal but the last, which is at most 7.
    constexpr std::string_view shape = "hhhh:hh:hh.f", domain = "0000:";
    std::string address{name};
    if (address.size() == shape.size() - domain.size()) address.insert(0, domain);
    if (address.size() != shape.size()) return "";
    for (std::size_t at = 0; at < shape.size(); ++at) {
        const char byte = address[at];
        const bool fits = shape[at] == 'h'   ? std::isxdigit(static_cast<unsigned char>(byte)) != 0
                          : shape[at] == 'f' ? byte >= '0' && byte <= '7'
                                             : byte == shape[at];
        if (!fits) return "";
    }
    return lower(address) + std::string{arguments};
}

std::string lower(std::string_view text) {
    std::string result{text};
    for (char& byte : result) {
        if (byte >= 'A' && byte <= 'Z') byte = static_cast<char>(byte - 'A' + 'a');
    }
    return result;
}

std::string in_quotes(std::string_view text) {
    std::string result = "\"";
    for (const char byte : text.substr(0, 80))
        result += byte == '"' ? '\'' : byte >= ' ' && byte <= '~' ? byte : '?';
    return result + (text.size() > 80 ? "...\"" : "\"");
}

std::string_view nearest(std::string_view word, std::span<const std::string_view> known) {
    std::string_view best;
    std::size_t best_distance = std::max<std::size_t>(2, word.size() / 3) + 1;
    if (word.size() > name_bytes_max) return best; // the distance costs the product of both lengths
    for (const std::string_view each : known) {
        const std::size_t distance = edit_distance(word, each);
        if (distance < best_distance) {
            best = each;
            best_distance = distance;
        }
    }
    return best;
}

} // namespace control
