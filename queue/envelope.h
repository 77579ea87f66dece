// envelope.h: who sent a message, to whom, and what the client asked for.
//
// Scope      The SMTP envelope with its DSN parameters (RFC 3461), and the relay's own facts about the
//            submission. Addresses are kept as the client wrote them, without the angle brackets.
//            The bytes on disk are codec.h's business.
// Owns       All its text in one buffer, and the recipients in one vector; clear() keeps both, so a
//            recycled Envelope does not allocate.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace queue {

namespace base = dataplane::base;

enum class BodyKind : std::uint8_t {
    seven_bit = 0,
    eight_bit_mime = 1,
    binary_mime = 2
};                                                                              // RFC 6152, 3030
enum class DsnReturn : std::uint8_t { unspecified = 0, full = 1, headers = 2 }; // RFC 3461 §4.3

/// RFC 3461 §4.1, bits; 0 means the parameter was absent (then failure, and delay if we like).
enum Notify : std::uint8_t {
    notify_absent = 0,
    notify_never = 1,
    notify_success = 2,
    notify_failure = 4,
    notify_delay = 8,
};

class Envelope {
public:
    struct Recipient {
        std::string_view address; // "local@domain"
        std::string_view orcpt;   // "rfc822;xtext" as received, or empty
        std::uint8_t notify = notify_absent;
    };

    void clear() noexcept;

    // Text fields: the view is copied in; what a getter returns lives until the next set or clear.
    void set_sender(std::string_view address) {
        sender_ = store(address);
    } // "" is the null reverse-path
    void set_envid(std::string_view xtext) { envid_ = store(xtext); }
    void set_account(std::string_view name) { account_ = store(name); }
    void set_tenant(std::string_view name) { tenant_ = store(name); }
    void set_campaign(std::string_view name) { campaign_ = store(name); }
    void set_source(std::string_view pool) { source_ = store(pool); } // egress source or pool name
    void set_session(std::string_view id) { session_ = store(id); }
    void add_recipient(std::string_view address, std::string_view orcpt, std::uint8_t notify);

    [[nodiscard]] std::string_view sender() const noexcept { return text(sender_); }
    [[nodiscard]] std::string_view envid() const noexcept { return text(envid_); }
    [[nodiscard]] std::string_view account() const noexcept { return text(account_); }
    [[nodiscard]] std::string_view tenant() const noexcept { return text(tenant_); }
    [[nodiscard]] std::string_view campaign() const noexcept { return text(campaign_); }
    [[nodiscard]] std::string_view source() const noexcept { return text(source_); }
    [[nodiscard]] std::string_view session() const noexcept { return text(session_); }
    [[nodiscard]] std::size_t recipient_count() const noexcept { return recipients_.size(); }
    [[nodiscard]] Recipient recipient(std::size_t index) const noexcept;
    /// The domain of a recipient: what stands behind the last '@', in the case it was written.
    [[nodiscard]] std::string_view recipient_domain(std::size_t index) const noexcept;
    [[nodiscard]] std::size_t text_bytes() const noexcept { return text_.size(); }

    base::WallTime arrival{};
    base::WallTime expiry{}; // a recipient that is still pending then is bounced
    base::SocketAddress client{};
    DsnReturn dsn_return = DsnReturn::unspecified;
    BodyKind body = BodyKind::seven_bit;
    bool smtputf8 = false;       // RFC 6531: was asked for, so each next hop must offer it
    bool client_tls = false;     // came over TLS
    bool delay_notified = false; // the delay DSN has gone out

private:
    struct Text {
        std::uint32_t offset = 0;
        std::uint32_t bytes = 0;
    };
    struct Entry {
        Text address;
        Text orcpt;
        std::uint8_t notify;
    };
    [[nodiscard]] Text store(std::string_view value);
    [[nodiscard]] std::string_view text(Text place) const noexcept {
        return std::string_view{text_}.substr(place.offset, place.bytes);
    }

    std::string text_;
    Text sender_, envid_, account_, tenant_, campaign_, source_, session_;
    std::vector<Entry> recipients_;
};

} // namespace queue
