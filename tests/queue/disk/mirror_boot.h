// mirror_boot.h: a mirror of two simulated disks from its opening to its end, for the tests of MirrorDisk.
#pragma once

#include "queue/codec.h"
#include "queue/disk/flush_disk.h"
#include "queue/disk/mirror_disk.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tests {

inline constexpr std::uint64_t disk_bytes = 1 << 20;
inline constexpr std::uint64_t first_free = 64 << 10; // behind the superblocks' area

using Images = std::array<SimMedium, 2>;

inline Images blank() {
    return {std::vector<std::byte>(disk_bytes), std::vector<std::byte>(disk_bytes)};
}

/// A device that takes operations and does not answer: what began in that time waits for release(), and then still
/// works on the memory it was given.
class HangingDisk final : public queue::Disk {
public:
    using Result = std::expected<void, queue::DiskError>;
    struct Kinds {
        bool writes = false, reads = false, flushes = false;
    };
    HangingDisk(base::Loop& loop, queue::Disk& below) noexcept : loop_(loop), below_(below) {}

    void hang(Kinds kinds) { kinds_ = kinds; }
    /// What begins from now on is answered; what has begun is not.
    void hang_no_more() { kinds_ = {}; }
    void release() {
        kinds_ = {};
        ++releases_;
        released_.wake_all();
    }
    [[nodiscard]] unsigned hanging() const noexcept { return hanging_; }

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return below_.size_bytes(); }
    base::Task<Result> write(std::uint64_t offset, std::span<const std::byte> bytes,
                             queue::Durable durable) override {
        if (kinds_.writes) co_await wait();
        auto result = co_await below_.write(offset, bytes, durable);
        co_return result;
    }
    base::Task<Result> read(std::uint64_t offset, std::span<std::byte> bytes) override {
        if (kinds_.reads) co_await wait();
        auto result = co_await below_.read(offset, bytes);
        co_return result;
    }
    base::Task<Result> flush() override {
        if (kinds_.flushes) co_await wait();
        auto result = co_await below_.flush();
        co_return result;
    }

private:
    base::Task<void> wait() {
        ++hanging_;
        for (const unsigned releases = releases_; releases == releases_;)
            static_cast<void>(co_await released_.wait(loop_, base::Deadline::never()));
        --hanging_;
    }

    base::Loop& loop_;
    queue::Disk& below_;
    Kinds kinds_;
    unsigned releases_ = 0;
    unsigned hanging_ = 0;
    base::WaitQueue released_{"a device that hangs"};
};

struct Boot {
    Boot(Images images, std::uint64_t seed, bool flushing = false)
        : disks{SimDisk{loop, SimDiskOptions{.bytes = disk_bytes, .seed = seed}, images[0]},
                SimDisk{loop, SimDiskOptions{.bytes = disk_bytes, .seed = seed + 7919}, images[1]}},
          flushes{queue::FlushDisk{loop, disks[0]}, queue::FlushDisk{loop, disks[1]}},
          hangs{HangingDisk{loop, by_flush_or_not(0, flushing)},
                HangingDisk{loop, by_flush_or_not(1, flushing)}} {}
    ~Boot() { loop.drop_tasks(); }

    queue::Disk& by_flush_or_not(unsigned index, bool flushing) {
        return flushing ? static_cast<queue::Disk&>(flushes[index]) : disks[index];
    }
    /// Nothing: the disks stopped before it was open.
    std::optional<std::expected<void, std::string>> open(std::array<bool, 2> present,
                                                         std::array<bool, 2> created,
                                                         queue::MirrorOptions options = {}) {
        using Opened = std::expected<std::unique_ptr<queue::MirrorDisk>, std::string>;
        std::optional<Opened> opened;
        std::array<queue::MirrorSide, 2> sides;
        for (unsigned i = 0; i < 2; ++i)
            if (present[i]) sides[i] = {&hangs[i], created[i]};
        options.retry = std::max(options.retry, std::chrono::seconds{1});
        options.fresh_pair = {std::byte{1}, std::byte{2}};
        options.pool_of = queue::pool_of_superblock;
        if (!options.report)
            options.report = [this](queue::MirrorState state, const std::string& text) {
                reports.emplace_back(state, text);
            };
        auto opening = [](base::Loop* to, std::array<queue::MirrorSide, 2> two,
                          queue::MirrorOptions* with,
                          std::optional<Opened>* out) -> base::Task<void> {
            auto result = co_await queue::MirrorDisk::open(*to, two, std::move(*with));
            out->emplace(std::move(result));
        };
        base::Task<void> task = opening(&loop, sides, &options, &opened);
        task.start();
        run([&] { return opened.has_value(); });
        if (!opened) return std::nullopt;
        if (!*opened) return std::unexpected(opened->error());
        mirror = std::move(**opened);
        return std::expected<void, std::string>{};
    }
    void run(const std::function<bool()>& done, base::Duration limit = std::chrono::seconds{100}) {
        static_cast<void>(run_until(loop, clock, done, limit));
    }
    bool write(std::uint64_t offset, std::byte value) {
        queue::BlockMemory block{queue::block_bytes};
        std::ranges::fill(block.span(), value);
        return tests::run(loop, clock, mirror->write(offset, block.span(), queue::Durable::yes))
            .has_value();
    }
    /// The byte that fills the block, or nothing when it cannot be read or is mixed.
    std::optional<std::byte> read(std::uint64_t offset, unsigned copy = 0) {
        queue::BlockMemory block{queue::block_bytes};
        auto read = copy == 0
                        ? tests::run(loop, clock, mirror->read(offset, block.span()))
                        : tests::run(loop, clock, mirror->read_copy(copy, offset, block.span()));
        if (!read) return std::nullopt;
        const std::byte first = block.span()[0];
        if (!std::ranges::all_of(block.span(), [&](std::byte b) { return b == first; }))
            return std::nullopt;
        return first;
    }
    void close() {
        auto closing = [](queue::MirrorDisk* to) -> base::Task<int> {
            co_await to->close();
            co_return 0;
        };
        static_cast<void>(tests::run(loop, clock, closing(mirror.get())));
    }
    Images crash() {
        Images images{disks[0].crash(), disks[1].crash()};
        return images;
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    std::vector<std::pair<queue::MirrorState, std::string>> reports;
    std::array<SimDisk, 2> disks;
    std::array<queue::FlushDisk, 2> flushes;
    std::array<HangingDisk, 2> hangs;
    std::unique_ptr<queue::MirrorDisk> mirror;
};

inline constexpr std::array<bool, 2> both{true, true};
inline constexpr std::array<bool, 2> neither{false, false};

} // namespace tests
