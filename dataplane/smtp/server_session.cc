// server_session.cc: a session's lifecycle, the loop over its commands, and the small ones.
#include "dataplane/smtp/server_session.h"

#include "dataplane/smtp/limits.h"
#include "tls_offload/tls_stream.h"

#include <array>
#include <charconv>
#include <utility>
#include <variant>

namespace dataplane::smtp {

using telemetry::Counter;

namespace {

/// What a connection takes from the shard's tables, given back however the session ends.
class ConnectionHold {
public:
    ConnectionHold(ServerContext& shard, const base::IpAddress& client)
        : shard_(shard), client_(client) {
        shard_.stats.adjust(telemetry::Gauge::open_in, 1);
    }
    ~ConnectionHold() {
        shard_.connections.leave(client_);
        shard_.stats.adjust(telemetry::Gauge::open_in, -1);
    }
    ConnectionHold(const ConnectionHold&) = delete;
    ConnectionHold& operator=(const ConnectionHold&) = delete;

private:
    ServerContext& shard_;
    base::IpAddress client_;
};

} // namespace

base::Task<void> serve(ServerContext& shard, base::StreamPtr stream, policy::PolicyPtr policy,
                       std::size_t listener) {
    const base::IpAddress client = stream->info().client.ip;
    shard.stats.add(Counter::connections_in);
    if (!shard.connections.enter(client, policy->limits.connections_per_client_max)) {
        shard.stats.add(Counter::connections_denied);
        std::string reply;
        append_reply(reply, replies::too_many_connections);
        const auto until = base::Deadline::in(shard.loop, farewell_time);
        const auto written = co_await stream->write(base::as_bytes(reply), until);
        static_cast<void>(written); // it is refused either way
        stream->close();
        co_return;
    }
    const ConnectionHold hold{shard, client};
    const policy::ListenerPolicy& settings = policy->listeners.at(listener);
    ServerSession session{shard, std::move(stream), policy, settings};
    co_await session.run();
}

ServerSession::ServerSession(ServerContext& shard, base::StreamPtr stream, policy::PolicyPtr policy,
                             const policy::ListenerPolicy& listener)
    : shard_(shard), stream_(std::move(stream)), reader_(*stream_, auth_line_bytes_max),
      policy_(std::move(policy)), listener_kind_(listener.kind),
      plain_auth_allowed_(listener.allow_plain_auth), session_id_(shard.next_session_id++),
      client_(stream_->info().client), client_literal_(client_.ip.to_literal()),
      session_end_(shard.loop.now() + policy_->timeouts.session_max) {}

base::Task<void> ServerSession::run() {
    if (listener_kind_ ==
        policy::ListenerKind::submissions) { // RFC 8314 §3.3: TLS before anything else
        const bool secured = co_await handshake();
        if (!secured) co_return;
    }
    if (const queue::SpoolPressure pressure = shard_.queue.pressure();
        pressure.level == queue::SpoolLevel::full || pressure.stuck) {
        // Nothing could be taken: say so before the client has sent anything.
        shard_.stats.add(Counter::rejected_spool);
        publish_rejection(replies::spool_closed, "");
        close_with(replies::spool_closed);
        co_await farewell();
        co_return;
    }
    replies_.append("220 ")
        .append(policy_->hostname)
        .append(" ESMTP\r\n"); // §4.2: no enhanced code here
    co_await converse();
    end_transaction(false);
    if (stream_ != nullptr) co_await farewell();
}

base::Task<void> ServerSession::converse() {
    while (open_) {
        if (shard_.shutdown != nullptr && shard_.shutdown->cancelled())
            co_return close_with(replies::shutting_down);
        const bool will_wait = !reader_.line_waiting();
        if (will_wait || replies_.size() >= replies_pending_bytes_max) co_await flush();
        if (!open_) co_return;

        const auto line = co_await reader_.read_line(deadline(policy_->timeouts.command));
        if (!line) co_return hang_up(line.error());
        if (++idle_commands_ > idle_commands_max)
            co_return close_with(replies::too_many_idle_commands);
        if (line->end == base::LineEnd::endless) co_return end_endless_line();
        line_ = line->text;
        if (line->end == base::LineEnd::too_long) {
            refuse(replies::line_too_long);
            continue;
        }
        if (line->end == base::LineEnd::bare_lf &&
            policy_->bare_newline == policy::BareNewline::reject) {
            // What the client thinks is one line may be two to us, or the other way round.
            refuse(replies::bare_newline_in_command);
            if (has_verb(line_, "BDAT")) open_ = false;
            continue;
        }

        const auto command = parse_command(line_);
        if (!command) {
            refuse(reply_to(command.error()));
            // How long its chunk is we do not know, and must not take the chunk for commands.
            if (has_verb(line_, "BDAT")) open_ = false;
            if (transaction_ == Transaction::mail && has_verb(line_, "RCPT"))
                recipients_tried_ = true;
        } else if (std::holds_alternative<Data>(*command)) {
            co_await receive_data();
        } else if (const Bdat* bdat = std::get_if<Bdat>(&*command)) {
            co_await receive_chunk(*bdat);
        } else if (std::holds_alternative<StartTls>(*command)) {
            co_await start_tls();
        } else if (const Auth* auth = std::get_if<Auth>(&*command)) {
            co_await authenticate(*auth);
        } else {
            std::visit(
                [this](const auto& simple) {
                    if constexpr (requires { on(simple); }) on(simple);
                },
                *command);
        }
    }
}

/// Sends the replies that have gathered.
base::Task<void> ServerSession::flush() {
    if (replies_.empty()) co_return;
    const auto written =
        co_await stream_->write(base::as_bytes(replies_), deadline(policy_->timeouts.command));
    replies_.clear();
    if (written) co_return;
    open_ = false; // a client that does not take its replies gets no more of them
    if (written.error() == base::NetError::cancelled) say(replies::shutting_down);
}

/// Gives the last replies their chance, also when the shard is shutting down.
base::Task<void> ServerSession::farewell() {
    if (!replies_.empty()) {
        const auto until = base::Deadline::in(shard_.loop, farewell_time);
        const auto written = co_await stream_->write(base::as_bytes(replies_), until);
        static_cast<void>(written); // whoever does not want to hear it goes without
    }
    stream_->close();
}

/// The stream failed: says why where that is still possible.
void ServerSession::hang_up(base::NetError why) {
    open_ = false;
    if (why == base::NetError::timed_out) say(replies::idle_timeout);
    if (why == base::NetError::cancelled) say(replies::shutting_down);
}

base::Deadline ServerSession::deadline(base::Duration limit) const noexcept {
    return base::Deadline::in(shard_.loop, limit, shard_.shutdown).sooner(session_end_);
}

/// Takes a newer policy into use. Only between transactions, so that one mail is judged by one
/// policy.
void ServerSession::refresh_policy() {
    if (policy_ != shard_.policy.current()) policy_ = shard_.policy.current();
}

void ServerSession::count_error() {
    if (++errors_ > policy_->limits.errors_max) close_with(replies::too_many_errors);
}

void ServerSession::refuse(const ServerReply& reply) {
    // What a client sent behind a MAIL that was told to wait, before it could know, is no mistake either
    // (RFC 2920 §3.1).
    if (put_off_ && &reply == &replies::mail_first) return say(reply);
    shard_.stats.add(Counter::rejected_syntax);
    say(reply);
    count_error();
}

/// RFC 5321 §4.5.3.1.4 lets us refuse a long line; one without an end cannot even be answered with 500, for a client that
/// is not done speaking does not listen.
void ServerSession::end_endless_line() {
    shard_.stats.add(Counter::rejected_syntax);
    close_with(replies::endless_line);
}

void ServerSession::reject(const ServerReply& reply, Counter reason, std::string_view command) {
    shard_.stats.add(reason);
    publish_rejection(reply, command);
    say(reply);
    if (reply.code == 421) {
        open_ = false;
    } else if (reply.code >= 500) {
        count_error();
    } else if (transaction_ ==
               Transaction::none) { // a client that is told to wait has made no mistake
        put_off_ = true;
    }
}

void ServerSession::close_with(const ServerReply& reply) {
    say(reply);
    open_ = false;
}

ClientStanding ServerSession::standing() const noexcept {
    return {.listener = listener_kind_,
            .plain_auth_allowed = plain_auth_allowed_,
            .tls = tls_active(),
            .client = client_.ip,
            .account = account_,
            .account_generation = account_generation_};
}

void ServerSession::on(const Ehlo& ehlo) {
    if (!greeted(ehlo.name, true)) return;
    replies_.append("250-").append(policy_->hostname).append("\r\n");
    say_extensions();
}

void ServerSession::on(const Helo& helo) {
    if (greeted(helo.name, false)) replies_.append("250 ").append(policy_->hostname).append("\r\n");
}

/// §4.1.4: a second EHLO resets like RSET.
bool ServerSession::greeted(std::string_view name, bool extended) {
    if (transaction_ == Transaction::none) refresh_policy();
    end_transaction(false);
    helo_.assign(name);
    extended_ = extended;
    return true;
}

void ServerSession::say_extensions() {
    std::array<char, 20> digits{};
    const auto size = std::to_chars(digits.data(), digits.data() + digits.size(),
                                    policy_->limits.message_bytes_max);
    replies_.append("250-PIPELINING\r\n250-SIZE ").append(digits.data(), size.ptr);
    replies_.append("\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250-"
                    "CHUNKING\r\n250-BINARYMIME\r\n");
    if (shard_.tls != nullptr && !tls_active()) replies_.append("250-STARTTLS\r\n");
    if (!authenticated() && objection_to_auth(standing()) == nullptr)
        replies_.append(has_certificate() ? "250-AUTH PLAIN LOGIN EXTERNAL\r\n"
                                          : "250-AUTH PLAIN LOGIN\r\n");
    replies_.append("250 DSN\r\n");
}

void ServerSession::on(const Rset&) {
    end_transaction(false);
    say(replies::ok);
}

void ServerSession::on(const Noop&) {
    say(replies::ok);
}
void ServerSession::on(const Quit&) {
    close_with(replies::goodbye);
}
void ServerSession::on(const Vrfy&) {
    say(replies::cannot_verify);
} // §7.3: tells nothing
void ServerSession::on(const Expn&) {
    refuse(replies::not_implemented);
}
void ServerSession::on(const Help&) {
    say(replies::help);
}

void ServerSession::describe_client(telemetry::Event& event) const {
    const base::StreamInfo& info = stream_->info();
    event.time = shard_.loop.wall_now();
    event.peer = client_;
    event.source = info.local;
    event.inbound = true;
    event.set(telemetry::EventText::session, session_id_.view());
    event.set(telemetry::EventText::account, account_);
    event.set(telemetry::EventText::tls_version, info.tls_version);
    event.set(telemetry::EventText::tls_cipher, info.tls_cipher);
    event.tls_resumed = info.tls_resumed;
    if (const tls_offload::TlsState* tls = tls_offload::tls_state(*stream_)) {
        event.set(telemetry::EventText::tls_group, tls->group);
        if (tls->peer) { // of clients that show a certificate
            event.set(telemetry::EventText::tls_verify,
                      tls->verified ? tls->authenticated_by : tls->verify_result);
        }
    }
    event.set(telemetry::EventText::peer_name, helo_.empty() ? client_literal_ : helo_);
}

void ServerSession::publish_rejection(const ServerReply& reply, std::string_view command) {
    telemetry::Event* event = shard_.events.claim();
    if (event == nullptr) return; // counted by the sink; events never hold up mail
    event->clear();
    event->type = telemetry::EventType::rejection;
    event->code = reply.code;
    event->enhanced = reply.enhanced;
    describe_client(*event);
    event->set(telemetry::EventText::response, reply.text);
    event->set(telemetry::EventText::command, command.substr(0, 200));
    if (draft_) {
        event->message_id = draft_.id().value;
        event->created = draft_.envelope().arrival;
        event->size_bytes = content_bytes_;
        event->set(telemetry::EventText::sender, draft_.envelope().sender());
        if (draft_.envelope().recipient_count() == 1) {
            event->set(telemetry::EventText::recipient, draft_.envelope().recipient(0).address);
        }
    }
    event->set(telemetry::EventText::rules, rules_hit_);
    shard_.events.publish();
}

} // namespace dataplane::smtp
