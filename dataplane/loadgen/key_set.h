// key_set.h: which (run, sequence, recipient) have arrived already, as a flat set of 64-bit keys.
//
// Scope      Open addressing with linear probing; keys are hashes already. At a million keys two
//            different deliveries share a key with a chance of one in 37 million.
// Owns       Eight bytes a slot, at most half of them used; it doubles when that is reached, for
//            a run's length is not known beforehand.
#pragma once

#include "dataplane/base/check.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dataplane::loadgen {

class KeySet {
public:
    KeySet() : slots_(slots_first) {}

    /// Returns whether the key was new.
    bool insert(std::uint64_t key) {
        if (key == 0) key = 1; // zero marks a free slot
        if (2 * (count_ + 1) > slots_.size()) grow();
        if (!place(slots_, key)) return false;
        ++count_;
        return true;
    }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }

private:
    static constexpr std::size_t slots_first = 1UL << 16;
    static_assert(std::has_single_bit(slots_first), "the probe wraps with a mask");

    static bool place(std::vector<std::uint64_t>& slots, std::uint64_t key) noexcept {
        for (std::size_t at = key & (slots.size() - 1);; at = (at + 1) & (slots.size() - 1)) {
            if (slots[at] == key) return false;
            if (slots[at] == 0) {
                slots[at] = key;
                return true;
            }
        }
    }
    void grow() {
        std::vector<std::uint64_t> larger(slots_.size() * 2);
        for (const std::uint64_t key : slots_) {
            if (key != 0) CHECK(place(larger, key));
        }
        slots_ = std::move(larger);
    }

    std::vector<std::uint64_t> slots_;
    std::size_t count_ = 0;
};

} // namespace dataplane::loadgen
