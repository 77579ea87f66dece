// segments.h: which segment slots are free, which hold what, and in which order they come back.
//
// Scope      Bookkeeping only. A slot is taken, filled, sealed, and freed once nothing in it lives and
//            nobody needs what it says of others. With a checkpoint that holds for all segments that
//            it covers, in any order. Without one slots are freed in the order in which they were
//            taken: a completion record lies behind the message it ends, so the message's bytes are
//            overwritten before it is, and no finished mail can rise again (docs/spool-format.md,
//            "Recycling").
// Owns       The table, sized once.
// Threading  Bound to one shard.
#pragma once

#include "queue/cipher.h"
#include "queue/codec.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

namespace queue {

class SegmentTable {
public:
    SegmentTable(std::uint32_t segment_bytes, std::uint32_t segment_count);

    // Geometry.
    [[nodiscard]] std::uint32_t count() const noexcept {
        return static_cast<std::uint32_t>(segments_.size());
    }
    [[nodiscard]] std::uint64_t begin_of(std::uint32_t slot) const noexcept;
    [[nodiscard]] std::uint32_t bytes_of(std::uint32_t slot) const noexcept;
    [[nodiscard]] std::uint32_t bytes_min() const noexcept; // of the smallest slot

    // Slots, in the order of their use.
    /// Says that a slot is free, or holds segment `seq`: at start, in any order.
    /// \param seq  what it held, 0 when that is not known
    void add_free(std::uint32_t slot, std::uint64_t seq = 0);
    void add_sealed(std::uint32_t slot, std::uint64_t seq);
    /// The records of a sealed segment are encrypted.
    /// \param key  nothing when it is lost, and with it what they say
    void add_key(std::uint32_t slot, const std::optional<DataKey>& key) noexcept;
    void retire(std::uint32_t slot) noexcept; // known bad, and nothing lives in it: out for good
    /// Frees nothing until thaw(): what lives is not known yet.
    void freeze() noexcept { frozen_ = true; }
    void thaw() noexcept {
        frozen_ = false;
        may_free_ = true;
    }
    [[nodiscard]] bool frozen() const noexcept { return frozen_; }
    /// Takes the free slot that was freed first, if what it was freed behind is durable by now and nothing is
    /// being written there.
    [[nodiscard]] std::optional<std::uint32_t> take(std::uint64_t durable);
    [[nodiscard]] bool may_take(std::uint64_t durable) const noexcept {
        return !free_.empty() && segments_[free_.front()].freed_behind <= durable;
    }
    /// Its header is durable, and names this key for what is written there, if any.
    void prepared(std::uint32_t slot, std::uint64_t seq,
                  const std::optional<DataKey>& key) noexcept;
    /// Records go there now.
    /// \param first_lsn  none that is written there is lower, completion and status aside
    void opened(std::uint32_t slot, std::uint64_t first_lsn);
    /// It holds checkpoints and copies: once nothing lives in it, no checkpoint need cover it.
    void set_beside(std::uint32_t slot) noexcept { segments_[slot].beside = true; }
    void seal(std::uint32_t slot) noexcept;
    void mark_bad(std::uint32_t slot) noexcept;
    [[nodiscard]] std::uint64_t seq_of(std::uint32_t slot) const noexcept {
        return segments_[slot].seq;
    }
    [[nodiscard]] bool sealed(std::uint32_t slot) const noexcept;
    /// Nothing has been written over the segment yet, whether it is needed or not.
    [[nodiscard]] bool holds(std::uint32_t slot, std::uint64_t seq) const noexcept {
        const Segment& segment = segments_[slot];
        return segment.seq == seq &&
               (segment.state == State::sealed || segment.state == State::free);
    }
    [[nodiscard]] bool encrypted(std::uint32_t slot) const noexcept {
        return segments_[slot].encrypted;
    }
    /// Of an encrypted segment; nothing when it is lost.
    [[nodiscard]] const std::optional<DataKey>& key_of(std::uint32_t slot) const noexcept {
        return segments_[slot].key;
    }
    /// What a record of the segment takes.
    [[nodiscard]] std::uint32_t record_bytes_in(std::uint32_t slot,
                                                std::uint32_t payload_bytes) const noexcept {
        return record_bytes(payload_bytes, segments_[slot].encrypted);
    }
    /// Whether a record of this size can be there at all.
    [[nodiscard]] bool has_room_for(std::uint32_t slot, std::uint32_t offset,
                                    std::uint32_t payload_bytes) const noexcept;
    /// Whether it can be overwritten even after a crash now.
    [[nodiscard]] bool free_for_good(std::uint32_t slot, std::uint64_t durable) const noexcept {
        return segments_[slot].state == State::free && segments_[slot].freed_behind <= durable;
    }
    /// What ended the mail of a bad segment, which free_dead() returned, is durable: nobody need read it.
    [[nodiscard]] bool gone_for_good(std::uint32_t slot, std::uint64_t durable) const noexcept {
        return segments_[slot].leaving &&
               (segments_[slot].freed_behind <= durable || SEEDED_DEFECT(retire_too_early));
    }
    /// The slot that holds this segment.
    [[nodiscard]] std::optional<std::uint32_t> slot_of(std::uint64_t seq) const noexcept;
    [[nodiscard]] std::uint64_t first_lsn(std::uint32_t slot) const noexcept {
        return segments_[slot].first_lsn;
    }

    // What lives in them.
    void add_live(std::uint32_t slot, std::uint32_t bytes) noexcept;
    void drop_live(std::uint32_t slot, std::uint32_t bytes) noexcept;
    // Records that live although the index does not know them yet: a checkpoint must not pass them.
    void pend(std::uint32_t slot) noexcept { ++segments_[slot].pending; }
    void unpend(std::uint32_t slot) noexcept;
    /// The oldest segment with such records.
    [[nodiscard]] std::optional<std::uint32_t> oldest_pending() const noexcept;
    void write_begun(std::uint32_t slot) noexcept { ++segments_[slot].writes; }
    void write_ended(std::uint32_t slot) noexcept;
    [[nodiscard]] std::uint32_t live_records(std::uint32_t slot) const noexcept {
        return segments_[slot].live_records;
    }

    [[nodiscard]] std::uint64_t live_bytes(std::uint32_t slot) const noexcept {
        return segments_[slot].live_bytes;
    }

    /// A checkpoint has everything that segments below this say; 0: there is none.
    void cover(std::uint64_t seq) noexcept {
        covered_ = seq;
        may_free_ = true;
    }
    [[nodiscard]] std::uint64_t covered() const noexcept { return covered_; }
    /// Frees what can be. Stops at a bad one, which is returned: its slot must be written down as bad
    /// before later segments go, and not before gone_for_good().
    /// \param behind  the batch by which all completion records written so far will be durable
    [[nodiscard]] std::optional<std::uint32_t> free_dead(std::uint64_t behind);
    /// Whether there are sealed segments that a checkpoint would cover.
    [[nodiscard]] bool uncovered_sealed() const noexcept;
    /// Sealed segments in which nothing lives, and which wait for a checkpoint.
    [[nodiscard]] std::uint32_t uncovered_dead() const noexcept;
    /// The sealed segments that collection gains most from, with little alive, and that for long; none
    /// that is fuller than `fill_max` percent.
    [[nodiscard]] std::vector<std::uint32_t> victims(unsigned fill_max,
                                                     std::size_t count_max) const;
    /// Completion records are written again: what is free or leaves now must wait for this batch.
    void free_behind(std::uint64_t batch_seq) noexcept;

    /// The number of the oldest segment in use; nothing when there is none.
    [[nodiscard]] std::optional<std::uint64_t> oldest_seq() const noexcept;

    [[nodiscard]] std::uint32_t free_count() const noexcept {
        return static_cast<std::uint32_t>(free_.size());
    }
    /// Bytes of sealed segments that are not live: what collection could win back at most.
    [[nodiscard]] std::uint64_t dead_bytes() const noexcept {
        return sealed_bytes_ -
               std::min(sealed_bytes_, sealed_live_bytes_); // a damaged pool may claim more
    }

private:
    enum class State : std::uint8_t { free, taken, open, sealed, retired };
    struct Segment {
        std::uint64_t seq = 0;
        std::uint64_t live_bytes = 0;
        std::uint64_t freed_behind = 0;
        std::uint64_t first_lsn = 0;
        std::uint32_t pending = 0;
        std::uint32_t live_records = 0;
        std::uint32_t writes = 0; // in flight: a slot must not be reused under one
        State state = State::retired;
        bool bad = false;
        bool leaving = false; // bad, and nothing lives in it
        bool beside = false;  // the log: says nothing of messages elsewhere
        bool encrypted = false;
        std::optional<DataKey> key;
    };

    std::uint32_t segment_bytes_;
    std::vector<Segment> segments_;
    std::deque<std::uint32_t> free_;              // freed first at the front
    std::map<std::uint64_t, std::uint32_t> used_; // open or sealed, by number
    std::uint64_t covered_ = 0;
    bool frozen_ = false;
    bool may_free_ = false; // something has died since the last look
    std::uint64_t sealed_bytes_ = 0;
    std::uint64_t sealed_live_bytes_ = 0;
};

} // namespace queue
