#include "dataplane/net/tcp/scoreboard.h"

#include "dataplane/base/frame_pool.h"

#include <limits>
#include <memory>

namespace dataplane::net::tcp {

static_assert((records_min & (records_min - 1)) == 0, "ring indexes wrap with a mask");
static_assert((records_max & (records_max - 1)) == 0, "ring indexes wrap with a mask");
static_assert(records_reserved < records_max);

void Scoreboard::begin(Seq first) noexcept {
    CHECK(count_ == 0);
    una_ = nxt_ = lost_from_ = first;
}

std::size_t Scoreboard::find(Seq seq) const noexcept {
    DCHECK(una_ <= seq && seq < nxt_);
    std::size_t low = 0;
    std::size_t high = count_;
    while (high - low > 1) {
        const std::size_t middle = low + (high - low) / 2;
        if ((*this)[middle].begin <= seq)
            low = middle;
        else
            high = middle;
    }
    return low;
}

std::size_t Scoreboard::first_lost() const noexcept {
    if (lost_bytes_ == 0) return count_;
    std::size_t index = find(lost_from_);
    while (index < count_ && !(*this)[index].lost)
        ++index;
    return index;
}

void Scoreboard::give_back() noexcept {
    if (records_ != nullptr) base::release_frame(records_, capacity_ * sizeof(SentRecord));
    records_ = nullptr;
}

bool Scoreboard::reserve(std::size_t records) noexcept {
    if (records <= capacity_) return true;
    if (records > records_max) return false;
    std::size_t wanted = std::max<std::size_t>(capacity_, records_min);
    while (wanted < records)
        wanted *= 2;
    auto* const grown = static_cast<SentRecord*>(base::allocate_frame(wanted * sizeof(SentRecord)));
    std::uninitialized_value_construct_n(grown, wanted);
    for (std::size_t i = 0; i < count_; ++i)
        grown[i] = at(i);
    give_back();
    records_ = grown;
    capacity_ = static_cast<std::uint16_t>(wanted);
    head_ = 0;
    return true;
}

bool Scoreboard::push(std::uint32_t bytes, std::uint32_t mss, base::TimePoint now) noexcept {
    const std::size_t pieces = (std::size_t{bytes} + mss - 1) / mss;
    if (count_ + pieces > records_max - records_reserved) return false;
    if (!reserve(count_ + pieces)) return false;
    while (bytes > 0) {
        const std::uint32_t piece = std::min(bytes, mss);
        at(count_) = SentRecord{.begin = nxt_, .end = nxt_ + piece, .sent_at = now};
        ++count_;
        nxt_ += piece;
        bytes -= piece;
    }
    return true;
}

void Scoreboard::cut(std::size_t index, Seq where) noexcept {
    if (at(index).begin == where) return;
    if (!reserve(std::size_t{count_} + 1)) return;
    for (std::size_t i = count_; i > index; --i)
        at(i) = at(i - 1);
    ++count_;
    at(index).end = where;
    at(index + 1).begin = where;
    if (at(index).sacked) ++sacked_count_;
}

void Scoreboard::sent_again(Seq begin, Seq end, base::TimePoint now) noexcept {
    cut(find(begin), begin);
    if (end < nxt_) cut(find(end), end);
    for (std::size_t index = find(begin); index < count_ && at(index).begin < end; ++index) {
        SentRecord& record = at(index);
        if (record.lost) lost_bytes_ -= record.bytes();
        record.lost = false;
        record.retransmitted = true;
        const auto ago = (now - record.first_sent_at()) / 1ms;
        record.first_sent_ago_ms = static_cast<std::uint32_t>(
            std::clamp<std::int64_t>(ago, 0, std::numeric_limits<std::uint32_t>::max()));
        record.sent_at = now;
    }
    if (begin <= lost_from_ && lost_from_ < end) lost_from_ = end;
}

void Scoreboard::pop_front() noexcept {
    const SentRecord& first = at(0);
    if (first.sacked) {
        sacked_bytes_ -= first.bytes();
        --sacked_count_;
    }
    if (first.lost) lost_bytes_ -= first.bytes();
    head_ = static_cast<std::uint16_t>((head_ + 1U) & (capacity_ - 1U));
    --count_;
}

void Scoreboard::mark_sacked(std::size_t index) noexcept {
    SentRecord& record = at(index);
    if (record.sacked) return;
    if (record.lost) lost_bytes_ -= record.bytes();
    record.lost = false;
    record.sacked = true;
    sacked_bytes_ += record.bytes();
    ++sacked_count_;
}

void Scoreboard::mark_lost(std::size_t index) noexcept {
    SentRecord& record = at(index);
    if (record.sacked || record.lost) return;
    if (lost_bytes_ == 0 || record.begin < lost_from_) lost_from_ = record.begin;
    record.lost = true;
    lost_bytes_ += record.bytes();
}

void Scoreboard::unmark_sacked(std::size_t index) noexcept {
    SentRecord& record = at(index);
    if (!record.sacked) return;
    record.sacked = false;
    sacked_bytes_ -= record.bytes();
    --sacked_count_;
}

void Scoreboard::forget_sacked() noexcept {
    for (std::size_t i = 0; i < count_ && sacked_count_ > 0; ++i)
        unmark_sacked(i);
}

void Scoreboard::forget_lost() noexcept {
    for (std::size_t i = 0; i < count_ && lost_bytes_ > 0; ++i) {
        if (at(i).lost) lost_bytes_ -= at(i).bytes();
        at(i).lost = false;
    }
}

void Scoreboard::release() noexcept {
    CHECK(count_ == 0);
    give_back();
    capacity_ = 0;
    head_ = 0;
}

void Scoreboard::debug_check() const noexcept {
    CHECK(una_ <= nxt_);
    Seq expected = una_;
    std::uint32_t sacked = 0;
    std::uint32_t lost = 0;
    unsigned sacked_records = 0;
    for (std::size_t i = 0; i < count_; ++i) {
        const SentRecord& record = (*this)[i];
        CHECK(record.begin == expected);
        CHECK(record.begin < record.end);
        CHECK(!(record.sacked && record.lost));
        if (record.sacked) {
            sacked += record.bytes();
            ++sacked_records;
        }
        if (record.lost) {
            CHECK(record.begin >= lost_from_);
            lost += record.bytes();
        }
        expected = record.end;
    }
    CHECK(expected == nxt_);
    CHECK(sacked == sacked_bytes_);
    CHECK(lost == lost_bytes_);
    CHECK(sacked_records == sacked_count_);
    CHECK(count_ <= capacity_ && capacity_ <= records_max);
    CHECK(una_ <= lost_from_ && lost_from_ <= nxt_);
}

} // namespace dataplane::net::tcp
