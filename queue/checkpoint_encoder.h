// checkpoint_encoder.h: collects entries into one part of a checkpoint.
//
// Scope      The bytes of CHECKPOINT_PART; checkpoint.h reads them.
// Owns       The part until finish(). In between the index must not change: it goes by the numbers of its texts.
// Threading  Any.
#pragma once

#include "queue/index.h"
#include "queue/segments.h"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace queue {

class CheckpointEncoder {
public:
    void add(const MessageIndex& index, const SegmentTable& segments, const Entry& entry);
    [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
    [[nodiscard]] std::size_t bytes() const noexcept { return 8 + texts_.size() + entries_.size(); }
    /// The part's payload; afterwards the encoder is empty again.
    [[nodiscard]] std::vector<std::byte> finish();

private:
    [[nodiscard]] std::uint32_t text(std::uint64_t key, std::string_view value);

    std::unordered_map<std::uint64_t, std::uint32_t> numbers_; // by the index's own number
    std::vector<std::byte> texts_;
    std::vector<std::byte> entries_;
    std::uint32_t count_ = 0;
};

} // namespace queue
