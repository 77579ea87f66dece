// mirror_copying.cc: how the halves of a mirror become alike again, in the background and where it is asked for.
#include "queue/disk/mirror_disk.h"

#include <algorithm>

namespace queue {
namespace {

using Result = std::expected<void, DiskError>;

constexpr std::size_t unjudged_bytes = 512U << 10; // copied at a time

} // namespace

bool MirrorDisk::overlaps_writes(Range range) const noexcept {
    return std::ranges::any_of(writes_, [&](const Range& write) {
        return write.offset < range.offset + range.bytes &&
               range.offset < write.offset + write.bytes;
    });
}

/// Brings the other half back whenever it is behind, for as long as the mirror lives.
base::Task<void> MirrorDisk::mend() {
    while (!closed_) {
        if (other_ == Health::good && !reconciling_) {
            static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
            continue;
        }
        // A late write would land over what it was given.
        while (other_ == Health::refused && operations_.busy(1 - source_))
            static_cast<void>(co_await operations_.returned.wait(loop_, base::Deadline::never()));
        if (closed_) co_return;
        bool mended = true;
        if (other_ == Health::refused) mended = co_await tell_behind();
        if (mended) mended = co_await copy_all();
        if (mended) co_await join();
        if (!mended && !closed_) {
            static_cast<void>(co_await base::sleep_for(loop_, options_.retry));
        }
    }
}

/// From now on the half that was left behind takes writes again. It must not be believed if it is found alone.
base::Task<bool> MirrorDisk::tell_behind() {
    const std::uint64_t epoch = epoch_;
    const unsigned other = 1 - source_;
    MirrorRecord stale = record_;
    stale.state = MirrorRecord::State::stale;
    const bool told = co_await write_record(other, stale);
    if (!told || epoch != epoch_ || closed_) co_return false;
    other_ = Health::behind;
    report(MirrorState::copying,
           std::string{side_name(other)} + " is being given everything again");
    co_return true;
}

base::Task<bool> MirrorDisk::copy_all() {
    constexpr std::uint64_t record_end = mirror_record_begin + mirror_record_copies * block_bytes;
    Copying round = co_await begin_copying();
    for (std::uint64_t offset = 0; offset < bytes_;) {
        if (offset == mirror_record_begin) offset = record_end; // each half has its own
        const std::uint64_t end = offset < mirror_record_begin ? mirror_record_begin : bytes_;
        const std::uint64_t bytes = co_await copy_piece(&round, offset, end);
        if (bytes == 0) break;
        offset += bytes;
        copied_ += bytes;
        if (offset == bytes_) {
            one_sided_ = round.one_sided;
            co_return true;
        }
        const auto pause = std::chrono::nanoseconds{
            bytes * 1'000'000'000ULL / std::max<std::uint64_t>(options_.copy_bytes_per_s, 1)};
        static_cast<void>(co_await base::sleep_for(loop_, pause));
    }
    static_cast<void>(co_await end_refused(&round)); // writes will say if that failed
    co_return false;
}

base::Task<Result> MirrorDisk::make_alike(std::uint64_t offset, std::uint64_t bytes) {
    if (!reconciling_) co_return Result{};
    Copying round = co_await begin_copying();
    for (const std::uint64_t end = offset + bytes; offset < end && reconciling_;) {
        const std::uint64_t done = co_await copy_piece(&round, offset, end);
        if (done == 0) break;
        offset += done;
    }
    const bool told = co_await end_refused(&round);
    if (!told || closed_) co_return std::unexpected(DiskError::io);
    co_return Result{};
}

/// Nothing else is copied, and nothing is written there, until let_go().
base::Task<void> MirrorDisk::hold(std::uint64_t offset, std::uint64_t bytes) {
    while (copying_.bytes != 0)
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
    copying_ = {offset, bytes};
    while (overlaps_writes(copying_))
        static_cast<void>(co_await changed_.wait(loop_, base::Deadline::never()));
}

void MirrorDisk::let_go() noexcept {
    copying_ = {};
    changed_.wake_all();
}

base::Task<MirrorDisk::Copying> MirrorDisk::begin_copying() {
    Copying round{.epoch = epoch_, .both_count = reconciling_};
    if (!options_.content) co_return round;
    co_await hold(0, head_bytes_max);
    std::array<std::span<const std::byte>, 2> superblocks;
    for (unsigned i = 0; i < 2; ++i) {
        const unsigned side = i == 0 ? source_ : 1 - source_;
        std::vector<bool> lost;
        const bool answered = co_await read_blocks(side, 0, head_memory_[i].span(), &lost);
        if (!answered) round.refused = side;
        superblocks[i] = head_memory_[i].span();
    }
    // A pool that was never formatted has no records to tell apart.
    round.judged = options_.content->begin(superblocks);
    let_go();
    co_return round;
}

/// What lies from `offset` on, or its first part. What the source cannot read and the other half has not is lost
/// already, and left as it is. \return  how many bytes were copied; 0: the round is over
base::Task<std::uint64_t> MirrorDisk::copy_piece(Copying* round, std::uint64_t offset,
                                                 std::uint64_t end) {
    const std::uint64_t most = round->judged ? mirror_window_bytes : unjudged_bytes;
    co_await hold(offset, std::min(end - offset, most));
    const bool over = round->refused || round->epoch != epoch_ || closed_;
    if (!over) co_await copy_held(round);
    const bool copied = !over && !round->refused && round->epoch == epoch_ && !closed_;
    const std::uint64_t bytes = copied ? copying_.bytes : 0;
    let_go();
    co_return bytes;
}

/// What lies in copying_, or its first part, which copying_ is then.
base::Task<void> MirrorDisk::copy_held(Copying* round) {
    const std::array<unsigned, 2> sides{source_, 1 - source_};
    for (BlockMemory& memory : copy_memory_) {
        if (memory.bytes == 0) memory = BlockMemory{mirror_window_bytes};
    }
    MirrorContent::Window window;
    window.offset = copying_.offset;
    window.both_count = round->both_count;
    MirrorContent::Extent head;
    if (round->judged) head = options_.content->head_of(copying_.offset);
    for (unsigned i = 0; i < 2; ++i) {
        MirrorContent::Half& half = window.halves[i];
        half.bytes = copy_memory_[i].span().first(copying_.bytes);
        half.write.resize(copying_.bytes / block_bytes);
        if (head.bytes != 0) {
            const std::span<std::byte> memory = head_memory_[i].span().first(head.bytes);
            std::vector<bool> lost;
            const bool answered = co_await read_blocks(sides[i], head.offset, memory, &lost);
            if (!answered) round->refused = sides[i];
            half.head = memory;
        }
        if (!round->refused && (i == 0 || round->judged || window.both_count)) {
            const bool answered =
                co_await read_blocks(sides[i], copying_.offset, half.bytes, &half.lost);
            if (!answered) round->refused = sides[i];
        }
        if (round->refused) co_return;
    }
    std::uint64_t done = copying_.bytes;
    if (round->judged) {
        done = options_.content->judge(window);
        round->one_sided = round->one_sided || window.one_sided;
    } else {
        copy_source(window);
    }
    for (unsigned i = 0; i < 2; ++i) {
        const bool written = co_await write_blocks(sides[i], copying_.offset, &window.halves[i]);
        if (written) continue;
        round->refused = sides[i];
        co_return;
    }
    copying_.bytes = done; // not before: what is written may lie behind it
}

/// What both have alike is not written again: a crash would tear what is whole.
void MirrorDisk::copy_source(MirrorContent::Window& window) {
    const MirrorContent::Half& source = window.halves[0];
    MirrorContent::Half& other = window.halves[1];
    for (std::size_t block = 0; block < source.lost.size(); ++block) {
        const auto from = source.bytes.subspan(block * block_bytes, block_bytes);
        const auto to = other.bytes.subspan(block * block_bytes, block_bytes);
        const bool same = window.both_count && !other.lost[block] && std::ranges::equal(from, to);
        other.write[block] = !same && !source.lost[block];
        if (other.write[block]) std::ranges::copy(from, to.begin());
    }
}

/// Zeros are what the device does not give back. False: it does not answer.
base::Task<bool> MirrorDisk::read_blocks(unsigned side, std::uint64_t offset,
                                         std::span<std::byte> bytes, std::vector<bool>* lost) {
    lost->assign(bytes.size() / block_bytes, false);
    auto all = co_await read_one(side, offset, bytes, options_.answer_limit);
    if (all) co_return true;
    bool heard = all.error() != DiskError::timed_out;
    for (std::size_t at = 0; at < bytes.size() && heard; at += block_bytes) {
        const std::span<std::byte> block = bytes.subspan(at, block_bytes);
        auto one = co_await read_one(side, offset + at, block, options_.answer_limit);
        if (one) continue;
        std::ranges::fill(block, std::byte{0});
        (*lost)[at / block_bytes] = true;
        heard = one.error() != DiskError::timed_out;
    }
    co_return heard;
}

base::Task<bool> MirrorDisk::write_blocks(unsigned side, std::uint64_t offset,
                                          const MirrorContent::Half* half) {
    const std::size_t count = half->write.size();
    for (std::size_t block = 0; block < count;) {
        std::size_t end = block;
        while (end < count && half->write[end])
            ++end;
        if (end > block) {
            const std::span<const std::byte> bytes =
                half->bytes.subspan(block * block_bytes, (end - block) * block_bytes);
            auto written = co_await write_one(side, offset + block * block_bytes, bytes);
            if (!written) co_return false;
        }
        block = end + 1;
    }
    co_return true;
}

/// A half that did not take what it was to be given, or did not answer, is left behind, or waits for the next round. False: the one
/// that goes on cannot write down that it is alone.
base::Task<bool> MirrorDisk::end_refused(const Copying* round) {
    if (!round->refused || round->epoch != epoch_ || closed_) co_return true;
    if (other_ == Health::good) {
        const bool left = co_await leave_behind(*round->refused);
        co_return left;
    }
    fall_back();
    co_return true;
}

/// Both halves have everything: from now on both count.
base::Task<void> MirrorDisk::join() {
    const unsigned other = 1 - source_;
    if (reconciling_) { // both counted all the time
        reconciling_ = false;
        report(MirrorState::whole, "both halves are the same again");
        co_return;
    }
    // The source must not say on disk that it is alone once the other one counts: if it failed then, and came
    // back by itself, it would be believed. The other one still says that it is stale, so that an early word of the
    // pair harms nobody.
    const std::uint64_t epoch = epoch_;
    ++record_.generation;
    record_.state = MirrorRecord::State::paired;
    const MirrorRecord paired = record_;
    bool written = co_await write_record(source_, paired);
    if (!written || epoch != epoch_) {
        ++record_.generation;
        record_.state = MirrorRecord::State::alone;
        alone_known_ = false;
        static_cast<void>(co_await record_alone()); // or the next write does it
        co_return;
    }
    other_ = Health::good;
    // What it alone has must not be relied on: it goes to the source as well, now that a power cut harms neither.
    reconciling_ = one_sided_;
    state_changed();
    written = co_await write_record(other, paired);
    if (epoch != epoch_) co_return;
    if (!written) {
        static_cast<void>(co_await leave_behind(other));
        co_return;
    }
    report(MirrorState::whole, std::string{side_name(other)} + " has everything again");
}

} // namespace queue
