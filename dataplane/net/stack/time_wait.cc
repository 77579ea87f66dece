#include "dataplane/net/stack/time_wait.h"

#include "dataplane/base/check.h"

#include <chrono>

namespace dataplane::net::stack {
namespace {

/// So that a period is at most 8,192 ticks: 16 bits of them then hold four periods back and four ahead.
base::Duration tick_for(base::Duration period) noexcept {
    base::Duration tick = std::chrono::milliseconds{1};
    while (period / tick > 8192)
        tick *= 2;
    return tick;
}

base::IpAddress address(const std::array<std::uint8_t, 16>& bytes, bool v6) noexcept {
    if (v6) return base::IpAddress::v6(bytes);
    return base::IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]});
}

} // namespace

TimeWait::TimeWait(std::size_t records_max, base::Duration period, base::TimePoint start) noexcept
    : records_max_(records_max), period_(period), tick_(tick_for(period)), start_(start) {
    CHECK(records_max_ > 0);
}

TimeWait::Record& TimeWait::at(std::uint32_t number) const noexcept {
    return chunks_[number / chunk_records][number % chunk_records];
}

std::uint32_t TimeWait::number_of_local(const base::IpAddress& ip) {
    const auto [at, fresh] =
        numbers_of_locals_.try_emplace(ip, static_cast<std::uint32_t>(locals_.size()));
    if (fresh) locals_.push_back(ip);
    return at->second;
}

std::uint16_t TimeWait::ticks_at(base::TimePoint time) const noexcept {
    return static_cast<std::uint16_t>((time - start_) / tick_);
}

std::uint32_t TimeWait::add(const FlowKey& key, const tcp::TimeWaitRecord& record,
                            base::TimePoint now) {
    CHECK(!full());
    if (first_free_ == none) {
        const auto base_number = static_cast<std::uint32_t>(chunks_.size()) * chunk_records;
        chunks_.push_back(std::make_unique_for_overwrite<Record[]>(chunk_records));
        for (std::uint32_t i = chunk_records; i-- > 0;) {
            at(base_number + i).next = first_free_;
            first_free_ = base_number + i;
        }
    }
    const std::uint32_t number = first_free_;
    Record& fresh = at(number);
    first_free_ = fresh.next;
    fresh.remote = key.remote.bytes();
    fresh.local = number_of_local(key.local) & ((1U << 30) - 1);
    fresh.v6 = key.local.is_v6();
    fresh.timestamps = record.timestamps;
    fresh.local_port = key.local_port;
    fresh.remote_port = key.remote_port;
    fresh.snd_nxt = record.snd_nxt.raw();
    fresh.rcv_nxt = record.rcv_nxt.raw();
    fresh.ts_recent = record.ts_recent;
    fresh.window = record.window;
    fresh.expires_at = ticks_at(now + period_);
    link_newest(number);
    ++size_;
    ++counters.added;
    return number;
}

std::optional<std::uint32_t> TimeWait::oldest() const noexcept {
    if (oldest_ == none) return std::nullopt;
    return oldest_;
}

base::TimePoint TimeWait::deadline(base::TimePoint now) const noexcept {
    if (oldest_ == none) return base::TimePoint::max();
    return now + tick_ * static_cast<std::int16_t>(at(oldest_).expires_at - ticks_at(now));
}

bool TimeWait::due(base::TimePoint now) const noexcept {
    if (oldest_ == none) return false;
    return static_cast<std::int16_t>(ticks_at(now) - at(oldest_).expires_at) >= 0;
}

void TimeWait::remove(std::uint32_t number) noexcept {
    CHECK(size_ > 0);
    unlink(number);
    at(number).next = first_free_;
    first_free_ = number;
    --size_;
}

void TimeWait::link_newest(std::uint32_t number) noexcept {
    Record& record = at(number);
    record.next = none;
    record.prev = newest_;
    if (newest_ == none) {
        oldest_ = number;
    } else {
        at(newest_).next = number;
    }
    newest_ = number;
}

void TimeWait::unlink(std::uint32_t number) noexcept {
    const Record& record = at(number);
    if (record.prev == none) {
        oldest_ = record.next;
    } else {
        at(record.prev).next = record.next;
    }
    if (record.next == none) {
        newest_ = record.prev;
    } else {
        at(record.next).prev = record.prev;
    }
}

FlowKey TimeWait::key(std::uint32_t number) const noexcept {
    const Record& record = at(number);
    return {locals_[record.local], address(record.remote, record.v6), record.local_port,
            record.remote_port};
}

tcp::TimeWaitRecord TimeWait::record(std::uint32_t number) const noexcept {
    const Record& record = at(number);
    return {.snd_nxt = tcp::Seq{record.snd_nxt},
            .rcv_nxt = tcp::Seq{record.rcv_nxt},
            .window = record.window,
            .timestamps = record.timestamps != 0,
            .ts_recent = record.ts_recent};
}

TimeWaitAnswer TimeWait::on_segment(std::uint32_t number, const tcp::Segment& segment,
                                    base::TimePoint now) noexcept {
    Record& record = at(number);
    // RFC 1337: a reset, old or forged, must not let an old duplicate into the next incarnation.
    if (segment.has(tcp::flag::rst)) return TimeWaitAnswer::nothing;
    const tcp::Seq rcv_nxt{record.rcv_nxt};
    const bool stamped = record.timestamps != 0 && segment.options.timestamps.has_value();
    const auto newer = static_cast<std::int32_t>(
        (stamped ? segment.options.timestamps->value : 0U) - record.ts_recent);
    if (segment.has(tcp::flag::syn) && !segment.has(tcp::flag::ack)) {
        // RFC 6191 §2: newer by its timestamp, or, where that does not tell, by its sequence number.
        const bool fresh_stamp = stamped && newer > 0;
        const bool fresh_seq = segment.seq > rcv_nxt && (!stamped || newer == 0);
        if (fresh_stamp || fresh_seq) return TimeWaitAnswer::reopen;
        ++counters.acknowledged;
        return TimeWaitAnswer::acknowledge;
    }
    const bool old_stamp = stamped && newer < 0; // PAWS: an old duplicate
    const bool fin_again = segment.has(tcp::flag::fin) && !old_stamp &&
                           segment.seq + segment.sequence_length() == rcv_nxt;
    if (fin_again) {
        if (stamped) record.ts_recent = segment.options.timestamps->value;
        record.expires_at = ticks_at(now + period_);
        unlink(number);
        link_newest(number);
        ++counters.acknowledged;
        return TimeWaitAnswer::acknowledge;
    }
    // An ACK that says nothing new gets no answer: two ends in TIME_WAIT would talk for ever.
    if (segment.sequence_length() == 0 && segment.seq == rcv_nxt) return TimeWaitAnswer::nothing;
    ++counters.acknowledged;
    return TimeWaitAnswer::acknowledge;
}

} // namespace dataplane::net::stack
