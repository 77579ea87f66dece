#include "queue/segments.h"

#include "dataplane/base/check.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace queue {

SegmentTable::SegmentTable(std::uint32_t segment_bytes, std::uint32_t segment_count)
    : segment_bytes_(segment_bytes), segments_(segment_count) {
    CHECK(segment_bytes % segment_granule == 0);
    CHECK(segment_bytes > superblock_area_bytes + segment_header_bytes);
    CHECK(segment_count > 0);
}

std::uint64_t SegmentTable::begin_of(std::uint32_t slot) const noexcept {
    // The superblocks live in the first slot's front, so that a pool is a whole number of segments.
    if (slot == 0) return superblock_area_bytes;
    return std::uint64_t{slot} * segment_bytes_;
}

std::uint32_t SegmentTable::bytes_of(std::uint32_t slot) const noexcept {
    return slot == 0 ? bytes_min() : segment_bytes_;
}

std::uint32_t SegmentTable::bytes_min() const noexcept {
    return segment_bytes_ - static_cast<std::uint32_t>(superblock_area_bytes);
}

void SegmentTable::add_free(std::uint32_t slot, std::uint64_t seq) {
    segments_[slot] = Segment{.seq = seq, .state = State::free};
    free_.push_back(slot);
}

void SegmentTable::add_sealed(std::uint32_t slot, std::uint64_t seq) {
    const bool added = used_.emplace(seq, slot).second;
    CHECK(added);
    segments_[slot] = Segment{.seq = seq, .state = State::sealed};
    sealed_bytes_ += bytes_of(slot);
    may_free_ = true;
}

void SegmentTable::add_key(std::uint32_t slot, const std::optional<DataKey>& key) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.state == State::sealed);
    segment.encrypted = true;
    segment.key = key;
}

void SegmentTable::retire(std::uint32_t slot) noexcept {
    Segment& segment = segments_[slot];
    if (segment.state == State::sealed) {
        CHECK(segment.live_records == 0);
        sealed_bytes_ -= bytes_of(slot);
        used_.erase(segment.seq);
    }
    segment = Segment{.state = State::retired};
    may_free_ = true;
}

std::optional<std::uint32_t> SegmentTable::take(std::uint64_t durable) {
    if (SEEDED_DEFECT(recycle_too_early)) durable = UINT64_MAX;
    if (!may_take(durable)) return std::nullopt;
    const std::uint32_t slot = free_.front();
    if (segments_[slot].writes != 0) return std::nullopt; // its header, for a new key
    free_.pop_front();
    CHECK(segments_[slot].state == State::free);
    segments_[slot].state = State::taken;
    return slot;
}

void SegmentTable::prepared(std::uint32_t slot, std::uint64_t seq,
                            const std::optional<DataKey>& key) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.state == State::taken);
    segment.seq = seq;
    segment.encrypted = key.has_value();
    segment.key = key;
}

void SegmentTable::opened(std::uint32_t slot, std::uint64_t first_lsn) {
    CHECK(segments_[slot].state == State::taken);
    const bool added = used_.emplace(segments_[slot].seq, slot).second;
    CHECK(added);
    segments_[slot].state = State::open;
    segments_[slot].first_lsn = first_lsn;
    segments_[slot].beside = false; // what the slot held before may have been
}

void SegmentTable::seal(std::uint32_t slot) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.state == State::open);
    segment.state = State::sealed;
    sealed_bytes_ += bytes_of(slot);
    sealed_live_bytes_ += segment.live_bytes;
    may_free_ = true;
}

void SegmentTable::mark_bad(std::uint32_t slot) noexcept {
    segments_[slot].bad = true;
}

bool SegmentTable::sealed(std::uint32_t slot) const noexcept {
    return segments_[slot].state == State::sealed;
}

bool SegmentTable::has_room_for(std::uint32_t slot, std::uint32_t offset,
                                std::uint32_t payload_bytes) const noexcept {
    const std::uint64_t bytes = bytes_of(slot);
    return payload_bytes <= record_payload_bytes_max && offset >= segment_header_bytes &&
           offset < bytes && record_bytes_in(slot, payload_bytes) <= bytes - offset;
}

void SegmentTable::add_live(std::uint32_t slot, std::uint32_t bytes) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.state == State::open || segment.state == State::sealed);
    ++segment.live_records;
    segment.live_bytes += bytes;
    if (segment.state == State::sealed) sealed_live_bytes_ += bytes;
}

void SegmentTable::drop_live(std::uint32_t slot, std::uint32_t bytes) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.live_records > 0);
    CHECK(segment.live_bytes >= bytes);
    --segment.live_records;
    segment.live_bytes -= bytes;
    if (segment.state == State::sealed) sealed_live_bytes_ -= bytes;
    if (segment.live_records == 0) may_free_ = true;
}

void SegmentTable::unpend(std::uint32_t slot) noexcept {
    CHECK(segments_[slot].pending > 0);
    --segments_[slot].pending;
}

std::optional<std::uint32_t> SegmentTable::oldest_pending() const noexcept {
    for (const auto& [seq, slot] : used_) {
        if (segments_[slot].pending > 0) return slot;
    }
    return std::nullopt;
}

std::optional<std::uint32_t> SegmentTable::slot_of(std::uint64_t seq) const noexcept {
    const auto found = used_.find(seq);
    if (found == used_.end()) return std::nullopt;
    return found->second;
}

void SegmentTable::write_ended(std::uint32_t slot) noexcept {
    CHECK(segments_[slot].writes > 0);
    --segments_[slot].writes;
    may_free_ = true;
}

std::optional<std::uint32_t> SegmentTable::free_dead(std::uint64_t behind) {
    if (frozen_ || !may_free_) return std::nullopt;
    const bool in_order = covered_ == 0;
    bool blocked = false; // by an older one that lives
    for (auto at = used_.begin(); at != used_.end();) {
        const auto [seq, slot] = *at;
        Segment& segment = segments_[slot];
        const bool dead =
            segment.state == State::sealed && segment.live_records == 0 && segment.writes == 0;
        const bool covered = in_order ? !blocked : seq < covered_;
        if (!dead) blocked = true;
        if (!dead || (!covered && !segment.beside && !SEEDED_DEFECT(free_out_of_order))) {
            ++at;
            continue;
        }
        CHECK(segment.live_bytes == 0);
        if (segment.bad) {
            if (!std::exchange(segment.leaving, true)) segment.freed_behind = behind;
            return slot;
        }
        at = used_.erase(at);
        sealed_bytes_ -= bytes_of(slot);
        segment.state = State::free;
        segment.freed_behind = behind;
        segment.key.reset();
        free_.push_back(slot);
    }
    may_free_ = false;
    return std::nullopt;
}

bool SegmentTable::uncovered_sealed() const noexcept {
    for (auto at = used_.lower_bound(covered_); at != used_.end(); ++at) {
        const Segment& segment = segments_[at->second];
        if (segment.state == State::sealed && !segment.beside) return true;
    }
    return false;
}

std::uint32_t SegmentTable::uncovered_dead() const noexcept {
    std::uint32_t count = 0;
    for (auto at = used_.lower_bound(covered_); at != used_.end(); ++at) {
        const Segment& segment = segments_[at->second];
        if (segment.state == State::sealed && segment.live_records == 0 && !segment.beside) ++count;
    }
    return count;
}

std::vector<std::uint32_t> SegmentTable::victims(unsigned fill_max, std::size_t count_max) const {
    // Rosenblum and Ousterhout's cost and benefit (LFS, 1992): what is won, weighed by its age, for the
    // price of reading the segment and writing what lives.
    struct Candidate {
        double score;
        std::uint32_t slot;
    };
    std::vector<Candidate> candidates;
    auto age = static_cast<double>(used_.size());
    for (const auto& [seq, slot] : used_) {
        age -= 1;
        const Segment& segment = segments_[slot];
        if (segment.state != State::sealed || segment.live_records == 0 || segment.pending != 0)
            continue;
        const double fill =
            static_cast<double>(segment.live_bytes) / static_cast<double>(bytes_of(slot));
        if (fill * 100 > fill_max) continue;
        candidates.push_back({(1 - fill) * (age + 1) / (1 + fill), slot});
    }
    std::ranges::sort(candidates, std::ranges::greater{}, &Candidate::score);
    std::vector<std::uint32_t> slots;
    for (const Candidate& candidate : candidates) {
        if (slots.size() == count_max) break;
        slots.push_back(candidate.slot);
    }
    return slots;
}

void SegmentTable::free_behind(std::uint64_t batch_seq) noexcept {
    for (Segment& segment : segments_) {
        if (segment.state == State::free || segment.leaving) segment.freed_behind = batch_seq;
    }
}

std::optional<std::uint64_t> SegmentTable::oldest_seq() const noexcept {
    if (used_.empty()) return std::nullopt;
    return used_.begin()->first;
}

} // namespace queue
