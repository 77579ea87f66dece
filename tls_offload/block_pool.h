// block_pool.h: the buffers of TLS streams, lent while they hold bytes.
//
// Scope      Blocks of block_bytes. A stream without unread or staged bytes holds none, so that ten
//            thousand idle connections share the few blocks of the busy ones.
// Owns       Up to free_blocks_max blocks that nobody uses.
// Threading  Bound to one shard.
// Failure    Out of memory ends the process, as operator new does. What a stream may hold at once
//            is bounded by limits.h.
#pragma once

#include "tls_offload/limits.h"

#include <array>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace tls_offload {

class BlockPool {
public:
    using Block = std::array<std::byte, block_bytes>;
    using BlockPtr = std::unique_ptr<Block>;

    BlockPool() { free_.reserve(free_blocks_max); }

    [[nodiscard]] BlockPtr take() {
        ++lent_count_;
        if (free_.empty()) return std::make_unique_for_overwrite<Block>();
        BlockPtr block = std::move(free_.back());
        free_.pop_back();
        return block;
    }
    void give_back(BlockPtr block) noexcept {
        if (block == nullptr) return;
        --lent_count_;
        if (free_.size() < free_blocks_max)
            free_.push_back(std::move(block)); // reserved: never throws
    }
    [[nodiscard]] std::size_t lent_count() const noexcept { return lent_count_; }

private:
    std::vector<BlockPtr> free_;
    std::size_t lent_count_ = 0;
};

} // namespace tls_offload
