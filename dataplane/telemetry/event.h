// event.h: what happened to a message, as a fixed-size record on its way to the event log.
//
// Scope      One record per state change, in KumoMTA's field names once written. The shard only
//            copies text into the record; formatting is the log writer's work (event_log.h).
// Owns       Its text, inline. What does not fit is cut, never grown.
// Threading  Filled by its shard; read by the log writer after it was published.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"

#include <array>
#include <cstdint>
#include <string_view>

namespace dataplane::telemetry {

enum class EventType : std::uint8_t {
    reception,
    delivery,
    transient_failure,
    bounce,
    rejection,
    expiration,
    admin_bounce,
    delayed,
};
[[nodiscard]] std::string_view to_string(EventType type) noexcept; // "Reception", "Delivery", ...

enum class EventText : std::uint8_t {
    sender,
    recipient,
    queue,     // "tenant@domain", or the domain
    site,      // site name
    response,  // the reply's text, or the reason in our words
    command,   // the command that the response answers, "RCPT TO:<...>"
    peer_name, // host name of the MX, or the client's EHLO name
    egress_source,
    egress_pool,
    account,
    session,
    tls_version,
    tls_cipher,
    tls_group,  // of the key exchange
    tls_level,  // what was demanded: "may", "dane", ...
    tls_verify, // "ca", "dane-ee", "dane-ta", or why the certificate does not verify
    rules,      // screening rules hit, comma-separated
    dkim,       // "example.com/s1 esp.example/2026" signed it, or "none: " and why
    count
};

struct Event {
    EventType type = EventType::reception;
    std::uint64_t message_id = 0; // queue::MessageId::value, 0 when there is none
    base::WallTime time{};        // of this event
    base::WallTime created{};     // of the reception
    std::uint64_t size_bytes = 0;
    std::uint32_t attempts = 0;
    std::uint16_t code = 0;                  // SMTP reply code, 0 when there was none
    std::array<std::uint16_t, 3> enhanced{}; // RFC 3463, all 0 when absent
    base::SocketAddress peer{};              // port 0 when there is none
    base::SocketAddress source{};
    bool tls_resumed = false;
    bool inbound = false; // what was spoken towards us, not by us

    void set(EventText field, std::string_view value) noexcept;
    [[nodiscard]] std::string_view get(EventText field) const noexcept;
    void clear() noexcept;

private:
    static constexpr std::size_t text_bytes_max = 1024;
    std::array<std::uint16_t, static_cast<std::size_t>(EventText::count)> offset_{};
    std::array<std::uint16_t, static_cast<std::size_t>(EventText::count)> length_{};
    std::uint16_t used_ = 0;
    std::array<char, text_bytes_max> text_;
};

/// Where a shard's events go: the ring to the log writer, or a test's vector.
class EventSink {
public:
    virtual ~EventSink() = default;
    /// A blank record to fill, or nullptr when the ring is full (counted). publish() hands it over;
    /// exactly one publish() follows each claim() that gave a record.
    [[nodiscard]] virtual Event* claim() noexcept = 0;
    virtual void publish() noexcept = 0;
};

} // namespace dataplane::telemetry
