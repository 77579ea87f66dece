#include "queue/disk/mirror_record.h"

#include "queue/disk/crc32c.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

constexpr std::uint64_t mirror_magic = 0x3152'4F52'5249'4D4DULL; // "MMIRROR1"

// magic 8, pair 16, generation 8, state 1, clean 1, zeros 2, crc of all before it 4
constexpr std::size_t pair_at = 8, generation_at = 24, state_at = 32, clean_at = 33, crc_at = 36;

// What a half's generation is raised by when it goes on alone without having seen the other's record, which may have been
// raised since they were last written together, yet never so far.
constexpr std::uint64_t unseen_step = (1ULL << 32) + 1;
// Nobody has counted so far.
constexpr std::uint64_t generation_max = 1ULL << 63;

template <class T>
void put(std::byte* to, T value) noexcept {
    for (std::size_t i = 0; i < sizeof value; ++i)
        to[i] = static_cast<std::byte>(value >> (8 * i));
}

template <class T>
[[nodiscard]] T get(const std::byte* from) noexcept {
    T value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i)
        value |= static_cast<T>(static_cast<T>(from[i]) << (8 * i));
    return value;
}

} // namespace

std::string_view side_name(unsigned side) noexcept {
    return side == 0 ? "spool_dir" : "mirror_dir";
}

void encode_mirror_record(std::span<std::byte, block_bytes> block,
                          const MirrorRecord& record) noexcept {
    std::ranges::fill(block, std::byte{0});
    put(block.data(), mirror_magic);
    std::ranges::copy(record.pair, block.begin() + pair_at);
    put(block.data() + generation_at, record.generation);
    block[state_at] = static_cast<std::byte>(record.state);
    block[clean_at] = static_cast<std::byte>(record.clean ? 1 : 0);
    put(block.data() + crc_at, crc32c(0, block.first<crc_at>()));
}

std::optional<MirrorRecord>
decode_mirror_record(std::span<const std::byte, block_bytes> block) noexcept {
    if (get<std::uint64_t>(block.data()) != mirror_magic) return std::nullopt;
    if (get<std::uint32_t>(block.data() + crc_at) != crc32c(0, block.first<crc_at>()))
        return std::nullopt;
    MirrorRecord record;
    std::copy_n(block.begin() + pair_at, record.pair.size(), record.pair.begin());
    record.generation = get<std::uint64_t>(block.data() + generation_at);
    record.state = static_cast<MirrorRecord::State>(block[state_at]);
    record.clean = block[clean_at] != std::byte{0};
    if (record.state != MirrorRecord::State::paired && record.state != MirrorRecord::State::alone &&
        record.state != MirrorRecord::State::stale)
        return std::nullopt;
    if (record.generation > generation_max) return std::nullopt;
    return record;
}

void take_mirror_record(MirrorHalf& half, unsigned copy,
                        std::span<const std::byte> block) noexcept {
    std::optional<MirrorRecord> record;
    if (!block.empty()) record = decode_mirror_record(block.first<block_bytes>());
    const bool zeros =
        !block.empty() && std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; });
    if (!record && !zeros) ++half.records_lost;
    if (!record || (half.record && half.record->generation >= record->generation)) return;
    half.record = record;
    half.newest = copy;
}

std::expected<MirrorPlan, std::string> settle_mirror(const std::array<MirrorHalf, 2>& halves,
                                                     const PoolId& fresh_pair, bool told) {
    using State = MirrorRecord::State;
    MirrorPlan plan;
    const auto refuse = [](std::string why) { return std::unexpected(std::move(why)); };
    const auto source_of = [&](unsigned side) {
        plan.source = side;
        plan.record = halves[side].record.value_or(MirrorRecord{.pair = fresh_pair});
        ++plan.record.generation;
        plan.record.clean = false;
    };

    for (unsigned side = 0; side < 2; ++side) {
        if (halves[side].present) continue;
        const MirrorHalf& other = halves[1 - side];
        if (!other.present) return refuse("neither half of the mirror can be opened");
        // Without a record it is no half of this mirror yet, or one whose first record never landed.
        const bool newest = other.record && other.record->state == State::alone;
        if (!newest && !told) {
            const bool stale = other.record && other.record->state == State::stale;
            return refuse(
                std::string{side_name(side)} +
                (stale ? " has the newer half of the mirror and cannot be opened; the other "
                         "has missed mail. "
                       : " has the other half of the mirror and cannot be opened; it may be "
                         "the newer one. ") +
                "Bring its device back, or, if it is lost for good, set server.durability = "
                "\"mirror_alone\"");
        }
        source_of(1 - side);
        if (!newest) plan.record.generation += unseen_step - 1;
        plan.usable = false;
        plan.record.state = State::alone;
        return plan;
    }

    const auto& a = halves[0];
    const auto& b = halves[1];
    // Made just now, or so that a crash came before its first record.
    const auto empty = [](const MirrorHalf& half) {
        return half.created || (!half.record && half.blank);
    };
    if (empty(a) != empty(b)) {
        source_of(empty(a) ? 1 : 0);
        if (plan.record.state == State::stale && !told)
            return refuse(std::string{side_name(plan.source)} +
                          " holds the older half of a mirror, and the newer one is gone. Bring it "
                          "back, or set server.durability = \"mirror_alone\"");
        plan.copy = true;
        plan.record.state = State::alone; // until the copy is whole
        return plan;
    }
    if (empty(a)) {
        source_of(0);
        plan.record.state = State::paired;
        return plan;
    }
    if (!a.record && !b.record)
        return refuse(
            "spool_dir and mirror_dir hold a spool each, and neither is half of a mirror. "
            "Move one of them away; it is then made anew as a copy of the other");
    // Left behind before its first record landed, of which one block at least is zeros: nothing of its own is in it.
    for (unsigned side = 0; side < 2; ++side) {
        const MirrorHalf& other = halves[1 - side];
        if (!halves[side].record || halves[side].record->state != State::alone || other.record)
            continue;
        if (other.records_lost == mirror_record_copies) continue;
        if (!other.pool || other.pool != halves[side].pool) continue;
        source_of(side);
        plan.copy = true;
        return plan;
    }
    for (unsigned side = 0; side < 2; ++side) {
        const MirrorHalf& half = halves[side];
        const MirrorHalf& other = halves[1 - side];
        if (!half.record || other.record || other.records_lost == 0) continue;
        if (!half.pool || half.pool != other.pool) continue;
        const std::string unreadable =
            "the record of the mirror cannot be read in " + std::string{side_name(1 - side)};
        // Closed together, and neither was started since, or its superblocks would tell: they are the same.
        if (half.record->state == State::paired && half.record->clean && half.records_lost == 0 &&
            half.superblocks && half.superblocks == other.superblocks) {
            source_of(side);
            plan.copy = true;
            plan.record.state = State::alone;
            plan.notice = unreadable + "; both ended together, and it is given everything again";
            return plan;
        }
        if (half.record->state == State::stale)
            return refuse(unreadable + ", and " + std::string{side_name(side)} +
                          " has missed mail. Move the pool's file in " +
                          std::string{side_name(side)} +
                          " away; it is then made anew as a copy of the other");
        return refuse(
            unreadable +
            (half.record->state == State::alone ? ", and it may have gone on alone as the other has"
                                                : ", and the last end was not clean") +
            ": nobody knows which half is the newer one. If the last event=spool_mirror of the log "
            "says that " +
            std::string{side_name(side)} + " refused a write, move the pool's file in " +
            std::string{side_name(side)} + " away, otherwise the one in " +
            std::string{side_name(1 - side)} +
            "; it is then made anew as a copy of the other. Keep it until millrace-spool inspect "
            "shows no mail in it that the other has not");
    }
    // Any other pool without a record is an old copy or a stranger: never a source beside one that has one.
    if (!a.record || !b.record || a.record->pair != b.record->pair) {
        return refuse(
            "spool_dir and mirror_dir do not hold halves of the same mirror. Move the one "
            "that does not belong there away; it is then made anew as a copy");
    }
    const bool both_alone = a.record->state == State::alone && b.record->state == State::alone;
    if (both_alone)
        return refuse(
            "both halves of the mirror have taken mail without the other. Drain one of them "
            "by itself (server.durability = \"local\"), then move it away");
    if (a.record->state == State::stale && b.record->state == State::stale)
        return refuse("both halves of the mirror say that they are the older one. Choose: move one "
                      "away and set server.durability = \"mirror_alone\"");
    unsigned source = a.record->generation >= b.record->generation ? 0 : 1;
    if (halves[source].record->state == State::stale) source = 1 - source;
    source_of(source);
    const bool paired = a.record->state == State::paired && b.record->state == State::paired;
    // Of a change of state that a crash cut short, one half may have the newer record: both are whole.
    plan.record.generation = std::max(a.record->generation, b.record->generation) + 1;
    if (paired) {
        plan.reconcile =
            !(a.record->clean && b.record->clean && a.record->generation == b.record->generation);
        plan.record.state = State::paired;
    } else {
        plan.copy = true;
        plan.record.state = State::alone;
    }
    return plan;
}

std::expected<std::optional<MirrorRecord>, std::string>
settle_alone(const std::optional<MirrorRecord>& record, bool told) {
    if (!record) return std::nullopt;
    if (record->state == MirrorRecord::State::stale && !told)
        return std::unexpected(
            std::string{"this is the older half of a mirror, which has missed mail. Name the newer "
                        "one's folder in "
                        "server.mirror_dir and set server.durability = \"mirror\""});
    MirrorRecord next = *record;
    next.generation += record->state == MirrorRecord::State::alone ? 1 : unseen_step;
    next.state = MirrorRecord::State::alone;
    next.clean = false;
    return next;
}

} // namespace queue
