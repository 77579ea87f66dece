// load.cc: from an entry whose turn has come to a message in a delivery round.
//
// Several messages are read back at a time, in the order of their turns. One read brings the envelope, and
// the content with it where it is small and there is memory; otherwise the content stays where it is until
// a connection asks for it.
#include "dataplane/base/check.h"
#include "queue/core.h"
#include "queue/disk/crc32c.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

constexpr std::chrono::seconds tick{1};

[[nodiscard]] constexpr std::size_t number(Schedule::Share share) noexcept {
    return static_cast<std::size_t>(share);
}

/// Copies the first bytes of a chain, as many as there are, up to to.size().
std::size_t copy_head(const base::SlabChain& chain, std::span<std::byte> to) noexcept {
    std::size_t copied = 0;
    for (const base::SlabView& view : chain.views()) {
        const std::size_t part = std::min(view.bytes().size(), to.size() - copied);
        std::memcpy(to.data() + copied, view.bytes().data(), part);
        copied += part;
        if (copied == to.size()) break;
    }
    return copied;
}

} // namespace

// --- When --------------------------------------------------------------------------------------

Tick QueueCore::tick_now() const noexcept {
    return static_cast<Tick>((loop_.now() - tick_base_) / tick);
}

Tick QueueCore::tick_of(base::WallTime time) const noexcept {
    // A damaged record may say any time, and the clock counts in nanoseconds.
    constexpr std::chrono::milliseconds far = std::chrono::days{3650};
    const base::WallTime now = loop_.wall_now();
    const auto ahead = std::clamp(time, now, now + far) - now;
    const auto ticks = (loop_.now() + ahead - tick_base_ + tick - base::Duration{1}) / tick;
    return static_cast<Tick>(std::min<std::int64_t>(ticks, no_tick - 1));
}

void QueueCore::on_schedule_timer(base::Timer& timer) noexcept {
    static_cast<OwnedTimer&>(timer).core.advance_schedule();
}

void QueueCore::advance_schedule() noexcept {
    const base::InRoom in{base::Room::spool};
    schedule_.advance(tick_now(), schedule_steps_per_turn_max);
    loop_.at_turn_end(*this);
}

void QueueCore::arm_schedule() noexcept {
    if (schedule_.behind()) return loop_.arm(schedule_timer_, loop_.now());
    const Tick next = schedule_.next_due();
    if (next == no_tick) return schedule_timer_.cancel();
    loop_.arm(schedule_timer_, tick_base_ + std::max(next, schedule_.now() + 1) * tick);
}

// --- Who ---------------------------------------------------------------------------------------

void QueueCore::set_sink(ReadySink& sink) {
    sink_ = &sink;
    loop_.at_turn_end(*this);
}

void QueueCore::hand_out() {
    // What is delivered now would be delivered again after the next start.
    if (sink_ == nullptr || log_.read_only()) return;
    for (std::size_t count = 0; count < handouts_per_turn_max; ++count) {
        const bool fresh = hand_one(Schedule::Share::fresh);
        const bool retry = hand_one(Schedule::Share::retry);
        if (!fresh && !retry) return;
    }
    loop_.at_turn_end(*this);
}

QueueCore::Load* QueueCore::free_load(Schedule::Share share) noexcept {
    const bool retry = share == Schedule::Share::retry;
    if (retry && loading_[number(share)] >= loads_in_flight_max - loads_for_fresh_min)
        return nullptr;
    const auto free = std::ranges::find(loads_, false, &Load::busy);
    return free == loads_.end() ? nullptr : &*free;
}

/// Gives one to the sink or begins to read it. False when there is none, or nobody to take it.
bool QueueCore::hand_one(Schedule::Share share) {
    if (sink_->room(share == Schedule::Share::fresh) <= loading_[number(share)]) return false;
    Load* load = free_load(share);
    if (load == nullptr) return false;
    const EntryRef ref = schedule_.take_ready(share);
    if (ref == no_entry) return false;
    Entry& entry = index_[ref];
    CHECK(entry.state == EntryState::queued);
    Message* object = object_of(entry);
    if (object != nullptr) {
        hand(ref, MessageRef{object});
        return true;
    }
    entry.state = EntryState::loading;
    load->busy = true;
    load->share = share;
    load->id = entry.id;
    ++loading_[number(share)];
    load->task = run_load(*load);
    load->task.start();
    return true;
}

void QueueCore::hand(EntryRef ref, MessageRef message) {
    index_[ref].state = EntryState::handed;
    message->kept_.reset();
    sink_->message_ready(std::move(message));
}

// --- Reading back ------------------------------------------------------------------------------

base::Task<void> QueueCore::run_load(Load& load) {
    auto loaded = co_await load_from_disk(load.id, true, base::Deadline::never());
    --loading_[number(load.share)];
    if (const EntryRef ref = index_.find(load.id); ref != no_entry) {
        if (loaded && log_.read_only()) {
            index_[ref].state = EntryState::queued; // it became so since its turn came
            schedule_.ready(ref);
        } else if (loaded) {
            hand(ref, std::move(*loaded));
        } else {
            load_failed(load.id, loaded.error());
        }
    }
    load.busy = false;
    loop_.at_turn_end(*this);
}

/// Nothing was attempted, so nothing is counted and nothing written down.
void QueueCore::load_failed(MessageId id, SpoolError error) {
    const EntryRef ref = index_.find(id);
    Entry& entry = index_[ref];
    const bool damaged = error == SpoolError::damaged || error == SpoolError::forged;
    index_.set_error(ref, damaged ? "the spool's copy is damaged: its envelope cannot be read"
                                  : "the spool's disk did not give it back");
    if (damaged) {
        entry.state = EntryState::damaged;
        return;
    }
    entry.state = EntryState::queued;
    entry.due = loop_.wall_now() + load_retry;
    schedule_.set_share(ref, Schedule::Share::retry);
    schedule_.schedule(ref, tick_of(entry.due));
}

base::Task<SpoolResult<MessageRef>> QueueCore::load(MessageId id, base::Deadline deadline) {
    return load_from_disk(id, false, deadline);
}

base::Task<SpoolResult<MessageRef>> QueueCore::load_from_disk(MessageId id, bool with_content,
                                                              base::Deadline deadline) {
    bool whole = false;
    for (bool tried_whole = false;;) {
        EntryRef ref = index_.find(id);
        if (ref == no_entry) co_return std::unexpected(SpoolError::cancelled);
        if (Message* object = object_of(index_[ref])) co_return MessageRef{object};
        const Place place = index_[ref].place;
        const std::uint32_t payload_bytes = index_[ref].payload_bytes;
        const bool small =
            payload_bytes <= load_head_bytes ||
            (with_content && payload_bytes <= load_whole_bytes_max && !memory_scarce());
        if (!tried_whole) whole = whole || small;
        const std::uint32_t bytes =
            whole ? payload_bytes : std::min(payload_bytes, load_head_bytes);
        // Only the tag behind the last byte says that the first is genuine.
        const bool to_its_end = whole || (!tried_whole && log_.segments().encrypted(place.slot));
        const auto check = to_its_end ? RecordReader::Check::payload : RecordReader::Check::header;
        auto payload = co_await reader_.read(id, place, payload_bytes, 0, bytes, deadline, check);
        ref = index_.find(id);
        if (ref == no_entry) co_return std::unexpected(SpoolError::cancelled);
        if (Message* object = object_of(index_[ref])) co_return MessageRef{object};
        if (index_[ref].place != place) continue; // the collector moved it under our hands
        if (payload) {
            auto built = build(ref, *payload, whole);
            if (built || tried_whole || whole) co_return built;
            whole = true; // the head alone could not be checked
            continue;
        }
        const bool damaged =
            payload.error() == SpoolError::damaged || payload.error() == SpoolError::forged;
        if (damaged) this->damaged(id, place, payload_bytes, "delivery");
        // Damage further behind need not cost the envelope, which has a checksum of its own: who sent it
        // can then be told.
        if (payload.error() != SpoolError::damaged || !to_its_end)
            co_return std::unexpected(payload.error());
        tried_whole = true;
        whole = false;
    }
}

SpoolResult<MessageRef> QueueCore::build(EntryRef ref, const base::SlabChain& payload, bool whole) {
    Entry& entry = index_[ref];
    const auto damaged = std::unexpected(SpoolError::damaged);
    std::array<std::byte, message_prefix_bytes> prefix_bytes;
    if (copy_head(payload, prefix_bytes) != prefix_bytes.size()) return damaged;
    const std::span<const Chunk> chunks = index_.chunks(entry);
    const bool chunked = !chunks.empty();
    auto prefix = decode_message_prefix(chunked ? RecordType::message_commit : RecordType::message,
                                        prefix_bytes, entry.payload_bytes);
    if (!prefix || prefix->content_bytes != entry.content_bytes) return damaged;
    const std::uint32_t head_bytes = message_prefix_bytes + prefix->envelope_bytes;
    std::uint64_t content_bytes = entry.payload_bytes - head_bytes;
    for (const Chunk& chunk : chunks)
        content_bytes += chunk.bytes;
    if (content_bytes != entry.content_bytes) return damaged; // a checkpoint said other chunks
    scratch_.resize(head_bytes);
    if (copy_head(payload, scratch_) != scratch_.size()) return damaged;
    const std::span<const std::byte> envelope =
        std::span<const std::byte>{scratch_}.subspan(message_prefix_bytes);
    if (!whole && (prefix->envelope_crc == 0 || prefix->envelope_crc != crc32c(0, envelope)))
        return damaged;

    MessageRef message{&fresh_message()};
    const std::span<const RecipientStatus> status = index_.status(entry);
    if (!decode_envelope(envelope, message->envelope) ||
        message->envelope.recipient_count() != status.size()) {
        return damaged;
    }
    message->phase_ = Message::Phase::queued;
    message->id = entry.id;
    message->status.assign(status.begin(), status.end());
    message->attempts = entry.attempts;
    message->due = entry.due;
    message->last_error = index_.error(entry);
    message->envelope.delay_notified = (entry.flags & Entry::delay_notified) != 0;
    message->content_bytes = entry.content_bytes;
    message->payload_bytes_ = entry.payload_bytes;
    message->content_at_ = static_cast<std::uint32_t>(scratch_.size());
    message->prelude_bytes_ = prefix->prelude_bytes;
    message->entry_ = ref;
    entry.object = message->number_;
    if (whole && !chunked && !memory_scarce())
        keep_content(*message, payload, message->content_at_);
    return message;
}

void QueueCore::keep_content(Message& message, const base::SlabChain& payload, std::uint32_t from) {
    const auto visit = [&](auto&& take) {
        std::uint32_t skip = from;
        for (const base::SlabView& view : payload.views()) {
            const std::uint32_t skipped = std::min(skip, view.length);
            skip -= skipped;
            if (skipped < view.length) take(view, skipped);
        }
    };
    // What is small moves into small slabs: a large one each would hold a few thousand messages.
    if (message.content_bytes <= small_slabs_per_message * small_slab_bytes) {
        base::SlabChain copy;
        bool fits = true;
        visit([&](const base::SlabView& view, std::uint32_t skipped) {
            std::span<const std::byte> rest = view.bytes().subspan(skipped);
            while (!rest.empty() && fits) {
                if (copy.tail_room().empty()) {
                    base::SlabRef slab = small_.take();
                    fits = static_cast<bool>(slab);
                    if (fits) copy.push({std::move(slab), 0, 0});
                    continue;
                }
                const std::size_t part = std::min(rest.size(), copy.tail_room().size());
                std::memcpy(copy.tail_room().data(), rest.data(), part);
                copy.extend_tail(part);
                rest = rest.subspan(part);
            }
        });
        if (fits) message.content = std::move(copy);
        return;
    }
    visit([&](const base::SlabView& view, std::uint32_t skipped) {
        message.content.push({view.slab, view.offset + skipped, view.length - skipped});
    });
}

} // namespace queue
