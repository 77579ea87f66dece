#include "dataplane/loadgen/ledger.h"

#include "dataplane/base/check.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

constexpr std::array<std::string_view, 4> outcome_names{"accepted", "transient", "permanent",
                                                        "unknown"};

/// Cuts the next word off the front; empty at the end.
std::string_view next_word(std::string_view& rest) noexcept {
    const std::size_t space = rest.find(' ');
    const std::string_view word = rest.substr(0, space);
    rest.remove_prefix(space == std::string_view::npos ? rest.size() : space + 1);
    return word;
}

template <class Number>
bool read_number(std::string_view word, Number& value) noexcept {
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    return error == std::errc{} && end == word.data() + word.size() && !word.empty();
}

} // namespace

std::string_view to_string(Outcome outcome) noexcept {
    return outcome_names[static_cast<std::size_t>(outcome)];
}

std::string to_text(const SourceLine& line) {
    std::string text = std::to_string(line.sequence);
    text += ' ';
    text += to_string(line.outcome);
    text += ' ';
    text += std::to_string(line.time_us);
    text += ' ';
    text += std::to_string(line.recipients);
    text += ' ';
    text += line.run;
    text += ' ';
    text += line.reply;
    return text;
}

std::string to_text(const SinkLine& line) {
    std::string text = std::to_string(line.sequence);
    text += line.altered ? " altered " : " whole ";
    text += std::to_string(line.time_us);
    text += ' ';
    text += line.recipient;
    text += ' ';
    text += line.run;
    return text;
}

std::optional<SourceLine> parse_source_line(std::string_view text) {
    if (text.empty() || text.front() == '#') return std::nullopt;
    SourceLine line;
    if (!read_number(next_word(text), line.sequence)) return std::nullopt;
    const std::string_view outcome = next_word(text);
    std::size_t index = 0;
    while (index < outcome_names.size() && outcome_names[index] != outcome)
        ++index;
    if (index == outcome_names.size()) return std::nullopt;
    line.outcome = static_cast<Outcome>(index);
    if (!read_number(next_word(text), line.time_us)) return std::nullopt;
    if (!read_number(next_word(text), line.recipients)) return std::nullopt;
    line.run = next_word(text);
    if (line.run.empty()) return std::nullopt;
    line.reply = text;
    return line;
}

std::optional<SinkLine> parse_sink_line(std::string_view text) {
    if (text.empty() || text.front() == '#') return std::nullopt;
    SinkLine line;
    if (!read_number(next_word(text), line.sequence)) return std::nullopt;
    const std::string_view state = next_word(text);
    if (state != "whole" && state != "altered") return std::nullopt;
    line.altered = state == "altered";
    if (!read_number(next_word(text), line.time_us)) return std::nullopt;
    line.recipient = next_word(text);
    line.run = next_word(text);
    if (line.recipient.empty() || line.run.empty()) return std::nullopt;
    return line;
}

LedgerWriter::LedgerWriter(base::Loop& loop, const std::string& path)
    : loop_(loop),
      descriptor_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), path);
}

LedgerWriter::~LedgerWriter() {
    turn_end();
    ::close(descriptor_);
}

void LedgerWriter::turn_end() noexcept {
    std::string_view left = staged_;
    while (!left.empty()) {
        const ssize_t written = ::write(descriptor_, left.data(), left.size());
        if (written < 0 && errno == EINTR) continue;
        CHECK(written > 0); // a ledger with holes would prove nothing
        left.remove_prefix(static_cast<std::size_t>(written));
    }
    staged_.clear();
}

} // namespace dataplane::loadgen
