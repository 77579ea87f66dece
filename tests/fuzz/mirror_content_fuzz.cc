// mirror_content_fuzz.cc: whatever two halves of a mirror hold, making them alike loses nothing that was whole.
//
// A slot of a pool that the queue itself has written stands on both halves. The input damages either: bytes, blocks
// that went astray, are gone, cannot be read or are of an earlier time, and numbers with checksums that fit. Then it
// is copied as the mirror copies it, window by window, and mended as recovery mends it. What must hold is found
// out record by record with the scan that recovery reads with, which judging does not use.
//
// Two records, or frames, that check out at the same place and differ, or overlap, were never written by one
// relay: one of them is given up, and what touches them is not looked for.
#include "dataplane/base/check.h"
#include "queue/pool_content.h"
#include "tests/fuzz/pool_structures.h"
#include "tests/queue/spool_world.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::PoolStructure;
using tests::World;
using Bytes = std::vector<std::byte>;

constexpr std::size_t image_bytes = 3U << 20;

tests::SimDiskOptions disk_options() {
    tests::SimDiskOptions options;
    options.bytes = image_bytes;
    options.latency_min = options.latency_max = std::chrono::microseconds{1};
    return options;
}

[[nodiscard]] bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) noexcept {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

/// Two moments of one pool: the later one has used slots of the earlier again.
struct Base {
    Bytes early, late;
    tests::PoolStructures structures; // of both
    std::vector<std::uint32_t> slots; // that hold something
};

Base make_pool() {
    Base base;
    std::mt19937_64 random{3};
    World world{disk_options(), tests::small_options()};
    CHECK(world.open().value().has_value());
    world.sink();
    for (std::size_t i = 0; i < 160; ++i) {
        const std::size_t bytes = i % 50 == 9 ? 260'000 : 40 + i * 150;
        CHECK(world.submit(tests::random_body(random, bytes), "P: 1\r\n", 1 + i % 3).has_value());
        CHECK(world.run_until([&] { return !world.ready.empty(); }, 1s));
        MessageRef message = std::move(world.ready.front());
        world.ready.pop_front();
        if (i % 16 == 0) {
            world.queue->defer(std::move(message), world.loop.wall_now() + 1h, "451 later");
        } else {
            world.deliver(std::move(message));
        }
        if (i % 8 == 0) world.run_for(1s);
        if (i == 100) {
            CHECK(world.sync().has_value());
            base.early = world.disk.bytes();
        }
    }
    CHECK(world.sync().has_value());
    world.run_for(1s);
    base.late = world.crash();
    base.structures = tests::structures_of(base.late);
    const std::vector<PoolStructure> early = tests::structures_of(base.early).all;
    base.structures.all.insert(base.structures.all.end(), early.begin() + superblock_copies,
                               early.end());
    const Superblock& superblock = base.structures.superblock;
    bool again = false;
    for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
        const std::uint64_t begin = tests::slot_begin(superblock, slot);
        const auto holds = [&](const PoolStructure& structure) {
            return structure.kind == PoolStructure::Kind::frame && structure.begin >= begin &&
                   structure.begin < tests::slot_end(superblock, slot);
        };
        const auto frame = std::ranges::find_if(base.structures.all, holds);
        if (frame == base.structures.all.end()) continue;
        base.slots.push_back(slot);
        again = again || std::ranges::any_of(base.structures.all, [&](const PoolStructure& other) {
                    return holds(other) && other.seq != frame->seq;
                });
    }
    CHECK(again);
    return base;
}

const Base& pool() {
    static const Base made = make_pool();
    return made;
}

/// The superblocks' area and one slot, as one half has them.
struct Half {
    Bytes area; // zeros where it is lost
    Bytes slot;
    std::vector<bool> lost; // blocks of both, in this order

    [[nodiscard]] std::size_t blocks() const noexcept {
        return (area.size() + slot.size()) / block_bytes;
    }
    [[nodiscard]] std::span<std::byte> block(std::size_t number) noexcept {
        const std::size_t at = number * block_bytes;
        return at < area.size() ? std::span{area}.subspan(at, block_bytes)
                                : std::span{slot}.subspan(at - area.size(), block_bytes);
    }
    [[nodiscard]] std::span<const std::byte> block(std::size_t number) const noexcept {
        const std::size_t at = number * block_bytes;
        return at < area.size() ? std::span{area}.subspan(at, block_bytes)
                                : std::span{slot}.subspan(at - area.size(), block_bytes);
    }
    bool operator==(const Half& other) const {
        return same_bytes(area, other.area) && same_bytes(slot, other.slot) && lost == other.lost;
    }
};

struct Case {
    std::uint32_t number = 0; // the slot
    std::uint64_t begin = 0;  // its place
    std::size_t window = mirror_window_bytes;
    bool both_count = false;
    std::array<Half, 2> halves;
};

constexpr std::size_t area_blocks = superblock_area_bytes / block_bytes;

void damage(Case& made, std::span<const std::byte> input) {
    std::array<std::uint8_t, 8> word{};
    std::memcpy(word.data(), input.data(), word.size());
    const std::uint32_t what = word[0] / 2;
    Half& half = made.halves[word[0] % 2];
    const std::uint32_t where = word[3] | std::uint32_t{word[4]} << 8;
    const std::uint64_t value =
        word[5] | std::uint64_t{word[6]} << 8 |
        (word[7] < 128 ? std::uint64_t{word[7]} << 16 : ~std::uint64_t{0} << (word[7] % 48));
    // The slot more often than the area before it.
    const auto pick = [&](std::uint64_t number) {
        return number % 8 == 7 ? number / 8 % area_blocks
                               : area_blocks + number / 8 % (half.blocks() - area_blocks);
    };
    const std::size_t first = pick(where);
    const std::size_t end = std::min<std::size_t>(first + 1 + word[1] % 8, half.blocks());
    switch (what % 8) {
    case 0:
        half.block(first)[value % block_bytes] ^= std::byte{word[7]};
        return;
    case 1: // went astray
        std::ranges::copy(std::as_const(half).block(pick(value)), half.block(first).begin());
        return;
    case 2: // gone
        for (std::size_t block = first; block < end; ++block)
            std::ranges::fill(half.block(block), std::byte{0});
        return;
    case 3: // unreadable
        for (std::size_t block = first; block < end; ++block) {
            std::ranges::fill(half.block(block), std::byte{0});
            half.lost[block] = true;
        }
        return;
    case 4: // never written: of an earlier time
        for (std::size_t block = first; block < end; ++block) {
            const std::size_t at = block < area_blocks
                                       ? block * block_bytes
                                       : made.begin + (block - area_blocks) * block_bytes;
            std::ranges::copy(std::span{pool().early}.subspan(at, block_bytes),
                              half.block(block).begin());
        }
        return;
    case 5: // a sector of it
        std::ranges::fill(half.block(first).subspan(value % 8 * 512, 512), std::byte{word[7]});
        return;
    default: { // a number, and checksums that fit
        std::vector<const PoolStructure*> here;
        for (const PoolStructure& structure : pool().structures.all) {
            if (structure.begin >= made.begin && structure.begin < made.begin + half.slot.size())
                here.push_back(&structure);
        }
        PoolStructure structure = *here[(word[1] | std::uint32_t{word[2]} << 8) % here.size()];
        const std::size_t width = std::size_t{1} << (what / 8 % 4);
        structure.begin -= made.begin;
        const std::size_t at = structure.begin + where % structure.length() / width * width;
        if (at + width > half.slot.size()) return;
        std::memcpy(half.slot.data() + at, &value, width);
        tests::seal(pool().structures.seed, half.slot, structure);
    }
    }
}

/// What lost blocks hold is not there.
void clear_lost(Half& half) {
    for (std::size_t block = 0; block < half.blocks(); ++block) {
        if (half.lost[block]) std::ranges::fill(half.block(block), std::byte{0});
    }
}

[[nodiscard]] std::uint64_t named_by(const Half& half, std::uint32_t copy, std::uint32_t slot) {
    const Superblock& superblock = pool().structures.superblock;
    const auto header = decode_segment_header(
        std::span{half.slot}.subspan(copy * block_bytes).first<block_bytes>(), copy);
    const bool ours = header && header->pool == superblock.pool &&
                      header->shard == superblock.shard && header->slot == slot;
    return ours ? header->segment_seq : 0;
}

[[nodiscard]] std::uint64_t named_by(const Half& half, std::uint32_t slot) {
    return std::max(named_by(half, 0, slot), named_by(half, 1, slot));
}

/// What a half has whole of one generation: a frame's header, or a record.
struct Whole {
    std::uint32_t at = 0;
    std::uint32_t bytes = 0;
    bool frame = false;
    std::uint32_t used = 0; // of a frame with all its bytes: where its records end
    [[nodiscard]] std::uint32_t end() const noexcept { return at + bytes; }
};

class Found {
public:
    Found(const Half& half, std::uint64_t seq, std::uint32_t slot)
        : slot_(half.slot), lost_(half.lost) {
        const Superblock& superblock = pool().structures.superblock;
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
            encode_segment_header(std::span{slot_}.subspan(copy * block_bytes).first<block_bytes>(),
                                  {.pool = superblock.pool,
                                   .shard = superblock.shard,
                                   .slot = slot,
                                   .segment_seq = seq},
                                  copy);
        }
        const SegmentScan scan = scan_segment(slot_, superblock.pool, superblock.shard, slot);
        for (const FoundFrame& frame : scan.frames) {
            frames.push_back({frame.header.offset, frame.header.bytes, true,
                              frame.header.offset + frame.header.used});
            whole.push_back({frame.header.offset, frame_header_bytes, true});
        }
        for (const FoundRecord& record : scan.records)
            whole.push_back(
                {record.offset, record_header_bytes + record.header.stored_bytes(), false});
        std::erase_if(whole, [&](const Whole& one) { return touches_lost(one); });
        std::ranges::sort(whole, {}, &Whole::at);
    }
    [[nodiscard]] bool has(const Whole& one) const {
        const auto found = std::ranges::lower_bound(whole, one.at, {}, &Whole::at);
        return found != whole.end() && found->at == one.at && found->bytes == one.bytes &&
               found->frame == one.frame;
    }
    /// The same bytes as another has there.
    [[nodiscard]] bool same(const Whole& one, const Found& other) const {
        return same_bytes(bytes(one), other.bytes(one));
    }
    [[nodiscard]] std::span<const std::byte> bytes(const Whole& one) const {
        return std::span{slot_}.subspan(one.at, one.bytes);
    }
    [[nodiscard]] bool in_a_frame(const Whole& one) const {
        return std::ranges::any_of(frames, [&](const Whole& frame) {
            return one.at >= frame.at && one.end() <= frame.end();
        });
    }
    [[nodiscard]] bool overlaps(const Whole& one) const {
        return std::ranges::any_of(whole, [&](const Whole& other) {
            return other.at < one.end() && one.at < other.end();
        });
    }

    std::vector<Whole> whole, frames; // frames with all their bytes

private:
    [[nodiscard]] bool touches_lost(const Whole& one) const {
        for (std::size_t block = one.at / block_bytes; block <= (one.end() - 1) / block_bytes;
             ++block) {
            if (lost_[area_blocks + block]) return true;
        }
        return false;
    }
    Bytes slot_; // under headers that name the generation
    std::vector<bool> lost_;
};

using BothFound = std::array<Found, 2>;

[[nodiscard]] BothFound find_in(const Case& made, std::uint64_t seq) {
    return {Found{made.halves[0], seq, made.number}, Found{made.halves[1], seq, made.number}};
}

/// Places where two halves contradict each other, both with right checksums; grown by the frames around them.
class Contradictions {
public:
    Contradictions(const BothFound& found, std::size_t window) {
        for (unsigned half = 0; half < 2; ++half) {
            for (const Whole& one : found[half].whole) {
                for (const Whole& other : found[1 - half].whole) {
                    const bool apart = other.at >= one.end() || one.at >= other.end();
                    const bool alike = other.at == one.at && other.bytes == one.bytes &&
                                       other.frame == one.frame &&
                                       found[half].same(one, found[1 - half]);
                    if (!apart && !alike) places_.push_back(one);
                }
            }
            for (const Whole& frame : found[half].frames) {
                for (const Whole& other : found[1 - half].frames) {
                    const bool apart = other.at >= frame.end() || frame.at >= other.end();
                    if (!apart && (other.at != frame.at || other.bytes != frame.bytes))
                        places_.push_back(frame);
                }
                // A record that a frame's header ends before, on whichever half that is.
                for (const Found& side : found) {
                    for (const Whole& one : side.whole) {
                        const bool apart = one.at >= frame.end() || frame.at >= one.end();
                        if (!apart && (one.at < frame.at || one.end() > frame.used))
                            places_.push_back(one);
                    }
                }
                // None of ours is as long as a window.
                if (frame.bytes + block_bytes > window) places_.push_back(frame);
            }
            for (const Whole& one : found[half].whole) {
                if (one.bytes + 2 * block_bytes > window) places_.push_back(one);
            }
        }
        for (bool grown = true; grown;) {
            grown = false;
            for (unsigned half = 0; half < 2; ++half) {
                for (const auto* list : {&found[half].frames, &found[half].whole}) {
                    for (const Whole& one : *list) {
                        if (meets(one) && !std::ranges::any_of(places_, [&](const Whole& place) {
                                return place.at <= one.at && place.end() >= one.end();
                            })) {
                            places_.push_back(one);
                            grown = true;
                        }
                    }
                }
            }
        }
    }
    /// In blocks: what is copied is whole blocks.
    [[nodiscard]] bool meets(const Whole& one) const {
        return std::ranges::any_of(places_, [&](const Whole& place) {
            return place.at / block_bytes <= (one.end() - 1) / block_bytes &&
                   one.at / block_bytes <= (place.end() - 1) / block_bytes;
        });
    }

private:
    std::vector<Whole> places_;
};

/// One round over both, as MirrorDisk copies. \return  whether anything was written
bool copy_round(Case& made, const PoolContent& content) {
    constexpr std::uint64_t record_end = mirror_record_begin + mirror_record_copies * block_bytes;
    bool written = false;
    const std::size_t all = made.halves[0].blocks() * block_bytes;
    for (std::size_t at = 0; at < all;) {
        if (at == mirror_record_begin) at = record_end; // each half has its own
        const bool in_area = at < superblock_area_bytes;
        std::size_t bytes = std::min(made.window, all - at);
        if (at < mirror_record_begin) bytes = std::min(bytes, mirror_record_begin - at);
        if (in_area) bytes = std::min(bytes, superblock_area_bytes - at);
        MirrorContent::Window window;
        window.offset = in_area ? at : made.begin + at - superblock_area_bytes;
        window.both_count = made.both_count;
        std::array<Bytes, 2> given, head;
        const MirrorContent::Extent extent = content.head_of(window.offset);
        const auto [number, count] = std::pair{at / block_bytes, bytes / block_bytes};
        for (unsigned i = 0; i < 2; ++i) {
            for (std::size_t block = number; block < number + count; ++block) {
                const auto from = std::as_const(made.halves[i]).block(block);
                given[i].insert(given[i].end(), from.begin(), from.end());
                window.halves[i].lost.push_back(made.halves[i].lost[block]);
            }
            if (extent.bytes != 0) {
                CHECK(extent.offset == made.begin && extent.bytes <= made.halves[i].slot.size());
                head[i].assign(made.halves[i].slot.begin(),
                               made.halves[i].slot.begin() +
                                   static_cast<std::ptrdiff_t>(extent.bytes));
            }
            window.halves[i].head = head[i];
            window.halves[i].bytes = given[i];
            window.halves[i].write.resize(count);
        }
        const std::size_t judged = content.judge(window);
        CHECK(judged >= block_bytes && judged <= bytes && judged % block_bytes == 0);
        for (unsigned i = 0; i < 2; ++i) {
            CHECK(window.halves[i].write.size() == count);
            for (std::size_t block = 0; block < count; ++block) {
                if (!window.halves[i].write[block]) continue;
                Half& half = made.halves[i];
                const auto to = half.block(number + block);
                std::ranges::copy(std::span{given[i]}.subspan(block * block_bytes, block_bytes),
                                  to.begin());
                half.lost[number + block] = false;
                written = true;
            }
        }
        at += judged;
    }
    return written;
}

/// Every byte is one that a half had at this place; zeros are a header that the source does not give.
void check_origin(const std::array<Half, 2>& before, const Case& after) {
    for (unsigned i = 0; i < 2; ++i) {
        for (std::size_t block = 0; block < before[i].blocks(); ++block) {
            const auto is = after.halves[i].block(block);
            const bool kept = before[i].lost[block] == after.halves[i].lost[block];
            if (kept && same_bytes(is, before[i].block(block))) continue;
            CHECK(block < mirror_record_begin / block_bytes ||
                  block >= mirror_record_begin / block_bytes + mirror_record_copies);
            const bool header = block >= area_blocks && block < area_blocks + segment_header_copies;
            if (header && !after.both_count && i == 1 && before[0].lost[block] &&
                std::ranges::all_of(is, [](std::byte byte) { return byte == std::byte{0}; }))
                continue;
            for (std::size_t at = 0; at < block_bytes; ++at) {
                const bool first = !before[0].lost[block] && is[at] == before[0].block(block)[at];
                const bool second = !before[1].lost[block] && is[at] == before[1].block(block)[at];
                CHECK(first || second);
            }
        }
    }
}

void check_headers(const std::array<Half, 2>& before, const Case& after, std::uint64_t seq) {
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        std::array<bool, 2> had{};
        for (unsigned i = 0; i < 2; ++i)
            had[i] = named_by(before[i], copy, after.number) == seq;
        for (unsigned i = 0; i < 2; ++i) {
            const bool has = named_by(after.halves[i], copy, after.number) == seq;
            // One that counts gets what the other has; one that does not, what the source has.
            if (had[i] || had[0] || (had[1] && after.both_count)) CHECK(has);
        }
    }
    // No earlier generation hides this one.
    for (const Half& half : after.halves) {
        if (after.both_count &&
            std::max(named_by(before[0], after.number), named_by(before[1], after.number)) != seq)
            continue;
        CHECK(named_by(half, after.number) <= seq);
    }
}

void check_records(const BothFound& had, const BothFound& has, const Case& after) {
    const Contradictions contradictions{had, after.window};
    for (unsigned i = 0; i < 2; ++i) {
        for (const Whole& one : had[i].whole) {
            if (contradictions.meets(one)) continue;
            // Without any frame around it, what a half that does not count has alone is nobody's.
            const bool kept = i == 0 || after.both_count || had[0].has(one) ||
                              had[0].in_a_frame(one) || had[1].in_a_frame(one);
            if (!kept) continue;
            for (unsigned j = 0; j < 2; ++j) {
                // What the other has alone stays where it is.
                if (!after.both_count && j != i && i == 1) continue;
                CHECK(has[j].has(one));
                CHECK(same_bytes(had[i].bytes(one), has[j].bytes(one)));
            }
        }
    }
}

/// A power cut while it is written must not take what nobody else has. Where each half has a part alone, a block that
/// both need is written with both.
void check_danger(const BothFound& had, const std::array<Half, 2>& before, const Case& after) {
    const Contradictions contradictions{had, after.window};
    const auto alone_in = [&](unsigned half, std::size_t block) {
        return std::ranges::any_of(had[half].whole, [&](const Whole& one) {
            return one.at / block_bytes <= block && block <= (one.end() - 1) / block_bytes &&
                   !had[1 - half].has(one) && !contradictions.meets(one) &&
                   (after.both_count || had[0].in_a_frame(one) || had[1].in_a_frame(one));
        });
    };
    for (unsigned i = 0; i < 2; ++i) {
        for (std::size_t block = 0; block < before[i].slot.size() / block_bytes; ++block) {
            const std::size_t number = area_blocks + block;
            if (same_bytes(before[i].block(number), after.halves[i].block(number))) continue;
            if (alone_in(i, block)) CHECK(alone_in(1 - i, block));
        }
    }
}

void judge(Case made) {
    // Without a superblock everything is copied, unjudged.
    constexpr std::size_t superblocks = superblock_copies * block_bytes;
    PoolContent content;
    if (!content.begin({std::span{made.halves[0].area}.first(superblocks),
                        std::span{made.halves[1].area}.first(superblocks)}))
        return;
    const std::array<Half, 2> before = made.halves;
    const std::array<std::uint64_t, 2> named{named_by(before[0], made.number),
                                             named_by(before[1], made.number)};
    const std::uint64_t seq = made.both_count ? std::max(named[0], named[1]) : named[0];
    BothFound had = find_in(made, seq);
    // Of a record's parts on two halves one round may make a whole that the next one spreads; then it is done.
    constexpr int rounds_max = 8;
    for (int round = 0;; ++round) {
        const std::array<Half, 2> last = made.halves;
        const bool written = copy_round(made, content);
        if (!made.both_count) CHECK(made.halves[0] == before[0]);
        if (made.halves == last) {
            CHECK(!written || !made.both_count); // what is the same is not written
            break;
        }
        CHECK(round < rounds_max);
        const bool alike = last[0] == last[1] &&
                           std::ranges::none_of(last[0].lost, [](bool lost) { return lost; });
        CHECK(!alike);
        if (round == 0) check_origin(before, made);
        if (seq == 0) continue;
        if (round == 0) check_headers(before, made, seq);
        BothFound has = find_in(made, seq);
        check_records(had, has, made);
        check_danger(had, last, made);
        had = std::move(has);
    }
}

/// Recovery's way: one half gets what only the other has.
void mend(const Case& made) {
    const Superblock& superblock = pool().structures.superblock;
    const std::array<std::uint64_t, 2> named{named_by(made.halves[0], made.number),
                                             named_by(made.halves[1], made.number)};
    const std::uint64_t seq = std::max(named[0], named[1]);
    Half mended = made.halves[0];
    mended.lost.assign(mended.lost.size(), false);
    const auto once = [&] {
        return mend_segment(mended.slot, made.halves[1].slot, superblock.pool, superblock.shard,
                            made.number);
    };
    static_cast<void>(once());
    for (std::size_t at = 0; at < mended.slot.size(); ++at) {
        if (at % block_bytes == 0 &&
            same_bytes(std::span{mended.slot}.subspan(at, block_bytes),
                       std::span{made.halves[0].slot}.subspan(at, block_bytes))) {
            at += block_bytes - 1;
            continue;
        }
        CHECK(mended.slot[at] == made.halves[0].slot[at] ||
              mended.slot[at] == made.halves[1].slot[at]);
    }
    if (seq == 0) return;
    CHECK(named_by(mended, made.number) == seq);
    const BothFound had = find_in(made, seq);
    const Found has{mended, seq, made.number};
    // Recovery sees zeros, and not which of them are a device's: a record may check out with them.
    Case seen = made;
    for (Half& half : seen.halves)
        half.lost.assign(half.lost.size(), false);
    const Contradictions contradictions{find_in(seen, seq), mirror_window_bytes};
    for (const Found& half : had) {
        for (const Whole& one : half.whole) {
            if (!contradictions.meets(one)) CHECK(has.has(one));
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    std::span<const std::byte> input = std::as_bytes(std::span{data, size});
    const Superblock& superblock = pool().structures.superblock;
    Case made;
    made.number = pool().slots[data[0] % pool().slots.size()];
    made.begin = tests::slot_begin(superblock, made.number);
    made.both_count = (data[1] & 1) != 0;
    constexpr std::array<std::size_t, 4> windows{mirror_window_bytes, 192U << 10, 128U << 10,
                                                 96U << 10};
    made.window = windows[data[1] / 2 % windows.size()];
    for (unsigned i = 0; i < 2; ++i) {
        // A half that missed the generation as a whole.
        const bool behind = (data[1] >> (3 + i) & 1) != 0 && (data[1] & 0x40) != 0;
        const Bytes& image = behind ? pool().early : pool().late;
        Half& half = made.halves[i];
        half.area.assign(pool().late.begin(), pool().late.begin() + superblock_area_bytes);
        half.slot.assign(image.begin() + static_cast<std::ptrdiff_t>(made.begin),
                         image.begin() +
                             static_cast<std::ptrdiff_t>(tests::slot_end(superblock, made.number)));
        half.lost.resize(half.blocks());
    }
    input = input.subspan(2);
    constexpr std::size_t edits_max = 24;
    for (std::size_t i = 0; i < edits_max && input.size() >= 8; ++i) {
        damage(made, input);
        input = input.subspan(8);
    }
    for (Half& half : made.halves)
        clear_lost(half);
    judge(made);
    mend(made);
    return 0;
}
