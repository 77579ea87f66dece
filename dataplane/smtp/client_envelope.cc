// client_envelope.cc: a transaction up to its content: [RSET] MAIL, RCPT, DATA or the first BDAT.
#include "dataplane/smtp/client_session.h"

#include <algorithm>
#include <string>
#include <utility>

namespace dataplane::smtp {

using base::NetError;
using base::SlabChain;
using base::Task;

namespace {

/// Whether an address may stand between angle brackets. The server checked its syntax when it took
/// the message; this is the last look before bytes from a disk become commands.
[[nodiscard]] bool safe_in_command(std::string_view address) noexcept {
    return std::ranges::none_of(address, [](char c) {
        return static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '<' || c == '>';
    });
}

/// xtext and the like: no space may end the parameter early.
[[nodiscard]] bool safe_as_parameter(std::string_view text) noexcept {
    return std::ranges::none_of(
        text, [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; });
}

[[nodiscard]] bool has_eight_bit(const SlabChain& content) noexcept {
    for (const base::SlabView& view : content.views()) {
        if (std::ranges::any_of(
                view.bytes(), [](std::byte b) { return (b & std::byte{0x80}) != std::byte{0}; })) {
            return true;
        }
    }
    return false;
}

} // namespace

void ClientSession::settle_open(const Outcome& outcome) {
    for (Outcome& result : std::span{results_}.first(result_count_)) {
        if (!result.refused()) result = outcome;
    }
}

std::size_t ClientSession::open_count() const noexcept {
    return static_cast<std::size_t>(
        std::ranges::count_if(results(), [](const Outcome& result) { return !result.refused(); }));
}

/// What this peer can never take is refused without asking it. True when no recipient is left.
bool ClientSession::refuse_here(const queue::Message& message,
                                std::span<const std::uint32_t> recipients, const SlabChain& content,
                                bool whole) {
    const queue::Envelope& envelope = message.envelope;
    if (!safe_in_command(envelope.sender()) || !safe_as_parameter(envelope.envid())) {
        fail_locally(scratch_, Stage::mail, 553, {5, 1, 7}, "sender address cannot be sent");
        settle_open(scratch_);
        return true;
    }
    if (envelope.smtputf8 && !capabilities_.offers(Extension::smtputf8)) {
        fail_locally(scratch_, Stage::mail, 553, {5, 6, 7},
                     "SMTPUTF8 is needed, but not offered by the host");
        settle_open(scratch_);
        return true;
    }
    const bool eight_bit = envelope.body == queue::BodyKind::eight_bit_mime;
    const bool binary = envelope.body == queue::BodyKind::binary_mime;
    const bool binary_offered = chunking() && capabilities_.offers(Extension::binary_mime);
    // Clients declare 8BITMIME for plain ASCII as well; for the rare old host that does not offer it,
    // what the content is counts where it lies before us. Larger content is believed.
    const bool eight_bit_missing = eight_bit && !capabilities_.offers(Extension::eight_bit_mime) &&
                                   (!whole || has_eight_bit(content));
    if ((binary && !binary_offered) || eight_bit_missing) {
        fail_locally(scratch_, Stage::mail, 554, {5, 6, 1},
                     binary ? "BINARYMIME is needed, but not offered by the host"
                            : "8BITMIME is needed, but not offered by the host");
        settle_open(scratch_);
        return true;
    }
    if (capabilities_.size_max != 0 && message.content_bytes > capabilities_.size_max) {
        fail_locally(scratch_, Stage::mail, 552, {5, 3, 4},
                     "message is larger than the host's limit of ");
        scratch_.text += std::to_string(capabilities_.size_max);
        scratch_.text += " bytes";
        settle_open(scratch_);
        return true;
    }
    for (std::size_t i = 0; i < recipients.size(); ++i) {
        const auto recipient = envelope.recipient(recipients[i]);
        if (safe_in_command(recipient.address) && safe_as_parameter(recipient.orcpt)) continue;
        fail_locally(results_[i], Stage::rcpt, 553, {5, 1, 3}, "recipient address cannot be sent");
    }
    return open_count() == 0;
}

void ClientSession::append_mail(const queue::Message& message) {
    const queue::Envelope& envelope = message.envelope;
    out_ += "MAIL FROM:<";
    out_ += envelope.sender();
    out_ += '>';
    if (capabilities_.offers(Extension::size)) {
        out_ += " SIZE=";
        out_ += std::to_string(message.content_bytes);
    }
    if (envelope.body == queue::BodyKind::binary_mime) {
        out_ += " BODY=BINARYMIME";
    } else if (envelope.body == queue::BodyKind::eight_bit_mime &&
               capabilities_.offers(Extension::eight_bit_mime)) {
        out_ += " BODY=8BITMIME";
    }
    if (envelope.smtputf8) out_ += " SMTPUTF8";
    if (capabilities_.offers(Extension::dsn)) { // RFC 3461 §4.3, §4.4
        if (envelope.dsn_return == queue::DsnReturn::full) out_ += " RET=FULL";
        if (envelope.dsn_return == queue::DsnReturn::headers) out_ += " RET=HDRS";
        if (!envelope.envid().empty()) (out_ += " ENVID=") += envelope.envid();
    }
    out_ += "\r\n";
}

void ClientSession::append_rcpt(const queue::Envelope::Recipient& recipient) {
    out_ += "RCPT TO:<";
    out_ += recipient.address;
    out_ += '>';
    if (capabilities_.offers(Extension::dsn)) { // RFC 3461 §4.1, §4.2
        if (recipient.notify == queue::notify_never) {
            out_ += " NOTIFY=NEVER";
        } else if (recipient.notify != queue::notify_absent) {
            out_ += " NOTIFY=";
            const std::size_t begin = out_.size();
            if ((recipient.notify & queue::notify_success) != 0) out_ += "SUCCESS,";
            if ((recipient.notify & queue::notify_failure) != 0) out_ += "FAILURE,";
            if ((recipient.notify & queue::notify_delay) != 0) out_ += "DELAY,";
            if (out_.size() > begin) out_.pop_back();
        }
        if (!recipient.orcpt.empty()) (out_ += " ORCPT=") += recipient.orcpt;
    }
    out_ += "\r\n";
}

Task<void> ClientSession::transact(const queue::Message& message,
                                   std::span<const std::uint32_t> recipients,
                                   queue::ContentReader content) {
    CHECK(usable());
    CHECK(!recipients.empty() && recipients.size() <= transaction_recipients_max);
    result_count_ = recipients.size();
    if (results_.size() < result_count_) results_.resize(result_count_);
    for (Outcome& result : std::span{results_}.first(result_count_)) {
        result.stage = Stage::mail;
        result.cause = Cause::reply;
        result.code = 0;
        result.enhanced = {};
        result.text.clear();
    }
    at_line_start_ = true;
    tail_ = 0;

    auto first = co_await content.next(within(options_.timeouts.data_send));
    if (!first) {
        fail_unreadable(scratch_, Stage::mail, first.error());
        settle_open(scratch_);
        co_return;
    }
    SlabChain piece = std::move(*first);
    const bool whole = content.bytes_left() == 0;
    if (refuse_here(message, recipients, piece, whole)) co_return;

    const bool chunks = chunking();
    bool invited = false;
    if (capabilities_.offers(Extension::pipelining)) {
        SlabChain ahead;
        const bool speculative =
            chunks && whole && piece.size_bytes() <= speculative_content_bytes_max;
        if (speculative) ahead = std::move(piece);
        invited = co_await envelope_pipelined(message, recipients, !chunks, std::move(ahead));
        if (speculative) co_return;
    } else {
        invited = co_await envelope_in_steps(message, recipients);
    }
    if (!invited) co_return;
    if (chunks) {
        co_await send_chunks(std::move(piece), content);
    } else {
        co_await send_dotted(std::move(piece), content);
    }
}

/// The envelope in one write, with DATA or with the whole content as one BDAT. True when the peer
/// waits for content.
Task<bool> ClientSession::envelope_pipelined(const queue::Message& message,
                                             std::span<const std::uint32_t> recipients,
                                             bool with_data, SlabChain content) {
    const bool resets = std::exchange(needs_reset_, false);
    const bool with_content = !content.empty() || (!with_data && message.content_bytes == 0);
    out_.clear();
    if (resets) out_ += "RSET\r\n";
    append_mail(message);
    for (std::size_t i = 0; i < recipients.size(); ++i) {
        if (!results_[i].refused()) append_rcpt(message.envelope.recipient(recipients[i]));
    }
    if (with_data) out_ += "DATA\r\n";
    if (with_content) {
        out_ += "BDAT ";
        out_ += std::to_string(content.size_bytes());
        out_ += " LAST\r\n";
    }
    // A failed write of either part is left to the reads below: the peer's reason comes before the
    // error.
    bool sent = co_await send(out_, Stage::mail, options_.timeouts.mail, scratch_);
    if (sent && with_content) sent = co_await send_slabs(std::move(content), Stage::body, scratch_);
    if (!sent && (scratch_.net == NetError::timed_out || scratch_.net == NetError::cancelled)) {
        settle_open(scratch_);
        co_return false;
    }

    if (resets) {
        const bool alive = co_await read_reply(Stage::mail, options_.timeouts.mail, scratch_);
        if (!alive || !scratch_.positive()) {
            usable_ = false; // out of step: nothing that follows can be trusted
            settle_open(scratch_);
            co_return false;
        }
    }
    bool alive = co_await read_reply(Stage::mail, options_.timeouts.mail, scratch_);
    const bool refused = scratch_.refused();
    if (refused) settle_open(scratch_);
    if (!alive) co_return false;
    for (std::size_t i = 0; i < recipients.size(); ++i) {
        const bool asked = refused ? results_[i].stage == Stage::mail : !results_[i].refused();
        if (!asked) continue;
        // After a refused MAIL the answers to RCPT say only that; they are read to stay in step.
        if (refused) {
            alive = co_await read_reply(Stage::rcpt, options_.timeouts.rcpt, scratch_);
        } else {
            alive = co_await read_reply(Stage::rcpt, options_.timeouts.rcpt, results_[i]);
            if (!alive) settle_open(results_[i]);
        }
        if (!alive) co_return false;
    }
    const std::size_t accepted = open_count();
    if (!with_data && !with_content) {
        needs_reset_ = accepted == 0;
        co_return accepted > 0;
    }

    const Stage stage = with_data ? Stage::data : Stage::last_dot;
    const auto limit = with_data ? options_.timeouts.data_init : options_.timeouts.data_done;
    alive = co_await read_reply(stage, limit, scratch_);
    if (accepted == 0) {
        needs_reset_ = !scratch_.positive();
        if (alive && with_data && scratch_.code == 354) {
            // RFC 2920 §3.1: it waits for content all the same, and must get some.
            needs_reset_ = false;
            static_cast<void>(
                co_await command(".\r\n", Stage::last_dot, options_.timeouts.data_done, scratch_));
        }
        co_return false;
    }
    if (with_data && alive && scratch_.code == 354) co_return true;
    if (with_data || !scratch_.positive()) distrust(scratch_);
    needs_reset_ = scratch_.refused();
    settle_open(scratch_);
    co_return false;
}

/// The same, one exchange at a time. True when a recipient was accepted and content may follow.
Task<bool> ClientSession::envelope_in_steps(const queue::Message& message,
                                            std::span<const std::uint32_t> recipients) {
    if (std::exchange(needs_reset_, false)) {
        const bool clean = co_await reset();
        if (!clean) {
            settle_open(scratch_);
            co_return false;
        }
    }
    out_.clear();
    append_mail(message);
    const bool mailed =
        co_await command(out_, Stage::mail, options_.timeouts.mail, scratch_); // §4.1.1.2
    if (!mailed || scratch_.refused()) {
        settle_open(scratch_);
        co_return false;
    }
    for (std::size_t i = 0; i < recipients.size(); ++i) { // §4.1.1.3
        if (results_[i].refused()) continue;
        out_.clear();
        append_rcpt(message.envelope.recipient(recipients[i]));
        const bool alive = co_await command(out_, Stage::rcpt, options_.timeouts.rcpt, results_[i]);
        if (!alive) {
            settle_open(results_[i]);
            co_return false;
        }
    }
    if (open_count() == 0) {
        needs_reset_ = true;
        co_return false;
    }
    if (chunking()) co_return true;

    const bool alive = co_await command("DATA\r\n", Stage::data, options_.timeouts.data_init,
                                        scratch_); // §4.1.1.4
    if (alive && scratch_.code == 354) co_return true;
    distrust(scratch_);
    needs_reset_ = true;
    settle_open(scratch_);
    co_return false;
}

Task<bool> ClientSession::reset() {
    const bool alive = co_await command("RSET\r\n", Stage::mail, options_.timeouts.mail, scratch_);
    if (alive && scratch_.positive()) co_return true;
    usable_ = false;
    co_return false;
}

} // namespace dataplane::smtp
