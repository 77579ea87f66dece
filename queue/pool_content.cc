#include "queue/pool_content.h"

#include "queue/seeded_defect.h"
#include "queue/superblock_choice.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace queue {
namespace {

using Window = MirrorContent::Window;
using Half = MirrorContent::Half;

[[nodiscard]] std::span<const std::byte, block_bytes> block_at(std::span<const std::byte> bytes,
                                                               std::size_t at) noexcept {
    return bytes.subspan(at).first<block_bytes>();
}

[[nodiscard]] bool same(std::span<const std::byte> a, std::span<const std::byte> b) noexcept {
    return std::memcmp(a.data(), b.data(), a.size()) == 0;
}

/// Where only the source counts, what has no meaning goes over as it is.
void copy_block(Window& window, std::size_t at) {
    const std::size_t block = at / block_bytes;
    if (window.both_count || window.halves[0].lost[block]) return;
    std::ranges::copy(block_at(window.halves[0].bytes, at),
                      window.halves[1].bytes.begin() + static_cast<std::ptrdiff_t>(at));
    window.halves[1].write[block] = true;
}

} // namespace

/// One frame of a window, as each half has it, or a part where neither has a frame's header.
class PoolContent::Frame {
public:
    Frame(Window& window, std::size_t at, const FrameHeader& header, std::uint32_t seed) noexcept
        : window_(window), at_(at), header_(header), seed_(seed), records_at_(frame_header_bytes) {}

    /// A crash may have torn the header off both and have left records.
    /// \param open  one of them may go on behind it
    [[nodiscard]] static Frame headless(Window& window, std::size_t at, const FrameHeader& part,
                                        std::uint32_t seed, bool open) noexcept {
        Frame frame{window, at, part, seed};
        frame.records_at_ = 0;
        frame.open_ = open;
        return frame;
    }
    /// Where the first record begins that does; the end, when there is none.
    [[nodiscard]] std::size_t cut() const noexcept { return std::min(cut_, header_.used); }

    void judge(std::array<bool, 2> with_header) {
        const bool lost = any_lost(0) || any_lost(1);
        if (window_.both_count && !lost && !open_ && same(bytes(0), bytes(1))) return;
        find(0, with_header[0]);
        // Where the source has everything, the other can have nothing that it has not.
        if (!whole(with_header[0])) find(1, with_header[1]);
        leave_what_only_one_has();
        if (!window_.both_count && !found_[1].empty()) window_.one_sided = true;
        const std::vector<std::byte> before{bytes(0).begin(), bytes(0).end()};
        // From here on the source's bytes are what both should hold.
        for (std::size_t block = 0; block < blocks(); ++block) {
            if (lost_block(0, block)) copy(1, 0, block * block_bytes, block_bytes);
        }
        for (const Item& item : found_[1])
            copy(1, 0, item.from, item.bytes);
        for (std::size_t block = 0; block < blocks(); ++block) {
            const std::size_t number = at_ / block_bytes + block;
            // A block of which each half has a part alone is written all the same, with both parts: one power cut
            // has torn it on both, or one half missed it and does not count.
            const bool other =
                (!window_.both_count || lost_block(1, block) || differs(bytes(1), block)) &&
                !lost_block(0, block) && (holds_[0][block] || (framed() && !holds_[1][block]));
            const bool source = window_.both_count &&
                                (lost_block(0, block) || differs(before, block)) &&
                                holds_[1][block];
            window_.halves[1].write[number] = other;
            window_.halves[0].write[number] = source;
            if (other) copy(0, 1, block * block_bytes, block_bytes);
        }
    }

private:
    struct Item { // the header, or a record
        std::uint32_t from = 0;
        std::uint32_t bytes = 0;
    };

    [[nodiscard]] std::span<std::byte> bytes(unsigned half) const noexcept {
        return window_.halves[half].bytes.subspan(at_, header_.bytes);
    }
    [[nodiscard]] std::size_t blocks() const noexcept { return header_.bytes / block_bytes; }
    [[nodiscard]] bool lost_block(unsigned half, std::size_t block) const {
        return window_.halves[half].lost[at_ / block_bytes + block];
    }
    [[nodiscard]] bool any_lost(unsigned half) const {
        for (std::size_t block = 0; block < blocks(); ++block) {
            if (lost_block(half, block)) return true;
        }
        return false;
    }
    /// Its zeros are not what the device has.
    [[nodiscard]] bool lost_in(unsigned half, const Item& item) const {
        std::size_t block = item.from / block_bytes;
        while (block < (item.from + item.bytes - 1) / block_bytes && !lost_block(half, block))
            ++block;
        return lost_block(half, block);
    }
    void copy(unsigned from, unsigned to, std::size_t at, std::size_t count) const {
        std::ranges::copy(bytes(from).subspan(at, count), bytes(to).subspan(at).begin());
    }

    void find(unsigned half, bool with_header) {
        std::vector<Item>& items = found_[half];
        if (with_header) items.push_back({0, frame_header_bytes});
        const std::span<const std::byte> frame = bytes(half);
        std::uint32_t at = records_at_;
        while (header_.used - std::min(at, header_.used) >= record_header_bytes) {
            const RecordSeeds seeds = record_seeds(seed_, header_.segment_seq, header_.offset + at);
            const auto header = decode_record_header(frame.subspan(at, record_header_bytes),
                                                     header_.used - at, seeds);
            if (!header) {
                if (header.error() == CodecError::truncated) cut_ = std::min(cut_, at);
                at += record_alignment;
                continue;
            }
            const auto payload = frame.subspan(at + record_header_bytes, header->stored_bytes());
            const Item item{at, record_header_bytes + header->stored_bytes()};
            if (payload_valid(*header, payload, seeds) && !lost_in(half, item))
                items.push_back(item);
            at += record_bytes(*header);
        }
    }
    [[nodiscard]] bool framed() const noexcept { return records_at_ != 0; }
    /// The source has the frame's header and every record.
    [[nodiscard]] bool whole(bool with_header) const noexcept {
        return with_header && found_[0].size() == header_.records + 1U;
    }
    /// What the other half has as well puts no block in danger.
    void leave_what_only_one_has() {
        const std::array<std::vector<Item>, 2> all = found_;
        for (unsigned half = 0; half < 2; ++half) {
            std::erase_if(found_[half], [&](const Item& item) {
                return std::ranges::binary_search(all[1 - half], item.from, {}, &Item::from);
            });
            holds_[half].resize(blocks());
            for (const Item& item : found_[half]) {
                for (std::size_t at = item.from / block_bytes;
                     at <= (item.from + item.bytes - 1) / block_bytes; ++at)
                    holds_[half][at] = true;
            }
        }
    }
    /// From what both should hold.
    [[nodiscard]] bool differs(std::span<const std::byte> frame, std::size_t block) const noexcept {
        return !same(bytes(0).subspan(block * block_bytes, block_bytes),
                     frame.subspan(block * block_bytes, block_bytes));
    }

    Window& window_;
    std::size_t at_;
    FrameHeader header_;
    std::uint32_t seed_;
    std::uint32_t records_at_; // 0: there is no header
    bool open_ = false;
    std::uint32_t cut_ = std::numeric_limits<std::uint32_t>::max();
    std::array<std::vector<Item>, 2> found_; // in their order; in the end: on this half only
    std::array<std::vector<bool>, 2> holds_; // blocks with a part of those
};

bool PoolContent::begin(std::array<std::span<const std::byte>, 2> superblocks) {
    constexpr std::size_t bytes = superblock_copies * block_bytes;
    const std::array<SuperblockChoice, 2> choices{choose_superblock(superblocks[0].first<bytes>()),
                                                  choose_superblock(superblocks[1].first<bytes>())};
    const SuperblockChoice choice = choose_superblock(choices);
    if (!choice.newest || SEEDED_DEFECT(mirror_blind_copy)) return false;
    superblock_ = *choice.newest; // its geometry never changes
    seed_ = pool_seed(superblock_.pool, superblock_.shard);
    return true;
}

std::optional<PoolContent::Slot> PoolContent::slot_at(std::uint64_t offset) const noexcept {
    const std::uint64_t number = offset / superblock_.segment_bytes;
    if (offset < superblock_area_bytes || number >= superblock_.segment_count) return std::nullopt;
    const std::uint64_t begin =
        number == 0 ? superblock_area_bytes : number * superblock_.segment_bytes;
    return Slot{static_cast<std::uint32_t>(number), begin,
                (number + 1) * superblock_.segment_bytes - begin};
}

MirrorContent::Extent PoolContent::head_of(std::uint64_t offset) const noexcept {
    const auto slot = slot_at(offset);
    return slot ? Extent{slot->begin, segment_header_bytes} : Extent{};
}

/// 0: no header of this slot.
std::uint64_t PoolContent::seq_of(std::span<const std::byte> block, std::uint32_t copy,
                                  std::uint32_t slot) const noexcept {
    const auto header = decode_segment_header(block.first<block_bytes>(), copy);
    const bool ours = header && header->pool == superblock_.pool &&
                      header->shard == superblock_.shard && header->slot == slot;
    return ours ? header->segment_seq : 0;
}

/// Of the frames that a window shows; 0: there is none.
std::uint64_t PoolContent::newest_frame_seq(const Half& half,
                                            const Segment& segment) const noexcept {
    std::uint64_t newest = 0;
    for (std::size_t at = 0; at < half.bytes.size() && segment.first + at < segment.bytes;
         at += block_bytes) {
        const std::uint64_t in_slot = segment.first + at;
        const auto header = decode_frame_header(half.bytes.subspan(at), segment.bytes - in_slot,
                                                seed_, static_cast<std::uint32_t>(in_slot));
        if (header && header->shard == superblock_.shard)
            newest = std::max(newest, header->segment_seq);
    }
    return newest;
}

std::size_t PoolContent::judge(Window& window) const {
    const std::size_t bytes = window.halves[0].bytes.size();
    const auto slot = slot_at(window.offset);
    if (!slot) {
        // The start writes all superblocks itself, once it has chosen among those of both halves.
        const std::size_t end =
            window.offset < superblock_area_bytes
                ? std::min<std::size_t>(bytes, superblock_area_bytes - window.offset)
                : bytes;
        for (std::size_t at = 0; at < end; at += block_bytes)
            copy_block(window, at);
        return end;
    }
    const std::uint64_t first = window.offset - slot->begin;
    std::array<std::uint64_t, 2> named{};
    for (unsigned half = 0; half < 2; ++half) {
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
            const auto block = window.halves[half].head.subspan(copy * block_bytes);
            named[half] = std::max(named[half], seq_of(block, copy, slot->number));
        }
    }
    // A half that does not count may have begun what the source never did, or be a generation behind. Where the
    // source has lost its header, its frames say what it holds.
    std::uint64_t seq = named[0];
    if (window.both_count && !SEEDED_DEFECT(mirror_first_generation))
        seq = std::max(named[0], named[1]);
    Segment segment{.bytes = slot->bytes, .first = first, .seq = seq};
    if (seq == 0)
        segment.seq = seq = std::max(named[1], newest_frame_seq(window.halves[0], segment));
    const std::size_t end = std::min<std::size_t>(bytes, slot->bytes - first);
    std::size_t at = 0;
    if (first == 0) {
        judge_header(window, slot->number, seq);
        at = segment_header_bytes;
    }
    segment.to_its_end = end == slot->bytes - first;
    while (at < end) {
        const Found found = frame_in(window, at, segment);
        if (found.header && at + found.header->bytes <= end) {
            Frame{window, at, *found.header, seed_}.judge(found.on);
            at += found.header->bytes;
            continue;
        }
        if (at > 0 && (found.cut || found.header)) return at;
        if (window.both_count && seq != 0) {
            const std::size_t next = judge_headless(window, at, end, segment);
            if (next == at) return at;
            at = next;
        } else {
            copy_block(window, at);
            at += block_bytes;
        }
    }
    return end;
}

PoolContent::Found PoolContent::frame_in(const Window& window, std::size_t at,
                                         const Segment& segment) const {
    Found found;
    for (unsigned half = 0; half < 2 && segment.seq != 0; ++half) {
        const auto header = frame_at(window.halves[half], at, segment);
        if (!header) found.cut = found.cut || header.error() == CodecError::truncated;
        found.on[half] = header.has_value();
        if (header && !found.header) found.header = *header;
    }
    return found;
}

/// What has no frame's header up to the next one. \return  where to go on; `at` itself: in another window, because
/// a record may go on behind this one
std::size_t PoolContent::judge_headless(Window& window, std::size_t at, std::size_t end,
                                        const Segment& segment) const {
    std::size_t until = at + block_bytes;
    while (until < end) {
        const Found found = frame_in(window, until, segment);
        if (found.header || found.cut) break;
        until += block_bytes;
    }
    const bool open = until == end && !segment.to_its_end;
    if (open && at > 0) return at;
    const FrameHeader part{.segment_seq = segment.seq,
                           .offset = static_cast<std::uint32_t>(segment.first + at),
                           .bytes = static_cast<std::uint32_t>(until - at),
                           .used = static_cast<std::uint32_t>(until - at)};
    Frame headless = Frame::headless(window, at, part, seed_, open);
    headless.judge({});
    const std::size_t next = at + headless.cut() / block_bytes * block_bytes;
    return open && next > at ? next : until; // none is larger than a window
}

void PoolContent::judge_header(Window& window, std::uint32_t slot, std::uint64_t seq) const {
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        const std::size_t at = copy * block_bytes;
        std::array<bool, 2> good{};
        for (unsigned half = 0; half < 2; ++half) {
            const std::span<const std::byte> block = window.halves[half].bytes.subspan(at);
            good[half] = seq != 0 && seq_of(block, copy, slot) == seq;
        }
        // Two that are good may still have their key in different wrappings: keys are just being changed.
        if (good[0] == good[1] || !window.both_count) {
            if (good[0] || !good[1]) copy_block(window, at);
            // Nor may an older generation stay where the source's header cannot be read.
            if (!window.both_count && !good[1] && window.halves[0].lost[copy]) {
                std::ranges::fill(window.halves[1].bytes.subspan(at, block_bytes), std::byte{0});
                window.halves[1].write[copy] = true;
            }
            continue;
        }
        const unsigned from = good[0] ? 0 : 1;
        std::ranges::copy(block_at(window.halves[from].bytes, at),
                          window.halves[1 - from].bytes.subspan(at).begin());
        window.halves[1 - from].write[copy] = true;
    }
}

/// truncated: it goes on behind the window.
std::expected<FrameHeader, CodecError> PoolContent::frame_at(const Half& half, std::size_t at,
                                                             const Segment& segment) const {
    const std::uint64_t in_slot = segment.first + at;
    auto header = decode_frame_header(half.bytes.subspan(at), segment.bytes - in_slot, seed_,
                                      static_cast<std::uint32_t>(in_slot));
    // Of another generation it is of no interest, however long it says that it is.
    if (!header || header->segment_seq != segment.seq || header->shard != superblock_.shard ||
        header->bytes == 0)
        return std::unexpected(CodecError::not_ours);
    if (header->bytes > half.bytes.size() - at) return std::unexpected(CodecError::truncated);
    return header;
}

} // namespace queue
