// mirror_start.cc: which halves there are, which of them count, and what they are told of each other at a start.
#include "queue/disk/crc32c.h"
#include "queue/disk/mirror_disk.h"

#include <algorithm>
#include <atomic>

namespace queue {
namespace {

constexpr std::uint64_t record_block = mirror_record_begin / block_bytes;

} // namespace

base::Task<std::expected<std::unique_ptr<MirrorDisk>, std::string>>
MirrorDisk::open(base::Loop& loop, std::array<MirrorSide, 2> sides, MirrorOptions options) {
    std::unique_ptr<MirrorDisk> mirror{new MirrorDisk{loop, sides, std::move(options)}};
    auto begun = co_await mirror->begin();
    if (begun) co_return std::move(mirror);
    if (mirror->hung()) forsake(std::move(mirror)); // or the error would never get out
    co_return std::unexpected(begun.error());
}

/// Its device is at the memory, perhaps for good: it stays, and can be found by who looks for leaks.
void MirrorDisk::forsake(std::unique_ptr<MirrorDisk> mirror) noexcept {
    static std::atomic<MirrorDisk*> last{nullptr};
    mirror->forsaken_before_ = last.load();
    while (!last.compare_exchange_weak(mirror->forsaken_before_, mirror.get())) {
    }
    static_cast<void>(mirror.release());
}

base::Task<std::expected<void, std::string>> MirrorDisk::begin() {
    std::array<MirrorHalf, 2> halves;
    const std::array<bool, 2> opened{sides_[0].disk != nullptr, sides_[1].disk != nullptr};
    co_await read_halves(&halves);
    std::string hung;
    for (unsigned side = 0; side < 2; ++side) {
        if (opened[side] && sides_[side].disk == nullptr) hung = unanswered(side);
    }
    const auto plan = settle_mirror(halves, options_.fresh_pair, options_.told);
    if (!plan)
        co_return std::unexpected(hung.empty() ? plan.error() : plan.error() + " (" + hung + ")");
    if (plan->usable && disk(0).size_bytes() != disk(1).size_bytes()) {
        co_return std::unexpected(std::string{"the halves of the mirror have different sizes. Move "
                                              "the one that should follow away; it "
                                              "is then made anew as a copy"});
    }
    source_ = plan->source;
    const unsigned other = 1 - source_;
    // One that is to be copied: until mend() has told it that it is behind.
    other_ = plan->usable && !plan->copy ? Health::good : Health::refused;
    bytes_ = disk(source_).size_bytes();
    record_ = plan->record;
    // The source first: from then on the other is known to be older, whatever it says itself.
    const auto unwritten = std::unexpected(std::string{"the mirror's record cannot be written"});
    const bool told_source = co_await write_record(source_, record_);
    if (!told_source) {
        // Of two that both have everything, the other goes on without it.
        bool left = other_ == Health::good;
        if (left) left = co_await leave_behind(source_);
        if (!left) co_return unwritten;
    } else if (!plan->usable) {
        const std::string why =
            hung.empty() ? std::string{side_name(other)} + " cannot be opened" : hung;
        report(MirrorState::degraded, why + ": mail is kept on one device only");
    } else if (other_ == Health::good) {
        reconciling_ = plan->reconcile;
        const bool told_other = co_await write_record(other, record_);
        if (!told_other) {
            const bool left = co_await leave_behind(other);
            if (!left) co_return unwritten;
        }
    } else if (!plan->notice.empty()) {
        report(MirrorState::degraded, plan->notice);
    }
    if (reconciling_) {
        // What is compared must be what a power cut leaves, not what a cache holds.
        auto flushed = co_await flush();
        if (!flushed)
            co_return std::unexpected(std::string{"neither half of the mirror can be flushed"});
    }
    if (sides_[1 - source_].disk != nullptr) {
        mend_task_ = mend();
        mend_task_.start();
    }
    co_return std::expected<void, std::string>{};
}

/// What each half says of itself. One that does not answer is as one that cannot be opened, until the next start:
/// nobody knows what it holds.
base::Task<void> MirrorDisk::read_halves(std::array<MirrorHalf, 2>* halves) {
    std::array<std::size_t, mirror_record_copies + superblock_copies> blocks{};
    for (std::size_t i = 0; i < blocks.size(); ++i)
        blocks[i] = i < mirror_record_copies ? record_block + i : i - mirror_record_copies;
    const bool both = sides_[0].disk != nullptr && sides_[1].disk != nullptr;
    source_ = sides_[0].disk != nullptr ? 0 : 1;
    other_ =
        both ? Health::good : Health::refused; // one of two is waited for no longer than the limit
    for (unsigned side = 0; side < 2; ++side) {
        MirrorHalf half{
            .present = true, .created = sides_[side].created, .blank = true, .superblocks = 0};
        for (std::size_t i = 0; i < blocks.size() && sides_[side].disk != nullptr; ++i) {
            const auto read = operations_.read(only(side), blocks[i] * block_bytes, block_bytes);
            co_await answers(read.get(), options_.answer_limit);
            if (read->open(side)) {
                sides_[side].disk = nullptr;
            } else {
                read_head(&half, blocks[i], read.get(), side);
                newest_record_[side] = half.newest;
            }
        }
        if (sides_[side].disk != nullptr) (*halves)[side] = half;
    }
}

void MirrorDisk::read_head(MirrorHalf* half, std::size_t block, const MirrorOperation* read,
                           unsigned side) const {
    const auto bytes = read->bytes(side).first<block_bytes>();
    if (block >= record_block) {
        std::span<const std::byte> record;
        if (read->took(side)) record = bytes;
        take_mirror_record(*half, static_cast<unsigned>(block - record_block), record);
        return;
    }
    half->blank = half->blank && read->took(side) &&
                  std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
    if (!read->took(side)) {
        half->superblocks = std::nullopt;
        return;
    }
    if (half->superblocks) half->superblocks = crc32c(*half->superblocks, bytes);
    const std::optional<PoolId> pool = options_.pool_of(bytes, static_cast<std::uint32_t>(block));
    if (pool) half->pool = pool;
}

/// One at a time on each half: records must land in their order.
base::Task<bool> MirrorDisk::write_record(unsigned side, MirrorRecord record) {
    while (recording_[side])
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
    recording_[side] = true;
    bool written = false;
    for (const unsigned copy : mirror_record_order(newest_record_[side])) {
        // The block is of both halves; what is written is copied as it begins.
        encode_mirror_record(record_block_.span().first<block_bytes>(), record);
        auto result = co_await write_one(side, mirror_record_offset(copy), record_block_.span());
        if (!result) {
            // In one block it says as much as in both, unless that rots. Who hangs is given nothing more.
            written = written && result.error() != DiskError::timed_out;
            break; // the only one that counts is never written over
        }
        written = true;
        newest_record_[side] = copy;
    }
    recording_[side] = false;
    changed_.wake_all();
    co_return written;
}

} // namespace queue
