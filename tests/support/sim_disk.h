// sim_disk.h: a Disk in memory that behaves like a bad day: a seed decides what a crash leaves behind.
//
// Scope      Operations complete through the Loop after a virtual latency, in any order. A write is
//            safe once it completed as Durable::yes or a later flush completed; whatever else was under
//            way at a crash is kept, dropped or torn, sector by sector. Faults are ordered in advance.
// Owns       The bytes. crash() gives the image that a new SimDisk can be made from.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "queue/disk.h"

#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <random>
#include <vector>

namespace tests {

namespace base = dataplane::base;

struct SimDiskOptions {
    std::uint64_t bytes = 4 << 20;
    base::Duration latency_min = std::chrono::microseconds{50};
    base::Duration latency_max = std::chrono::microseconds{2000};
    std::uint64_t seed = 1;
};

class SimDisk final : public queue::Disk {
public:
    using Result = std::expected<void, queue::DiskError>;

    SimDisk(base::Loop& loop, SimDiskOptions options);
    /// Goes on with what a crash left.
    SimDisk(base::Loop& loop, SimDiskOptions options, std::vector<std::byte> image);
    ~SimDisk() override;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return visible_.size(); }
    [[nodiscard]] base::Task<Result> write(std::uint64_t offset, std::span<const std::byte> bytes,
                                           queue::Durable durable) override;
    [[nodiscard]] base::Task<Result> read(std::uint64_t offset,
                                          std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<Result> flush() override;

    /// What a power cut leaves. The disk answers nothing from now on.
    [[nodiscard]] std::vector<std::byte> crash();

    enum class Fault : std::uint8_t { io, short_transfer, no_space };
    /// The next `count` writes from the `after`-th (0: the next) fail so; their bytes may land anyway.
    void fail_writes(Fault fault, std::uint64_t count, std::uint64_t after = 0);
    void fail_reads(std::uint64_t count) { failing_reads_ = count; }
    static constexpr std::uint64_t always = std::numeric_limits<std::uint64_t>::max();
    /// Stops answering when this many operations (of any kind) have begun: a crash point.
    void stop_after(std::uint64_t operations) { stop_after_ = operations; }
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }
    /// Completes nothing while held.
    void hold(bool held) { held_ = held; }

    [[nodiscard]] std::uint64_t operation_count() const noexcept { return operations_; }
    [[nodiscard]] std::uint64_t write_count() const noexcept { return writes_; }
    [[nodiscard]] std::vector<std::byte>& bytes() noexcept { return visible_; } // to damage by hand

private:
    struct Write {
        std::uint64_t offset = 0;
        std::vector<std::byte> bytes;
        bool landed = false; // in visible_, not yet safe
    };
    using Writes = std::list<Write>;

    base::Task<bool> take_time(); // false: the disk has stopped, and never answers
    void land(const Write& write);

    base::Loop& loop_;
    SimDiskOptions options_;
    std::mt19937_64 random_;
    std::vector<std::byte> safe_;
    std::vector<std::byte> visible_;
    Writes unsafe_;
    std::uint64_t operations_ = 0;
    std::uint64_t writes_ = 0;
    std::uint64_t stop_after_ = std::numeric_limits<std::uint64_t>::max();
    bool stopped_ = false;
    bool held_ = false;
    Fault fault_ = Fault::io;
    std::uint64_t fault_from_ = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t fault_to_ = 0;
    std::uint64_t failing_reads_ = 0;
};

} // namespace tests
