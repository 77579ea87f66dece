// mirror_record_fuzz.cc: whatever the halves of a mirror say of each other, a half that has missed mail is not believed.
//
// Half of the inputs are two halves with any records, to settle. The others are lives of a mirror: the steps of
// MirrorDisk on two records of 4 KiB and on sets of mail, with crashes between any two writes, halves that are away,
// refuse or are replaced, an operator who starts one alone, and one record that rots. What was promised must
// be on a half that counts, or the start is refused, as long as a half that is there has it.
#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
#include "queue/disk/mirror_record.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

namespace {

using namespace queue;
using Block = std::array<std::byte, block_bytes>;
using State = MirrorRecord::State;

class Input {
public:
    explicit Input(std::span<const std::byte> bytes) noexcept : bytes_(bytes) {}
    [[nodiscard]] bool empty() const noexcept { return bytes_.empty(); }
    [[nodiscard]] unsigned byte() noexcept {
        if (bytes_.empty()) return 0;
        const auto value = static_cast<unsigned>(bytes_.front());
        bytes_ = bytes_.subspan(1);
        return value;
    }
    [[nodiscard]] std::span<const std::byte> take(std::size_t count) noexcept {
        const auto taken = bytes_.first(std::min(count, bytes_.size()));
        bytes_ = bytes_.subspan(taken.size());
        return taken;
    }

private:
    std::span<const std::byte> bytes_;
};

bool same(const MirrorRecord& a, const MirrorRecord& b) {
    return a.pair == b.pair && a.generation == b.generation && a.state == b.state &&
           a.clean == b.clean;
}

std::optional<MirrorRecord> checked(const Block& block) {
    const auto record = decode_mirror_record(block);
    if (!record) return record;
    Block again{};
    encode_mirror_record(again, *record);
    const auto second = decode_mirror_record(again);
    CHECK(second && same(*record, *second));
    return record;
}

/// A record of any bytes, whose checksum fits.
std::optional<MirrorRecord> any_record(Input& input, bool sealed) {
    Block block{};
    encode_mirror_record(block, {});
    const auto bytes = input.take(32);
    std::copy_n(bytes.begin(), bytes.size(), block.begin() + 8);
    if (sealed) {
        const std::uint32_t crc = crc32c(0, std::span{block}.first<36>());
        std::memcpy(block.data() + 36, &crc, sizeof crc);
    }
    return checked(block);
}

void settle(Input input) {
    std::array<MirrorHalf, 2> halves;
    const bool told = (input.byte() & 1) != 0;
    for (MirrorHalf& half : halves) {
        const unsigned what = input.byte();
        half.present = (what & 1) != 0;
        half.created = half.present && (what & 6) == 6;
        half.blank = half.created || (what & 8) != 0;
        if (!half.blank && (what & 16) != 0) half.pool = PoolId{static_cast<std::byte>(what >> 6)};
        const auto record = any_record(input, (what & 32) != 0);
        if (half.present && !half.created) half.record = record;
        half.records_lost = input.byte() % 3;
        if (const unsigned sum = input.byte(); sum % 4 != 0) half.superblocks = sum / 64;
    }
    const auto plan = settle_mirror(halves, PoolId{std::byte{9}}, told);
    if (!plan) {
        CHECK(!plan.error().empty());
        return;
    }
    CHECK(plan->source < 2);
    const MirrorHalf& source = halves[plan->source];
    const MirrorHalf& other = halves[1 - plan->source];
    CHECK(source.present);
    CHECK(plan->usable == other.present);
    CHECK(plan->usable || !plan->copy);
    CHECK(!(plan->copy && plan->reconcile));
    CHECK(!plan->record.clean);
    CHECK(told || !source.record || source.record->state != State::stale);
    if (!other.present && !told) CHECK(source.record && source.record->state == State::alone);
    // Only what both say makes a half count without a copy.
    if (plan->usable && !plan->copy && other.record)
        CHECK(source.record && source.record->state == State::paired &&
              other.record->state == State::paired);
    if (plan->usable && !plan->copy) CHECK(plan->record.state == State::paired);
    if (!plan->usable || plan->copy) CHECK(plan->record.state == State::alone);
    for (const MirrorHalf& half : halves) {
        if (half.present && half.record && half.record->pair == plan->record.pair)
            CHECK(plan->record.generation > half.record->generation);
    }
    if (source.record) {
        const auto alone = settle_alone(source.record, told);
        CHECK(alone || source.record->state == State::stale);
        if (alone)
            CHECK((*alone)->state == State::alone &&
                  (*alone)->generation > source.record->generation);
    }
}

class Lives {
public:
    explicit Lives(Input input) noexcept : input_(input) {}

    void run() {
        while (!input_.empty()) {
            const unsigned what = input_.byte();
            const unsigned side = what >> 3 & 1;
            switch (what & 7) {
            case 0:
                local(side, (what & 16) != 0);
                break;
            case 1:
                replace(side);
                break;
            case 2:
                rot(side, what >> 4 & 1, (what & 32) != 0);
                break;
            case 3:
                start({side == 0, side == 1}, (what & 16) != 0);
                break;
            default:
                start({true, true}, (what & 16) != 0);
                break;
            }
        }
    }

private:
    struct Half {
        std::array<Block, mirror_record_copies> records{};
        std::uint64_t mail = 0;
        bool there = false;      // the file
        std::uint16_t pool = 0;  // which; 0: blank
        std::uint32_t boots = 0; // what its superblocks say
    };
    enum class Health : std::uint8_t { good, behind, refused };

    /// Nobody else has it.
    [[nodiscard]] static PoolId random_id(unsigned kind, unsigned number) {
        return {static_cast<std::byte>(kind), static_cast<std::byte>(number),
                static_cast<std::byte>(number >> 8)};
    }
    void take_records(unsigned side, MirrorHalf& half) const {
        for (unsigned copy = 0; copy < mirror_record_copies; ++copy) {
            const Block& block = halves_[side].records[copy];
            static_cast<void>(checked(block));
            take_mirror_record(half, copy, block);
        }
    }
    [[nodiscard]] std::optional<MirrorRecord> record_of(unsigned side) const {
        MirrorHalf half;
        take_records(side, half);
        return half.record;
    }
    /// False: the power went, and the record is there, torn, or not there; or the half takes none.
    bool write(unsigned side, const MirrorRecord& record) {
        MirrorHalf before;
        take_records(side, before);
        bool written = false;
        for (const unsigned copy : mirror_record_order(before.newest)) {
            Block& block = halves_[side].records[copy];
            const unsigned fate = input_.byte() % 16;
            if (fate == 15) return false;
            if (fate == 14) {
                block.fill(std::byte{0xEE});
                return false;
            }
            if (fate == 12) break; // refused
            encode_mirror_record(block, record);
            if (fate == 13) return false;
            written = true;
        }
        return written;
    }
    void lost_for_good(std::uint64_t kept) { promised_ &= kept; }
    void accept(std::initializer_list<unsigned> sides) {
        if (letters_ == 64) return;
        const std::uint64_t letter = std::uint64_t{1} << letters_++;
        for (const unsigned side : sides)
            halves_[side].mail |= letter;
        promised_ |= letter;
    }

    /// The pool is opened without a mirror.
    void local(unsigned side, bool told) {
        Half& half = halves_[side];
        if (half.pool == 0) return;
        const auto record = record_of(side);
        const auto next = settle_alone(record, told);
        if (!next) return;
        if (!*next) return;
        parted_ = true;
        if (!write(side, **next)) return;
        half.boots = ++boots_;
        accept({side});
    }
    void replace(unsigned side) {
        lost_for_good(halves_[1 - side].mail);
        halves_[side] = {};
    }
    void rot(unsigned side, unsigned copy, bool both) {
        if (rotted_ || !record_of(side)) return;
        rotted_ = true;
        for (unsigned i = 0; i < mirror_record_copies; ++i) {
            if (both || i == copy) halves_[side].records[i].fill(std::byte{0xDD});
        }
    }

    void start(std::array<bool, 2> present, bool told) {
        std::array<MirrorHalf, 2> found;
        std::uint64_t seen = 0;
        for (unsigned side = 0; side < 2; ++side) {
            Half& half = halves_[side];
            found[side].present = present[side];
            if (!present[side]) continue;
            found[side].created = !half.there;
            half.there = true;
            found[side].blank = half.pool == 0;
            if (half.pool != 0) found[side].pool = random_id(1, half.pool);
            take_records(side, found[side]);
            found[side].superblocks = half.boots;
            seen |= half.mail;
        }
        const auto plan = settle_mirror(found, random_id(2, ++starts_), told);
        if (!plan) return;
        source_ = plan->source;
        record_ = plan->record;
        const unsigned other = 1 - source_;
        const bool both_count = plan->usable && !plan->copy;
        const std::uint64_t counts = halves_[source_].mail | (both_count ? halves_[other].mail : 0);
        // Halves that went on without each other are both refused, as long as both can say so.
        if (!rotted_ || !parted_) CHECK((promised_ & seen & ~counts) == 0);
        if (!rotted_) {
            // Each half that counts has everything; one by itself, too, if nobody ever said that it need not.
            if (both_count) CHECK((promised_ & seen & ~(halves_[0].mail & halves_[1].mail)) == 0);
            if (!plan->usable && !parted_ && !told)
                CHECK((promised_ & ~halves_[source_].mail) == 0);
        }
        parted_ = parted_ || (!plan->usable && told);
        reconciling_ = plan->reconcile;
        other_ = both_count ? Health::good : Health::refused;
        if (!write(source_, record_)) return;
        if (both_count && !write(other, record_)) return;
        if (halves_[source_].pool == 0) halves_[source_].pool = ++pools_;
        if (both_count) halves_[other].pool = halves_[source_].pool;
        ++boots_;
        if (input_.byte() % 16 == 15) return; // before the superblocks
        halves_[source_].boots = boots_;
        if (both_count) halves_[other].boots = boots_;
        go_on(plan->usable);
    }

    void go_on(bool usable) {
        while (!input_.empty()) {
            const unsigned other = 1 - source_;
            switch (input_.byte() % 8) {
            case 0:
                return; // crash
            case 1:
                if (other_ == Health::good && !reconciling_) {
                    ++record_.generation;
                    record_.clean = true;
                    if (write(source_, record_)) static_cast<void>(write(other, record_));
                }
                return;
            case 2:
                if (other_ == Health::good && !leave_behind(other)) return;
                if (other_ == Health::behind) other_ = Health::refused;
                break;
            case 3:
                if (other_ == Health::good && !leave_behind(source_)) return;
                break;
            case 4:
                if (usable && other_ == Health::refused && !tell_behind()) return;
                break;
            case 5:
                if (other_ == Health::behind && !join()) return;
                break;
            case 6:
                if (!reconciling_) break;
                halves_[0].mail |= halves_[1].mail;
                halves_[1].mail = halves_[0].mail;
                reconciling_ = false;
                break;
            default:
                if (other_ == Health::refused)
                    accept({source_});
                else
                    accept({0, 1});
                break;
            }
        }
    }
    bool leave_behind(unsigned side) {
        source_ = 1 - side;
        other_ = Health::refused;
        reconciling_ = false;
        ++record_.generation;
        record_.state = State::alone;
        record_.clean = false;
        return write(source_, record_);
    }
    bool tell_behind() {
        MirrorRecord stale = record_;
        stale.state = State::stale;
        const unsigned other = 1 - source_;
        if (!write(other, stale)) return false;
        other_ = Health::behind;
        halves_[other].pool = halves_[source_].pool;
        halves_[other].boots = halves_[source_].boots;
        halves_[other].mail &= halves_[source_].mail; // the copying begins
        return true;
    }
    bool join() {
        const unsigned other = 1 - source_;
        halves_[other].mail = halves_[source_].mail;
        ++record_.generation;
        record_.state = State::paired;
        if (!write(source_, record_)) return false;
        other_ = Health::good;
        return write(other, record_);
    }

    Input input_;
    std::array<Half, 2> halves_;
    std::uint64_t promised_ = 0; // and not given up with a half that the operator took away
    unsigned letters_ = 0, starts_ = 0;
    std::uint16_t pools_ = 0;
    std::uint32_t boots_ = 0;
    bool rotted_ = false;
    bool parted_ = false; // an operator has let one half go on, whatever the other has

    // While it runs.
    unsigned source_ = 0;
    Health other_ = Health::good;
    bool reconciling_ = false;
    MirrorRecord record_;
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const Input input{std::as_bytes(std::span{data, size}).subspan(1)};
    if (data[0] % 2 == 0) {
        settle(input);
    } else {
        Lives{input}.run();
    }
    return 0;
}
