// server_data.cc: DATA (RFC 5321 §4.1.1.4), BDAT (RFC 3030), and what follows a message's last
// byte.
#include "dataplane/base/room.h"
#include "dataplane/message/header_add.h"
#include "dataplane/smtp/limits.h"
#include "dataplane/smtp/server_session.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace dataplane::smtp {

using telemetry::Counter;

namespace {

constexpr std::uint64_t no_limit = std::numeric_limits<std::uint64_t>::max();

} // namespace

const ServerReply* ServerSession::objection_to_data() noexcept {
    if (transaction_ == Transaction::none) return &replies::mail_first;
    if (transaction_ == Transaction::chunks) return &replies::not_between_chunks;  // RFC 3030 §2
    if (body_ == queue::BodyKind::binary_mime) return &replies::binary_needs_bdat; // RFC 3030 §3
    if (draft_.envelope().recipient_count() != 0) return nullptr;
    return recipients_tried_ ? &replies::no_valid_recipients : &replies::rcpt_first;
}

base::Task<void> ServerSession::receive_data() {
    if (const ServerReply* objection = objection_to_data()) co_return refuse(*objection);
    reader_.release();
    if (draft_.room().empty()) { // ask for the content only when there is somewhere to put it
        co_await flush();
        const auto made = co_await draft_.make_room(deadline(room_time));
        if (!made) {
            reject(reply_to(made.error()), Counter::rejected_spool, "DATA");
            co_return end_transaction(false);
        }
    }
    say(replies::start_content);
    begin_content(Framing::dotted);
    const bool complete = co_await pump(no_limit);
    if (complete) co_await finish_message();
}

const ServerReply* ServerSession::objection_to_chunk() noexcept {
    if (!extended_) return &replies::say_ehlo_first;
    if (transaction_ == Transaction::none) return &replies::mail_first;
    if (transaction_ == Transaction::chunks || draft_.envelope().recipient_count() != 0)
        return nullptr;
    return recipients_tried_ ? &replies::no_valid_recipients : &replies::rcpt_first;
}

base::Task<void> ServerSession::receive_chunk(Bdat bdat) {
    reader_.release();
    if (const ServerReply* objection = objection_to_chunk()) {
        refuse(*objection); // and the chunk comes all the same: RFC 3030 §4.2
        const bool alive = co_await swallow(bdat.bytes);
        static_cast<void>(alive); // when not, the session is over already
        co_return;
    }
    --idle_commands_; // a message may have many chunks
    if (transaction_ != Transaction::chunks) {
        const bool binary = body_ == queue::BodyKind::binary_mime;
        begin_content(binary ? Framing::binary : Framing::counted);
        transaction_ = Transaction::chunks;
    }
    const std::uint64_t bytes_max = policy_->limits.message_bytes_max;
    if (bdat.bytes > bytes_max - std::min(content_bytes_, bytes_max)) {
        spoil(replies::too_large, Counter::rejected_size);
    }
    if (spoiled_ && bdat.bytes > swallowed_bytes_max) co_return close_with(spoiled_reply_);
    const bool complete = co_await pump(bdat.bytes);
    if (!complete) co_return;
    if (!bdat.last) {
        say(spoiled_ ? spoiled_reply_ : replies::ok);
        co_return;
    }
    const std::span<const std::byte> tail = decoder_.finish_counted();
    if (decoder_.bare_newline()) spoil(replies::bare_newline, Counter::rejected_smuggling);
    if (!spoiled_ && !tail.empty()) {
        if (signer_ != nullptr) signer_->body(base::as_text(tail));
        const auto appended = co_await draft_.append(tail, deadline(room_time));
        if (!appended) spoil(reply_to(appended.error()), Counter::rejected_spool);
    }
    co_await finish_message();
}

void ServerSession::begin_content(Framing framing) {
    decoder_.reset(framing, policy_->bare_newline == policy::BareNewline::reject
                                ? BareNewlines::refuse
                                : BareNewlines::make_crlf);
    headers_ = message::HeaderScan{};
    scan_ = shard_.screener != nullptr ? shard_.screener->begin() : screen::Scan{};
    verdict_ = screen::Verdict{};
    rules_hit_.clear();
    dkim_result_.clear();
    if (shard_.dkim != nullptr) signer_ = shard_.dkim->begin(draft_.envelope().tenant());
    content_bytes_ = 0;
    swallowed_bytes_ = 0;
}

/// Moves content from the stream into the draft: all of DATA, or `input_bytes_max` bytes of BDAT.
/// False when the session is over.
base::Task<bool> ServerSession::pump(std::uint64_t input_bytes_max) {
    while (true) {
        std::span<const std::byte> input = stream_->unread();
        if (input_bytes_max < input.size())
            input = input.first(static_cast<std::size_t>(input_bytes_max));
        std::span<std::byte> room;
        if (!spoiled_) room = draft_.room();
        if (!spoiled_ &&
            room.empty()) { // nothing is consumed meanwhile: the client is pushed back on
            const auto made = co_await draft_.make_room(deadline(room_time));
            if (!made) spoil(reply_to(made.error()), Counter::rejected_spool);
            continue;
        }
        const DataDecoder::Progress progress = decoder_.decode(input, room);
        if (progress.written != 0) took(room.first(progress.written));
        stream_->consume(progress.consumed);
        if (input_bytes_max != no_limit) input_bytes_max -= progress.consumed;
        if (decoder_.bare_newline()) spoil(replies::bare_newline, Counter::rejected_smuggling);
        if (spoiled_) swallowed_bytes_ += progress.consumed;
        if (swallowed_bytes_ > swallowed_bytes_max) {
            close_with(spoiled_reply_);
            co_return false;
        }
        if (progress.stop == DataDecoder::Stop::finished) co_return true;
        if (progress.stop == DataDecoder::Stop::need_room) continue;
        if (input_bytes_max == 0) co_return true;
        if (!stream_->unread().empty()) continue;

        if (!replies_.empty()) co_await flush();
        if (!open_) co_return false;
        const auto filled = co_await stream_->fill(deadline(policy_->timeouts.data_block));
        if (!filled) {
            hang_up(filled.error());
            co_return false;
        }
    }
}

/// Reads a chunk that nobody wants. False when the session is over.
base::Task<bool> ServerSession::swallow(std::uint64_t bytes) {
    if (bytes > swallowed_bytes_max) { // not worth the wire
        open_ = false;
        co_return false;
    }
    while (bytes != 0) {
        const std::size_t here =
            static_cast<std::size_t>(std::min<std::uint64_t>(bytes, stream_->unread().size()));
        stream_->consume(here);
        bytes -= here;
        if (here != 0) continue;
        if (!replies_.empty()) co_await flush();
        if (!open_) co_return false;
        const auto filled = co_await stream_->fill(deadline(policy_->timeouts.data_block));
        if (!filled) {
            hang_up(filled.error());
            co_return false;
        }
    }
    co_return true;
}

/// Content has been written to the draft's room: counts it, and shows it to whoever reads along.
void ServerSession::took(std::span<const std::byte> content) {
    draft_.appended(content.size());
    content_bytes_ += content.size();
    if (content_bytes_ > policy_->limits.message_bytes_max)
        return spoil(replies::too_large, Counter::rejected_size);
    const base::InRoom in{base::Room::message};
    const bool in_header = !headers_.done();
    const std::size_t header_bytes = headers_.header_bytes();
    headers_.feed(content);
    if (headers_.end() == message::HeaderEnd::too_large) {
        return spoil(replies::header_too_large, Counter::rejected_size);
    }
    if (signer_ != nullptr) {
        if (in_header) {
            show_signer(content, headers_.header_bytes() - header_bytes);
        } else {
            signer_->body(base::as_text(content));
        }
    }
    const base::InRoom screening{base::Room::screen};
    scan_.feed(content);
    if (in_header && headers_.end() == message::HeaderEnd::not_a_header) {
        // A body without a blank line in front: this piece is shown to the rules as both, so that
        // leaving the line out hides nothing from either.
        scan_.feed(base::as_bytes("\r\n\r\n"));
        scan_.feed(content);
    }
}

/// A piece of content with the header's end, or before it: its first `header_bytes` are the header's.
void ServerSession::show_signer(std::span<const std::byte> content, std::size_t header_bytes) {
    const std::string_view text = base::as_text(content);
    signer_->header(text.substr(0, header_bytes));
    if (!headers_.done()) return;
    signer_->header_ended(headers_.end() == message::HeaderEnd::blank_line);
    signer_->body(text.substr(header_bytes));
}

void ServerSession::drop_signer() noexcept {
    if (signer_ != nullptr) shard_.dkim->give_back(std::move(signer_));
}

/// The message is refused from here on; its rest is read and dropped.
void ServerSession::spoil(const ServerReply& reply, Counter reason) {
    if (std::exchange(spoiled_, true)) return;
    spoiled_reply_ = reply;
    shard_.stats.add(reason);
    publish_rejection(reply, transaction_ == Transaction::chunks ? "BDAT" : "DATA");
    decoder_.discard();
    drop_signer();
    draft_ = queue::Draft{}; // gives its memory back now, not when the peer is done
}

/// The content is complete. 250 is said after the spool has it, and only then.
base::Task<void> ServerSession::finish_message() {
    const base::TimePoint content_ended = shard_.loop.now();
    if (!spoiled_ && headers_.received_count() > policy_->limits.received_headers_max) {
        spoil(replies::mail_loop, Counter::rejected_policy); // RFC 5321 §6.3
    }
    if (!spoiled_) screen_content();
    if (!spoiled_) {
        build_prelude();
        co_await sign_content();
    }
    if (!spoiled_) {
        // Not cancelled by a shutdown: the client has done its part.
        const auto committed =
            co_await draft_.commit(prelude_, base::Deadline::in(shard_.loop, commit_time));
        if (committed) {
            accepted(**committed, content_ended);
            end_transaction(true);
            co_return;
        }
        spoil(reply_to(committed.error()), Counter::rejected_spool);
    }
    say(spoiled_reply_);
    if (spoiled_reply_.code == 421) open_ = false;
    if (spoiled_reply_.code >= 500) count_error();
    end_transaction(false);
}

/// What the rules say of the whole message.
void ServerSession::screen_content() {
    {
        const base::InRoom in{base::Room::screen};
        verdict_ = scan_.finish();
    }
    shard_.stats.add(Counter::screen_hits, verdict_.rules.size());
    for (const std::string_view rule : verdict_.rules) {
        if (!rules_hit_.empty()) rules_hit_.push_back(',');
        rules_hit_.append(rule);
    }
    switch (verdict_.action) {
    case screen::Verdict::Action::accept:
        return;
    case screen::Verdict::Action::reject: {
        ServerReply reply = replies::content_rejected;
        if (!verdict_.text.empty()) reply.text = verdict_.text;
        return spoil(reply, Counter::rejected_content);
    }
    case screen::Verdict::Action::defer: {
        ServerReply reply = replies::content_deferred;
        if (!verdict_.text.empty()) reply.text = verdict_.text;
        return spoil(reply, Counter::rejected_content);
    }
    }
}

void ServerSession::build_prelude() {
    const base::InRoom in{base::Room::message};
    const queue::Envelope& envelope = draft_.envelope();
    const HexText id{draft_.id().value};
    const base::WallTime now = shard_.loop.wall_now();
    prelude_.clear();
    message::append_received(
        prelude_,
        {.helo = helo_,
         .client_literal = client_literal_,
         .host = policy_->hostname,
         .protocol = message::protocol_name(extended_, tls_active(), authenticated(), smtputf8_),
         .id = id.view(),
         .recipient =
             envelope.recipient_count() == 1 ? envelope.recipient(0).address : std::string_view{},
         .time = now});
    if (submitting()) { // RFC 6409 §8.2, §8.3; a relay adds nothing but its trace
        if (!headers_.has_message_id())
            message::append_message_id(prelude_, id.view(), policy_->hostname);
        if (!headers_.has_date()) message::append_date(prelude_, now);
    }
    const std::size_t bytes_max = queue::prelude_bytes_max - 2 -
                                  (signer_ != nullptr ? message::dkim::signatures_bytes_max : 0);
    for (const screen::AddedHeader& tag : verdict_.headers) {
        message::append_field(prelude_, tag.name, tag.value, bytes_max);
    }
    if (headers_.needs_blank_line()) prelude_.append("\r\n");
}

/// Signatures go into the prelude, so that the spool holds the message as it will be sent.
base::Task<void> ServerSession::sign_content() {
    if (signer_ == nullptr) co_return;
    base::RoomMeter::here().enter(base::Room::message); // its waits come back to it
    const auto report = co_await signer_->sign(
        shard_.dkim->signer(), prelude_, queue::prelude_bytes_max, shard_.loop.wall_now(),
        base::Deadline::in(shard_.loop, message::dkim::sign_time));
    base::RoomMeter::here().enter(base::Room::smtp);
    shard_.stats.add(Counter::dkim_signatures, report.signed_count);
    shard_.stats.add(Counter::dkim_failed, report.failed_count);
    if (report.defer) {
        dkim_result_.assign("none: ").append(to_string(*report.error));
        co_return spoil(replies::signing_failed, Counter::rejected_signing);
    }
    if (report.signed_count != 0) {
        shard_.stats.add(Counter::dkim_signed);
        dkim_result_.assign(signer_->signed_by());
    } else {
        switch (report.why) {
        case message::dkim::Unsigned::no_key:
            shard_.stats.add(Counter::dkim_unsigned_no_key);
            break;
        case message::dkim::Unsigned::no_author:
            shard_.stats.add(Counter::dkim_unsigned_no_author);
            break;
        case message::dkim::Unsigned::malformed:
            shard_.stats.add(Counter::dkim_unsigned_malformed);
            break;
        case message::dkim::Unsigned::failed:
            shard_.stats.add(Counter::dkim_unsigned_failed);
            break;
        }
        dkim_result_.assign("none: ").append(to_string(report.why));
    }
    drop_signer();
}

/// The message is durable.
void ServerSession::accepted(const queue::Message& message, base::TimePoint content_ended) {
    const HexText id{message.id.value};
    std::array<char, 64> text{};
    constexpr std::string_view words = "Ok: queued as ";
    words.copy(text.data(), words.size());
    id.view().copy(text.data() + words.size(), id.view().size());
    const ServerReply reply{250, {2, 0, 0}, {text.data(), words.size() + id.view().size()}};
    say(reply);

    ++messages_;
    errors_ = 0; // what counts is errors without mail
    idle_commands_ = 0;
    const queue::Envelope& envelope = message.envelope;
    shard_.stats.add(Counter::messages_received);
    shard_.stats.add(Counter::bytes_received, content_bytes_);
    shard_.stats.add(Counter::recipients_received, envelope.recipient_count());
    shard_.stats.record(telemetry::Latency::accept, shard_.loop.now() - content_ended);

    telemetry::Event* event = shard_.events.claim();
    if (event == nullptr) return;
    event->clear();
    event->type = telemetry::EventType::reception;
    event->message_id = message.id.value;
    event->created = envelope.arrival;
    event->size_bytes = content_bytes_;
    event->code = reply.code;
    event->enhanced = reply.enhanced;
    describe_client(*event);
    event->set(telemetry::EventText::sender, envelope.sender());
    event->set(telemetry::EventText::recipient, envelope.recipient(0).address);
    event->set(telemetry::EventText::response, reply.text);
    event->set(telemetry::EventText::rules, rules_hit_);
    event->set(telemetry::EventText::dkim, dkim_result_);
    shard_.events.publish();
}

} // namespace dataplane::smtp
