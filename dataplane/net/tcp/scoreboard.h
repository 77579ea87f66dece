// scoreboard.h: what is in flight, segment by segment: the retransmission queue and RACK's list in
// one.
//
// Scope      Records of sent segments in sequence order, without gaps, from SND.UNA to SND.NXT;
//            which of them the peer has reported (RFC 2018), which are taken for lost, and the
//            sums of both: RFC 6675's pipe. Who decides that something is lost is rack.h.
// Owns       The ring of records. It grows by doubling from records_min to records_max and is
//            given back by release() when nothing is in flight. A record is a segment as it was
//            sent, at most an MSS; SACK blocks never cut one: a record that is not covered whole
//            is not covered. So a peer cannot make records; only sending again in smaller pieces
//            can, and when there is no room the record stays whole.
// Threading  One shard.
// Failure    push() says false when the ring is full.
#pragma once

#include "dataplane/base/check.h"
#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/segment.h"
#include "dataplane/net/tcp/sender_limits.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace dataplane::net::tcp {

struct SentRecord {
    Seq begin;
    Seq end;
    base::TimePoint sent_at{};           // the last time
    std::uint32_t first_sent_ago_ms = 0; // how long before sent_at the first time was
    bool sacked = false;
    bool lost = false;          // and not sent again since
    bool retransmitted = false; // ever: Karn

    [[nodiscard]] std::uint32_t bytes() const noexcept { return distance(begin, end); }
    [[nodiscard]] base::TimePoint first_sent_at() const noexcept {
        return sent_at - std::chrono::milliseconds{first_sent_ago_ms};
    }
};
static_assert(sizeof(SentRecord) == 24);

class Scoreboard {
public:
    Scoreboard() noexcept = default;
    ~Scoreboard() { give_back(); }
    Scoreboard(const Scoreboard&) = delete;
    Scoreboard& operator=(const Scoreboard&) = delete;

    void begin(Seq first) noexcept;

    [[nodiscard]] Seq una() const noexcept { return una_; }
    [[nodiscard]] Seq nxt() const noexcept { return nxt_; }
    [[nodiscard]] std::uint32_t flight_bytes() const noexcept { return distance(una_, nxt_); }
    [[nodiscard]] std::uint32_t sacked_bytes() const noexcept { return sacked_bytes_; }
    [[nodiscard]] std::uint32_t lost_bytes() const noexcept { return lost_bytes_; }
    [[nodiscard]] unsigned sacked_count() const noexcept { return sacked_count_; }
    [[nodiscard]] std::uint32_t pipe_bytes() const noexcept {
        return flight_bytes() - sacked_bytes_ - lost_bytes_;
    }

    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
    [[nodiscard]] const SentRecord& operator[](std::size_t index) const noexcept {
        return records_[(head_ + index) & (capacity_ - 1U)];
    }
    /// The record that holds `seq`; \pre una() <= seq < nxt()
    [[nodiscard]] std::size_t find(Seq seq) const noexcept;
    /// The lowest lost record, size() when there is none.
    [[nodiscard]] std::size_t first_lost() const noexcept;

    /// New data of `bytes` bytes from nxt() on, in records of at most `mss`.
    [[nodiscard]] bool push(std::uint32_t bytes, std::uint32_t mss, base::TimePoint now) noexcept;
    /// [begin, end) has been sent again. Cuts records at both ends where there is room.
    void sent_again(Seq begin, Seq end, base::TimePoint now) noexcept;

    /// Takes the acknowledged away; `delivered(record)` sees each record that had not been
    /// reported before.
    template <class Delivered>
    void acknowledge(Seq ack, Delivered&& delivered) noexcept;
    /// Marks what the block covers whole; \pre una() < block.begin < block.end <= nxt()
    template <class Delivered>
    void report(const SackBlock& block, Delivered&& delivered) noexcept;

    void mark_sacked(std::size_t index) noexcept;
    void mark_lost(std::size_t index) noexcept;
    void unmark_sacked(std::size_t index) noexcept;
    void forget_sacked() noexcept; // the receiver has reneged
    void forget_lost() noexcept;   // nothing was lost

    /// \pre nothing is in flight
    void release() noexcept;
    /// Walks the ring and holds every sum against it.
    void debug_check() const noexcept;

private:
    [[nodiscard]] SentRecord& at(std::size_t index) noexcept {
        return records_[(head_ + index) & (capacity_ - 1U)];
    }
    [[nodiscard]] bool reserve(std::size_t records) noexcept;
    void give_back() noexcept;
    void cut(std::size_t index, Seq where) noexcept;
    void pop_front() noexcept;

    SentRecord* records_ =
        nullptr; // of the frame pool: a connection of one command costs no malloc
    std::uint16_t capacity_ = 0;
    std::uint16_t head_ = 0;
    std::uint16_t count_ = 0;
    std::uint16_t sacked_count_ = 0;
    Seq una_;
    Seq nxt_;
    Seq lost_from_; // nothing lost begins before it
    std::uint32_t sacked_bytes_ = 0;
    std::uint32_t lost_bytes_ = 0;
};

template <class Delivered>
void Scoreboard::acknowledge(Seq ack, Delivered&& delivered) noexcept {
    while (count_ > 0 && at(0).end <= ack) {
        if (!at(0).sacked) delivered(std::as_const(at(0)));
        pop_front();
    }
    if (count_ > 0 && at(0).begin < ack) {
        SentRecord& first = at(0);
        const std::uint32_t bytes = distance(first.begin, ack);
        if (first.sacked) sacked_bytes_ -= bytes;
        if (first.lost) lost_bytes_ -= bytes;
        first.begin = ack;
    }
    una_ = ack;
    if (lost_from_ < una_) lost_from_ = una_;
}

template <class Delivered>
void Scoreboard::report(const SackBlock& block, Delivered&& delivered) noexcept {
    std::size_t index = find(block.begin);
    if (at(index).begin < block.begin) ++index;
    for (; index < count_ && at(index).end <= block.end; ++index) {
        if (at(index).sacked) continue;
        delivered(std::as_const(at(index)));
        mark_sacked(index);
    }
}

} // namespace dataplane::net::tcp
