// log.h: the daemon's own log: one line per fact, logfmt, to standard error.
//
// Scope      Start-up, shutdown, swaps, and what a shard found slow. Never anything per message: that is
//            the event log's business.
// Threading  log_line(): any thread that may block. ShardLog::note(): its shard; drain(): main.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/spsc_ring.h"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace dataplane::daemon {

struct LogField {
    std::string_view key;
    std::string value;
};

enum class LogLevel : std::uint8_t { info, warning, error };

/// "time=2026-01-01T00:00:00.000Z level=info event=listening address=127.0.0.1:587"
void log_line(LogLevel level, std::string_view event, std::initializer_list<LogField> fields);

/// Facts that a shard has for the log; main formats and writes them. A full ring drops the newest.
class ShardLog {
public:
    struct Note {
        LogLevel level = LogLevel::info;
        std::array<char, 32> event{};
        std::array<char, 192> text{};
    };
    explicit ShardLog(unsigned shard) : shard_(shard), ring_(256) {}
    void note(LogLevel level, std::string_view event, std::string_view text) noexcept;
    void drain();

private:
    unsigned shard_;
    base::SpscRing<Note> ring_;
};

} // namespace dataplane::daemon
