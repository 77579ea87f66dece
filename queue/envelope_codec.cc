// envelope_codec.cc: the envelope's part of codec.h: a list of tagged fields.
//
// A tag with its highest bit set may be skipped by who does not know it; any other unknown tag makes
// the envelope unreadable, because guessing at who should get a mail is worse than saying so.
#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "queue/codec.h"

#include <algorithm>
#include <cstring>
#include <optional>

namespace queue {
namespace {

enum Tag : std::uint16_t {
    tag_sender = 1,
    tag_envid = 2,
    tag_account = 3,
    tag_tenant = 4,
    tag_campaign = 5,
    tag_source = 6,
    tag_session = 7,
    tag_recipient = 8, // notify (1), bytes of orcpt (2), orcpt, address
    tag_facts = 9,
    tag_optional = 0x8000,
};

constexpr std::size_t field_header_bytes = 4; // tag (2), bytes (2)
constexpr std::size_t recipient_prefix_bytes = 3;
// arrival (8), expiry (8), client: family (1) address (16) port (2), return, body, flags (1 each)
constexpr std::size_t facts_bytes = 38;

enum Flag : std::uint8_t { flag_smtputf8 = 1, flag_client_tls = 2, flag_delay_notified = 4 };

class Writer {
public:
    explicit Writer(std::span<std::byte> bytes) noexcept : bytes_(bytes) {}
    template <class T>
    void number(T value) noexcept {
        CHECK(bytes_.size() >= sizeof value);
        std::memcpy(bytes_.data(), &value, sizeof value);
        bytes_ = bytes_.subspan(sizeof value);
    }
    void text(std::string_view value) noexcept {
        CHECK(bytes_.size() >= value.size());
        std::memcpy(bytes_.data(), value.data(), value.size());
        bytes_ = bytes_.subspan(value.size());
    }
    void field(Tag tag, std::size_t bytes) noexcept {
        number(static_cast<std::uint16_t>(tag));
        number(static_cast<std::uint16_t>(bytes));
    }
    void text_field(Tag tag, std::string_view value) noexcept {
        if (value.empty()) return;
        field(tag, value.size());
        text(value);
    }
    [[nodiscard]] std::size_t left() const noexcept { return bytes_.size(); }

private:
    std::span<std::byte> bytes_;
};

template <class T>
[[nodiscard]] T take(std::span<const std::byte>& bytes) noexcept {
    DCHECK(bytes.size() >= sizeof(T));
    T value;
    std::memcpy(&value, bytes.data(), sizeof value);
    bytes = bytes.subspan(sizeof value);
    return value;
}

[[nodiscard]] bool read_facts(std::span<const std::byte> bytes, Envelope& envelope) noexcept {
    if (bytes.size() < facts_bytes) return false; // longer: a later minor version added some
    envelope.arrival = base::WallTime{std::chrono::milliseconds{take<std::int64_t>(bytes)}};
    envelope.expiry = base::WallTime{std::chrono::milliseconds{take<std::int64_t>(bytes)}};
    const auto family = take<std::uint8_t>(bytes);
    const auto address = take<std::array<std::uint8_t, 16>>(bytes);
    if (family == 6) {
        envelope.client.ip = base::IpAddress::v6(address);
    } else if (family == 4) {
        envelope.client.ip = base::IpAddress::v4({address[0], address[1], address[2], address[3]});
    } else {
        return false;
    }
    envelope.client.port = take<std::uint16_t>(bytes);
    const auto dsn_return = take<std::uint8_t>(bytes);
    const auto body = take<std::uint8_t>(bytes);
    const auto flags = take<std::uint8_t>(bytes);
    if (dsn_return > static_cast<std::uint8_t>(DsnReturn::headers)) return false;
    if (body > static_cast<std::uint8_t>(BodyKind::binary_mime)) return false;
    envelope.dsn_return = static_cast<DsnReturn>(dsn_return);
    envelope.body = static_cast<BodyKind>(body);
    envelope.smtputf8 = (flags & flag_smtputf8) != 0;
    envelope.client_tls = (flags & flag_client_tls) != 0;
    envelope.delay_notified = (flags & flag_delay_notified) != 0;
    return true;
}

[[nodiscard]] bool read_recipient(std::span<const std::byte> bytes, Envelope& envelope) {
    if (bytes.size() < recipient_prefix_bytes) return false;
    const auto notify = take<std::uint8_t>(bytes);
    const auto orcpt_bytes = take<std::uint16_t>(bytes);
    if (orcpt_bytes > bytes.size()) return false;
    if (envelope.recipient_count() == recipients_max) return false;
    envelope.add_recipient(base::as_text(bytes.subspan(orcpt_bytes)),
                           base::as_text(bytes.first(orcpt_bytes)), notify);
    return true;
}

} // namespace

std::optional<std::uint32_t> encoded_envelope_bytes(const Envelope& envelope) noexcept {
    std::size_t total = field_header_bytes + facts_bytes;
    const std::string_view texts[] = {envelope.sender(), envelope.envid(),    envelope.account(),
                                      envelope.tenant(), envelope.campaign(), envelope.source(),
                                      envelope.session()};
    for (const std::string_view text : texts) {
        if (text.size() > envelope_text_bytes_max) return std::nullopt;
        if (!text.empty()) total += field_header_bytes + text.size();
    }
    if (envelope.recipient_count() > recipients_max) return std::nullopt;
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        const Envelope::Recipient recipient = envelope.recipient(i);
        const std::size_t bytes =
            recipient_prefix_bytes + recipient.orcpt.size() + recipient.address.size();
        if (bytes > envelope_text_bytes_max) return std::nullopt;
        total += field_header_bytes + bytes;
    }
    if (total > envelope_bytes_max) return std::nullopt;
    return static_cast<std::uint32_t>(total);
}

void encode_envelope(std::span<std::byte> bytes, const Envelope& envelope) noexcept {
    Writer out{bytes};
    out.field(tag_facts, facts_bytes);
    out.number(std::int64_t{envelope.arrival.time_since_epoch().count()});
    out.number(std::int64_t{envelope.expiry.time_since_epoch().count()});
    out.number(static_cast<std::uint8_t>(envelope.client.ip.is_v6() ? 6 : 4));
    out.number(envelope.client.ip.bytes());
    out.number(envelope.client.port);
    out.number(static_cast<std::uint8_t>(envelope.dsn_return));
    out.number(static_cast<std::uint8_t>(envelope.body));
    out.number(static_cast<std::uint8_t>((envelope.smtputf8 ? flag_smtputf8 : 0) |
                                         (envelope.client_tls ? flag_client_tls : 0) |
                                         (envelope.delay_notified ? flag_delay_notified : 0)));
    out.text_field(tag_sender, envelope.sender());
    out.text_field(tag_envid, envelope.envid());
    out.text_field(tag_account, envelope.account());
    out.text_field(tag_tenant, envelope.tenant());
    out.text_field(tag_campaign, envelope.campaign());
    out.text_field(tag_source, envelope.source());
    out.text_field(tag_session, envelope.session());
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        const Envelope::Recipient recipient = envelope.recipient(i);
        out.field(tag_recipient,
                  recipient_prefix_bytes + recipient.orcpt.size() + recipient.address.size());
        out.number(recipient.notify);
        out.number(static_cast<std::uint16_t>(recipient.orcpt.size()));
        out.text(recipient.orcpt);
        out.text(recipient.address);
    }
    CHECK(out.left() == 0);
}

std::expected<void, CodecError> decode_envelope(std::span<const std::byte> bytes,
                                                Envelope& envelope) {
    envelope.clear();
    bool facts_seen = false;
    while (!bytes.empty()) {
        if (bytes.size() < field_header_bytes) return std::unexpected(CodecError::truncated);
        const auto tag = take<std::uint16_t>(bytes);
        const auto field_bytes = take<std::uint16_t>(bytes);
        if (field_bytes > bytes.size()) return std::unexpected(CodecError::truncated);
        const std::span<const std::byte> value = bytes.first(field_bytes);
        bytes = bytes.subspan(field_bytes);
        bool valid = true;
        switch (tag) {
        case tag_sender:
            envelope.set_sender(base::as_text(value));
            break;
        case tag_envid:
            envelope.set_envid(base::as_text(value));
            break;
        case tag_account:
            envelope.set_account(base::as_text(value));
            break;
        case tag_tenant:
            envelope.set_tenant(base::as_text(value));
            break;
        case tag_campaign:
            envelope.set_campaign(base::as_text(value));
            break;
        case tag_source:
            envelope.set_source(base::as_text(value));
            break;
        case tag_session:
            envelope.set_session(base::as_text(value));
            break;
        case tag_recipient:
            valid = read_recipient(value, envelope);
            break;
        case tag_facts:
            valid = read_facts(value, envelope);
            facts_seen = true;
            break;
        default:
            valid = (tag & tag_optional) != 0;
            break;
        }
        if (!valid) return std::unexpected(CodecError::malformed);
    }
    if (!facts_seen || envelope.recipient_count() == 0)
        return std::unexpected(CodecError::malformed);
    return {};
}

} // namespace queue
