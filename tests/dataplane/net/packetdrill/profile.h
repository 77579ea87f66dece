// profile.h: what a script asks of its surroundings, as options of a Stack.
//
// Scope      `--name=value` lines, sysctl lines, setsockopt() calls whose setting is the whole stack's
//            here, and lines of our own: `: millrace time_wait=1s` (which a shell does nothing with).
// Threading  None.
// Failure    What is not known is not an error: it is left out with a note.
#pragma once

#include "dataplane/net/stack/stack.h"
#include "tests/dataplane/net/packetdrill/script.h"

#include <string>
#include <string_view>
#include <vector>

namespace tests::packetdrill {

namespace net = dataplane::net;

struct Profile {
    net::stack::StackOptions stack;
    std::uint16_t mtu = 1500;
    bool ipv6 = false;
    bool nagle = false; // what a socket without TCP_NODELAY does; the stack itself has no Nagle
    base::Duration tolerance = std::chrono::milliseconds{4};
    double tolerance_percent = 12.5; // of the time since the event before
    base::Duration timestamp_tick{}; // zero: TSval is not compared
    std::vector<std::string> notes;
};

/// Reads everything in the script that comes before its first packet, and all setsockopt() calls.
[[nodiscard]] Profile profile_of(const Script& script);

/// From settings of our own alone: "time_wait=1s delayed_ack_max=20ms", blanks or commas between.
[[nodiscard]] Profile profile_of_settings(std::string_view settings);

/// What scripts that were written for Linux take for granted and RFCs leave open: no pacing, ECN only when asked,
/// ACKs delayed by 40 ms, Nagle, no keepalive, a reset at once for what comes after close(). Then `settings`.
[[nodiscard]] Profile linux_profile(std::string_view settings);

/// The number of a symbol, or of several joined by '|'; nullopt when one is not known.
[[nodiscard]] std::optional<std::int64_t> number_of_symbol(std::string_view symbol);
[[nodiscard]] std::string errno_name(int error);

// The two ends of every script.
[[nodiscard]] base::IpAddress local_ip(bool ipv6);
[[nodiscard]] base::IpAddress remote_ip(bool ipv6);
inline constexpr std::uint16_t service_port = 8080;
[[nodiscard]] net::ip::LayerOptions layer_options(std::uint16_t mtu);

} // namespace tests::packetdrill
