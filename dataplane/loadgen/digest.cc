#include "dataplane/loadgen/digest.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace dataplane::loadgen {
namespace {

constexpr std::uint64_t multiplier = 0x9FB21C651E98DF25;

} // namespace

void BodyDigest::mix_stripe(const std::byte* stripe) noexcept {
    for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
        std::uint64_t word = 0;
        std::memcpy(&word, stripe + lane * sizeof word, sizeof word);
        lanes_[lane] = std::rotl((lanes_[lane] ^ word) * multiplier, 31);
    }
}

void BodyDigest::update(std::span<const std::byte> bytes) noexcept {
    if (bytes.empty()) return; // it may have no address at all
    total_bytes_ += bytes.size();
    if (held_bytes_ != 0) {
        const std::size_t take = std::min(bytes.size(), stripe_bytes - held_bytes_);
        std::memcpy(held_.data() + held_bytes_, bytes.data(), take);
        held_bytes_ += take;
        bytes = bytes.subspan(take);
        if (held_bytes_ < stripe_bytes) return;
        mix_stripe(held_.data());
        held_bytes_ = 0;
    }
    while (bytes.size() >= stripe_bytes) {
        mix_stripe(bytes.data());
        bytes = bytes.subspan(stripe_bytes);
    }
    if (!bytes.empty()) std::memcpy(held_.data(), bytes.data(), bytes.size());
    held_bytes_ = bytes.size();
}

std::uint64_t BodyDigest::finish() const noexcept {
    BodyDigest last = *this;
    if (last.held_bytes_ != 0) { // the length below tells padding from zeros that were really there
        std::fill(last.held_.begin() + static_cast<std::ptrdiff_t>(last.held_bytes_),
                  last.held_.end(), std::byte{0});
        last.mix_stripe(last.held_.data());
    }
    std::uint64_t digest = total_bytes_ * multiplier;
    for (const std::uint64_t lane : last.lanes_)
        digest = scramble(digest ^ lane) + multiplier;
    return digest;
}

std::uint64_t digest_of(std::span<const std::byte> bytes) noexcept {
    BodyDigest digest;
    digest.update(bytes);
    return digest.finish();
}

} // namespace dataplane::loadgen
