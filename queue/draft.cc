// draft.cc: a message on its way in: content into slabs, or in chunks into the log; then its record.
#include "dataplane/base/check.h"
#include "queue/core.h"
#include "queue/disk/crc32c.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

// A MSG record leaves half of a batch to others, also where segments (and so batches) are small.
[[nodiscard]] std::uint64_t inline_bytes_max(const Log& log) noexcept {
    return std::min<std::uint64_t>(inline_content_bytes_max, log.payload_bytes_max() / 2);
}

} // namespace

/// What the slabs may still take before they are spilled into a chunk, or the message is too large.
std::uint64_t QueueCore::inline_left(const Message& draft) const noexcept {
    const std::uint64_t resident = draft.content.size_bytes();
    const std::uint64_t until_spill =
        inline_bytes_max(log_) - std::min(inline_bytes_max(log_), resident);
    const std::uint64_t until_too_large =
        options_.content_bytes_max - std::min(options_.content_bytes_max, draft.content_bytes);
    return std::min(until_spill, until_too_large);
}

std::span<std::byte> QueueCore::room(Message& draft) noexcept {
    const std::uint64_t left = inline_left(draft);
    if (left == 0) return {};
    std::span<std::byte> tail = draft.content.tail_room();
    if (tail.empty()) {
        base::SlabRef slab = take_slab(draft.content.views().size());
        if (!slab) return {};
        draft.content.push({std::move(slab), 0, 0});
        tail = draft.content.tail_room();
    }
    return tail.first(std::min<std::size_t>(tail.size(), left));
}

base::Task<SpoolResult<>> QueueCore::make_room(Message& draft, base::Deadline deadline) {
    while (room(draft).empty()) {
        if (draft.content_bytes >= options_.content_bytes_max) {
            co_return std::unexpected(SpoolError::too_large);
        }
        SpoolResult<> made;
        if (inline_left(draft) == 0) {
            made = co_await spill(draft, deadline);
        } else {
            made = co_await wait_slab(deadline);
        }
        if (!made) co_return made;
    }
    co_return SpoolResult<>{};
}

base::Task<SpoolResult<>> QueueCore::wait_durable(Message& draft, base::Deadline deadline) {
    while (draft.ticket_.state() == Ticket::State::pending) {
        const base::Wake woken = co_await log_.settled(draft.ticket_).wait(loop_, deadline);
        if (draft.ticket_.state() != Ticket::State::pending)
            break; // settled in the same turn: it counts
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::timed_out);
    }
    if (draft.ticket_.state() == Ticket::State::durable) co_return SpoolResult<>{};
    co_return std::unexpected(SpoolError::write_failed);
}

base::Task<SpoolResult<>> QueueCore::spill(Message& draft, base::Deadline deadline) {
    const auto body_bytes = static_cast<std::uint32_t>(draft.content.size_bytes());
    const std::uint32_t payload_bytes = chunk_prefix_bytes + body_bytes;
    auto room_made = co_await wait_room(payload_bytes, deadline);
    if (!room_made) co_return room_made;
    RecordWriter writer = log_.begin(RecordType::body_chunk, draft.id, payload_bytes);
    writer.encode(chunk_prefix_bytes, [&](std::span<std::byte> bytes) {
        encode_chunk_prefix(
            bytes.first<chunk_prefix_bytes>(),
            {static_cast<std::uint32_t>(draft.chunks_.size()), draft.chunk_body_bytes_});
    });
    for (const base::SlabView& view : draft.content.views())
        writer.append(view.bytes());
    writer.finish(&draft.ticket_);
    auto durable = co_await wait_durable(draft, deadline);
    if (!durable) co_return durable;
    draft.chunks_.push_back({draft.ticket_.place(), body_bytes});
    log_.keep(draft.ticket_);
    draft.chunk_body_bytes_ += body_bytes;
    draft.content.clear();
    co_return SpoolResult<>{};
}

base::Task<SpoolResult<>> QueueCore::add_prelude(Message& draft, std::string_view prelude,
                                                 base::Deadline deadline) {
    if (prelude.empty()) co_return SpoolResult<>{};
    base::SlabRef slab;
    for (;;) {
        slab = take_slab(prelude.size() <= small_slab_bytes ? 0 : small_slabs_per_message);
        if (slab) break;
        auto waited = co_await wait_slab(deadline);
        if (!waited) co_return waited;
    }
    std::memcpy(slab.data(), prelude.data(), prelude.size());
    base::SlabChain content;
    content.push({std::move(slab), 0, static_cast<std::uint32_t>(prelude.size())});
    content.splice(std::move(draft.content));
    draft.content = std::move(content);
    draft.prelude_bytes_ = static_cast<std::uint32_t>(prelude.size());
    draft.content_bytes += prelude.size();
    co_return SpoolResult<>{};
}

void QueueCore::write_message(Message& draft, const MessagePrefix& prefix,
                              std::uint32_t payload_bytes) {
    const base::InRoom in{base::Room::spool};
    const bool chunked = prefix.chunk_count != 0;
    RecordWriter writer = log_.begin(chunked ? RecordType::message_commit : RecordType::message,
                                     draft.id, payload_bytes);
    writer.encode(message_prefix_bytes + prefix.envelope_bytes, [&](std::span<std::byte> bytes) {
        const std::span<std::byte> envelope = bytes.subspan(message_prefix_bytes);
        encode_envelope(envelope, draft.envelope);
        MessagePrefix complete = prefix;
        complete.envelope_crc = crc32c(0, envelope);
        encode_message_prefix(bytes.first<message_prefix_bytes>(), complete);
    });
    for (const base::SlabView& view : draft.content.views())
        writer.append(view.bytes());
    writer.finish(&draft.ticket_);
    draft.submitted_ = true;
    draft.phase_ = Message::Phase::committing;
    log_.came();
    draft.payload_bytes_ = payload_bytes;
    draft.content_at_ = message_prefix_bytes + prefix.envelope_bytes;
}

base::Task<SpoolResult<>> QueueCore::commit(Message& draft, std::string_view prelude,
                                            base::Deadline deadline) {
    CHECK(draft.phase_ == Message::Phase::draft);
    CHECK(draft.envelope.recipient_count() > 0);
    CHECK(prelude.size() <= prelude_bytes_max);
    if (closing_) co_return std::unexpected(SpoolError::read_only);
    const auto envelope_bytes = encoded_envelope_bytes(draft.envelope);
    if (!envelope_bytes) co_return std::unexpected(SpoolError::too_large);
    const std::uint64_t head_bytes = message_prefix_bytes + *envelope_bytes + prelude.size();
    if (head_bytes > log_.payload_bytes_max()) co_return std::unexpected(SpoolError::too_large);
    const bool fits = head_bytes + draft.content.size_bytes() <= log_.payload_bytes_max();
    if ((!draft.chunks_.empty() || !fits) && !draft.content.empty()) {
        auto spilled = co_await spill(draft, deadline);
        if (!spilled) co_return spilled;
    }
    auto added = co_await add_prelude(draft, prelude, deadline);
    if (!added) co_return added;
    draft.status.assign(draft.envelope.recipient_count(), RecipientStatus{});

    const MessagePrefix prefix{.envelope_bytes = *envelope_bytes,
                               .prelude_bytes = draft.prelude_bytes_,
                               .content_bytes = draft.content_bytes,
                               .chunk_count = static_cast<std::uint32_t>(draft.chunks_.size())};
    const auto payload_bytes = static_cast<std::uint32_t>(
        message_prefix_bytes + prefix.envelope_bytes + draft.content.size_bytes());
    auto room_made = co_await wait_room(payload_bytes, deadline);
    if (!room_made) co_return room_made;
    write_message(draft, prefix, payload_bytes);
    auto durable = co_await wait_durable(draft, deadline);
    if (!durable) co_return durable;
    accept(draft);
    co_return durable;
}

void QueueCore::accept(Message& message) {
    const base::InRoom in{base::Room::spool};
    const EntryRef ref = index_.insert(message.id);
    index_.describe(ref, message.envelope);
    index_.set_chunks(ref, message.chunks_);
    message.chunks_.clear();
    Entry& entry = index_[ref];
    entry.place = message.ticket_.place();
    entry.payload_bytes = message.payload_bytes_;
    entry.content_bytes = static_cast<std::uint32_t>(message.content_bytes);
    entry.object = message.number_;
    log_.keep(message.ticket_);
    log_.segments().unpend(entry.place.slot);
    for (const Chunk& chunk : index_.chunks(entry))
        log_.segments().unpend(chunk.place.slot);
    message.entry_ = ref;
    message.phase_ = Message::Phase::queued;
    if (entry.extra != Entry::none && !index_.chunks(entry).empty()) message.content.clear();
    if (memory_scarce()) message.content.clear();
    if (!message.content.empty()) message.kept_ = MessageRef{&message};
    ++accepted_;
    accepted_bytes_ += message.content_bytes;
    count_in(entry);
    schedule_.admit(ref, entry.tenant, entry.content_bytes, Schedule::Share::fresh);
    schedule_.ready(ref);
    loop_.at_turn_end(*this); // so that the session reports it first
}

Draft::Draft(QueueCore& core, MessageRef message) noexcept
    : core_(&core), message_(std::move(message)) {}

Draft::Draft(Draft&& other) noexcept
    : core_(std::exchange(other.core_, nullptr)), message_(std::move(other.message_)) {}

Draft& Draft::operator=(Draft&& other) noexcept {
    if (this == &other) return *this;
    if (message_) core_->discard(std::move(message_));
    core_ = std::exchange(other.core_, nullptr);
    message_ = std::move(other.message_);
    return *this;
}

Draft::~Draft() {
    if (message_) core_->discard(std::move(message_));
}

MessageId Draft::id() const noexcept {
    return message_->id;
}
Envelope& Draft::envelope() noexcept {
    return message_->envelope;
}
std::uint64_t Draft::content_bytes() const noexcept {
    return message_->content_bytes;
}
std::span<std::byte> Draft::room() noexcept {
    return core_->room(*message_);
}

void Draft::appended(std::size_t bytes) noexcept {
    message_->content.extend_tail(bytes);
    message_->content_bytes += bytes;
}

base::Task<SpoolResult<>> Draft::make_room(base::Deadline deadline) {
    return core_->make_room(*message_, deadline);
}

base::Task<SpoolResult<>> Draft::append(std::span<const std::byte> bytes, base::Deadline deadline) {
    while (!bytes.empty()) {
        const std::span<std::byte> to = room();
        if (to.empty()) {
            auto made = co_await make_room(deadline);
            if (!made) co_return made;
            continue;
        }
        const std::size_t part = std::min(to.size(), bytes.size());
        std::memcpy(to.data(), bytes.data(), part);
        appended(part);
        bytes = bytes.subspan(part);
    }
    co_return SpoolResult<>{};
}

base::Task<SpoolResult<MessageRef>> Draft::commit(std::string_view prelude,
                                                  base::Deadline deadline) {
    auto committed = co_await core_->commit(*message_, prelude, deadline);
    if (!committed) {
        core_->discard(std::move(message_));
        co_return std::unexpected(committed.error());
    }
    co_return std::move(message_);
}

} // namespace queue
