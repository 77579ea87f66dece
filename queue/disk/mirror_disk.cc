#include "queue/disk/mirror_disk.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

using Result = std::expected<void, DiskError>;

// A limit is waited for in so many parts. In a process that was stopped meanwhile (a debugger, a virtual machine that
// is moved) only one of them passes before what the devices have answered is heard.
constexpr unsigned patience = 5;

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

MirrorOperations::Disks MirrorDisk::only(unsigned side) const noexcept {
    MirrorOperations::Disks disks{};
    disks[side] = sides_[side].disk;
    return disks;
}

void MirrorDisk::state_changed() noexcept {
    changed_.wake_all();
    operations_.wake_all();
}

/// Until all that were asked have answered, or one has not for so long that the other goes on without it: then it is
/// open still. Of two it is waited for from when the other has answered, since it may be their bus that is slow.
base::Task<void> MirrorDisk::answers(MirrorOperation* operation, base::Duration limit) {
    for (unsigned waits = 0; operation->open();) {
        const unsigned slow = operation->open(0) ? 0 : 1;
        const bool both = operation->open(0) && operation->open(1);
        const bool other_goes_on = !both && readable(1 - slow);
        const bool left_behind = other_goes_on && operation->asked(1 - slow) && !takes_writes(slow);
        if (left_behind) co_return; // meanwhile, and by another operation
        if (other_goes_on && waits == patience) {
            operation->give_up();
            co_return;
        }
        const base::Deadline until =
            other_goes_on ? base::Deadline::in(loop_, limit / patience) : base::Deadline::never();
        const base::Wake wake = co_await operation->changed.wait(loop_, until);
        if (wake == base::Wake::timed_out) ++waits;
    }
}

base::Task<Result> MirrorDisk::write_one(unsigned side, std::uint64_t offset,
                                         std::span<const std::byte> bytes) {
    const auto operation = operations_.write(only(side), offset, bytes, Durable::yes);
    co_await answers(operation.get(), options_.answer_limit);
    co_return operation->result(side);
}

base::Task<Result> MirrorDisk::read_one(unsigned side, std::uint64_t offset,
                                        std::span<std::byte> bytes, base::Duration limit) {
    const auto operation = operations_.read(only(side), offset, bytes.size());
    co_await answers(operation.get(), limit);
    if (operation->took(side))
        std::memcpy(bytes.data(), operation->bytes(side).data(), bytes.size());
    co_return operation->result(side);
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
    const std::string why = operations_.late(side)
                                ? unanswered(side)
                                : std::string{side_name(side)} + " refused a write";
    report(MirrorState::degraded, why + ": mail is kept on one device only until it takes writes "
                                        "again and has been given everything");
    state_changed();
    auto recorded = co_await record_alone();
    co_return recorded;
}

base::Task<bool> MirrorDisk::record_alone() {
    // Of several writes that fail together the first writes it down, and the others wait for that.
    while (!alone_known_) {
        if (recording_[source_]) {
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
    if (!takes_writes(1 - source_)) {
        // Nobody goes on without this half, so that its device is done with the caller's memory when this ends.
        auto written = co_await disk(source_).write(offset, bytes, durable);
        if (!written) co_return written;
        const bool recorded = co_await record_alone();
        if (!recorded) co_return std::unexpected(DiskError::io);
        co_return Result{};
    }
    const auto operation =
        operations_.write({sides_[0].disk, sides_[1].disk}, offset, bytes, durable);
    co_await answers(operation.get(), options_.answer_limit);
    if (operation->took(0) && operation->took(1)) co_return Result{};
    auto settled = co_await settle(operation.get());
    co_return settled;
}

base::Task<Result> MirrorDisk::flush() {
    MirrorOperations::Disks disks = only(source_);
    if (takes_writes(1 - source_)) disks[1 - source_] = sides_[1 - source_].disk;
    const auto operation = operations_.flush(disks);
    co_await answers(operation.get(), options_.answer_limit);
    if (operation->took(0) && operation->took(1)) co_return Result{};
    auto settled = co_await settle(operation.get());
    co_return settled;
}

/// What a write on one half, or on none, means. Which half is the source may have changed meanwhile.
base::Task<Result> MirrorDisk::settle(const MirrorOperation* operation) {
    for (unsigned side = 0; side < 2; ++side) {
        if (!operation->open(side)) continue;
        // It does not count any more, whatever the other has answered: this may land at any time.
        if (other_ == Health::good) {
            auto left = co_await leave_behind(side);
            if (!left) co_return std::unexpected(DiskError::io);
        } else {
            CHECK(side != source_);
            fall_back();
        }
    }
    const unsigned other = 1 - source_;
    if (!operation->took(source_)) {
        // Without another good half that took it, the write has simply failed.
        if (other_ != Health::good || !operation->took(other)) {
            const unsigned told = operation->asked(source_) ? source_ : other;
            const Result result = operation->result(told);
            co_return std::unexpected(result ? DiskError::io : result.error());
        }
        auto left = co_await leave_behind(source_);
        if (!left) co_return std::unexpected(DiskError::io);
        co_return Result{};
    }
    if (operation->took(other)) co_return Result{};
    if (other_ == Health::good && operation->asked(other)) {
        auto left = co_await leave_behind(other);
        if (!left) co_return std::unexpected(DiskError::io);
        co_return Result{};
    }
    if (operation->asked(other)) fall_back();
    auto recorded = co_await record_alone();
    if (!recorded) co_return std::unexpected(DiskError::io);
    co_return Result{};
}

/// A half that was being given everything is left behind again: it is known to be stale already.
void MirrorDisk::fall_back() noexcept {
    if (other_ != Health::behind) return;
    other_ = Health::refused;
    ++epoch_;
    state_changed();
}

base::Task<Result> MirrorDisk::read(std::uint64_t offset, std::span<std::byte> bytes) {
    auto read = co_await read_first(offset, bytes, true);
    co_return read;
}

/// From the source, or from the other half when the source does not answer.
/// \param refused_too  and when it refuses
base::Task<Result> MirrorDisk::read_first(std::uint64_t offset, std::span<std::byte> bytes,
                                          bool refused_too) {
    const unsigned source = source_;
    if (!readable(1 - source)) {
        auto alone = co_await disk(source).read(offset, bytes);
        co_return alone;
    }
    // One that owes an answer is not asked for more, so that what it holds back stays little.
    const bool behindhand = operations_.late(source) && !operations_.late(1 - source);
    const unsigned first = behindhand ? 1 - source : source;
    const unsigned second = 1 - first;
    const auto give = [&](const MirrorOperations::Handle& operation, unsigned side) {
        std::memcpy(bytes.data(), operation->bytes(side).data(), bytes.size());
        if (side != source) ++rescued_reads_;
        return Result{};
    };
    const auto one = operations_.read(only(first), offset, bytes.size());
    co_await answers(one.get(), options_.read_limit);
    if (one->took(first)) co_return give(one, first);
    const bool turn_to_second = readable(second) && (refused_too || one->open(first));
    if (!turn_to_second) co_return one->result(first);
    const auto two = operations_.read(only(second), offset, bytes.size());
    while (two->open(second) || one->open(first)) {
        if (two->took(second)) co_return give(two, second);
        if (one->took(first)) co_return give(one, first);
        // Whichever answers: both may hang.
        MirrorOperation& slow = two->open(second) ? *two.get() : *one.get();
        const auto until = base::Deadline::in(loop_, options_.read_limit / patience);
        static_cast<void>(co_await slow.changed.wait(loop_, until));
    }
    if (two->took(second)) co_return give(two, second);
    if (one->took(first)) co_return give(one, first);
    co_return two->result(second);
}

base::Task<Result> MirrorDisk::read_copy(unsigned copy, std::uint64_t offset,
                                         std::span<std::byte> bytes) {
    // Which half this is may change from one call to the next when one is left behind. Whoever goes through the
    // copies has seen what there is all the same, because the first is always one that answers.
    if (copy == 0) {
        auto first = co_await read_first(offset, bytes, false);
        co_return first;
    }
    const unsigned side = 1 - source_;
    if (!readable(side)) co_return std::unexpected(DiskError::io); // since a moment ago
    if (operations_.late(side)) co_return std::unexpected(DiskError::timed_out);
    auto second = co_await read_one(side, offset, bytes, options_.read_limit);
    co_return second;
}

base::Task<void> MirrorDisk::close() {
    closed_ = true;
    changed_.wake_all();
    // What began just now is given up after one limit. Longer takes only a half that is alone, or both.
    const base::Deadline until = base::Deadline::in(loop_, 2 * options_.answer_limit);
    while (copying_.bytes != 0 || recording_[0] || recording_[1] || !writes_.empty()) {
        const base::Wake wake = co_await changed_.wait(loop_, until);
        if (wake == base::Wake::timed_out) co_return;
    }
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

std::string MirrorDisk::unanswered(unsigned side) const {
    const std::int64_t limit_ms = options_.answer_limit.count();
    const std::string limit = limit_ms % 1000 == 0 ? std::to_string(limit_ms / 1000) + " s"
                                                   : std::to_string(limit_ms) + " ms";
    return std::string{side_name(side)} + " did not answer for " + limit;
}

void MirrorDisk::report(MirrorState state, const std::string& text) const {
    if (options_.report) options_.report(state, text);
}

} // namespace queue
