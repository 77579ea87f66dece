// script.h: a packetdrill script as a value: what the parser makes and the executor plays.
//
// Scope      The subset that google's and nplab's packetdrill share for TCP: times, segments, ICMP
//            errors, system calls, shell lines. Numbers are the script's own (relative sequence
//            numbers); the executor maps them to those on the wire.
// Owns       Its strings and vectors.
// Threading  None; values.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/segment.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tests::packetdrill {

namespace base = dataplane::base;
namespace tcp = dataplane::net::tcp;

/// When an event happens. `+.1` counts from the event before, `0.2` from the script's beginning.
struct EventTime {
    enum class Kind : std::uint8_t { absolute, relative, any };
    Kind kind = Kind::relative;
    base::Duration begin{};
    std::optional<base::Duration> end; // of `0.1~0.3` and `0.1...0.2`
    bool blocking = false;             // `...`: a system call that returns at `end`
};

struct TcpOption {
    enum class Kind : std::uint8_t {
        end_of_list,
        nop,
        mss,
        window_scale,
        sack_permitted,
        sack,
        timestamps,
        raw, // ours: `raw 0204ff`, for options that no other word can say
    };
    Kind kind = Kind::nop;
    std::uint32_t value = 0; // mss, shift, TSval
    std::uint32_t echo = 0;  // TSecr
    bool any_value = false;  // `TS val ... ecr 5`: not compared
    bool any_echo = false;
    std::vector<std::pair<std::uint32_t, std::uint32_t>> blocks; // of sack
    std::vector<std::byte> bytes;                                // of raw
    friend bool operator==(const TcpOption&, const TcpOption&) = default;
};
using TcpOptions = std::vector<TcpOption>;

/// `[ect01]` is either of ect0 and ect1.
enum class EcnWish : std::uint8_t { not_ect, ect0, ect1, ect01, ce };

struct TcpPacket {
    std::uint8_t flags = 0;
    std::uint32_t seq = 0;
    std::uint32_t payload_bytes = 0;
    std::optional<std::uint32_t> ack;    // nullopt without the ACK flag
    std::optional<std::uint16_t> window; // nullopt: not compared; inbound: a large one
    std::uint16_t urgent = 0;
    std::optional<TcpOptions> options; // nullopt for `<...>`: not compared
    std::optional<EcnWish> ecn;        // nullopt: not compared; inbound: not-ECT
};

struct IcmpPacket {
    std::uint8_t type = 0;
    std::uint8_t code = 0;
    std::string name; // as the script wrote it
    std::uint32_t mtu = 0;
    std::optional<std::pair<std::uint32_t, std::uint32_t>> quoted; // first seq, payload bytes
};

struct Packet {
    bool inbound = false; // `<`: towards the stack
    std::variant<TcpPacket, IcmpPacket> what;
};

/// One argument of a system call, or its result.
struct Value {
    enum class Kind : std::uint8_t {
        ellipsis,  // ...
        integer,   // 7, 0x2, -1
        text,      // "..."
        symbol,    // O_RDWR, A|B
        list,      // [1, 2]
        structure, // {fd=3, events=POLLIN}
        call,      // htons(8080)
    };
    Kind kind = Kind::ellipsis;
    std::int64_t number = 0;
    std::string text;               // of text and symbol; a call's or field's function name
    std::vector<std::string> names; // of a structure's fields; empty where a field has none
    std::vector<Value> items;
};

struct Syscall {
    std::string name;
    std::vector<Value> arguments;
    Value result;
    std::string error; // "EINPROGRESS"; empty when none is expected
};

struct Command { // `sysctl -q net.ipv4.tcp_sack=0`
    std::string text;
};

struct Code { // %{ assert tcpi_... }%, which is not played
    std::string text;
};

struct Event {
    unsigned line = 0;
    EventTime time;
    std::variant<Packet, Syscall, Command, Code> what;
};

struct Script {
    std::string file;
    std::vector<std::pair<std::string, std::string>> options; // --name=value
    std::vector<Event> events;
};

} // namespace tests::packetdrill
