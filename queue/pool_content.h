// pool_content.h: which half of a mirror has what whole, for copying between them.
//
// Scope      The rule: no block is written over that holds a part of something that checks out on its own half
//            only, unless the other half has such a part in the same block: then what is written has both. A
//            frame, or what a crash has left without a frame's header, is looked at record by record: what
//            checks out on one half goes to the other, in both directions where both halves count. What neither
//            half knows as of its slot's generation is nobody's: left alone, or copied where the source alone
//            counts. Sans-I/O.
// Threading  Any.
#pragma once

#include "queue/codec.h"
#include "queue/disk/mirror_content.h"

#include <optional>

namespace queue {

class PoolContent final : public MirrorContent {
public:
    [[nodiscard]] bool begin(std::array<std::span<const std::byte>, 2> superblocks) override;
    [[nodiscard]] Extent head_of(std::uint64_t offset) const noexcept override;
    [[nodiscard]] std::size_t judge(Window& window) const override;

private:
    struct Slot {
        std::uint32_t number = 0;
        std::uint64_t begin = 0;
        std::uint64_t bytes = 0;
    };
    class Frame;
    struct Segment {             // what a window shows of it
        std::uint64_t bytes = 0; // all of it
        std::uint64_t first = 0; // where the window begins in it
        std::uint64_t seq = 0;   // its generation
        bool to_its_end = false;
    };
    struct Found {
        std::optional<FrameHeader> header;
        std::array<bool, 2> on{}; // which half
        bool cut = false;         // it goes on behind the window
    };

    [[nodiscard]] std::optional<Slot> slot_at(std::uint64_t offset) const noexcept;
    [[nodiscard]] std::uint64_t seq_of(std::span<const std::byte> block, std::uint32_t copy,
                                       std::uint32_t slot) const noexcept;
    [[nodiscard]] std::uint64_t newest_frame_seq(const Half& half,
                                                 const Segment& segment) const noexcept;
    void judge_header(Window& window, std::uint32_t slot, std::uint64_t seq) const;
    [[nodiscard]] Found frame_in(const Window& window, std::size_t at,
                                 const Segment& segment) const;
    [[nodiscard]] std::size_t judge_headless(Window& window, std::size_t at, std::size_t end,
                                             const Segment& segment) const;
    [[nodiscard]] std::expected<FrameHeader, CodecError> frame_at(const Half& half, std::size_t at,
                                                                  const Segment& segment) const;

    Superblock superblock_;
    std::uint32_t seed_ = 0;
};

} // namespace queue
