#include "queue/scrub.h"

#include "dataplane/base/wait.h"
#include "queue/core.h"

#include <algorithm>
#include <deque>
#include <iterator>

namespace queue {

void Scrub::start() {
    if (core_.options().scrub_bytes_per_s == 0) return;
    task_ = run();
    task_.start();
}

void Scrub::stop() noexcept {
    task_ = {};
    records_.clear();
}

base::Task<void> Scrub::run() {
    for (;;) {
        const base::TimePoint next = core_.loop().now() + scrub_interval;
        single_copies_so_far_ = 0;
        co_await pass();
        ++passes_;
        single_copies_ = single_copies_so_far_;
        static_cast<void>(co_await base::sleep_until(core_.loop(), base::Deadline{.at = next}));
    }
}

base::Task<void> Scrub::pass() {
    const SegmentTable& segments = core_.log().segments();
    std::deque<Segment> left;
    std::uint64_t bytes = 0;
    for (std::uint32_t slot = 0; slot < segments.count(); ++slot) {
        if (!segments.sealed(slot) || segments.live_records(slot) == 0) continue;
        left.push_back({slot, segments.seq_of(slot), segments.live_records(slot)});
        bytes += segments.live_bytes(slot);
    }
    // Spread over half of the time: what is slow then still comes to an end within it.
    const std::uint64_t wanted =
        bytes / static_cast<std::uint64_t>(std::chrono::seconds{scrub_interval}.count() / 2);
    rate_ = std::min(core_.options().scrub_bytes_per_s, std::max(wanted, scrub_bytes_per_s_min));
    while (!left.empty()) {
        std::vector<std::uint32_t> slots;
        std::size_t count = 0;
        while (!left.empty() &&
               (slots.empty() || count + left.front().live_records <= scrub_records_max)) {
            const Segment segment = left.front();
            left.pop_front();
            if (segments.seq_of(segment.slot) != segment.seq) continue; // its mail is done
            slots.push_back(segment.slot);
            count += segment.live_records;
        }
        base::Task<std::vector<LiveRecord>> finding =
            find_live_records(core_.loop(), core_.index(), std::move(slots));
        records_ = co_await std::move(finding);
        std::ranges::sort(records_, {}, &LiveRecord::place);
        co_await read_records();
        records_.clear();
    }
}

base::Task<void> Scrub::read_records() {
    if (window_.bytes == 0) window_ = BlockMemory{batch_bytes_max + 2 * block_bytes};
    for (std::size_t first = 0; first < records_.size();) {
        const Place begin = records_[first].place;
        const std::uint64_t from = begin.offset / block_bytes * block_bytes;
        std::size_t last = first + 1;
        while (last < records_.size() && records_[last].place.slot == begin.slot &&
               end_of(core_.log(), records_[last]) <= from + scrub_window_bytes) {
            ++last;
        }
        const std::uint64_t before = bytes_read_;
        co_await read_window(first, last);
        const auto pause = std::chrono::microseconds{(bytes_read_ - before) * 1'000'000 / rate_};
        static_cast<void>(co_await base::sleep_for(core_.loop(), pause));
        first = last;
    }
}

base::Task<void> Scrub::read_window(std::size_t first, std::size_t last) {
    const unsigned copies = core_.disk().copies();
    std::vector<std::size_t> lost = co_await suspects(0, first, last);
    for (unsigned copy = 1; copy < core_.disk().copies(); ++copy) {
        const std::vector<std::size_t> bad = co_await suspects(copy, first, last);
        if (core_.disk().copies() < copies) break; // it was left behind under our hands
        std::vector<std::size_t> both;
        std::ranges::set_intersection(lost, bad, std::back_inserter(both));
        // Nothing is written: delivery takes the half that is whole, and so does the collector.
        single_copies_so_far_ += lost.size() + bad.size() - 2 * both.size();
        lost = std::move(both);
    }
    // The half that was asked first has gone, and the other one was not asked.
    if (!lost.empty() && core_.disk().copies() < copies) {
        const std::vector<std::size_t> bad = co_await suspects(0, first, last);
        std::erase_if(lost, [&](std::size_t i) { return !std::ranges::binary_search(bad, i); });
    }
    for (const std::size_t i : lost) {
        const LiveRecord& record = records_[i];
        if (!alive(core_.index(), record)) continue;
        core_.damaged(record.id, record.place, record.payload_bytes, "scrub");
        static_cast<void>(core_.expedite(record.entry));
    }
}

/// Which records of [first, last) do not check out in a copy of the disk, in their order.
base::Task<std::vector<std::size_t>> Scrub::suspects(unsigned copy, std::size_t first,
                                                     std::size_t last) {
    const Log& log = core_.log();
    const std::uint32_t slot = records_[first].place.slot;
    std::vector<std::size_t> left;
    for (std::size_t i = first; i < last; ++i)
        left.push_back(i);
    // What a wire or a controller has turned over once is not rot: look twice.
    for (int look = 0; look < 2; ++look) {
        std::erase_if(left, [&](std::size_t i) { return !alive(core_.index(), records_[i]); });
        if (left.empty()) break;
        const std::uint64_t from = records_[left.front()].place.offset / block_bytes * block_bytes;
        const std::uint64_t end = end_of(log, records_[left.back()]);
        const std::size_t bytes = (end - from + block_bytes - 1) / block_bytes * block_bytes;
        const std::span<std::byte> window = window_.span().first(bytes);
        auto read =
            co_await core_.disk().read_copy(copy, log.segments().begin_of(slot) + from, window);
        bytes_read_ += bytes;
        if (!read) {
            core_.count_read_error();
            if (left.size() == 1) continue;
            // One bad block: each record for itself.
            std::vector<std::size_t> found;
            for (const std::size_t i : left) {
                const std::vector<std::size_t> one = co_await suspects(copy, i, i + 1);
                found.insert(found.end(), one.begin(), one.end());
            }
            co_return found;
        }
        std::erase_if(left, [&](std::size_t i) {
            const LiveRecord& record = records_[i];
            return !alive(core_.index(), record) ||
                   checks_out(log, record,
                              window.subspan(record.place.offset - from,
                                             end_of(log, record) - record.place.offset));
        });
    }
    co_return left;
}

} // namespace queue
