// outcome.h: how far a delivery came, and what ended it.
#pragma once

#include "dataplane/base/stream.h"
#include "dataplane/smtp/reply_parser.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace dataplane::smtp {

/// How far a delivery came.
enum class Stage : std::uint8_t {
    route, // finding the hosts: DNS
    connect,
    greeting,
    hello,
    starttls, // the command and the handshake
    mail,
    rcpt,
    data,     // DATA, or a BDAT that was refused as a command
    body,     // the content on its way, before its last byte
    last_dot, // all was sent: an answer here is about the message, silence may mean "accepted"
};
/// The command that an answer at this stage belongs to; "" before the greeting.
[[nodiscard]] std::string_view to_string(Stage stage) noexcept;

enum class Cause : std::uint8_t {
    reply,    // the peer's answer, in `code`
    network,  // the connection: see `net`
    protocol, // an answer that makes no sense
    tls,
    local, // ours, without asking the peer; `code` is what a peer would have said
};

struct Outcome {
    Stage stage = Stage::mail;
    Cause cause = Cause::reply;
    std::uint16_t code = 0; // 0 while there is no answer, and without one
    base::NetError net{};   // only with Cause::network
    EnhancedCode enhanced;
    std::string text;

    /// A 2xx or 3xx, or no answer so far.
    [[nodiscard]] bool refused() const noexcept { return cause != Cause::reply || code >= 400; }
    [[nodiscard]] bool positive() const noexcept {
        return cause == Cause::reply && code / 100 == 2;
    }
    /// For people: "550 5.1.1 no such user", or the reason in our words.
    [[nodiscard]] std::string to_string() const;
};

} // namespace dataplane::smtp
