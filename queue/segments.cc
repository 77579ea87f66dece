#include "queue/segments.h"

#include "dataplane/base/check.h"

#include <algorithm>

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

void SegmentTable::add_free(std::uint32_t slot) {
    segments_[slot] = Segment{.state = State::free};
    free_.push_back(slot);
}

void SegmentTable::add_sealed(std::uint32_t slot, std::uint64_t seq) {
    CHECK(used_.empty() || segments_[used_.back()].seq < seq);
    segments_[slot] = Segment{.seq = seq, .state = State::sealed};
    used_.push_back(slot);
    sealed_bytes_ += bytes_of(slot);
}

void SegmentTable::retire(std::uint32_t slot) noexcept {
    if (!used_.empty() && used_.front() == slot) {
        CHECK(segments_[slot].live_records == 0);
        sealed_bytes_ -= bytes_of(slot);
        used_.pop_front();
    }
    segments_[slot] = Segment{.state = State::retired};
}

std::optional<std::uint32_t> SegmentTable::take(std::uint64_t durable) {
    if (free_.empty() || segments_[free_.front()].freed_behind > durable) return std::nullopt;
    const std::uint32_t slot = free_.front();
    free_.pop_front();
    CHECK(segments_[slot].state == State::free);
    segments_[slot].state = State::taken;
    return slot;
}

void SegmentTable::prepared(std::uint32_t slot, std::uint64_t seq) noexcept {
    CHECK(segments_[slot].state == State::taken);
    segments_[slot].seq = seq;
}

void SegmentTable::opened(std::uint32_t slot) {
    CHECK(segments_[slot].state == State::taken);
    CHECK(used_.empty() || segments_[used_.back()].seq < segments_[slot].seq);
    segments_[slot].state = State::open;
    used_.push_back(slot);
}

void SegmentTable::seal(std::uint32_t slot) noexcept {
    Segment& segment = segments_[slot];
    CHECK(segment.state == State::open);
    segment.state = State::sealed;
    sealed_bytes_ += bytes_of(slot);
    sealed_live_bytes_ += segment.live_bytes;
}

void SegmentTable::mark_bad(std::uint32_t slot) noexcept {
    segments_[slot].bad = true;
}

bool SegmentTable::sealed(std::uint32_t slot) const noexcept {
    return segments_[slot].state == State::sealed;
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
}

void SegmentTable::write_ended(std::uint32_t slot) noexcept {
    CHECK(segments_[slot].writes > 0);
    --segments_[slot].writes;
}

std::optional<std::uint32_t> SegmentTable::free_oldest(std::uint64_t behind) {
    while (auto slot = oldest_sealed()) {
        Segment& segment = segments_[*slot];
        if (segment.live_records != 0 || segment.writes != 0) return std::nullopt;
        CHECK(segment.live_bytes == 0);
        if (segment.bad) return slot;
        used_.pop_front();
        sealed_bytes_ -= bytes_of(*slot);
        segment.state = State::free;
        segment.freed_behind = behind;
        free_.push_back(*slot);
    }
    return std::nullopt;
}

void SegmentTable::free_behind(std::uint64_t batch_seq) noexcept {
    for (const std::uint32_t slot : free_)
        segments_[slot].freed_behind = batch_seq;
}

std::optional<std::uint64_t> SegmentTable::oldest_seq() const noexcept {
    if (used_.empty()) return std::nullopt;
    return segments_[used_.front()].seq;
}

std::optional<std::uint32_t> SegmentTable::oldest_sealed() const noexcept {
    if (used_.empty() || segments_[used_.front()].state != State::sealed) return std::nullopt;
    return used_.front();
}

} // namespace queue
