#include "control/event_search.h"

#include <algorithm>
#include <cctype>
#include <fstream>

namespace control {
namespace {

constexpr std::size_t part_bytes = 1U << 20;

} // namespace

bool is_message_id(std::string_view text) noexcept {
    return text.size() == 16 && std::all_of(text.begin(), text.end(), [](char byte) {
               return std::isxdigit(static_cast<unsigned char>(byte)) != 0;
           });
}

std::expected<std::vector<std::string>, std::string> find_events(const std::string& log_file,
                                                                 std::string_view message_id) {
    std::ifstream stream(log_file, std::ios::binary | std::ios::ate);
    if (!stream) return std::unexpected(log_file + " cannot be read");
    const auto bytes = static_cast<std::uint64_t>(stream.tellg());
    const std::uint64_t start = bytes > searched_bytes_max ? bytes - searched_bytes_max : 0;
    stream.seekg(static_cast<std::streamoff>(start));

    const std::string needle = "\"id\":\"" + std::string{message_id} + "\"";
    std::vector<std::string> lines;
    std::string text;             // the unfinished line of the part before, then the next part
    bool whole_line = start == 0; // otherwise the first one began before the search
    std::string part(part_bytes, '\0');
    while (stream.read(part.data(), static_cast<std::streamsize>(part.size())),
           stream.gcount() > 0) {
        text.append(part.data(), static_cast<std::size_t>(stream.gcount()));
        std::size_t from = 0;
        if (!whole_line) {
            from = text.find('\n');
            if (from == std::string::npos) continue;
            ++from;
            whole_line = true;
        }
        const std::size_t end = text.rfind('\n');
        if (end == std::string::npos || end < from) continue;
        // Looks for the id, not for lines: most lines are somebody else's.
        for (std::size_t at = text.find(needle, from); at < end; at = text.find(needle, at)) {
            const std::size_t first = text.rfind('\n', at) + 1; // npos + 1 is 0
            const std::size_t last = text.find('\n', at);
            if (lines.size() < found_lines_max) lines.push_back(text.substr(first, last - first));
            at = last;
        }
        text.erase(0, end + 1);
    }
    return lines;
}

} // namespace control
