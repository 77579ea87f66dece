// limits.h: the bounds of the measuring tool.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace dataplane::loadgen {

inline constexpr std::string_view bench_version = "0.1.0";

inline constexpr std::size_t connections_max = 20'000; // one thread's descriptors
inline constexpr std::size_t recipients_max = 1'000;   // of one message
inline constexpr std::size_t message_bytes_min = 512;  // the header we write needs this much
inline constexpr std::size_t message_bytes_max = 64UL
                                                 << 20; // one message is held whole, per connection
inline constexpr std::size_t header_bytes_max = 64UL
                                                << 10;   // of a message that came back to the sink
inline constexpr std::size_t line_bytes_max = 4'096;     // commands, and replies with long texts
inline constexpr std::size_t reply_lines_max = 64;       // ours: ends an endless multi-line reply
inline constexpr std::size_t reply_text_bytes_max = 120; // of a reply, as kept in the ledger
inline constexpr std::size_t greylist_entries_max = 4'000'000; // beyond: nobody new is greylisted
inline constexpr std::size_t named_examples_max = 5; // sequence numbers an audit names per fault

} // namespace dataplane::loadgen
