#include "dataplane/loadgen/source.h"

#include "dataplane/loadgen/digest.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <utility>

namespace dataplane::loadgen {
namespace {

constexpr std::chrono::milliseconds reconnect_pause{50}; // between attempts on one connection

/// RFC 4616, for AUTH PLAIN's initial response.
std::string base64(std::string_view bytes) {
    constexpr std::string_view alphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string text;
    std::uint32_t bits = 0;
    unsigned held = 0;
    for (const char c : bytes) {
        bits = bits << 8 | static_cast<unsigned char>(c);
        for (held += 8; held >= 6; held -= 6)
            text += alphabet[bits >> (held - 6) & 63];
    }
    if (held != 0) text += alphabet[bits << (6 - held) & 63];
    while (text.size() % 4 != 0)
        text += '=';
    return text;
}

bool offers(std::string_view lines, std::string_view keyword) {
    for (std::size_t at = 0; at < lines.size();) {
        const std::size_t end = std::min(lines.find('\n', at), lines.size());
        const std::string_view line = lines.substr(at, end - at);
        const std::string_view word = line.substr(0, line.find(' '));
        if (std::equal(word.begin(), word.end(), keyword.begin(), keyword.end(),
                       [](char a, char b) { return (a >= 'a' && a <= 'z' ? a - 32 : a) == b; })) {
            return true;
        }
        at = end + 1;
    }
    return false;
}

Outcome outcome_of(const Reply& reply) noexcept {
    if (reply.positive()) return Outcome::accepted;
    return reply.code >= 500 ? Outcome::permanent : Outcome::transient;
}

} // namespace

Source::Source(base::Loop& loop, base::Transport& transport, SourceOptions options,
               MessageMaker maker, TlsWrapper* tls, Ledger* ledger, TlsWrapper* fresh_tls)
    : loop_(loop), transport_(transport), options_(std::move(options)), maker_(std::move(maker)),
      tls_(tls), fresh_tls_(fresh_tls), ledger_(ledger) {
    CHECK(!options_.targets.empty());
    CHECK(options_.tls == SourceTls::none || tls_ != nullptr);
    CHECK(options_.tls == SourceTls::none || options_.resumption_share >= 1 ||
          fresh_tls_ != nullptr);
    CHECK(options_.messages != 0 || options_.time.count() != 0);
    for (const base::SocketAddress& target : options_.targets)
        tally_.targets.push_back({.name = target.to_string()});
}

void Source::start() {
    started_ = last_reply_ = last_good_ = loop_.now();
    tasks_left_ = options_.connections;
    for (std::size_t i = 0; i < options_.connections; ++i)
        loop_.spawn(run_connection(i), "source connection");
}

bool Source::more() noexcept {
    if (stopping_) return false;
    if (options_.messages != 0 && next_ >= options_.messages) return false;
    if (options_.time.count() == 0 || loop_.now() - started_ < options_.time) return true;
    settle_overdue();
    return false;
}

base::TimePoint Source::due_at(std::uint64_t index) const noexcept {
    return started_ + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(
                          static_cast<double>(index) / options_.rate_per_s));
}

void Source::settle_overdue() noexcept {
    if (std::exchange(settled_, true) || options_.rate_per_s <= 0) return;
    base::TimePoint end = loop_.now();
    if (options_.time.count() != 0) end = std::min(end, started_ + options_.time);
    while (tally_.due < next_ && due_at(tally_.due) < end)
        ++tally_.due;
    for (std::uint64_t i = next_; options_.messages == 0 || i < options_.messages; ++i) {
        const base::TimePoint due = due_at(i);
        if (due >= end) break;
        ++tally_.due;
        ++tally_.overdue;
        tally_.accept_latency_ns.record(static_cast<std::uint64_t>((end - due).count()));
    }
}

SourceTls Source::draw_tls() noexcept {
    if (options_.tls == SourceTls::none || options_.tls_share >= 1) return options_.tls;
    const double draw = static_cast<double>(scramble(++draws_) >> 11) * 0x1.0p-53;
    return draw < options_.tls_share ? options_.tls : SourceTls::none;
}

void Source::remember(std::string_view stage, base::NetError error) {
    if (error == base::NetError::cancelled) return; // by stop(): nobody's fault
    tally_.last_error = std::string(stage) + ": " + std::string(base::to_string(error));
}

void Source::refresh_date() {
    const auto second = std::chrono::floor<std::chrono::seconds>(loop_.wall_now());
    if (second == date_second_ && !date_.empty()) return;
    date_second_ = second;
    const std::time_t time = second.time_since_epoch().count();
    std::tm parts{};
    gmtime_r(&time, &parts);
    std::array<char, 64> text{};
    const std::size_t length =
        std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S +0000", &parts);
    date_.assign(text.data(), length);
}

void Source::count(const Attempt& attempt, const Message& message, base::TimePoint since,
                   std::size_t target) {
    ++tally_.sent;
    TargetTally& relay = tally_.targets[target];
    base::Duration waited = std::max(loop_.now() - since, base::Duration{0});
    // However soon the connection went: its answer never came.
    if (attempt.connection_lost) waited = std::max<base::Duration>(waited, options_.reply_limit);
    if (attempt.outcome == Outcome::accepted || attempt.connection_lost) {
        tally_.accept_latency_ns.record(static_cast<std::uint64_t>(waited.count()));
        relay.accept_latency_ns.record(static_cast<std::uint64_t>(waited.count()));
    }
    ++(attempt.outcome == Outcome::accepted ? relay.accepted : relay.failed);
    switch (attempt.outcome) {
    case Outcome::accepted:
        ++tally_.accepted;
        tally_.recipients += attempt.recipients;
        tally_.recipients_refused += attempt.refused.size();
        tally_.bytes += message.content.size();
        break;
    case Outcome::transient:
        ++tally_.transient;
        break;
    case Outcome::permanent:
        ++tally_.permanent;
        break;
    case Outcome::unknown:
        ++tally_.unknown;
        break;
    }
    if (attempt.reply.code >= 400) {
        tally_.last_error = std::to_string(attempt.reply.code) + ' ' + attempt.reply.text;
    }
    last_reply_ = loop_.now();
    if (ledger_ != nullptr) tell_ledger(attempt, message);
}

void Source::tell_ledger(const Attempt& attempt, const Message& message) {
    SourceLine line;
    line.sequence = message.sequence;
    line.outcome = attempt.outcome;
    line.time_us =
        std::chrono::duration_cast<std::chrono::microseconds>(loop_.wall_now().time_since_epoch())
            .count();
    line.recipients = attempt.recipients;
    line.run = maker_.pattern().run;
    line.reply = std::to_string(attempt.reply.code) + ' ' + attempt.reply.text;
    std::vector<std::string> let_in;
    line.addresses = &message.recipients;
    if (!attempt.refused.empty()) {
        let_in = message.recipients;
        for (auto number = attempt.refused.rbegin(); number != attempt.refused.rend(); ++number)
            let_in.erase(let_in.begin() + static_cast<std::ptrdiff_t>(*number));
        line.addresses = &let_in;
    }
    ledger_->append(line);
}

base::Task<void> Source::run_connection(std::size_t number) {
    const std::size_t target = (options_.first_connection + number) % options_.targets.size();
    if (options_.ramp.count() != 0) {
        const base::Duration wait = base::Duration(options_.ramp) * static_cast<int>(number) /
                                    static_cast<int>(options_.connections);
        static_cast<void>(co_await base::sleep_for(loop_, wait, &stop_sleeping_));
        last_good_ = loop_.now();
    }
    while (more()) {
        const SessionEnd end = co_await run_session(target, number);
        if (end != SessionEnd::broken) {
            last_good_ = loop_.now();
            continue;
        }
        ++tally_.connections_broken;
        if (options_.reconnect_limit.count() != 0 &&
            loop_.now() - last_good_ >= options_.reconnect_limit)
            break;
        static_cast<void>(co_await base::sleep_for(loop_, reconnect_pause));
    }
    // The last one to give up closes the account: what has fallen due by now nobody will send.
    if (--tasks_left_ == 0) settle_overdue();
}

base::Task<Source::SessionEnd> Source::run_session(std::size_t target, std::size_t client) {
    const base::SocketAddress address = options_.targets[target];
    auto connected = co_await transport_.connect(address, std::nullopt, opening_deadline());
    if (!connected) {
        remember("connect", connected.error());
        co_return connected.error() == base::NetError::cancelled ? SessionEnd::no_more
                                                                 : SessionEnd::broken;
    }
    ++tally_.connections_made;
    ++tally_.connections_open;
    ++tally_.targets[target].connections;
    Dialogue dialogue(std::move(*connected));
    const auto offered = co_await open(dialogue, client);
    SessionEnd end = SessionEnd::broken;
    if (!offered && offered.error() == base::NetError::cancelled) {
        dialogue.abort();
        --tally_.connections_open;
        co_return SessionEnd::no_more;
    }
    if (offered) {
        const Offers server = *offered;
        last_good_ = loop_.now();
        Message message;
        std::uint64_t sent_here = 0;
        end = SessionEnd::no_more;
        while (more()) {
            if (options_.messages_per_connection != 0 &&
                sent_here == options_.messages_per_connection) {
                end = SessionEnd::turn_over;
                break;
            }
            const std::uint64_t index = next_++;
            base::TimePoint since = loop_.now();
            if (options_.rate_per_s > 0) {
                since = due_at(index);
                if (since > loop_.now()) {
                    base::Deadline due{.at = since, .cancel = &stop_sleeping_};
                    if (options_.time.count() != 0) due = due.sooner(started_ + options_.time);
                    static_cast<void>(co_await base::sleep_until(loop_, due));
                    // The end came first: this one is not of the run.
                    if (loop_.now() < since ||
                        (options_.time.count() != 0 && since >= started_ + options_.time))
                        break;
                    tally_.wake_lateness_ns.record(static_cast<std::uint64_t>(
                        std::max<base::Duration::rep>(0, (loop_.now() - since).count())));
                }
            }
            refresh_date();
            maker_.make(options_.first_sequence + index, date_, message);
            base::TimePoint content_sent = loop_.now();
            const Attempt attempt = co_await transact(dialogue, server, message, &content_sent);
            count(attempt, message, options_.rate_per_s > 0 ? since : content_sent, target);
            ++sent_here;
            if (attempt.connection_lost || attempt.reply.code == 421) {
                end = SessionEnd::broken;
                break;
            }
            if (attempt.outcome != Outcome::accepted) { // a half-built transaction may be left over
                const auto cleared = co_await dialogue.exchange("RSET", reply_deadline());
                if (!cleared) {
                    end = SessionEnd::broken;
                    break;
                }
            }
            last_good_ = loop_.now();
        }
    }
    if (end != SessionEnd::broken) {
        const base::Deadline soon = base::Deadline::in(loop_, std::chrono::seconds{2});
        static_cast<void>(co_await dialogue.exchange("QUIT", soon));
    }
    dialogue.close();
    --tally_.connections_open;
    co_return end;
}

// Greeting -> EHLO -> [STARTTLS -> EHLO] -> [AUTH].
base::Task<base::NetResult<Source::Offers>> Source::open(Dialogue& dialogue, std::size_t client) {
    const SourceTls tls = draw_tls();
    if (tls == SourceTls::implicit) {
        const auto secured = co_await secure(dialogue, client);
        if (!secured) co_return std::unexpected(secured.error());
    }
    const auto greeting = co_await dialogue.read_reply(opening_deadline());
    if (!greeting) {
        remember("greeting", greeting.error());
        co_return std::unexpected(greeting.error());
    }
    if (!greeting->positive()) {
        tally_.last_error = std::to_string(greeting->code) + ' ' + greeting->text;
        co_return std::unexpected(base::NetError::refused);
    }
    if (tally_.greeting.empty())
        tally_.greeting = std::to_string(greeting->code) + ' ' + greeting->text;
    auto offered = co_await greet(dialogue);
    if (!offered) co_return offered;

    if (tls == SourceTls::starttls) {
        const auto ready = co_await dialogue.exchange("STARTTLS", opening_deadline());
        if (!ready) co_return std::unexpected(ready.error());
        if (!ready->positive()) {
            tally_.last_error = "STARTTLS: " + std::to_string(ready->code) + ' ' + ready->text;
            co_return std::unexpected(base::NetError::tls);
        }
        const auto secured = co_await secure(dialogue, client);
        if (!secured) co_return std::unexpected(secured.error());
        offered = co_await greet(dialogue);
        if (!offered) co_return offered;
    }
    if (!options_.user.empty()) {
        using namespace std::string_literals;
        const std::string command =
            "AUTH PLAIN " + base64("\0"s + options_.user + "\0"s + options_.password);
        const auto known = co_await dialogue.exchange(command, opening_deadline());
        if (!known) co_return std::unexpected(known.error());
        if (!known->positive()) {
            tally_.last_error = "AUTH: " + std::to_string(known->code) + ' ' + known->text;
            co_return std::unexpected(base::NetError::refused);
        }
    }
    co_return offered;
}

base::Task<base::NetResult<>> Source::secure(Dialogue& dialogue, std::size_t client) {
    TlsWrapper* tls = tls_;
    if (options_.resumption_share < 1 &&
        static_cast<double>(scramble(++draws_) >> 11) * 0x1.0p-53 >= options_.resumption_share)
        tls = fresh_tls_;
    auto secured = co_await dialogue.start_tls(*tls, opening_deadline(), client);
    if (!secured) {
        remember("TLS", secured.error());
        co_return secured;
    }
    ++tally_.tls_connections;
    if (dialogue.tls_resumed()) ++tally_.tls_resumed;
    co_return secured;
}

base::Task<base::NetResult<Source::Offers>> Source::greet(Dialogue& dialogue) {
    std::string lines;
    const std::string command = "EHLO " + options_.helo_name;
    const auto reply = co_await dialogue.exchange(command, opening_deadline(), &lines);
    if (!reply) co_return std::unexpected(reply.error());
    if (!reply->positive()) {
        tally_.last_error = "EHLO: " + std::to_string(reply->code) + ' ' + reply->text;
        co_return std::unexpected(base::NetError::refused);
    }
    Offers offered;
    offered.pipelining = options_.pipelining && offers(lines, "PIPELINING");
    offered.chunking = options_.chunking && offers(lines, "CHUNKING");
    offered.size = offers(lines, "SIZE");
    offered.eight_bit_mime = offers(lines, "8BITMIME");
    co_return offered;
}

// MAIL -> RCPT* -> DATA -> content, or MAIL -> RCPT* -> BDAT LAST; in one group where the server
// lets us (RFC 2920 §3.1: DATA ends its group, BDAT carries its content along, RFC 3030 §4.2).
base::Task<Source::Attempt> Source::transact(Dialogue& dialogue, const Offers& offered,
                                             const Message& message,
                                             base::TimePoint* content_sent) {
    Attempt attempt;
    attempt.connection_lost = true; // until the last reply has come
    const base::Deadline deadline = reply_deadline();
    std::string& out = dialogue.out;

    Reply mail;
    out += "MAIL FROM:<";
    out += message.sender;
    out += '>';
    if (offered.size) {
        out += " SIZE=";
        out += std::to_string(message.content.size());
    }
    if (offered.eight_bit_mime) out += " BODY=8BITMIME";
    out += "\r\n";
    if (!offered.pipelining) {
        const auto sent = co_await dialogue.flush(deadline);
        if (!sent) co_return attempt;
        auto reply = co_await dialogue.read_reply(deadline);
        if (!reply) co_return attempt;
        mail = std::move(*reply);
        if (!mail.positive()) {
            attempt.connection_lost = false;
            attempt.outcome = outcome_of(mail);
            attempt.reply = std::move(mail);
            co_return attempt;
        }
    }

    Reply refusal;
    for (std::size_t i = 0; i < message.recipients.size(); ++i) {
        out += "RCPT TO:<";
        out += message.recipients[i];
        out += ">\r\n";
        if (offered.pipelining) continue;
        const auto sent = co_await dialogue.flush(deadline);
        if (!sent) co_return attempt;
        auto reply = co_await dialogue.read_reply(deadline);
        if (!reply) co_return attempt;
        if (reply->positive()) {
            ++attempt.recipients;
        } else {
            attempt.refused.push_back(i);
            refusal = std::move(*reply);
        }
    }
    if (!offered.pipelining && attempt.recipients == 0) {
        attempt.connection_lost = false;
        attempt.outcome = outcome_of(refusal);
        attempt.reply = std::move(refusal);
        co_return attempt;
    }

    if (offered.chunking) {
        out += "BDAT ";
        out += std::to_string(message.content.size());
        out += " LAST\r\n";
        out += message.content;
        *content_sent = loop_.now();
    } else {
        out += "DATA\r\n";
    }
    const auto sent = co_await dialogue.flush(deadline);
    // Part of a failed write may have left, and with BDAT that part may be the whole message.
    if (offered.chunking) attempt.outcome = Outcome::unknown;
    if (!sent) co_return attempt;

    if (offered.pipelining) {
        auto reply = co_await dialogue.read_reply(deadline);
        if (!reply) co_return attempt;
        mail = std::move(*reply);
        if (!mail.positive()) refusal = mail;
        for (std::size_t i = 0; i < message.recipients.size(); ++i) {
            reply = co_await dialogue.read_reply(deadline);
            if (!reply) co_return attempt;
            if (reply->positive()) {
                ++attempt.recipients;
                continue;
            }
            attempt.refused.push_back(i);
            if (mail.positive()) refusal = std::move(*reply);
        }
    }
    if (!offered.chunking) {
        auto invited = co_await dialogue.read_reply(deadline);
        if (!invited) co_return attempt;
        if (invited->code != 354) {
            attempt.connection_lost = false;
            attempt.reply = attempt.recipients == 0 && refusal.code != 0 ? std::move(refusal)
                                                                         : std::move(*invited);
            attempt.outcome = outcome_of(attempt.reply);
            co_return attempt;
        }
        if (attempt.recipients == 0) {
            out += ".\r\n"; // invited although nobody is to get it: RFC 2920 §3.1
        } else {
            append_dot_stuffed(out, message.content);
        }
        *content_sent = loop_.now();
        attempt.outcome = Outcome::unknown;
        const auto handed_over = co_await dialogue.flush(deadline);
        if (!handed_over) co_return attempt;
    }

    auto last = co_await dialogue.read_reply(deadline);
    if (!last) co_return attempt;
    attempt.connection_lost = false;
    attempt.reply =
        attempt.recipients == 0 && refusal.code != 0 ? std::move(refusal) : std::move(*last);
    attempt.outcome = outcome_of(attempt.reply);
    co_return attempt;
}

} // namespace dataplane::loadgen
