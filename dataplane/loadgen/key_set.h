// key_set.h: which (run, sequence, recipient) have arrived already, as a flat set of 64-bit keys.
//
// Scope      Open addressing with linear probing; keys are hashes already. At a million keys two
//            different deliveries share a key with a chance of one in 37 million.
// Owns       Eight bytes a slot, at most half of them used. A run's length is not known beforehand, so
//            parts of it double, one at a time: no delivery waits for the whole set to be moved.
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
    KeySet() : parts_(part_count) {}

    /// Returns whether the key was new.
    bool insert(std::uint64_t key) {
        if (key == 0) key = 1; // zero marks a free slot
        Part& part = parts_[key >> part_shift];
        if (2 * (part.count + 1) > part.slots.size()) grow(part);
        if (!place(part.slots, key)) return false;
        ++part.count;
        ++count_;
        return true;
    }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }

private:
    static constexpr std::size_t part_count = 256; // by the key's highest bits
    static constexpr unsigned part_shift = 64 - std::bit_width(part_count - 1);
    static constexpr std::size_t slots_first = 256;
    static_assert(std::has_single_bit(part_count), "the shift takes whole bits");
    static_assert(std::has_single_bit(slots_first), "the probe wraps with a mask");

    struct Part {
        std::vector<std::uint64_t> slots = std::vector<std::uint64_t>(slots_first);
        std::size_t count = 0;
    };

    static bool place(std::vector<std::uint64_t>& slots, std::uint64_t key) noexcept {
        for (std::size_t at = key & (slots.size() - 1);; at = (at + 1) & (slots.size() - 1)) {
            if (slots[at] == key) return false;
            if (slots[at] == 0) {
                slots[at] = key;
                return true;
            }
        }
    }
    static void grow(Part& part) {
        std::vector<std::uint64_t> larger(part.slots.size() * 2);
        for (const std::uint64_t key : part.slots) {
            if (key != 0) CHECK(place(larger, key));
        }
        part.slots = std::move(larger);
    }

    std::vector<Part> parts_;
    std::size_t count_ = 0;
};

} // namespace dataplane::loadgen
