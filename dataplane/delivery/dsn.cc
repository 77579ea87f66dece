#include "dataplane/delivery/dsn.h"

#include "dataplane/delivery/limits.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace dataplane::delivery {

using queue::SpoolError;
using queue::SpoolResult;

namespace {

[[nodiscard]] bool ascii(std::string_view text) noexcept {
    return std::ranges::none_of(text,
                                [](char c) { return (static_cast<unsigned char>(c) & 0x80) != 0; });
}

/// What a stranger said, fit for a header-like field: one line, and ASCII unless the report is
/// UTF-8.
void append_clean(std::string& out, std::string_view text, bool utf8) {
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7f) {
            out += ' ';
        } else if (byte >= 0x80 && !utf8) {
            out += '?';
        } else {
            out += c;
        }
    }
}

/// RFC 3461 §4: "+XX" is a character. What is malformed is kept as it came.
[[nodiscard]] std::string decode_xtext(std::string_view text) {
    const auto hex = [](char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '+' && i + 2 < text.size() && hex(text[i + 1]) >= 0 &&
            hex(text[i + 2]) >= 0) {
            out += static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2]));
            i += 2;
        } else {
            out += text[i];
        }
    }
    return out;
}

void append_status(std::string& out, smtp::EnhancedCode status) {
    out += std::to_string(status.status_class) + '.' + std::to_string(status.subject) + '.' +
           std::to_string(status.detail);
}

[[nodiscard]] std::string_view subject_of(DsnKind kind) noexcept {
    switch (kind) {
    case DsnKind::failure:
        return "Undelivered Mail Returned to Sender";
    case DsnKind::delay:
        return "Delayed Mail (still being retried)";
    case DsnKind::relayed:
        return "Mail Relayed Without Delivery Confirmation";
    }
    return "";
}

[[nodiscard]] std::string_view action_of(DsnKind kind) noexcept {
    switch (kind) {
    case DsnKind::failure:
        return "failed";
    case DsnKind::delay:
        return "delayed";
    case DsnKind::relayed:
        return "relayed";
    }
    return "";
}

[[nodiscard]] std::string_view opening_of(DsnKind kind) noexcept {
    switch (kind) {
    case DsnKind::failure:
        return "Your message could not be delivered to one or more recipients.\r\n"
               "It is returned below, in full or by its headers.\r\n";
    case DsnKind::delay:
        return "Your message has not reached the recipients below yet.\r\n"
               "Delivery is still being tried: you need not send it again.\r\n";
    case DsnKind::relayed:
        return "Your message was handed to the hosts of the recipients below. They give no\r\n"
               "delivery confirmations, so that you may not hear of it again.\r\n";
    }
    return "";
}

/// Appends the part of the content that is to be returned.
base::Task<SpoolResult<>> append_content(queue::Draft& draft, queue::ContentReader content,
                                         bool full, message::dkim::MessageSigner* signer,
                                         base::Deadline deadline) {
    std::size_t appended = 0;
    bool line_empty = true; // so far; an empty line ends the headers
    for (;;) {
        auto read = co_await content.next(deadline);
        // Damage is mostly what the report is about: it goes out with what could be read.
        const bool damaged = !read && (read.error() == SpoolError::damaged ||
                                       read.error() == SpoolError::forged);
        if (damaged) co_return SpoolResult<>{};
        if (!read) co_return std::unexpected(read.error());
        const base::SlabChain piece = std::move(*read);
        if (piece.empty()) break;
        for (const base::SlabView& view : piece.views()) {
            std::span<const std::byte> bytes = view.bytes();
            bool end = false;
            if (!full) {
                std::size_t keep = 0;
                for (const std::byte byte : bytes) {
                    ++keep;
                    if (byte == std::byte{'\n'}) {
                        end = line_empty;
                        line_empty = true;
                    } else if (byte != std::byte{'\r'}) {
                        line_empty = false;
                    }
                    if (end) break;
                }
                if (appended + keep > dsn_headers_bytes_max) {
                    keep = dsn_headers_bytes_max - appended;
                    end = true;
                }
                bytes = bytes.first(keep);
            }
            appended += bytes.size();
            if (signer != nullptr) signer->body(base::as_text(bytes));
            const auto written = co_await draft.append(bytes, deadline);
            if (!written) co_return std::unexpected(written.error());
            if (end) co_return SpoolResult<>{};
        }
    }
    co_return SpoolResult<>{};
}

} // namespace

std::string mail_date(base::WallTime time) {
    static constexpr std::array<const char*, 7> days{"Sun", "Mon", "Tue", "Wed",
                                                     "Thu", "Fri", "Sat"};
    static constexpr std::array<const char*, 12> months{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    const auto day = std::chrono::floor<std::chrono::days>(time);
    const std::chrono::year_month_day date{day};
    const std::chrono::hh_mm_ss clock{std::chrono::floor<std::chrono::seconds>(time - day)};
    std::array<char, 48> text;
    const int bytes = std::snprintf(
        text.data(), text.size(), "%s, %u %s %d %02d:%02d:%02d +0000",
        days[std::chrono::weekday{day}.c_encoding()], static_cast<unsigned>(date.day()),
        months[static_cast<unsigned>(date.month()) - 1], static_cast<int>(date.year()),
        static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
        static_cast<int>(clock.seconds().count()));
    return {text.data(), static_cast<std::size_t>(bytes)};
}

bool dsn_due(const queue::Envelope& envelope, std::uint32_t recipient, DsnKind kind) noexcept {
    if (envelope.sender().empty()) return false; // a report about a report would never end
    const std::uint8_t notify = envelope.recipient(recipient).notify;
    if ((notify & queue::notify_never) != 0) return false;
    switch (kind) {
    case DsnKind::failure:
        return notify == queue::notify_absent || (notify & queue::notify_failure) != 0;
    case DsnKind::delay:
        return notify == queue::notify_absent || (notify & queue::notify_delay) != 0;
    case DsnKind::relayed:
        return (notify & queue::notify_success) != 0;
    }
    return false;
}

DsnText compose_dsn(const queue::Message& original, DsnKind kind,
                    std::span<const DsnRecipient> recipients, base::WallTime now,
                    DsnOptions options) {
    const queue::Envelope& envelope = original.envelope;
    bool utf8 = envelope.smtputf8 || !ascii(envelope.sender());
    for (const DsnRecipient& recipient : recipients)
        utf8 |= !ascii(envelope.recipient(recipient.index).address);

    DsnText text;
    // Binary content would need BINARYMIME all the way back; the sender has the message anyway.
    text.full = kind == DsnKind::failure && envelope.dsn_return == queue::DsnReturn::full &&
                envelope.body != queue::BodyKind::binary_mime &&
                original.content_bytes <= dsn_full_bytes_max;
    text.eight_bit = utf8 || envelope.body != queue::BodyKind::seven_bit;

    std::array<char, 20> random;
    const int random_bytes = std::snprintf(random.data(), random.size(), "%016llx",
                                           static_cast<unsigned long long>(options.random));
    const std::string unique = original.id.to_string() + '.' +
                               std::string{random.data(), static_cast<std::size_t>(random_bytes)};
    const std::string boundary = "=_" + unique;

    std::string& out = text.head;
    out += "From: Mail Delivery System <MAILER-DAEMON@";
    out += options.hostname;
    out += ">\r\nTo: <";
    append_clean(out, envelope.sender(), utf8);
    out += ">\r\nSubject: ";
    out += subject_of(kind);
    out += "\r\nDate: " + mail_date(now) + "\r\nMessage-ID: <" + unique + "@";
    out += options.hostname;
    // RFC 3834 §5: keeps vacation programs from answering.
    out += ">\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"
           "Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"" +
           boundary + "\"\r\n\r\n";

    const std::string encoding = text.eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "";
    out += "--" + boundary +
           "\r\nContent-Type: text/plain; charset=" + (utf8 ? "utf-8" : "us-ascii") + "\r\n" +
           encoding + "\r\nThis is the mail system at host ";
    out += options.hostname;
    out += ".\r\n\r\n";
    out += opening_of(kind);
    for (const DsnRecipient& recipient : recipients) {
        out += "\r\n<";
        append_clean(out, envelope.recipient(recipient.index).address, utf8);
        out += ">: ";
        if (recipient.answered && !recipient.remote_host.empty()) {
            out += "host ";
            append_clean(out, recipient.remote_host, utf8);
            out += " said: ";
        }
        append_clean(out, recipient.text, utf8);
        out += "\r\n";
    }

    // RFC 3464 §2.2, and RFC 6533 §4 for addresses beyond ASCII.
    out += "\r\n--" + boundary + "\r\nContent-Type: message/" +
           (utf8 ? "global-delivery-status" : "delivery-status") + "\r\n" + encoding +
           "\r\nReporting-MTA: dns; ";
    out += options.hostname;
    if (!envelope.envid().empty()) {
        out += "\r\nOriginal-Envelope-Id: ";
        append_clean(out, decode_xtext(envelope.envid()), utf8);
    }
    out += "\r\nArrival-Date: " + mail_date(envelope.arrival) + "\r\n";
    for (const DsnRecipient& recipient : recipients) { // §2.3
        const auto address = envelope.recipient(recipient.index);
        out += "\r\n";
        if (!address.orcpt.empty()) {
            const std::size_t semicolon = std::min(address.orcpt.find(';'), address.orcpt.size());
            out += "Original-Recipient: ";
            append_clean(out, address.orcpt.substr(0, semicolon), utf8);
            out += "; ";
            const std::string_view xtext =
                address.orcpt.substr(std::min(semicolon + 1, address.orcpt.size()));
            append_clean(out, decode_xtext(xtext), utf8);
            out += "\r\n";
        }
        out += ascii(address.address) ? "Final-Recipient: rfc822; " : "Final-Recipient: utf-8; ";
        append_clean(out, address.address, utf8);
        out += "\r\nAction: ";
        out += action_of(kind);
        out += "\r\nStatus: ";
        append_status(out, recipient.status);
        if (!recipient.remote_host.empty()) {
            out += "\r\nRemote-MTA: dns; ";
            append_clean(out, recipient.remote_host, utf8);
        }
        if (!recipient.text.empty()) {
            out += recipient.answered ? "\r\nDiagnostic-Code: smtp; "
                                      : "\r\nDiagnostic-Code: X-Millrace; ";
            append_clean(out, recipient.text, utf8);
        }
        out += "\r\nLast-Attempt-Date: " + mail_date(now) + "\r\n";
        if (kind == DsnKind::delay)
            out += "Will-Retry-Until: " + mail_date(envelope.expiry) + "\r\n";
    }

    const char* returned = text.full ? (utf8 ? "message/global" : "message/rfc822")
                                     : (utf8 ? "message/global-headers" : "text/rfc822-headers");
    out += "\r\n--" + boundary + "\r\nContent-Type: " + returned + "\r\n" + encoding + "\r\n";
    text.tail = "\r\n--" + boundary + "--\r\n";
    return text;
}

base::Task<SpoolResult<>> send_dsn(base::Loop& loop, queue::MessageQueue& queue,
                                   queue::MessageRef original, DsnKind kind,
                                   std::span<const DsnRecipient> recipients, DsnOptions options,
                                   message::dkim::SigningDesk* desk) {
    CHECK(!recipients.empty() && !original->envelope.sender().empty());
    recipients = recipients.first(std::min(recipients.size(), dsn_recipients_max));
    const base::Deadline deadline = base::Deadline::in(loop, dsn_commit_timeout);
    const DsnText text = compose_dsn(*original, kind, recipients, loop.wall_now(), options);

    const std::uint64_t returned_bytes = text.full ? original->content_bytes : 0;
    auto begun =
        queue.begin(text.head.size() + text.tail.size() + returned_bytes, queue::DraftUse::report);
    if (!begun) co_return std::unexpected(begun.error());
    queue::Draft draft = std::move(*begun);
    queue::Envelope& envelope = draft.envelope();
    envelope.set_sender("");
    envelope.set_account(original->envelope.account());
    envelope.set_tenant(original->envelope.tenant());
    envelope.add_recipient(original->envelope.sender(), "", queue::notify_never);
    envelope.arrival = loop.wall_now();
    envelope.expiry = loop.wall_now() + options.expiry;
    envelope.body = text.eight_bit ? queue::BodyKind::eight_bit_mime : queue::BodyKind::seven_bit;
    envelope.smtputf8 = !ascii(original->envelope.sender()) || original->envelope.smtputf8;

    std::unique_ptr<message::dkim::MessageSigner> signer;
    if (desk != nullptr) signer = desk->begin("");
    if (signer != nullptr) {
        const std::size_t header_end = text.head.find("\r\n\r\n") + 2;
        signer->header(std::string_view{text.head}.substr(0, header_end));
        signer->header_ended(true);
        signer->body(std::string_view{text.head}.substr(header_end + 2));
    }
    const auto headed = co_await draft.append(base::as_bytes(text.head), deadline);
    if (!headed) co_return std::unexpected(headed.error());
    queue::ContentReader content{queue, original};
    const auto returned =
        co_await append_content(draft, std::move(content), text.full, signer.get(), deadline);
    if (!returned) co_return std::unexpected(returned.error());
    const auto closed = co_await draft.append(base::as_bytes(text.tail), deadline);
    if (!closed) co_return std::unexpected(closed.error());
    std::string prelude;
    if (signer != nullptr) {
        signer->body(text.tail);
        const auto report =
            co_await signer->sign(desk->signer(), prelude, queue::prelude_bytes_max,
                                  loop.wall_now(), deadline.sooner(loop.now() + dsn_sign_timeout));
        static_cast<void>(report); // unsigned is better than unsent
        desk->give_back(std::move(signer));
    }
    const auto committed = co_await draft.commit(prelude, deadline);
    if (!committed) co_return std::unexpected(committed.error());
    co_return SpoolResult<>{};
}

} // namespace dataplane::delivery
