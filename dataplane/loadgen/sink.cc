#include "dataplane/loadgen/sink.h"

#include "dataplane/base/slab.h"

#include <charconv>
#include <utility>

namespace dataplane::loadgen {
namespace {

constexpr std::uint32_t verb(std::string_view four) noexcept {
    std::uint32_t key = 0;
    for (std::size_t i = 0; i < 4; ++i) {
        const auto c = static_cast<unsigned char>(i < four.size() ? four[i] : ' ');
        key = key << 8 | static_cast<std::uint32_t>(c >= 'a' && c <= 'z' ? c - 32 : c);
    }
    return key;
}

/// What stands between < and >, or empty.
std::string_view path_of(std::string_view line) noexcept {
    const std::size_t begin = line.find('<');
    if (begin == std::string_view::npos) return {};
    const std::size_t end = line.find('>', begin);
    return end == std::string_view::npos ? std::string_view{}
                                         : line.substr(begin + 1, end - begin - 1);
}

bool read_bdat(std::string_view line, std::uint64_t& bytes, bool& last) noexcept {
    line.remove_prefix(line.size() < 5 ? line.size() : 5);
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), bytes);
    if (error != std::errc{}) return false;
    const std::string_view rest(end, static_cast<std::size_t>(line.data() + line.size() - end));
    last = rest.size() >= 5 && verb(rest.substr(1)) == verb("LAST");
    return true;
}

} // namespace

bool Reception::enter(std::size_t whose, std::size_t connections_max) {
    const std::lock_guard held(lock_);
    if (open_.size() <= whose) open_.resize(whose + 1);
    return ++open_[whose] <= connections_max || connections_max == 0;
}

void Reception::leave(std::size_t whose) {
    const std::lock_guard held(lock_);
    --open_[whose];
}

bool Reception::too_early(std::uint64_t recipient, base::TimePoint now, base::Duration wait) {
    const std::lock_guard held(lock_);
    const auto known = first_attempts_.find(recipient);
    if (known != first_attempts_.end()) return now - known->second < wait;
    if (first_attempts_.size() >= greylist_entries_max) return false;
    first_attempts_.emplace(recipient, now);
    return true;
}

Sink::Sink(base::Loop& loop, base::Transport& transport, SinkOptions options, TlsWrapper* tls,
           Ledger* ledger)
    : loop_(loop), transport_(transport), options_(std::move(options)), tls_(tls), ledger_(ledger),
      reception_(options_.reception ? options_.reception : std::make_shared<Reception>()),
      random_(options_.seed) {
    tally_.providers.push_back({.name = "other"});
    for (const Provider& provider : options_.providers)
        tally_.providers.push_back({.name = provider.name});
}

base::NetResult<> Sink::start() {
    for (const base::SocketAddress& address : options_.addresses) {
        auto listening = listen(address, 0);
        if (!listening) return listening;
    }
    for (std::size_t i = 0; i < options_.providers.size(); ++i) {
        for (const base::SocketAddress& address : options_.providers[i].addresses) {
            auto listening = listen(address, i + 1);
            if (!listening) return listening;
        }
    }
    return {};
}

base::NetResult<> Sink::listen(const base::SocketAddress& address, std::size_t whose) {
    auto listener = transport_.listen(address, base::ListenOptions{});
    if (!listener) {
        failed_address_ = address;
        return std::unexpected(listener.error());
    }
    listeners_.push_back(std::move(*listener));
    loop_.spawn(accept_all(listeners_.back().get(), whose), "sink accept");
    return {};
}

std::vector<base::SocketAddress> Sink::local_addresses() const {
    std::vector<base::SocketAddress> addresses;
    for (const auto& listener : listeners_)
        addresses.push_back(listener->local());
    return addresses;
}

base::Task<void> Sink::accept_all(base::Listener* listener, std::size_t whose) {
    for (;;) {
        auto stream = co_await listener->accept(base::Deadline::never());
        if (stream) {
            loop_.spawn(serve(std::move(*stream), whose), "sink session");
            continue;
        }
        if (stream.error() == base::NetError::closed) co_return;
        static_cast<void>(co_await base::sleep_for(loop_, std::chrono::milliseconds{10}));
    }
}

base::Task<void> Sink::serve(base::StreamPtr stream, std::size_t whose) {
    ++tally_.connections;
    ++tally_.connections_open;
    Session session(std::move(stream), whose);
    static_cast<void>(co_await converse(session)); // a peer that goes away is not our trouble
    session.dialogue.close();
    reception_->leave(whose);
    --tally_.connections_open;
}

base::Task<base::NetResult<>> Sink::converse(Session& session) {
    const Manner& host = manner(session.host);
    if (!reception_->enter(session.host, host.connections_max)) {
        ++tally_.connections_refused;
        ++tally_.providers[session.host].connections_refused;
        session.dialogue.out += "421 4.7.0 too many connections from you\r\n";
        auto told = co_await session.dialogue.flush(command_deadline());
        co_return told;
    }
    session.dialogue.out += "220 " + options_.host_name + " ESMTP\r\n";
    for (;;) {
        if (!session.dialogue.line_waiting()) { // the group of commands has ended: answer it
            if (host.tarpit.count() != 0) {
                static_cast<void>(co_await base::sleep_for(loop_, host.tarpit));
            }
            const auto sent = co_await session.dialogue.flush(command_deadline());
            if (!sent) co_return sent;
        }
        const auto line = co_await session.dialogue.read_line(command_deadline());
        if (!line) co_return std::unexpected(line.error());
        const auto next = co_await obey(session, line->text);
        if (!next) co_return std::unexpected(next.error());
        if (*next == Next::go_on) continue;

        const auto sent = co_await session.dialogue.flush(command_deadline());
        if (!sent || *next == Next::quit) co_return sent;
        const auto secured = co_await session.dialogue.start_tls(*tls_, command_deadline());
        if (!secured) co_return secured;
        session.secured = true;
        session.reset();
        ++tally_.tls_connections;
    }
}

base::Task<base::NetResult<Sink::Next>> Sink::obey(Session& session, std::string_view line) {
    std::string& out = session.dialogue.out;
    switch (verb(line)) {
    case verb("MAIL"): {
        const std::uint64_t most = manner(session.host).messages_per_connection_max;
        session.reset();
        if (most != 0 && session.messages >= most) {
            out += "421 4.7.0 enough messages on this connection\r\n";
            co_return Next::quit;
        }
        session.in_mail = true;
        session.null_sender = path_of(line).empty();
        out += "250 2.1.0 OK\r\n";
        break;
    }
    case verb("RCPT"):
        add_recipient(session, line);
        break;
    case verb("DATA"): {
        if (session.recipient_count == 0) {
            out += "554 5.5.1 no valid recipients\r\n";
            break;
        }
        const auto taken = co_await take_data(session);
        if (!taken) co_return std::unexpected(taken.error());
        break;
    }
    case verb("BDAT"): {
        std::uint64_t bytes = 0;
        bool last = false;
        if (!read_bdat(line, bytes, last)) {
            out += "501 5.5.4 BDAT SIZE [LAST]\r\n";
            break;
        }
        const auto taken = co_await take_chunk(session, bytes, last);
        if (!taken) co_return std::unexpected(taken.error());
        break;
    }
    case verb("EHLO"):
    case verb("HELO"):
        say_hello(session, verb(line) == verb("EHLO"));
        session.reset();
        break;
    case verb("RSET"):
        session.reset();
        out += "250 2.0.0 OK\r\n";
        break;
    case verb("NOOP"):
        out += "250 2.0.0 OK\r\n";
        break;
    case verb("QUIT"):
        out += "221 2.0.0 bye\r\n";
        co_return Next::quit;
    case verb("STAR"):
        if (tls_ == nullptr || !manner(session.host).tls || session.secured) {
            out += "502 5.5.1 no TLS here\r\n";
            break;
        }
        out += "220 2.0.0 go ahead\r\n";
        co_return Next::start_tls;
    default:
        out += "502 5.5.2 unknown command\r\n";
        break;
    }
    co_return Next::go_on;
}

void Sink::say_hello(Session& session, bool extended) const {
    std::string& out = session.dialogue.out;
    if (!extended) {
        out += "250 " + options_.host_name + "\r\n";
        return;
    }
    out += "250-" + options_.host_name + "\r\n";
    const Manner& host = manner(session.host);
    if (host.pipelining) out += "250-PIPELINING\r\n";
    if (host.chunking) out += "250-CHUNKING\r\n";
    if (tls_ != nullptr && host.tls && !session.secured) out += "250-STARTTLS\r\n";
    out += "250-SIZE " + std::to_string(options_.message_bytes_max) + "\r\n";
    out += "250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n";
}

std::size_t Sink::provider_of(std::string_view recipient, std::size_t host) const {
    if (options_.providers.empty()) return 0;
    const std::string_view domain = recipient.substr(recipient.rfind('@') + 1);
    for (std::size_t i = 0; i < options_.providers.size(); ++i) {
        for (const std::string& name : options_.providers[i].domains) {
            if (!domain.ends_with(name)) continue;
            if (domain.size() == name.size() || domain[domain.size() - name.size() - 1] == '.')
                return i + 1;
        }
    }
    return host; // no domain of anybody's: whoever's address it came to
}

bool Sink::draw(double share) {
    return share > 0 && std::uniform_real_distribution<double>(0, 1)(random_) < share;
}

std::uint16_t Sink::draw_refusal(std::size_t whose, RefuseAt moment) {
    const Manner& rules = manner(whose);
    if (rules.refuse_at != moment) return 0;
    if (rules.reply_4xx_share <= 0 && rules.reply_5xx_share <= 0) return 0;
    const double drawn = std::uniform_real_distribution<double>(0, 1)(random_);
    if (drawn < rules.reply_4xx_share) {
        ++tally_.refused_4xx;
        ++tally_.providers[whose].refused_4xx;
        return 451;
    }
    if (drawn < rules.reply_4xx_share + rules.reply_5xx_share) {
        ++tally_.refused_5xx;
        ++tally_.providers[whose].refused_5xx;
        return 550;
    }
    return 0;
}

bool Sink::greylists(std::size_t whose, std::string_view recipient) {
    const std::chrono::milliseconds wait = manner(whose).greylist;
    if (wait.count() == 0) return false;
    if (!reception_->too_early(digest_of(base::as_bytes(recipient)), loop_.now(), wait))
        return false;
    ++tally_.greylisted;
    ++tally_.providers[whose].greylisted;
    return true;
}

void Sink::add_recipient(Session& session, std::string_view line) {
    std::string& out = session.dialogue.out;
    const std::string_view path = path_of(line);
    if (!session.in_mail) {
        out += "503 5.5.1 MAIL first\r\n";
        return;
    }
    if (path.empty()) {
        out += "501 5.1.3 no address\r\n";
        return;
    }
    if (session.recipient_count == recipients_max) {
        out += "452 4.5.3 too many recipients\r\n";
        return;
    }
    session.whose = provider_of(path, session.host);
    if (!session.null_sender && greylists(session.whose, path)) {
        put_off(path);
        out += "451 4.7.1 greylisted, try again later\r\n";
        return;
    }
    switch (session.null_sender ? 0 : draw_refusal(session.whose, RefuseAt::rcpt)) {
    case 451:
        put_off(path);
        out += "451 4.2.1 try again later\r\n";
        return;
    case 550:
        if (ledger_ != nullptr) ledger_->append_refusal(SinkRefusal{.recipient = path});
        ++tally_.refused_for_good;
        out += "550 5.1.1 nobody of that name\r\n";
        return;
    default:
        break; // no refusal
    }
    if (session.recipients.size() == session.recipient_count) session.recipients.emplace_back();
    session.owners.resize(session.recipients.size());
    session.owners[session.recipient_count] = session.whose;
    session.recipients[session.recipient_count++].assign(path);
    out += "250 2.1.5 OK\r\n";
}

void Sink::put_off(std::string_view recipient) {
    if (ledger_ != nullptr)
        ledger_->append_refusal(SinkRefusal{.recipient = recipient, .for_good = false});
}

base::Task<base::NetResult<>> Sink::take_data(Session& session) {
    session.dialogue.out += "354 go ahead\r\n";
    const auto invited = co_await session.dialogue.flush(command_deadline());
    if (!invited) co_return invited;

    base::Stream& stream = session.dialogue.content();
    session.check.begin();
    session.dots.begin();
    for (;;) {
        if (stream.unread().empty()) {
            const auto filled = co_await stream.fill(command_deadline());
            if (!filled) co_return filled;
        }
        const DotReader::Step step = session.dots.step(stream.unread(), session.check);
        stream.consume(step.consumed);
        if (step.ended) break;
    }
    auto answered = co_await answer_message(session);
    co_return answered;
}

base::Task<base::NetResult<>> Sink::take_chunk(Session& session, std::uint64_t bytes, bool last) {
    base::Stream& stream = session.dialogue.content();
    if (!session.in_bdat) session.check.begin();
    session.in_bdat = true;
    for (std::uint64_t left = bytes; left != 0;) {
        if (stream.unread().empty()) {
            // The peer may wait for answers that we still hold: before a wait, everything is sent.
            const auto sent = co_await session.dialogue.flush(command_deadline());
            if (!sent) co_return sent;
            const auto filled = co_await stream.fill(command_deadline());
            if (!filled) co_return filled;
        }
        std::span<const std::byte> piece = stream.unread();
        if (piece.size() > left) piece = piece.first(static_cast<std::size_t>(left));
        session.check.feed(piece);
        left -= piece.size();
        stream.consume(piece.size());
    }
    if (session.recipient_count == 0) {
        session.dialogue.out += "503 5.5.1 no valid recipients\r\n";
        if (last) session.reset();
        co_return base::NetResult<>{};
    }
    if (!last) {
        session.dialogue.out += "250 2.0.0 chunk taken\r\n";
        co_return base::NetResult<>{};
    }
    auto answered = co_await answer_message(session);
    co_return answered;
}

base::Task<base::NetResult<>> Sink::answer_message(Session& session) {
    const std::size_t whose = session.owners[session.recipient_count - 1];
    const Manner& rules = manner(whose);
    std::chrono::milliseconds delay = rules.delay;
    if (rules.delay_max > delay) {
        delay += std::chrono::milliseconds(std::uniform_int_distribution<std::int64_t>(
            0, (rules.delay_max - delay).count())(random_));
    }
    if (delay.count() != 0) static_cast<void>(co_await base::sleep_for(loop_, delay));
    if (draw(rules.disconnect_share)) {
        for (std::size_t i = 0; i < session.recipient_count; ++i)
            put_off(session.recipients[i]); // as good as a 4xx: the relay will come again
        ++tally_.disconnected;
        ++tally_.providers[whose].disconnected;
        co_return std::unexpected(base::NetError::closed);
    }
    ++session.messages;
    std::string& out = session.dialogue.out;
    switch (session.null_sender ? 0 : draw_refusal(whose, RefuseAt::data)) {
    case 451:
        for (std::size_t i = 0; i < session.recipient_count; ++i)
            put_off(session.recipients[i]);
        out += "451 4.3.0 try again later\r\n";
        break;
    case 550:
        static_cast<void>(session.check.finish());
        for (std::size_t i = 0; i < session.recipient_count; ++i) {
            ++tally_.refused_for_good;
            if (ledger_ == nullptr) continue;
            ledger_->append_refusal(SinkRefusal{.recipient = session.recipients[i],
                                                .run = session.check.run(),
                                                .sequence = session.check.sequence()});
        }
        out += "550 5.7.1 not wanted here\r\n";
        break;
    default:
        count(session);
        out += "250 2.0.0 taken as ";
        out += std::to_string(next_id_++);
        out += "\r\n";
        break;
    }
    session.reset();
    co_return base::NetResult<>{};
}

void Sink::count(Session& session) {
    ++tally_.messages;
    tally_.received += session.recipient_count;
    for (std::size_t i = 0; i < session.recipient_count; ++i)
        ++tally_.providers[session.owners[i]].taken;
    tally_.bytes += session.check.bytes_seen();
    const ContentState state = session.check.finish();
    if (session.check.is_signed()) ++tally_.signed_messages;
    // Ours, but which one cannot be told: the message that is missing stays missing.
    const bool nameless = state == ContentState::altered && session.check.run().empty();
    const bool other_run = state != ContentState::foreign && !nameless &&
                           !session.check.run().starts_with(options_.run_prefix);
    if (other_run) tally_.other_runs += session.recipient_count;
    if (state == ContentState::foreign || other_run) {
        tally_.foreign += session.recipient_count;
        return;
    }
    if (tally_.unique == 0) {
        tally_.first_arrival = loop_.now();
        tally_.first_arrival_wall = loop_.wall_now();
    }
    tally_.last_arrival = loop_.now();
    tally_.last_arrival_wall = loop_.wall_now();
    if (state == ContentState::altered) tally_.altered += session.recipient_count;

    const std::string_view run = nameless ? "?" : session.check.run();
    const std::uint64_t message_key =
        scramble(digest_of(base::as_bytes(run)) ^ scramble(session.check.sequence()));
    for (std::size_t i = 0; i < session.recipient_count; ++i) {
        const std::string& recipient = session.recipients[i];
        if (nameless) {
            ++tally_.foreign;
        } else if (arrived_.insert(scramble(message_key ^ digest_of(base::as_bytes(recipient))))) {
            ++tally_.unique;
        } else {
            ++tally_.duplicated;
        }
        if (ledger_ == nullptr) continue;
        SinkLine line;
        line.sequence = session.check.sequence();
        line.altered = state == ContentState::altered;
        line.time_us = std::chrono::duration_cast<std::chrono::microseconds>(
                           loop_.wall_now().time_since_epoch())
                           .count();
        line.recipient = recipient;
        line.run = run;
        ledger_->append(line);
    }
}

} // namespace dataplane::loadgen
