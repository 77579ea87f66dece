#include "dataplane/net/port/impairment.h"

#include "dataplane/base/check.h"
#include "dataplane/net/port/frame_view.h"
#include "dataplane/net/port/wire_bytes.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dataplane::net {
namespace {

__extension__ using Wide = unsigned __int128; // no ISO type holds bits times nanoseconds

constexpr std::uint64_t ns_per_s = 1'000'000'000;

base::Duration time_on_wire(std::uint64_t bytes, std::uint64_t bits_per_s) noexcept {
    const auto bits = static_cast<Wide>(bytes) * 8 * ns_per_s;
    return base::Duration{static_cast<std::int64_t>(bits / bits_per_s)};
}

/// What the IP header is followed by, the header included: Ethernet and a tag do not count.
std::size_t ip_bytes_of(std::span<const std::byte> frame) noexcept {
    if (frame.size() < ethernet_bytes + vlan_tag_bytes) return 0;
    const bool tagged = be16(frame, 12) == ethertype_vlan;
    return frame.size() - ethernet_bytes - (tagged ? vlan_tag_bytes : 0);
}

} // namespace

std::uint64_t SeededRandom::next() noexcept {
    state_ += 0x9e37'79b9'7f4a'7c15;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58'476d'1ce4'e5b9;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d0'49bb'1331'11eb;
    return mixed ^ (mixed >> 31);
}

bool SeededRandom::chance(double probability) noexcept {
    if (probability <= 0) return false; // draws nothing: adding an impairment moves no other's dice
    return static_cast<double>(next() >> 11) * 0x1p-53 < probability;
}

std::uint64_t SeededRandom::below(std::uint64_t bound) noexcept {
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
}

ImpairedLine::ImpairedLine(ImpairmentOptions options, std::uint64_t seed, base::SlabPool& frames)
    : random_(seed), frames_(frames) {
    change(std::move(options));
}

void ImpairedLine::change(ImpairmentOptions options) {
    CHECK(options.rules.size() <= impairment_rules_max);
    options_ = std::move(options);
    rule_matches_.assign(options_.rules.size(), 0);
}

bool ImpairedLine::lost() noexcept {
    if (const auto& burst = options_.burst_loss) {
        burst_bad_ = burst_bad_ ? !random_.chance(burst->to_good) : random_.chance(burst->to_bad);
        if (random_.chance(burst_bad_ ? burst->loss_bad : burst->loss_good)) return true;
    }
    return random_.chance(options_.loss);
}

ImpairedLine::Fate ImpairedLine::decide(std::span<const std::byte> frame) {
    Fate fate;
    bool ruled = false;
    for (std::size_t i = 0; i < options_.rules.size(); ++i) {
        const ImpairmentRule& rule = options_.rules[i];
        if (rule.matches && !rule.matches(frame)) continue;
        const std::uint64_t match = ++rule_matches_[i]; // counted also when another rule decides
        if (ruled || match < rule.first || match - rule.first >= rule.count) continue;
        ruled = true;
        switch (rule.action) {
        case ImpairmentRule::Action::drop:
            fate.drop = true;
            break;
        case ImpairmentRule::Action::delay:
            fate.overtaken = true;
            fate.extra = rule.extra;
            break;
        case ImpairmentRule::Action::duplicate:
            fate.duplicate = true;
            fate.duplicate_extra = rule.extra;
            break;
        case ImpairmentRule::Action::corrupt:
            fate.corrupt = true;
            break;
        case ImpairmentRule::Action::mark_ce:
            fate.mark = true;
            break;
        case ImpairmentRule::Action::pass:
            fate.exempt = true;
            break;
        }
    }
    return fate;
}

std::optional<base::TimePoint> ImpairedLine::departure(std::size_t bytes, base::TimePoint now,
                                                       bool& mark) noexcept {
    if (options_.rate_bits_per_s == 0) return now;
    const base::TimePoint start = std::max(now, busy_until_);
    const auto waiting_ns = static_cast<std::uint64_t>((start - now).count());
    const auto queued = static_cast<std::uint64_t>(static_cast<Wide>(waiting_ns) *
                                                   options_.rate_bits_per_s / 8 / ns_per_s);
    if (options_.queue_bytes != 0 && queued + bytes > options_.queue_bytes) return std::nullopt;
    if (options_.mark_bytes != 0 && queued > options_.mark_bytes) mark = true;
    busy_until_ = start + time_on_wire(bytes, options_.rate_bits_per_s);
    return busy_until_;
}

void ImpairedLine::corrupt(LineFrame& frame) noexcept {
    if (frame.bytes <= ethernet_bytes) return;
    // Not the Ethernet header: hardware drops such a frame by its FCS, and nobody would see it.
    const std::uint64_t bit = random_.below((frame.bytes - ethernet_bytes) * std::uint64_t{8});
    frame.span()[ethernet_bytes + bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    frame.ip_checksum = ChecksumState::unknown; // what the device had found no longer holds
    frame.l4_checksum = ChecksumState::unknown;
    ++counters_.corrupted;
}

LineFrame ImpairedLine::copy(const LineFrame& frame) noexcept {
    base::SlabRef slab = frames_.take();
    if (!slab) return {};
    LineFrame twin = frame;
    twin.slab = std::move(slab);
    std::memcpy(twin.slab.data(), frame.slab.data(), frame.bytes);
    return twin;
}

void ImpairedLine::insert(base::TimePoint at, LineFrame frame) {
    if (heap_.size() >= impaired_frames) {
        ++counters_.line_full;
        return;
    }
    heap_.push_back(Entry{at, order_++, std::move(frame)});
    std::push_heap(heap_.begin(), heap_.end(), Entry::leaves_later);
}

void ImpairedLine::push(LineFrame frame, base::TimePoint now) {
    CHECK(frame.slab && frame.slab.references() == 1);
    ++counters_.entered;
    if (options_.mtu != 0 && ip_bytes_of(frame.span()) > options_.mtu) {
        ++counters_.too_big;
        if (options_.on_too_big) options_.on_too_big(frame.span(), options_.mtu);
        return;
    }
    Fate fate = decide(frame.span());
    if (fate.drop) {
        ++counters_.ruled_out;
        return;
    }
    if (!fate.exempt) {
        if (lost()) {
            ++counters_.lost;
            return;
        }
        if (random_.chance(options_.corrupt)) fate.corrupt = true;
        if (random_.chance(options_.duplicate)) fate.duplicate = true;
        if (random_.chance(options_.reorder)) {
            fate.overtaken = true;
            fate.extra += options_.reorder_extra;
        }
    }
    const auto sent = departure(frame.bytes, now, fate.mark);
    if (!sent) {
        ++counters_.queue_full;
        return;
    }
    if (fate.mark && mark_congestion(frame.span())) ++counters_.marked;
    if (fate.corrupt) corrupt(frame);

    base::TimePoint arrival = *sent + options_.delay;
    if (options_.jitter.count() > 0) {
        const auto width = static_cast<std::uint64_t>(options_.jitter.count()) + 1;
        arrival += base::Duration{static_cast<std::int64_t>(random_.below(width))};
    }
    if (fate.overtaken) {
        ++counters_.reordered;
        arrival += fate.extra;
    } else {
        arrival = std::max(arrival, last_arrival_);
        last_arrival_ = arrival;
    }
    if (fate.duplicate) {
        if (LineFrame twin = copy(frame); twin.slab) {
            ++counters_.duplicated;
            insert(arrival, std::move(frame));
            insert(arrival + fate.duplicate_extra, std::move(twin));
            return;
        }
    }
    insert(arrival, std::move(frame));
}

LineFrame ImpairedLine::pop(base::TimePoint now) {
    if (heap_.empty() || heap_.front().at > now) return {};
    std::pop_heap(heap_.begin(), heap_.end(), Entry::leaves_later);
    LineFrame frame = std::move(heap_.back().frame);
    heap_.pop_back();
    ++counters_.left;
    return frame;
}

base::TimePoint ImpairedLine::next_event() const noexcept {
    return heap_.empty() ? base::TimePoint::max() : heap_.front().at;
}

} // namespace dataplane::net
