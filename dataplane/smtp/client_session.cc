#include "dataplane/smtp/client_session.h"

#include "tls_offload/tls_stream.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace dataplane::smtp {

using base::NetError;
using base::SlabChain;
using base::Task;
using policy::TlsLevel;

namespace {

// After a write that failed: how long the reason may take that the peer gave before it hung up.
constexpr std::chrono::seconds last_words{1};

[[nodiscard]] char upper(char c) noexcept {
    return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
}

[[nodiscard]] bool same_word(std::string_view text, std::string_view upper_word) noexcept {
    return std::ranges::equal(text, upper_word, [](char a, char b) { return upper(a) == b; });
}

void append_number(std::string& out, std::uint64_t value) {
    std::array<char, 20> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    out.append(digits.data(), end);
}

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

std::string_view to_string(Stage stage) noexcept {
    switch (stage) {
    case Stage::route:
    case Stage::connect:
    case Stage::greeting:
        return "";
    case Stage::hello:
        return "EHLO";
    case Stage::starttls:
        return "STARTTLS";
    case Stage::mail:
        return "MAIL FROM";
    case Stage::rcpt:
        return "RCPT TO";
    case Stage::data:
        return "DATA";
    case Stage::body:
        return "content";
    case Stage::last_dot:
        return "end of content";
    }
    return "";
}

std::string Outcome::to_string() const {
    if (code == 0) return text;
    std::string out;
    append_number(out, code);
    if (enhanced) {
        out += ' ';
        append_number(out, enhanced.status_class);
        out += '.';
        append_number(out, enhanced.subject);
        out += '.';
        append_number(out, enhanced.detail);
    }
    if (!text.empty()) (out += ' ') += text;
    return out;
}

void Capabilities::add(std::string_view line) noexcept {
    struct Keyword {
        std::string_view word;
        Extension extension;
    };
    static constexpr std::array<Keyword, 9> keywords{{
        {"PIPELINING", Extension::pipelining},
        {"SIZE", Extension::size},
        {"8BITMIME", Extension::eight_bit_mime},
        {"SMTPUTF8", Extension::smtputf8},
        {"CHUNKING", Extension::chunking},
        {"BINARYMIME", Extension::binary_mime},
        {"DSN", Extension::dsn},
        {"STARTTLS", Extension::starttls},
        {"ENHANCEDSTATUSCODES", Extension::enhanced_status_codes},
    }};
    const std::size_t space = line.find(' ');
    const std::string_view word = line.substr(0, space);
    for (const Keyword& keyword : keywords) {
        if (!same_word(word, keyword.word)) continue;
        bits |= static_cast<std::uint16_t>(keyword.extension);
        if (keyword.extension == Extension::size && space != std::string_view::npos) {
            const std::string_view number = line.substr(space + 1);
            std::uint64_t limit = 0;
            const auto parsed =
                std::from_chars(number.data(), number.data() + number.size(), limit);
            if (parsed.ec == std::errc{}) size_max = limit;
        }
        return;
    }
}

ClientSession::ClientSession(base::Loop& loop, ClientOptions options)
    : loop_(loop), options_(std::move(options)) {}
ClientSession::~ClientSession() = default;

bool ClientSession::chunking() const noexcept {
    return options_.chunking && capabilities_.offers(Extension::chunking);
}

void ClientSession::fail_locally(Outcome& out, Stage stage, std::uint16_t code,
                                 EnhancedCode enhanced, std::string_view text) {
    out.stage = stage;
    out.cause = Cause::local;
    out.code = code;
    out.enhanced = enhanced;
    out.text = text;
}

/// The disk may give it back another time; what is damaged stays so, and its sender is to know.
void ClientSession::fail_unreadable(Outcome& out, Stage stage, queue::SpoolError error) {
    if (error == queue::SpoolError::damaged || error == queue::SpoolError::forged) {
        return fail_locally(out, stage, 554, {5, 3, 0},
                            "the message was damaged on the relay's disk and cannot be delivered");
    }
    fail_locally(out, stage, 451, {4, 3, 0}, "content cannot be read: ");
    out.text += queue::to_string(error);
}

// ---- one exchange

Task<bool> ClientSession::send(std::string_view text, Stage stage, std::chrono::seconds limit,
                               Outcome& out) {
    const auto written = co_await stream_->write(base::as_bytes(text), within(limit));
    if (written) co_return true;
    usable_ = false;
    out.stage = stage;
    out.cause = Cause::network;
    out.code = 0;
    out.enhanced = {};
    out.net = written.error();
    out.text = base::to_string(written.error());
    co_return false;
}

Task<bool> ClientSession::send_slabs(SlabChain slabs, Stage stage, Outcome& out) {
    const auto written =
        co_await stream_->write(std::move(slabs), within(options_.timeouts.data_send));
    if (written) co_return true;
    usable_ = false;
    out.stage = stage;
    out.cause = Cause::network;
    out.code = 0;
    out.enhanced = {};
    out.net = written.error();
    out.text = base::to_string(written.error());
    co_return false;
}

/// An answer that is neither what was due nor a refusal: the dialogue is out of step, and nothing
/// that follows can be believed.
void ClientSession::distrust(Outcome& out) noexcept {
    if (out.refused()) return;
    usable_ = false;
    out.cause = Cause::protocol;
}

/// False when the session ends here: `out` then says why, be it the peer's 421.
Task<bool> ClientSession::read_reply(Stage stage, std::chrono::seconds limit, Outcome& out) {
    out.stage = stage;
    out.code = 0;
    out.enhanced = {};
    const base::Deadline deadline =
        within(limit); // of the whole reply: a slow peer cannot stretch it by lines
    for (;;) {
        const auto line = co_await lines_->read_line(deadline);
        if (!line) {
            usable_ = false;
            out.cause = Cause::network;
            out.net = line.error();
            out.text = line.error() == NetError::end_of_stream
                           ? "connection closed by the remote host"
                           : base::to_string(line.error());
            co_return false;
        }
        if (line->end == base::LineEnd::too_long) {
            usable_ = false;
            out.cause = Cause::protocol;
            out.text = "reply line too long";
            co_return false;
        }
        const auto complete = parser_.feed(line->text);
        if (!complete) {
            usable_ = false;
            out.cause = Cause::protocol;
            out.text = to_string(complete.error());
            co_return false;
        }
        const bool keyword = stage == Stage::hello && parser_.line_count() > 1;
        if (keyword && parser_.reply().positive()) capabilities_.add(parser_.line_text());
        if (*complete) break;
    }
    const Reply& reply = parser_.reply();
    out.cause = Cause::reply;
    out.code = reply.code;
    out.enhanced = reply.enhanced;
    out.text = reply.text;
    if (reply.code != 421) co_return true;
    usable_ = false; // RFC 5321 §3.8: the channel is closing
    co_return false;
}

Task<bool> ClientSession::command(std::string_view text, Stage stage, std::chrono::seconds limit,
                                  Outcome& out) {
    const bool sent = co_await send(text, stage, limit, out);
    if (!sent) {
        co_await explain_broken_write(out);
        co_return false;
    }
    const bool answered = co_await read_reply(stage, limit, out);
    co_return answered;
}

/// A peer that refuses and hangs up while we are writing has often said why.
Task<void> ClientSession::explain_broken_write(Outcome& out) {
    if (out.net == NetError::cancelled) co_return;
    Outcome words;
    static_cast<void>(co_await read_reply(out.stage, last_words, words));
    if (words.cause == Cause::reply && words.code >= 400) out = std::move(words);
}

// ---- opening: greeting, EHLO, STARTTLS, EHLO again

Task<bool> ClientSession::open(base::StreamPtr stream) {
    CHECK(stream_ == nullptr);
    stream_ = std::move(stream);
    lines_.emplace(*stream_, reply_line_bytes_max);
    usable_ = true;

    const bool greeted =
        co_await read_reply(Stage::greeting, options_.timeouts.greeting, failure_); // §4.5.3.2.1
    if (!greeted || !failure_.positive()) co_return false;
    const bool welcome = co_await hello();
    if (!welcome) co_return false;

    if (options_.tls == TlsLevel::none) co_return true;
    const bool required = options_.tls != TlsLevel::may;
    if (!capabilities_.offers(Extension::starttls) || options_.tls_context == nullptr) {
        if (!required) co_return true;
        fail_locally(failure_, Stage::starttls, 454, {4, 7, 4},
                     "TLS is required, but was not offered by the host");
        co_return false;
    }
    const bool secured = co_await start_tls();
    if (!secured) {
        // Refused in so many words, the connection is as good as before (RFC 3207 §4).
        co_return !required && usable_ && failure_.cause == Cause::reply;
    }
    const bool welcome_again = co_await hello();
    if (!welcome_again && failure_.cause == Cause::network && failure_.net == NetError::tls) {
        // A TLS 1.3 server's alert about our handshake comes only now.
        failure_.stage = Stage::starttls;
        failure_.cause = Cause::tls;
    }
    co_return welcome_again;
}

Task<bool> ClientSession::hello() {
    const bool extended = co_await say_hello("EHLO ");
    if (extended) co_return true;
    if (!usable_ || failure_.cause != Cause::reply || failure_.code / 100 != 5) co_return false;
    const bool plain = co_await say_hello("HELO "); // RFC 5321 §3.2: a server from before 1995
    co_return plain;
}

Task<bool> ClientSession::say_hello(std::string_view verb) {
    capabilities_ = {}; // what was offered without TLS counts no more (RFC 3207 §4.2)
    out_.assign(verb);
    out_ += options_.helo_name;
    out_ += "\r\n";
    const bool answered = co_await command(out_, Stage::hello, options_.timeouts.helo, failure_);
    if (!options_.pipelining) capabilities_.remove(Extension::pipelining);
    co_return answered&& failure_.positive();
}

Task<bool> ClientSession::start_tls() {
    const bool answered =
        co_await command("STARTTLS\r\n", Stage::starttls, options_.timeouts.helo, failure_);
    if (!answered || failure_.code != 220) co_return false;
    lines_->release();
    if (!stream_->unread().empty()) {
        // Bytes in the clear behind the 220 came from somebody who wants them read as if under TLS.
        usable_ = false;
        failure_.cause = Cause::tls;
        failure_.net = NetError::tls;
        failure_.code = 0;
        failure_.enhanced = {};
        failure_.text = "unexpected data behind the reply to STARTTLS";
        co_return false;
    }

    tls_offload::ClientOptions tls;
    tls.server_name = options_.host_name;
    switch (options_.tls) {
    case TlsLevel::none:
    case TlsLevel::may:
        tls.level = tls_offload::TlsLevel::may;
        break;
    case TlsLevel::encrypt:
        tls.level = tls_offload::TlsLevel::encrypt;
        break;
    case TlsLevel::verify:
    case TlsLevel::secure:
        tls.level = tls_offload::TlsLevel::verify;
        break;
    case TlsLevel::dane:
    case TlsLevel::dane_only:
        tls.level = tls_offload::TlsLevel::dane;
        break;
    }
    tls.peer_names = options_.peer_names;
    tls.tlsa = options_.tlsa;
    tls.session_scope = stream_->info().peer.to_string();
    auto secured = co_await tls_offload::connect_tls(std::move(stream_), *options_.tls_context, tls,
                                                     within(options_.timeouts.tls_handshake));
    if (!secured) {
        usable_ = false;
        lines_.reset();
        const tls_offload::TlsFailure& why = secured.error();
        failure_.cause =
            why.reason == tls_offload::TlsFailureReason::cancelled ? Cause::network : Cause::tls;
        failure_.net = why.net_error;
        failure_.code = 0;
        failure_.enhanced = {};
        failure_.text = "TLS handshake failed: ";
        failure_.text +=
            why.text.empty() ? tls_offload::to_string(why.reason) : std::string_view{why.text};
        co_return false;
    }
    stream_ = std::move(*secured);
    lines_.emplace(*stream_, reply_line_bytes_max);
    tls_ = true;
    co_return true;
}

Task<void> ClientSession::quit() {
    if (usable()) {
        usable_ = false;
        Outcome ignored;
        static_cast<void>(co_await send("QUIT\r\n", Stage::mail, last_words, ignored));
    }
    if (stream_ != nullptr) stream_->close();
}

// ---- transactions: [RSET] MAIL -> RCPT* -> BDAT* or DATA, content, dot

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
        append_number(scratch_.text, capabilities_.size_max);
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
        append_number(out_, message.content_bytes);
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
        append_number(out_, content.size_bytes());
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

/// The content in BDATs of one piece each; every one is answered (RFC 3030 §2).
Task<void> ClientSession::send_chunks(SlabChain piece, queue::ContentReader& content) {
    for (;;) {
        const bool last = content.bytes_left() == 0;
        const Stage stage = last ? Stage::last_dot : Stage::body;
        out_.assign("BDAT ");
        append_number(out_, piece.size_bytes());
        out_ += last ? " LAST\r\n" : "\r\n";
        bool alive = co_await send(out_, Stage::body, options_.timeouts.data_send, scratch_);
        if (alive) alive = co_await send_slabs(std::move(piece), Stage::body, scratch_);
        if (!alive) {
            co_await explain_broken_write(scratch_);
            settle_open(scratch_);
            co_return;
        }
        const auto limit = last ? options_.timeouts.data_done : options_.timeouts.data_send;
        alive = co_await read_reply(stage, limit, scratch_);
        if (!alive || !scratch_.positive() || last) {
            if (!scratch_.positive()) distrust(scratch_);
            needs_reset_ = scratch_.refused();
            settle_open(scratch_);
            co_return;
        }
        auto next = co_await content.next(within(options_.timeouts.data_send));
        if (!next) {
            needs_reset_ = true; // without LAST the peer has accepted nothing
            fail_unreadable(scratch_, Stage::body, next.error());
            settle_open(scratch_);
            co_return;
        }
        piece = std::move(*next);
    }
}

/// The content after a 354, dot-stuffed, and the answer to its end.
Task<void> ClientSession::send_dotted(SlabChain piece, queue::ContentReader& content) {
    while (!piece.empty()) {
        const bool sent = co_await send_stuffed(std::move(piece));
        if (!sent) {
            co_await explain_broken_write(scratch_);
            settle_open(scratch_);
            co_return;
        }
        if (content.bytes_left() == 0) break;
        auto next = co_await content.next(within(options_.timeouts.data_send));
        if (!next) {
            // The peer must not take what it has so far for the message: no dot, and no orderly
            // end.
            usable_ = false;
            stream_->abort();
            fail_unreadable(scratch_, Stage::body, next.error());
            settle_open(scratch_);
            co_return;
        }
        piece = std::move(*next);
    }
    // The CRLF before the dot is the content's own when it ends in one (RFC 5321 §4.1.1.4).
    const std::string_view end = tail_ == 2 ? ".\r\n" : "\r\n.\r\n";
    const bool sent = co_await send(end, Stage::body, options_.timeouts.data_send, scratch_);
    if (!sent) {
        co_await explain_broken_write(scratch_);
        settle_open(scratch_);
        co_return;
    }
    static_cast<void>(co_await read_reply(Stage::last_dot, options_.timeouts.data_done, scratch_));
    if (!scratch_.positive()) distrust(scratch_);
    settle_open(scratch_);
}

/// Doubles each dot that begins a line (RFC 5321 §4.5.2) without copying: a view that ends with the
/// dot is followed by one that begins with the same dot. A bare LF counts as a line's end too: a
/// peer that takes it for one must not find a lone dot behind it.
Task<bool> ClientSession::send_stuffed(SlabChain piece) {
    SlabChain chain;
    for (const base::SlabView& view : piece.views()) {
        const std::string_view text = base::as_text(view.bytes());
        if (text.empty()) continue;
        std::uint32_t begin = 0;
        std::size_t search = 0;
        bool dot_first = at_line_start_ && text[0] == '.';
        while (begin < text.size()) {
            std::uint32_t end = static_cast<std::uint32_t>(text.size());
            std::uint32_t next = end;
            if (dot_first) {
                end = 1;
                next = 0;
                dot_first = false;
            } else if (const std::size_t found = text.find("\n.", search);
                       found != std::string_view::npos) {
                end = static_cast<std::uint32_t>(found + 2);
                next = end - 1;
                search = end;
            }
            if (chain.full()) {
                const bool sent = co_await send_slabs(std::move(chain), Stage::body, scratch_);
                if (!sent) co_return false;
                chain.clear();
            }
            chain.push({view.slab, view.offset + begin, end - begin});
            begin = next;
        }
        const char last = text.back();
        const bool after_cr = text.size() > 1 ? text[text.size() - 2] == '\r' : tail_ == 1;
        tail_ = last == '\r' ? 1 : last == '\n' && after_cr ? 2 : 0;
        at_line_start_ = last == '\n';
    }
    const bool sent = co_await send_slabs(std::move(chain), Stage::body, scratch_);
    co_return sent;
}

} // namespace dataplane::smtp
