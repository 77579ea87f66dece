// server_mail.cc: MAIL and RCPT (RFC 5321 §4.1.1.2, §4.1.1.3): the envelope, and who may send it.
#include "dataplane/smtp/limits.h"
#include "dataplane/smtp/server_session.h"
#include "queue/limits.h"

#include <algorithm>
#include <utility>

namespace dataplane::smtp {

using telemetry::Counter;

namespace {

/// A recipient's share of the record on disk, generously.
constexpr std::size_t recipient_overhead_bytes = 32;

} // namespace

void ServerSession::on(const Mail& mail) {
    put_off_ = false;
    if (helo_.empty()) return refuse(replies::say_hello_first);
    if (transaction_ != Transaction::none) return refuse(replies::mail_twice);
    if (mail.extended && !extended_) return refuse(replies::unknown_parameter); // HELO knows none
    refresh_policy();
    if (messages_ >= policy_->limits.messages_per_session_max)
        return close_with(replies::too_many_messages);
    if (shard_.loop.now() >= session_end_) return close_with(replies::session_too_long);

    if (const ServerReply* objection = objection_to_mail(standing(), *policy_)) {
        return reject(*objection, Counter::rejected_policy, line_);
    }
    const policy::AccountPolicy* account = authenticated() ? policy_->account(account_) : nullptr;
    if (account != nullptr) {
        if (const ServerReply* objection = objection_to_sender(*account, mail.from)) {
            return reject(*objection, Counter::rejected_policy, line_);
        }
    }
    if (mail.size.value_or(0) > policy_->limits.message_bytes_max) {
        return reject(replies::too_large, Counter::rejected_size, line_);
    }
    if (account != nullptr) {
        const std::uint32_t shards = std::max(policy_->start_up.shards, 1U);
        const std::uint32_t share = account->messages_per_hour_max / shards +
                                    (account->messages_per_hour_max % shards != 0 ? 1U : 0U);
        if (!shard_.rates.take(account_, share, shard_.loop.now())) {
            return reject(replies::rate_exceeded, Counter::rejected_policy, line_);
        }
        rate_taken_ = true;
    }
    auto draft = shard_.queue.begin(mail.size.value_or(0), queue::DraftUse::mail,
                                    account != nullptr ? std::string_view{account->tenant}
                                                       : std::string_view{});
    if (!draft) {
        end_transaction(false);
        return reject(reply_to(draft.error()), Counter::rejected_spool, line_);
    }

    draft_ = std::move(*draft);
    transaction_ = Transaction::mail;
    smtputf8_ = mail.smtputf8;
    body_ = mail.body;
    queue::Envelope& envelope = draft_.envelope();
    envelope.arrival = shard_.loop.wall_now();
    envelope.expiry = envelope.arrival + policy_->retry.expiry;
    envelope.client = client_;
    envelope.client_tls = tls_active();
    envelope.body = mail.body;
    envelope.smtputf8 = mail.smtputf8;
    envelope.dsn_return = mail.dsn_return;
    envelope.set_sender(mail.from.address);
    envelope.set_envid(mail.envid);
    envelope.set_session(session_id_.view());
    if (account != nullptr) {
        envelope.set_account(account_);
        envelope.set_tenant(account->tenant);
        envelope.set_source(account->source);
    }
    say(replies::sender_ok);
}

void ServerSession::on(const Rcpt& rcpt) {
    --idle_commands_; // many recipients are what the relay is for
    if (transaction_ == Transaction::none) return refuse(replies::mail_first);
    if (transaction_ == Transaction::chunks) return refuse(replies::not_between_chunks);
    recipients_tried_ = true;
    if (rcpt.extended && !extended_) return refuse(replies::unknown_parameter);
    if (rcpt.to.utf8 && !smtputf8_) return refuse(replies::address_not_ascii); // RFC 6531 §3.5

    queue::Envelope& envelope = draft_.envelope();
    const std::size_t record_bytes = envelope.text_bytes() + rcpt.to.address.size() +
                                     rcpt.orcpt.size() +
                                     (envelope.recipient_count() + 1) * recipient_overhead_bytes;
    if (envelope.recipient_count() >= policy_->limits.recipients_max ||
        envelope.recipient_count() >= queue::recipients_max ||
        record_bytes > queue::envelope_bytes_max) {
        if (std::exchange(too_many_recipients_told_, true)) { // one event per message is enough
            shard_.stats.add(Counter::rejected_recipients);
            return say(replies::too_many_recipients);
        }
        return reject(replies::too_many_recipients, Counter::rejected_recipients, line_);
    }
    if (rcpt.to.domain.empty()) { // §4.5.1: <Postmaster> is ours
        envelope.add_recipient("postmaster@" + policy_->hostname, rcpt.orcpt, rcpt.notify);
    } else {
        envelope.add_recipient(rcpt.to.address, rcpt.orcpt, rcpt.notify);
    }
    say(replies::recipient_ok);
}

/// Back to where EHLO left off. A draft that was not committed is dropped.
void ServerSession::end_transaction(bool sent) {
    if (!sent && rate_taken_) shard_.rates.give_back(account_);
    rate_taken_ = false;
    transaction_ = Transaction::none;
    draft_ = queue::Draft{};
    drop_signer();
    put_off_ = false;
    recipients_tried_ = false;
    too_many_recipients_told_ = false;
    spoiled_ = false;
    content_bytes_ = 0;
    swallowed_bytes_ = 0;
    verdict_ = screen::Verdict{};
    scan_ = screen::Scan{};
    rules_hit_.clear();
}

} // namespace dataplane::smtp
