#include "queue/collector.h"

#include "dataplane/base/check.h"
#include "queue/core.h"

#include <algorithm>

namespace queue {

void Collector::stop() noexcept {
    task_ = {};
    for (Copy& copy : copies_)
        core_.log().abandon(copy.ticket);
    survivors_.clear();
}

void Collector::consider() {
    Log& log = core_.log();
    if (busy_ || log.read_only()) return;
    const auto slot = log.segments().oldest_sealed();
    if (!slot || log.segments().live_records(*slot) == 0) return;
    if (log.free_segments() > log.accept_reserve() + collect_margin) return;
    // Copying goes round the log until it meets the dead bytes: without a segment's worth of them it
    // would only wear the device.
    const std::uint64_t segment_bytes = log.segments().bytes_of(*slot);
    if (log.segments().dead_bytes() < segment_bytes + segment_bytes / 2) return;
    if (core_.loop().now() < not_before_) return;
    busy_ = true;
    task_ = collect(*slot);
    task_.start();
}

base::Task<void> Collector::collect(std::uint32_t slot) {
    if (window_.bytes == 0) window_ = BlockMemory{collect_window_bytes + 2 * block_bytes};
    const std::uint64_t seq = core_.log().segments().seq_of(slot);
    co_await gather(slot);
    std::ranges::sort(survivors_, {}, &Survivor::place);
    std::size_t first = 0;
    while (first < survivors_.size() && !core_.log().read_only()) {
        const std::uint64_t begin = survivors_[first].place.offset / block_bytes * block_bytes;
        std::size_t last = first;
        while (last < survivors_.size() && last - first < collect_records_max &&
               survivors_[last].place.offset + record_bytes(survivors_[last].payload_bytes) <=
                   begin + collect_window_bytes + block_bytes) {
            ++last;
        }
        CHECK(last > first); // a record is at most a batch, and a batch fits the window
        co_await copy_window(first, last, begin, slot);
        first = last;
    }
    survivors_.clear();
    // What could not be moved waits for delivery to end it; do not try again at once.
    const SegmentTable& segments = core_.log().segments();
    if (segments.seq_of(slot) == seq && segments.sealed(slot) && segments.live_records(slot) != 0) {
        not_before_ = core_.loop().now() + core_.full_check();
    }
    busy_ = false;
    core_.loop().at_turn_end(core_);
}

base::Task<void> Collector::gather(std::uint32_t slot) {
    const MessageIndex& index = core_.index();
    std::uint64_t generation = index.generation();
    for (std::size_t at = 0; at < index.slots().size();) {
        const std::size_t end = std::min(at + index_slots_per_turn_max, index.slots().size());
        for (; at < end; ++at) {
            const MessageRef& message = index.slots()[at];
            if (!message) continue;
            if (message->place_.slot == slot) {
                survivors_.push_back(
                    {message, message->place_, message->payload_bytes_, whole_message});
            }
            for (std::size_t i = 0; i < message->chunks_.size(); ++i) {
                const Message::Chunk& chunk = message->chunks_[i];
                if (chunk.place.slot != slot) continue;
                survivors_.push_back({message, chunk.place, chunk_prefix_bytes + chunk.bytes, i});
            }
        }
        static_cast<void>(co_await base::sleep_for(core_.loop(), std::chrono::milliseconds{1}));
        if (generation != index.generation()) { // the table has grown: everything lies elsewhere
            generation = index.generation();
            survivors_.clear();
            at = 0;
        }
    }
}

Place& Collector::place_of(const Survivor& survivor) noexcept {
    Message& message = *survivor.message;
    return survivor.chunk == whole_message ? message.place_ : message.chunks_[survivor.chunk].place;
}

bool Collector::alive(const Survivor& survivor) noexcept {
    const Message& message = *survivor.message;
    if (message.phase_ == Message::Phase::done || message.phase_ == Message::Phase::blank)
        return false;
    if (survivor.chunk != whole_message && survivor.chunk >= message.chunks_.size()) return false;
    return place_of(survivor) == survivor.place;
}

base::Task<void> Collector::copy_window(std::size_t first, std::size_t last,
                                        std::uint64_t window_offset, std::uint32_t slot) {
    Log& log = core_.log();
    const Survivor& end = survivors_[last - 1];
    const std::uint64_t window_end = end.place.offset + record_bytes(end.payload_bytes);
    const std::size_t bytes =
        (window_end - window_offset + block_bytes - 1) / block_bytes * block_bytes;
    const std::span<std::byte> window = window_.span().first(bytes);
    auto read = co_await core_.disk().read(log.segments().begin_of(slot) + window_offset, window);
    if (!read) {
        core_.count_read_error();
        for (std::size_t i = first; i < last; ++i)
            give_up(survivors_[i]);
        co_return;
    }
    const std::uint64_t seq = log.segments().seq_of(slot);
    for (std::size_t i = first; i < last; ++i) {
        const Survivor& survivor = survivors_[i];
        if (!alive(survivor)) continue;
        const std::span<const std::byte> record = window.subspan(
            survivor.place.offset - window_offset, record_bytes(survivor.payload_bytes));
        const RecordSeeds seeds = record_seeds(log.seed(), seq, survivor.place.offset);
        auto header = decode_record_header(record, record.size(), seeds);
        const auto payload = record.subspan(record_header_bytes, survivor.payload_bytes);
        if (!header || !payload_valid(*header, payload, seeds)) {
            core_.count_damage();
            give_up(survivor);
            continue;
        }
        const bool appended =
            co_await append(survivor, payload, static_cast<RecordType>(header->type));
        if (!appended) break;
    }
    co_await finish_copies();
}

base::Task<bool> Collector::append(const Survivor& survivor, std::span<const std::byte> payload,
                                   RecordType type) {
    Log& log = core_.log();
    const auto payload_bytes = static_cast<std::uint32_t>(payload.size());
    auto room =
        co_await core_.wait_room(payload_bytes, AppendClass::essential, base::Deadline::never());
    if (!room) co_return false;
    if (!alive(survivor)) co_return true;
    Copy& copy = copies_[copy_count_++];
    copy.survivor = &survivor;
    RecordWriter writer = log.begin(type, survivor.message->id, payload_bytes);
    writer.append(payload);
    writer.finish(&copy.ticket);
    if (survivor.chunk != whole_message) co_return true;

    // Its status lies in a segment that may go next. A later one supersedes this by its number.
    const std::uint32_t status_bytes = QueueCore::status_bytes(*survivor.message);
    auto status_room =
        co_await core_.wait_room(status_bytes, AppendClass::essential, base::Deadline::never());
    if (!status_room) co_return false;
    if (alive(survivor)) core_.write_status(*survivor.message);
    co_return true;
}

base::Task<void> Collector::finish_copies() {
    Log& log = core_.log();
    const bool synced =
        co_await log.sync(base::Deadline::never()); // copies and the statuses beside them
    for (std::size_t i = 0; i < copy_count_; ++i) {
        Copy& copy = copies_[i];
        const bool durable = copy.ticket.state() == Ticket::State::durable;
        if (synced && durable && alive(*copy.survivor)) {
            Place& place = place_of(*copy.survivor);
            core_.drop_record(place, copy.survivor->payload_bytes);
            place = copy.ticket.place();
            log.keep(copy.ticket);
        } else {
            log.abandon(copy.ticket);
        }
    }
    copy_count_ = 0;
}

void Collector::give_up(const Survivor& survivor) {
    if (alive(survivor)) core_.hasten(*survivor.message);
}

} // namespace queue
