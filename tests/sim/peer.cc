#include "tests/sim/peer.h"

#include <algorithm>
#include <charconv>

namespace tests::sim {

using base::Deadline;
using base::Task;

namespace {

constexpr std::chrono::hours patience{2}; // longer than any timeout of the relay
constexpr std::size_t line_bytes_max = 4096;

/// What stands between the angle brackets.
[[nodiscard]] std::string path_of(std::string_view line) {
    const std::size_t begin = line.find('<');
    const std::size_t end = line.find('>', begin);
    if (begin == std::string_view::npos || end == std::string_view::npos) return "?";
    return std::string{line.substr(begin + 1, end - begin - 1)};
}

} // namespace

Manner Manner::friendly(Random& random) {
    Manner manner;
    manner.pipelining = random.chance(75);
    manner.chunking = random.chance(60);
    manner.dsn = random.chance(50);
    manner.ehlo = random.chance(93);
    return manner;
}

Manner Manner::moody(Random& random, bool final_refusals, std::chrono::seconds answer_time) {
    Manner manner = friendly(random);
    for (Mood& mood : manner.moods) {
        if (random.chance(60)) continue;
        const unsigned share = random.pick({5U, 20U, 60U, 100U});
        switch (random.below(5)) {
        case 0:
            mood.later = share;
            break;
        case 1:
            (final_refusals ? mood.never : mood.later) = share;
            break;
        case 2:
            mood.hang_up = share;
            break;
        case 3:
            mood.silent = std::min(share, 30U);
            break;
        case 4:
            mood.slow = share;
            break;
        }
    }
    if (random.chance(25)) manner.hang_up_after_taking = random.pick({5U, 30U});
    if (random.chance(10)) manner.silent_after_taking = random.pick({5U, 20U});
    // Some slowness is within the relay's patience, some is not.
    manner.slowness = random.pick<std::chrono::milliseconds>(
        {std::chrono::milliseconds{50}, std::chrono::seconds{2}, answer_time * 2});
    if (random.chance(20)) manner.messages_max = static_cast<std::uint32_t>(random.between(1, 3));
    if (final_refusals && random.chance(10))
        manner.size_max = random.pick<std::uint64_t>({3'000, 100'000, 600'000});
    return manner;
}

struct Peer::Session {
    explicit Session(base::StreamPtr connection, const Manner& present)
        : stream(std::move(connection)), reader(*stream, line_bytes_max), manner(present) {}
    base::StreamPtr stream;
    base::LineReader reader;
    Manner manner; // of when the connection was made: a change shows on the next one
    std::uint64_t number = 0;
    bool pipelining = false; // offered here
    bool dsn = false;
    bool in_mail = false;
    std::uint32_t messages = 0;
    std::string sender;
    std::vector<std::string> recipients; // accepted ones
    std::string content;
    std::size_t named = 0; // RCPTs of this transaction
};

Peer::Peer(base::Loop& loop, SimNet& net, Crew& crew, Audit& audit, Provider& provider,
           base::SocketAddress address, std::uint64_t seed)
    : loop_(loop), net_(net), crew_(crew), audit_(audit), provider_(provider), address_(address),
      random_(seed, 1) {}

void Peer::start() {
    listener_.reset();
    auto listener = net_.listen(address_, {});
    CHECK(listener.has_value());
    listener_ = std::move(*listener);
    crew_.spawn(accept_all());
}

Task<void> Peer::accept_all() {
    for (;;) {
        auto stream = co_await listener_->accept(Deadline::never());
        if (!stream) co_return;
        crew_.spawn(serve(std::move(*stream)));
    }
}

Task<void> Peer::serve(base::StreamPtr stream) {
    Session session{std::move(stream), manner};
    session.number = next_session_++;
    bool open = co_await answer(&session, PeerStage::greeting, "220 peer.test ESMTP", nullptr);
    while (open) {
        const auto line = co_await session.reader.read_line(Deadline::in(loop_, patience));
        if (!line) break;
        std::string text{line->text};
        session.reader.release();
        audit_.trace("peer",
                     address_.to_string() + '/' + std::to_string(session.number) + ' ' + text);
        const bool brings_data = text.starts_with("BDAT "); // behind the command, by its nature
        if (!session.pipelining && !brings_data && !session.stream->unread().empty()) {
            audit_.violation("pipelining to " + address_.to_string() +
                             ", which does not offer it, behind " + text);
        }
        open = co_await command(&session, std::move(text));
    }
    if (random_.chance(50)) session.stream->close(); // or a reset
}

Task<bool> Peer::command(Session* session, std::string line) {
    if (line.starts_with("EHLO ")) co_return co_await hello(session, true);
    if (line.starts_with("HELO ")) co_return co_await hello(session, false);
    if (line.starts_with("MAIL FROM:")) co_return co_await mail(session, line);
    if (line.starts_with("RCPT TO:")) co_return co_await rcpt(session, line);
    if (line == "DATA") co_return co_await data(session);
    if (line.starts_with("BDAT ")) co_return co_await bdat(session, line);
    if (line == "RSET") {
        session->in_mail = false;
        co_return co_await say(session, "250 2.0.0 Ok");
    }
    if (line == "QUIT") {
        static_cast<void>(co_await say(session, "221 2.0.0 Bye"));
        co_return false;
    }
    audit_.violation("strange command at " + address_.to_string() + ": " + line.substr(0, 80));
    co_return co_await say(session, "500 5.5.2 What?");
}

Task<bool> Peer::hello(Session* session, bool extended) {
    if (extended && !session->manner.ehlo)
        co_return co_await say(session, "502 5.5.1 EHLO is new to me");
    if (!extended) co_return co_await answer(session, PeerStage::hello, "250 peer.test", nullptr);
    std::string text = "250-peer.test";
    if (session->manner.pipelining) text += "\r\n250-PIPELINING";
    if (session->manner.chunking) text += "\r\n250-CHUNKING";
    if (session->manner.dsn) text += "\r\n250-DSN";
    if (session->manner.size_max != 0) {
        text += "\r\n250-SIZE " + std::to_string(session->manner.size_max);
        audit_.size_limit(provider_.index, session->manner.size_max);
    }
    text += "\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES";
    int code = 0;
    const bool open = co_await answer(session, PeerStage::hello, text, &code);
    session->pipelining = code == 250 && session->manner.pipelining;
    session->dsn = code == 250 && session->manner.dsn;
    co_return open;
}

Task<bool> Peer::mail(Session* session, std::string_view line) {
    const SiteLimits& limits = provider_.limits;
    ++session->messages;
    if (limits.messages_per_connection_max != 0 &&
        session->messages > limits.messages_per_connection_max) {
        audit_.violation("message " + std::to_string(session->messages) + " on one connection to " +
                         address_.to_string());
    }
    const TimePoint now = loop_.now();
    while (!provider_.mails.empty() && now - provider_.mails.front() >= std::chrono::seconds{1})
        provider_.mails.pop_front();
    if (now >= provider_.rate_counts_from) provider_.mails.push_back(now);
    if (limits.messages_per_second_max != 0 &&
        provider_.mails.size() > limits.messages_per_second_max + 1) {
        audit_.violation(std::to_string(provider_.mails.size()) +
                         " messages within a second to provider " +
                         std::to_string(provider_.index));
    }
    session->sender = path_of(line);
    session->recipients.clear();
    session->content.clear();
    session->named = 0;
    session->in_mail = false;
    if (session->manner.messages_max != 0 && session->messages > session->manner.messages_max) {
        static_cast<void>(co_await say(session, "421 4.7.0 Enough for now"));
        co_return false;
    }
    if (session->sender.empty())
        session->manner.moods[static_cast<std::size_t>(PeerStage::mail)].never = 0; // whose is it?
    int code = 0;
    const bool open = co_await answer(session, PeerStage::mail, "250 2.1.0 Ok", &code);
    session->in_mail = code == 250;
    if (code / 100 == 5) refuse(*session, {});
    co_return open;
}

Task<bool> Peer::rcpt(Session* session, std::string_view line) {
    if (!session->in_mail) co_return co_await say(session, "503 5.5.1 MAIL first");
    const std::uint32_t limit = provider_.limits.recipients_per_message_max;
    if (++session->named > limit && limit != 0) {
        audit_.violation(std::to_string(session->named) + " recipients in one transaction to " +
                         address_.to_string());
    }
    const std::string recipient = path_of(line);
    int code = 0;
    const bool open = co_await answer(session, PeerStage::rcpt, "250 2.1.5 Ok", &code);
    if (code == 250) session->recipients.push_back(recipient);
    if (code / 100 == 5) refuse(*session, {recipient});
    co_return open;
}

Task<bool> Peer::data(Session* session) {
    if (!session->in_mail || session->recipients.empty()) {
        co_return co_await say(session, "554 5.5.1 No valid recipients");
    }
    int code = 0;
    bool open = co_await answer(session, PeerStage::data, "354 Go on", &code);
    if (code / 100 == 5) refuse(*session, session->recipients);
    if (!open || code != 354) co_return open;

    const Manner::Mood& mood = session->manner.moods[static_cast<std::size_t>(PeerStage::body)];
    const std::uint64_t hang_up_at =
        random_.chance(mood.hang_up) ? 1 + random_.below(40'000) : ~std::uint64_t{0};
    constexpr std::string_view end = "\r\n.\r\n";
    std::string raw = "\r\n"; // the command's own line end
    std::size_t searched = 0;
    for (;;) {
        const auto unread = session->stream->unread();
        const std::size_t before = raw.size();
        raw.append(base::as_text(unread));
        const std::size_t found = raw.find(end, searched);
        searched = raw.size() < end.size() ? 0 : raw.size() - end.size() + 1;
        if (found != std::string::npos) {
            session->stream->consume(found + end.size() - before);
            raw.resize(found + 2);
            break;
        }
        session->stream->consume(unread.size());
        if (raw.size() > hang_up_at) co_return false;
        if (!session->stream->unread().empty()) continue;
        const auto filled = co_await session->stream->fill(Deadline::in(loop_, patience));
        if (!filled) co_return false;
    }
    for (std::size_t at = 2; at < raw.size();) { // unstuff, line by line
        if (raw[at] == '.') ++at;
        const std::size_t line_end = raw.find("\r\n", at) + 2;
        session->content.append(raw, at, line_end - at);
        at = line_end;
    }
    open = co_await take(session, true);
    co_return open;
}

Task<bool> Peer::bdat(Session* session, std::string_view line) {
    line.remove_prefix(5);
    const bool last = line.ends_with(" LAST");
    std::uint64_t bytes = 0;
    std::from_chars(line.data(), line.data() + line.size(), bytes);
    const Manner::Mood& mood = session->manner.moods[static_cast<std::size_t>(PeerStage::body)];
    const std::uint64_t hang_up_at =
        random_.chance(mood.hang_up) ? random_.below(bytes + 1) : ~std::uint64_t{0};
    std::uint64_t come = 0;
    while (come < bytes) {
        const auto unread = session->stream->unread();
        const std::size_t here =
            static_cast<std::size_t>(std::min<std::uint64_t>(unread.size(), bytes - come));
        session->content.append(base::as_text(unread.first(here)));
        session->stream->consume(here);
        come += here;
        if (come > hang_up_at) co_return false;
        if (come == bytes || !session->stream->unread().empty()) continue;
        const auto filled = co_await session->stream->fill(Deadline::in(loop_, patience));
        if (!filled) co_return false;
    }
    if (!session->in_mail || session->recipients.empty()) {
        co_return co_await say(session, "503 5.5.1 No valid recipients");
    }
    if (last) co_return co_await take(session, false);
    int code = 0;
    const bool open = co_await answer(session, PeerStage::data, "250 2.0.0 More", &code);
    if (code / 100 == 5) refuse(*session, session->recipients);
    if (code != 250) session->in_mail = false;
    co_return open;
}

/// The message is complete: it is taken, or not, and then the sender hears of it, or not.
Task<bool> Peer::take(Session* session, bool by_data) {
    session->in_mail = false;
    const Manner::Mood& mood = session->manner.moods[static_cast<std::size_t>(PeerStage::dot)];
    const bool refuses =
        random_.chance(mood.later + mood.never) || random_.chance(mood.hang_up + mood.silent);
    if (refuses) {
        const unsigned kinds = mood.later + mood.never + mood.hang_up + mood.silent;
        std::uint64_t draw = random_.below(kinds);
        if (draw < mood.later) co_return co_await say(session, "451 4.3.0 Not now");
        draw -= mood.later;
        if (draw < mood.never) {
            refuse(*session, session->recipients);
            co_return co_await say(session, "550 5.7.1 Not this");
        }
        if (draw - mood.never < mood.hang_up) co_return false;
        co_return co_await fall_silent(session);
    }
    ++taken_;
    audit_.trace("taken", address_.to_string() + '/' + std::to_string(session->number) + ' ' +
                              std::to_string(session->content.size()) + " bytes");
    const std::size_t arrival = audit_.arrived({.sender = session->sender,
                                                .recipients = session->recipients,
                                                .content = std::move(session->content),
                                                .by_data = by_data,
                                                .offers_dsn = session->dsn,
                                                .provider = provider_.index});
    session->content.clear();
    if (random_.chance(session->manner.hang_up_after_taking)) co_return false;
    if (random_.chance(session->manner.silent_after_taking))
        co_return co_await fall_silent(session);
    if (random_.chance(mood.slow)) {
        static_cast<void>(co_await base::sleep_for(
            loop_, random_.time(std::chrono::milliseconds{1}, session->manner.slowness)));
    }
    const bool said = co_await say(session, "250 2.0.0 Taken");
    if (said) audit_.replied(arrival);
    co_return said;
}

Task<bool> Peer::answer(Session* session, PeerStage stage, std::string_view text, int* code) {
    const Manner::Mood& mood = session->manner.moods[static_cast<std::size_t>(stage)];
    if (random_.chance(mood.hang_up)) co_return false;
    if (random_.chance(mood.silent)) co_return co_await fall_silent(session);
    if (random_.chance(mood.slow)) {
        static_cast<void>(co_await base::sleep_for(
            loop_, random_.time(std::chrono::milliseconds{1}, session->manner.slowness)));
    }
    const std::uint64_t draw = random_.below(100);
    int said = 0;
    bool open = true;
    if (draw < mood.later) {
        const bool closing = random_.chance(20);
        said = closing ? 421 : 450;
        static_cast<void>(co_await say(session, closing ? "421 4.3.2 Closing"
                                                        : "450-4.2.0 Not\r\n450 4.2.0 now"));
        open = !closing && stage != PeerStage::greeting;
    } else if (draw < mood.later + mood.never) {
        said = 550;
        open = co_await say(session, "550 5.1.1 Never");
        if (stage == PeerStage::greeting) open = false;
    } else {
        std::from_chars(text.data(), text.data() + 3, said);
        open = co_await say(session, text);
    }
    if (code != nullptr) *code = said;
    co_return open;
}

Task<bool> Peer::say(Session* session, std::string_view text) {
    std::string line{text};
    line += "\r\n";
    const auto written =
        co_await session->stream->write(base::as_bytes(line), Deadline::in(loop_, patience));
    co_return written.has_value();
}

Task<bool> Peer::fall_silent(Session* session) {
    for (;;) {
        session->stream->consume(session->stream->unread().size());
        const auto filled = co_await session->stream->fill(Deadline::in(loop_, patience));
        if (!filled) co_return false;
    }
}

void Peer::refuse(const Session& session, std::vector<std::string> recipients) {
    audit_.refused(session.sender, recipients, provider_.index);
}

} // namespace tests::sim
