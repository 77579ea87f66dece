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

} // namespace

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
        if (line->end == base::LineEnd::too_long || line->end == base::LineEnd::endless) {
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

} // namespace dataplane::smtp
