// event_search.h: what happened to one message, from the event log.
//
// Scope      The lines of the newest part of the log that carry a message id. The log is written by
//            millraced (dataplane/telemetry/event_log.h) and rotated by the operator: rotated files
//            are not searched.
// Threading  Any; reads a file.
// Failure    A file that cannot be read is a sentence.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace control {

inline constexpr std::uint64_t searched_bytes_max =
    1ULL << 30; // from the end; a second on an ordinary disk
inline constexpr std::size_t found_lines_max = 10'000;

/// 16 hex digits.
[[nodiscard]] bool is_message_id(std::string_view text) noexcept;

/// The matching lines, oldest first, as they stand in the log.
[[nodiscard]] std::expected<std::vector<std::string>, std::string>
find_events(const std::string& log_file, std::string_view message_id);

} // namespace control
