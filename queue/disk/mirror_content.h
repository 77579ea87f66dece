// mirror_content.h: what a mirror must be told of the bytes that it copies from one half to the other.
//
// Scope      The interface alone. A copy may be rotten, and the half that it would be written over may have the
//            same whole: only who knows the format can tell (queue/pool_content.h).
// Threading  Any.
#pragma once

#include "queue/disk/disk.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace queue {

class MirrorContent {
public:
    struct Extent {
        std::uint64_t offset = 0;
        std::uint64_t bytes = 0;
    };
    struct Half {
        std::span<const std::byte> head; // what head_of() named
        std::span<std::byte> bytes;      // judge() makes of them what the half should hold
        std::vector<bool> lost;          // blocks that the device did not give back: zeros here
        std::vector<bool> write;         // judge(): blocks that are to be written
    };
    struct Window {
        std::uint64_t offset = 0;
        bool both_count = false;    // else the source alone has everything that was acknowledged
        std::array<Half, 2> halves; // the source's, the other's: the same blocks of both
        /// judge(), where the source alone counts: the other keeps something whole that the source has not.
        bool one_sided = false;
    };

    virtual ~MirrorContent() = default;
    /// Before each round. \param superblocks  the blocks of their copies, of the source and of the other half
    /// \return  false when they say nothing: then there is nothing to tell, and everything is copied
    [[nodiscard]] virtual bool begin(std::array<std::span<const std::byte>, 2> superblocks) = 0;
    /// What must be read of both halves to judge what stands at `offset`; it may be nothing.
    [[nodiscard]] virtual Extent head_of(std::uint64_t offset) const noexcept = 0;
    /// \return  how many bytes from the window's first on it is done with: at least a block. What is to be written may go
    ///          on behind that, where a record ends that began before; it is then looked at again.
    [[nodiscard]] virtual std::size_t judge(Window& window) const = 0;
};

// What belongs together fits into a window.
inline constexpr std::size_t mirror_window_bytes = 1U << 20;

} // namespace queue
