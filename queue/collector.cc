#include "queue/collector.h"

#include "dataplane/base/check.h"
#include "queue/core.h"
#include "queue/seeded_defect.h"
#include "queue/segment_walk.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace queue {

void Collector::stop() noexcept {
    task_ = {};
    survivors_.clear();
    copies_.clear();
}

void Collector::consider() {
    Log& log = core_.log();
    const SegmentTable& segments = log.segments();
    if (busy_ || core_.closing() || segments.frozen() || log.read_only() || core_.side_busy())
        return;
    if (std::exchange(ended_, false)) rest();
    // Without a checkpoint segments come back in their order only, and nothing is won.
    if (segments.covered() == 0) return;
    // Well before new mail is refused (pressure.h), and in earnest before it is.
    const std::uint32_t refused = segments.count() * pressure_step_percent / 100;
    const std::uint32_t early = std::max(refused + collect_margin, segments.count() / 5);
    if (log.free_segments() > log.accept_reserve() + early) return;
    // Copying goes round the pool until it meets the dead bytes: without a segment's worth of them it
    // would only wear the device.
    if (segments.dead_bytes() < std::uint64_t{segments.bytes_min()} * 3 / 2) return;
    if (core_.loop().now() < not_before_ || core_.checkpoint().frees_segments()) return;
    const bool pressed = log.free_segments() <= log.accept_reserve() + refused + collect_margin;
    std::vector<std::uint32_t> slots =
        segments.victims(pressed ? collect_fill_max : collect_fill_early, collect_segments_max);
    // Where only a checkpoint lives there is nothing to move.
    std::erase_if(slots, [&](std::uint32_t slot) {
        return core_.checkpoint().records_in(slot) == segments.live_records(slot);
    });
    if (slots.empty()) return;
    free_before_ = log.free_segments();
    busy_ = true;
    task_ = collect(std::move(slots));
    task_.start();
}

/// Where few large records fill a segment, moving them wins nothing, round and round. What was won shows only
/// now that the segments have been freed; new mail may have taken some, so that a few times say nothing.
void Collector::rest() noexcept {
    constexpr unsigned say_nothing = 8, most = 12;
    fruitless_ = core_.log().free_segments() > free_before_ ? 0 : fruitless_ + 1;
    if (fruitless_ <= say_nothing) return;
    const unsigned doublings = std::min(fruitless_ - say_nothing - 1, most);
    not_before_ =
        std::max(not_before_, core_.loop().now() + core_.options().full_check * (1U << doublings));
}

base::Task<void> Collector::collect(std::vector<std::uint32_t> slots) {
    if (window_.bytes == 0) window_ = BlockMemory{collect_window_bytes + 2 * block_bytes};
    base::Task<std::vector<LiveRecord>> finding = read_live_records(core_, std::move(slots));
    survivors_ = co_await std::move(finding);
    std::ranges::sort(survivors_, {}, &LiveRecord::place);
    std::size_t first = 0;
    bool going = true;
    while (going && first < survivors_.size() && !core_.log().read_only()) {
        const Place begin{survivors_[first].place.slot,
                          survivors_[first].place.offset / static_cast<std::uint32_t>(block_bytes) *
                              static_cast<std::uint32_t>(block_bytes)};
        std::size_t last = first;
        while (last < survivors_.size() && survivors_[last].place.slot == begin.slot &&
               end_of(core_.log(), survivors_[last]) <=
                   begin.offset + collect_window_bytes + block_bytes) {
            ++last;
        }
        CHECK(last > first); // a record is at most a batch, and a batch fits the window
        going = co_await copy_window(first, last);
        first = last;
    }
    if (going && frame_begun_ && !copies_.empty()) going = co_await write_frame();
    frame_begun_ = false;
    const bool nothing_to_move = survivors_.empty();
    survivors_.clear();
    // What could not be moved waits for delivery to end it, or for space: do not try again at once.
    if (!going || nothing_to_move) not_before_ = core_.loop().now() + core_.options().full_check;
    busy_ = false;
    ended_ = true;
    core_.loop().at_turn_end(core_);
}

base::Task<bool> Collector::copy_window(std::size_t first, std::size_t last) {
    Log& log = core_.log();
    const std::uint32_t slot = survivors_[first].place.slot;
    const std::uint64_t window_offset = survivors_[first].place.offset / block_bytes * block_bytes;
    const LiveRecord& end = survivors_[last - 1];
    const std::uint64_t window_end = end_of(log, end);
    const std::size_t bytes =
        (window_end - window_offset + block_bytes - 1) / block_bytes * block_bytes;
    const std::span<std::byte> window = window_.span().first(bytes);
    auto read = co_await core_.disk().read(log.segments().begin_of(slot) + window_offset, window);
    if (!read) {
        core_.count_read_error();
        if (last - first == 1) {
            give_up(survivors_[first]);
            co_return true;
        }
        // One bad block: what lies beside it is moved all the same.
        const std::size_t middle = first + (last - first) / 2;
        bool going = co_await copy_window(first, middle);
        if (going) going = co_await copy_window(middle, last);
        co_return going;
    }
    const std::uint64_t seq = log.segments().seq_of(slot);
    for (std::size_t i = first; i < last; ++i) {
        const LiveRecord& survivor = survivors_[i];
        if (!alive(core_.index(), survivor)) continue;
        const std::span<std::byte> record = window.subspan(
            survivor.place.offset - window_offset, end_of(log, survivor) - survivor.place.offset);
        bool good = checks_out(log, survivor, record);
        if (!good) {
            const bool mended = co_await read_other_copy(log, core_.disk(), survivor, record);
            good = mended;
            if (!alive(core_.index(), survivor)) continue;
            if (good) core_.count_mended();
        }
        const RecordSeeds seeds = record_seeds(log.seed(), seq, survivor.place.offset);
        auto header = decode_record_header(record, record.size(), seeds);
        const auto stored = record.subspan(record_header_bytes, good ? header->stored_bytes() : 0);
        if (!good || !log.open_record(survivor.place, *header, stored)) {
            core_.damaged(survivor.id, survivor.place, survivor.payload_bytes, "collection");
            give_up(survivor);
            continue;
        }
        const bool copied = co_await copy(survivor, stored.first(survivor.payload_bytes),
                                          static_cast<RecordType>(header->type));
        if (!copied) co_return false;
    }
    co_return true;
}

base::Task<bool> Collector::copy(const LiveRecord& survivor, std::span<const std::byte> payload,
                                 RecordType type) {
    const auto payload_bytes = static_cast<std::uint32_t>(payload.size());
    // One that fitted before records had tags: it stays where it is.
    if (payload_bytes > core_.log().payload_bytes_max()) co_return true;
    if (frame_begun_ && !writer_.fits(payload_bytes)) {
        const bool written = co_await write_frame();
        if (!written) co_return false;
    }
    if (!frame_begun_) {
        const bool begun = co_await writer_.begin(payload_bytes, false);
        if (!begun) co_return false;
        frame_begun_ = true;
        if (!alive(core_.index(), survivor)) co_return true;
    }
    const std::span<std::byte> to =
        writer_.add(type, survivor.id, payload_bytes, core_.log().take_lsn());
    std::memcpy(to.data(), payload.data(), payload.size());
    const Place place = writer_.seal_record();
    core_.log().segments().add_live(place.slot, core_.log().new_record_bytes(payload_bytes));
    copies_.push_back({survivor, place});
    if (survivor.chunk == LiveRecord::whole_message) copy_status(survivor.entry);
    co_return true;
}

/// Its status lies in a segment that may go next. A later one supersedes this by its number.
void Collector::copy_status(EntryRef ref) {
    Entry& entry = core_.index()[ref];
    if (entry.lsn == 0) return; // nothing has happened to it yet
    const std::uint32_t bytes = core_.status_bytes(entry);
    if (!writer_.fits(bytes)) return core_.mark_dirty(ref);
    entry.lsn = core_.log().take_lsn();
    core_.encode_status_of(entry, writer_.add(RecordType::status, entry.id, bytes, entry.lsn));
    static_cast<void>(writer_.seal_record());
}

base::Task<bool> Collector::write_frame() {
    frame_begun_ = false;
    if (copies_.empty()) co_return true;
    const bool written = co_await writer_.write();
    for (const Copy& copy : copies_) {
        const std::uint32_t bytes = copy.survivor.payload_bytes;
        if ((!written && !SEEDED_DEFECT(swallow_copy_error)) ||
            !alive(core_.index(), copy.survivor)) {
            core_.drop_record(copy.place, bytes);
            continue;
        }
        bytes_copied_ += core_.log().new_record_bytes(bytes);
        Place& place = place_of(core_.index(), copy.survivor);
        core_.drop_record(place, bytes);
        place = copy.place;
    }
    copies_.clear();
    co_return written;
}

void Collector::give_up(const LiveRecord& survivor) {
    if (alive(core_.index(), survivor)) core_.expedite(survivor.entry);
}

} // namespace queue
