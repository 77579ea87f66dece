#include "queue/disk/mirror_disk.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace queue {
namespace {

using Result = std::expected<void, DiskError>;

} // namespace

std::string_view to_string(MirrorState state) noexcept {
    switch (state) {
    case MirrorState::whole:
        return "whole";
    case MirrorState::copying:
        return "copying";
    case MirrorState::degraded:
        return "degraded";
    }
    return "unknown";
}

struct MirrorDisk::Pair {
    std::array<bool, 2> asked{};
    std::array<bool, 2> took{};
    std::array<Result, 2> results{};
    unsigned open = 0;
    std::array<base::Task<void>, 2> tasks;
    base::WaitQueue done{"spool mirror write"};
};

/// A write under way, for the copying to keep clear of; also when its task is destroyed early.
class MirrorDisk::Writing {
public:
    Writing(MirrorDisk& mirror, Range range)
        : mirror_(mirror), at_(mirror.writes_.insert(mirror.writes_.end(), range)) {}
    ~Writing() {
        mirror_.writes_.erase(at_);
        mirror_.changed_.wake_all();
    }
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;

private:
    MirrorDisk& mirror_;
    std::list<Range>::iterator at_;
};

MirrorDisk::MirrorDisk(base::Loop& loop, std::array<MirrorSide, 2> sides,
                       MirrorOptions options) noexcept
    : loop_(loop), sides_(sides), options_(std::move(options)), record_block_(block_bytes) {
    for (BlockMemory& memory : head_memory_)
        memory = BlockMemory{head_bytes_max};
}

MirrorDisk::~MirrorDisk() = default;

base::Task<std::expected<std::unique_ptr<MirrorDisk>, std::string>>
MirrorDisk::open(base::Loop& loop, std::array<MirrorSide, 2> sides, MirrorOptions options) {
    std::unique_ptr<MirrorDisk> mirror{new MirrorDisk{loop, sides, std::move(options)}};
    auto begun = co_await mirror->begin();
    if (!begun) co_return std::unexpected(begun.error());
    co_return std::move(mirror);
}

base::Task<std::expected<void, std::string>> MirrorDisk::begin() {
    std::array<MirrorHalf, 2> halves;
    for (unsigned side = 0; side < 2; ++side) {
        halves[side].present = sides_[side].disk != nullptr;
        halves[side].created = sides_[side].created;
        if (!halves[side].present) continue;
        auto record = co_await read_record(side);
        halves[side].record = record;
        co_await read_superblocks(side, &halves[side]);
    }
    const auto plan = settle_mirror(halves, options_.fresh_pair, options_.told);
    if (!plan) co_return std::unexpected(plan.error());
    if (plan->usable && disk(0).size_bytes() != disk(1).size_bytes()) {
        co_return std::unexpected(std::string{"the halves of the mirror have different sizes. Move "
                                              "the one that should follow away; it "
                                              "is then made anew as a copy"});
    }
    source_ = plan->source;
    const unsigned other = 1 - source_;
    bytes_ = disk(source_).size_bytes();
    record_ = plan->record;
    // The source first: from then on the other is known to be older, whatever it says itself.
    const auto unwritten = std::unexpected(std::string{"the mirror's record cannot be written"});
    const bool told_source = co_await write_record(source_, record_);
    if (!told_source) {
        // Of two that both have everything, the other goes on without it.
        bool left = plan->usable && !plan->copy;
        if (left) left = co_await leave_behind(source_);
        if (!left) co_return unwritten;
    } else if (!plan->usable) {
        other_ = Health::refused;
        report(MirrorState::degraded, std::string{side_name(other)} +
                                          " cannot be opened: mail is kept on one device only");
    } else if (plan->copy) {
        other_ = Health::refused; // until mend() has told it that it is behind
    } else {
        reconciling_ = plan->reconcile;
        const bool told_other = co_await write_record(other, record_);
        if (!told_other) {
            const bool left = co_await leave_behind(other);
            if (!left) co_return unwritten;
        }
    }
    if (reconciling_) {
        // What is compared must be what a power cut leaves, not what a cache holds.
        auto flushed = co_await flush();
        if (!flushed)
            co_return std::unexpected(std::string{"neither half of the mirror can be flushed"});
    }
    if (sides_[other].disk != nullptr) {
        mend_task_ = mend();
        mend_task_.start();
    }
    co_return std::expected<void, std::string>{};
}

base::Task<std::optional<MirrorRecord>> MirrorDisk::read_record(unsigned side) {
    std::optional<MirrorRecord> newest;
    for (std::size_t copy = 0; copy < mirror_record_copies; ++copy) {
        const std::uint64_t at = mirror_record_begin + copy * block_bytes;
        auto read = co_await disk(side).read(at, record_block_.span());
        if (!read) continue;
        const auto record = decode_mirror_record(
            std::span<const std::byte>{record_block_.span()}.first<block_bytes>());
        if (record && (!newest || record->generation > newest->generation)) newest = record;
    }
    co_return newest;
}

base::Task<void> MirrorDisk::read_superblocks(unsigned side, MirrorHalf* half) {
    half->blank = true;
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        auto read = co_await disk(side).read(copy * block_bytes, record_block_.span());
        const std::span<const std::byte, block_bytes> block =
            std::span<const std::byte>{record_block_.span()}.first<block_bytes>();
        half->blank = half->blank && read.has_value() &&
                      std::ranges::all_of(block, [](std::byte b) { return b == std::byte{0}; });
        const std::optional<PoolId> pool = options_.pool_of(block, copy);
        if (read && pool) half->pool = pool;
    }
}

base::Task<bool> MirrorDisk::write_record(unsigned side, MirrorRecord record) {
    while (recording_) // one block of memory, and records must land in their order
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
    recording_ = true;
    encode_mirror_record(record_block_.span().first<block_bytes>(), record);
    const std::uint64_t at =
        mirror_record_begin + record.generation % mirror_record_copies * block_bytes;
    auto written = co_await disk(side).write(at, record_block_.span(), Durable::yes);
    recording_ = false;
    changed_.wake_all();
    co_return written.has_value();
}

/// \pre  the other half is good
/// False: it cannot write down that it is alone, and so nothing may be acknowledged.
base::Task<bool> MirrorDisk::leave_behind(unsigned side) {
    CHECK(other_ == Health::good);
    ++epoch_;
    source_ = 1 - side;
    other_ = Health::refused;
    reconciling_ = false;
    ++record_.generation;
    record_.state = MirrorRecord::State::alone;
    record_.clean = false;
    alone_known_ = false;
    report(MirrorState::degraded, std::string{side_name(side)} +
                                      " refused a write: mail is kept on one device only until it "
                                      "takes writes again and has been given everything");
    changed_.wake_all();
    auto recorded = co_await record_alone();
    co_return recorded;
}

base::Task<bool> MirrorDisk::record_alone() {
    // Of several writes that fail together the first writes it down, and the others wait for that.
    while (!alone_known_) {
        if (recording_) {
            static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
            continue;
        }
        const std::uint64_t generation = record_.generation;
        const bool written = co_await write_record(source_, record_);
        if (!written) co_return false;
        if (generation == record_.generation) alone_known_ = true;
    }
    co_return true;
}

base::Task<void> MirrorDisk::write_half(Pair* pair, unsigned side, std::uint64_t offset,
                                        std::span<const std::byte> bytes, Durable durable) {
    auto result = co_await disk(side).write(offset, bytes, durable);
    pair->took[side] = result.has_value();
    pair->results[side] = result;
    if (--pair->open == 0) pair->done.wake_all();
}

base::Task<void> MirrorDisk::flush_half(Pair* pair, unsigned side) {
    auto result = co_await disk(side).flush();
    pair->took[side] = result.has_value();
    pair->results[side] = result;
    if (--pair->open == 0) pair->done.wake_all();
}

base::Task<Result> MirrorDisk::write(std::uint64_t offset, std::span<const std::byte> bytes,
                                     Durable durable) {
    if (closed_)
        co_return std::unexpected(DiskError::io); // the records say that nothing came later
    const Range range{offset, bytes.size()};
    const auto meets_copying = [&] {
        return copying_.bytes != 0 && offset < copying_.offset + copying_.bytes &&
               copying_.offset < offset + bytes.size();
    };
    while (meets_copying())
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
    const Writing writing(*this, range);
    Pair pair;
    for (unsigned side = 0; side < 2; ++side) {
        pair.asked[side] = takes_writes(side);
        if (!pair.asked[side]) continue;
        ++pair.open;
        pair.tasks[side] = write_half(&pair, side, offset, bytes, durable);
    }
    for (base::Task<void>& task : pair.tasks) {
        if (!task.done()) task.start();
    }
    while (pair.open > 0)
        static_cast<void>(co_await pair.done.wait(loop_, base::Deadline::never()));
    auto settled = co_await settle(&pair);
    co_return settled;
}

base::Task<Result> MirrorDisk::flush() {
    Pair pair;
    for (unsigned side = 0; side < 2; ++side) {
        pair.asked[side] = takes_writes(side);
        if (!pair.asked[side]) continue;
        ++pair.open;
        pair.tasks[side] = flush_half(&pair, side);
    }
    for (base::Task<void>& task : pair.tasks) {
        if (!task.done()) task.start();
    }
    while (pair.open > 0)
        static_cast<void>(co_await pair.done.wait(loop_, base::Deadline::never()));
    auto settled = co_await settle(&pair);
    co_return settled;
}

/// What a write on one half, on both or on none means. Which half is the source may have changed meanwhile.
base::Task<Result> MirrorDisk::settle(const Pair* pair) {
    if (!pair->took[source_]) {
        const unsigned other = 1 - source_;
        // Without another good half that took it, the write has simply failed.
        if (other_ != Health::good || !pair->took[other]) {
            const unsigned told = pair->asked[source_] ? source_ : other;
            const Result& result = pair->results[told];
            co_return std::unexpected(result ? DiskError::io : result.error());
        }
        auto left = co_await leave_behind(source_);
        if (!left) co_return std::unexpected(DiskError::io);
        co_return Result{};
    }
    const unsigned other = 1 - source_;
    if (pair->took[other]) co_return Result{};
    if (other_ == Health::good && pair->asked[other]) {
        auto left = co_await leave_behind(other);
        if (!left) co_return std::unexpected(DiskError::io);
        co_return Result{};
    }
    if (other_ == Health::behind && pair->asked[other]) { // it is known to be stale already
        other_ = Health::refused;
        ++epoch_;
        changed_.wake_all();
    }
    auto recorded = co_await record_alone();
    if (!recorded) co_return std::unexpected(DiskError::io);
    co_return Result{};
}

base::Task<Result> MirrorDisk::read(std::uint64_t offset, std::span<std::byte> bytes) {
    const unsigned first = source_;
    auto read = co_await disk(first).read(offset, bytes);
    if (read || !readable(1 - first)) co_return read;
    auto second = co_await disk(1 - first).read(offset, bytes);
    if (second) ++rescued_reads_;
    co_return second;
}

base::Task<Result> MirrorDisk::read_copy(unsigned copy, std::uint64_t offset,
                                         std::span<std::byte> bytes) {
    const unsigned side = copy == 0 ? source_ : 1 - source_;
    if (!readable(side)) co_return std::unexpected(DiskError::io); // since a moment ago
    auto read = co_await disk(side).read(offset, bytes);
    co_return read;
}

base::Task<void> MirrorDisk::close() {
    closed_ = true;
    changed_.wake_all();
    while (copying_.bytes != 0 || recording_ || !writes_.empty())
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
    if (other_ != Health::good || reconciling_ || record_.state != MirrorRecord::State::paired)
        co_return;
    ++record_.generation;
    record_.clean = true;
    // A half that does not take it leaves two records that differ: then the next start makes them the same.
    const bool written = co_await write_record(source_, record_);
    if (written) static_cast<void>(co_await write_record(1 - source_, record_));
}

MirrorState MirrorDisk::state() const noexcept {
    switch (other_) {
    case Health::good:
        return MirrorState::whole;
    case Health::behind:
        return MirrorState::copying;
    case Health::refused:
        return MirrorState::degraded;
    }
    return MirrorState::degraded;
}

void MirrorDisk::report(MirrorState state, const std::string& text) const {
    if (options_.report) options_.report(state, text);
}

} // namespace queue
