// server_auth.cc: STARTTLS (RFC 3207) and AUTH (RFC 4954).
#include "dataplane/smtp/limits.h"
#include "dataplane/smtp/sasl.h"
#include "dataplane/smtp/server_session.h"
#include "tls_offload/tls_stream.h"

#include <algorithm>
#include <string.h> // explicit_bzero
#include <utility>

namespace dataplane::smtp {

using telemetry::Counter;

namespace {

/// Passwords do not stay behind in freed memory.
void wipe(std::string& secret) noexcept {
    explicit_bzero(secret.data(), secret.size());
    secret.clear();
}

/// The account that a client's certificate is; nullptr when it is nobody's, or not `wanted`'s.
/// A fingerprint speaks for itself; names count only in a certificate that verifies.
const policy::AccountPolicy* account_of(const policy::Policy& policy,
                                        const tls_offload::TlsState& tls, std::string_view wanted) {
    const auto look_up = [&](std::string credential) -> const policy::AccountPolicy* {
        const auto known = policy.certificate_accounts.find(credential);
        if (known == policy.certificate_accounts.end()) return nullptr;
        if (!wanted.empty() && known->second != wanted) return nullptr;
        return policy.account(known->second);
    };
    if (const auto* account = look_up("sha256:" + tls.peer->fingerprint)) return account;
    if (!tls.verified) return nullptr;
    for (const std::string& name : tls.peer->names) {
        if (const auto* account = look_up("name:" + name)) return account;
    }
    return look_up("subject:" + tls.peer->subject);
}

} // namespace

base::Task<void> ServerSession::start_tls() {
    if (tls_active()) co_return refuse(replies::tls_already);
    if (shard_.tls == nullptr) co_return refuse(replies::tls_not_offered);
    // What came in the clear behind this command was written by whoever sits on the wire. RFC 3207
    // §4.2 has us forget it; CVE-2011-0411 is what happens otherwise.
    reader_.release();
    if (!stream_->unread().empty()) {
        shard_.stats.add(Counter::rejected_syntax);
        while (!stream_->unread().empty())
            stream_->consume(stream_->unread().size());
    }
    say(replies::start_tls);
    co_await flush();
    if (!open_) co_return;

    // §4.2: everything learned from the client before TLS is forgotten.
    end_transaction(false);
    helo_.clear();
    extended_ = false;
    account_.clear();
    const bool secured = co_await handshake();
    static_cast<void>(secured); // without TLS there is no stream any more, and the session is over
}

/// Puts TLS under the session. On failure the connection is closed: there is no way back to plain
/// text.
base::Task<bool> ServerSession::handshake() {
    if (shard_.tls == nullptr) {
        open_ = false;
        stream_.reset();
        co_return false;
    }
    const base::Deadline until = deadline(policy_->timeouts.tls_handshake);
    auto secured = co_await tls_offload::accept_tls(std::move(stream_), *shard_.tls, until);
    if (!secured) {
        shard_.stats.add(Counter::tls_failed_in);
        open_ = false;
        co_return false;
    }
    stream_ = std::move(*secured);
    reader_.switch_to(*stream_);
    shard_.stats.add(Counter::tls_handshakes_in);
    if (stream_->info().tls_resumed) shard_.stats.add(Counter::tls_resumed_in);
    co_return true;
}

base::Task<void> ServerSession::authenticate(Auth auth) {
    if (!extended_) co_return refuse(replies::say_ehlo_first);
    if (authenticated()) co_return refuse(replies::auth_done);
    if (transaction_ != Transaction::none)
        co_return refuse(replies::not_in_transaction); // RFC 4954 §4
    if (const ServerReply* objection = objection_to_auth(standing())) {
        co_return reject(*objection, Counter::rejected_policy, "AUTH");
    }
    if (equal_ignoring_case(auth.mechanism, "EXTERNAL") && has_certificate())
        co_return co_await authenticate_by_certificate(auth);
    const bool plain = equal_ignoring_case(auth.mechanism, "PLAIN");
    if (!plain && !equal_ignoring_case(auth.mechanism, "LOGIN"))
        co_return refuse(replies::auth_mechanism);

    // The initial response is a view into the line, which the next read invalidates.
    std::optional<std::string> first;
    if (auth.initial_response) {
        first = decode_base64(*auth.initial_response);
        if (!first) co_return refuse(replies::bad_base64);
    } else {
        first = co_await ask(plain ? replies::auth_go_on : replies::auth_user_name);
        if (!first) co_return;
    }
    if (plain) {
        const auto credentials = split_plain(*first);
        if (!credentials) {
            wipe(*first);
            co_return refuse(replies::auth_malformed);
        }
        std::string user{credentials->user};
        std::string password{credentials->password};
        wipe(*first);
        co_return co_await verify(std::move(user), std::move(password));
    }
    auto password = co_await ask(replies::auth_password);
    if (!password) co_return;
    co_await verify(std::move(*first), std::move(*password));
}

bool ServerSession::has_certificate() const noexcept {
    const tls_offload::TlsState* tls = tls_offload::tls_state(*stream_);
    return tls != nullptr && tls->peer.has_value();
}

/// EXTERNAL (RFC 4422 appendix A): the client is who its certificate says, and may only name itself.
base::Task<void> ServerSession::authenticate_by_certificate(Auth auth) {
    std::optional<std::string> identity;
    if (auth.initial_response) {
        identity = decode_base64(*auth.initial_response);
        if (!identity) co_return refuse(replies::bad_base64);
    } else {
        identity = co_await ask(replies::auth_go_on);
        if (!identity) co_return;
    }
    refresh_policy(); // the account may be younger than this session
    const policy::AccountPolicy* account =
        account_of(*policy_, *tls_offload::tls_state(*stream_), *identity);
    if (account == nullptr || !account->enabled) {
        shard_.stats.add(Counter::auth_rejected);
        co_return co_await auth_failure(replies::auth_failed, true);
    }
    log_in(*account);
}

void ServerSession::log_in(const policy::AccountPolicy& account) {
    shard_.stats.add(Counter::auth_accepted);
    account_ = account.name;
    account_generation_ = account.generation;
    auth_failures_ = 0;
    say(replies::auth_ok);
}

/// One challenge and its decoded answer; nullopt when the exchange is over, and answered.
base::Task<std::optional<std::string>> ServerSession::ask(const ServerReply& challenge) {
    say(challenge);
    co_await flush();
    if (!open_) co_return std::nullopt;
    const auto line = co_await reader_.read_line(deadline(policy_->timeouts.command));
    if (!line) {
        hang_up(line.error());
        co_return std::nullopt;
    }
    if (line->end == base::LineEnd::endless) {
        end_endless_line();
        co_return std::nullopt;
    }
    if (line->end == base::LineEnd::too_long) {
        refuse(replies::auth_line_too_long);
        co_return std::nullopt;
    }
    if (line->end == base::LineEnd::bare_lf &&
        policy_->bare_newline == policy::BareNewline::reject) {
        refuse(replies::bare_newline_in_command);
        co_return std::nullopt;
    }
    if (line->text == "*") { // RFC 4954 §4: the client gives up
        refuse(replies::auth_cancelled);
        co_return std::nullopt;
    }
    auto answer = decode_base64(line->text);
    if (!answer) refuse(replies::bad_base64);
    co_return answer;
}

base::Task<void> ServerSession::verify(std::string user, std::string password) {
    if (!plausible(user, password)) {
        wipe(password);
        shard_.stats.add(Counter::auth_rejected);
        co_return co_await auth_failure(replies::auth_failed, true);
    }
    const base::Deadline until = deadline(auth_answer_time);
    const policy::AuthVerdict verdict =
        co_await shard_.authenticator.verify(user, std::move(password), client_.ip, until);
    switch (verdict) {
    case policy::AuthVerdict::accepted:
        break;
    case policy::AuthVerdict::rejected:
        shard_.stats.add(Counter::auth_rejected);
        co_return co_await auth_failure(replies::auth_failed, true);
    case policy::AuthVerdict::throttled:
        shard_.stats.add(Counter::auth_rejected);
        co_return co_await auth_failure(replies::auth_throttled, true);
    case policy::AuthVerdict::unavailable:
        shard_.stats.add(Counter::auth_unavailable);
        co_return co_await auth_failure(replies::auth_unavailable, false);
    }
    refresh_policy(); // the account may be younger than this session
    const policy::AccountPolicy* account = policy_->account(user);
    if (account == nullptr) { // control knows it, and its snapshot is on the way
        shard_.stats.add(Counter::auth_unavailable);
        co_return co_await auth_failure(replies::auth_unavailable, false);
    }
    if (!account->enabled) {
        shard_.stats.add(Counter::auth_rejected);
        co_return co_await auth_failure(replies::auth_failed, true);
    }
    log_in(*account);
}

/// Makes guessing slow: the answer waits, longer each time, and the third wrong one ends the
/// session.
base::Task<void> ServerSession::auth_failure(const ServerReply& reply, bool counts) {
    if (counts) {
        const auto delay =
            std::min(auth_delay_first * (1U << std::min(auth_failures_, 16U)), auth_delay_max);
        ++auth_failures_;
        const base::Wake wake = co_await base::sleep_until(shard_.loop, deadline(delay));
        if (wake == base::Wake::cancelled) co_return close_with(replies::shutting_down);
    }
    const bool last = auth_failures_ >= policy_->limits.auth_failures_max;
    reject(counts && last ? replies::auth_gives_up : reply, Counter::rejected_policy, "AUTH");
}

} // namespace dataplane::smtp
