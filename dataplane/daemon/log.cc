#include "dataplane/daemon/log.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>

namespace dataplane::daemon {
namespace {

std::string_view to_string(LogLevel level) noexcept {
    switch (level) {
    case LogLevel::info:
        return "info";
    case LogLevel::warning:
        return "warning";
    case LogLevel::error:
        return "error";
    }
    return "error";
}

bool needs_quotes(std::string_view value) noexcept {
    return value.empty() || std::any_of(value.begin(), value.end(), [](char c) {
               return c == '"' || c == '=' || c == '\\' || static_cast<unsigned char>(c) <= ' ' ||
                      c == 0x7f;
           });
}

void append_value(std::string_view value, std::string& line) {
    if (!needs_quotes(value)) {
        line += value;
        return;
    }
    line += '"';
    for (const char c : value) {
        if (c == '"' || c == '\\') line += '\\';
        line += static_cast<unsigned char>(c) < ' ' || c == 0x7f ? ' ' : c;
    }
    line += '"';
}

template <std::size_t size>
void copy_text(std::string_view text, std::array<char, size>& out) noexcept {
    const std::size_t bytes = std::min(text.size(), size - 1);
    std::copy_n(text.data(), bytes, out.data());
    out[bytes] = '\0';
}

} // namespace

void log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
    const auto now =
        std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
    const std::int64_t ms = now.time_since_epoch().count();
    const auto seconds = static_cast<std::time_t>(ms / 1000);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    std::array<char, 40> time{};
    const std::size_t length = std::strftime(time.data(), time.size(), "%Y-%m-%dT%H:%M:%S", &parts);
    std::snprintf(time.data() + length, time.size() - length, ".%03dZ",
                  static_cast<int>(ms % 1000));
    std::string line = "time=";
    line += time.data();
    line += " level=";
    line += to_string(level);
    line += " event=";
    line += event;
    for (const LogField& field : fields) {
        line += ' ';
        line += field.key;
        line += '=';
        append_value(field.value, line);
    }
    line += '\n';
    std::fputs(line.c_str(), stderr);
}

void ShardLog::note(LogLevel level, std::string_view event, std::string_view text) noexcept {
    Note* note = ring_.claim();
    if (note == nullptr) return;
    note->level = level;
    copy_text(event, note->event);
    copy_text(text, note->text);
    ring_.publish();
}

void ShardLog::drain() {
    while (const Note* note = ring_.front()) {
        log_line(note->level, note->event.data(),
                 {{"shard", std::to_string(shard_)}, {"text", note->text.data()}});
        ring_.release();
    }
}

} // namespace dataplane::daemon
