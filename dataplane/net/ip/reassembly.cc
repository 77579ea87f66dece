#include "dataplane/net/ip/reassembly.h"

#include "dataplane/net/ip/limits.h"

#include <algorithm>
#include <cstring>

namespace dataplane::net::ip {

Reassembly::Reassembly(std::size_t datagrams_max, std::size_t bytes_max, LayerCounters& counters)
    : datagrams_max_(std::max<std::size_t>(datagrams_max, 1)), bytes_max_(bytes_max),
      counters_(counters) {
    pending_.reserve(datagrams_max_);
}

bool Reassembly::add(Packet& packet, TimePoint now) {
    const FragmentPlace& place = *packet.fragment;
    const std::size_t bytes = packet.payload.size();
    const bool in_range = place.offset + bytes <= datagram_bytes_max;
    const bool last = !place.more;
    if (!in_range || bytes == 0 || (!last && (bytes % 8 != 0 || bytes < fragment_bytes_min))) {
        ++counters_.fragments_dropped;
        if (Pending* known = find(packet)) give_up(*known);
        return false;
    }
    Pending* pending = find(packet);
    if (pending == nullptr) pending = &begin(packet, now);
    if (pending->refused) {
        ++counters_.fragments_dropped;
        return false;
    }
    while (bytes_ + bytes > bytes_max_ && &pending_.front() != pending) {
        give_up(pending_.front());
        erase(pending_.front());
        --pending; // it was behind the one that went
    }
    if (bytes_ + bytes > bytes_max_ || pending->pieces.size() >= fragments_per_datagram_max ||
        !insert(*pending, packet)) {
        ++counters_.fragments_dropped;
        give_up(*pending);
        return false;
    }
    if (pending->total == 0 || pending->received != pending->total) return false;

    // Pieces that do not overlap and add up to the end leave no hole.
    CHECK(pending->has_first);
    whole_.resize(pending->total);
    for (const Piece& piece : pending->pieces)
        std::memcpy(whole_.data() + piece.offset, piece.data.get(), piece.bytes);
    const bool acceptable = !pending->ecn_mixed;
    packet.protocol = pending->protocol;
    packet.ecn = pending->ecn;
    packet.payload = whole_;
    if (acceptable) {
        ++counters_.reassembled;
    } else {
        give_up(*pending); // RFC 3168 §5.3
    }
    for (const Piece& piece : pending->pieces)
        bytes_ -= piece.bytes;
    erase(*pending);
    return acceptable;
}

bool Reassembly::insert(Pending& pending, const Packet& packet) {
    const FragmentPlace& place = *packet.fragment;
    const auto bytes = static_cast<std::uint16_t>(packet.payload.size());
    const std::uint32_t end = std::uint32_t{place.offset} + bytes;

    const auto behind = std::ranges::upper_bound(pending.pieces, place.offset, {}, &Piece::offset);
    if (behind != pending.pieces.begin()) {
        const Piece& before = *(behind - 1);
        const bool duplicate = before.offset == place.offset && before.bytes == bytes &&
                               std::memcmp(before.data.get(), packet.payload.data(), bytes) == 0 &&
                               (place.more || pending.total == end);
        if (duplicate) return true;
        if (std::uint32_t{before.offset} + before.bytes > place.offset) return false;
    }
    if (behind != pending.pieces.end() && behind->offset < end) return false;
    if (!place.more) {
        if (pending.total != 0 || behind != pending.pieces.end()) return false;
        pending.total = end;
    } else if (pending.total != 0 && end >= pending.total) {
        return false; // goes on behind the end
    }

    if (place.offset == 0) {
        pending.has_first = true;
        pending.protocol = packet.protocol; // RFC 8200 §4.5: the first one's counts
    }
    const auto capable = [](tcp::Ecn ecn) { return ecn != tcp::Ecn::not_ect; };
    if (pending.pieces.empty()) {
        pending.ecn = packet.ecn;
    } else {
        if (capable(pending.ecn) != capable(packet.ecn)) pending.ecn_mixed = true;
        if (packet.ecn == tcp::Ecn::ce) pending.ecn = tcp::Ecn::ce;
    }
    auto copy = std::make_unique_for_overwrite<std::byte[]>(bytes);
    std::memcpy(copy.get(), packet.payload.data(), bytes);
    pending.pieces.insert(behind, Piece{place.offset, bytes, std::move(copy)});
    pending.received += bytes;
    bytes_ += bytes;
    return true;
}

Reassembly::Pending* Reassembly::find(const Packet& packet) noexcept {
    for (Pending& pending : pending_) {
        if (pending.id != packet.fragment->id || pending.source != packet.source ||
            pending.destination != packet.destination)
            continue;
        if (packet.source.is_v6() || pending.protocol == packet.protocol) return &pending;
    }
    return nullptr;
}

Reassembly::Pending& Reassembly::begin(const Packet& packet, TimePoint now) {
    if (pending_.size() == datagrams_max_) {
        give_up(pending_.front());
        erase(pending_.front());
    }
    Pending& pending = pending_.emplace_back();
    pending.source = packet.source;
    pending.destination = packet.destination;
    pending.id = packet.fragment->id;
    pending.protocol = packet.protocol;
    pending.ends = now + reassembly_limit;
    return pending;
}

void Reassembly::give_up(Pending& pending) noexcept {
    counters_.fragments_dropped += pending.pieces.size();
    for (const Piece& piece : pending.pieces)
        bytes_ -= piece.bytes;
    pending.pieces.clear();
    pending.refused = true;
}

void Reassembly::erase(Pending& pending) noexcept {
    pending_.erase(pending_.begin() + (&pending - pending_.data()));
}

void Reassembly::on_timer(TimePoint now) noexcept {
    while (!pending_.empty() && pending_.front().ends <= now) {
        give_up(pending_.front());
        erase(pending_.front());
    }
}

TimePoint Reassembly::deadline() const noexcept {
    return pending_.empty() ? TimePoint::max() : pending_.front().ends;
}

} // namespace dataplane::net::ip
