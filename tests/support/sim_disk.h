// sim_disk.h: a Disk in memory that behaves like a bad day: a seed decides what a crash leaves behind.
//
// Scope      Operations complete through the Loop after a virtual latency, in any order. A write is
//            safe once it completed as Durable::yes or a later flush completed; whatever else was under
//            way at a crash is kept, dropped or torn, sector by sector. Faults are ordered one by one, or
//            come at a rate: refused and short writes, blocks that cannot be read, flipped bits, writes
//            that land elsewhere, flushes that fail, a device that lies, time that passes.
// Owns       The bytes. crash() and kill() give the medium that a new SimDisk can be made from.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "queue/disk/disk.h"

#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <random>
#include <set>
#include <span>
#include <vector>

namespace tests {

namespace base = dataplane::base;

/// How often, of 10,000 operations that could; 0 is never.
struct SimDiskFaults {
    unsigned write_refused =
        0; // EIO, short, no space or timed out; the bytes may be there all the same
    unsigned flush_refused = 0;    // and what it should have made safe is gone, or not
    unsigned block_unreadable = 0; // 4 KiB give EIO until they are written again
    unsigned read_flipped = 0;     // a bit of what is read, this time
    unsigned write_flipped = 0;    // a bit on its way to the medium
    unsigned misdirected = 0; // a write lands whole on another place, and its own keeps what it had
    unsigned lied = 0;        // a durable write is told to be safe, and only is in the cache
    unsigned slow = 0;        // takes between a millisecond and slow_max
    base::Duration slow_max = std::chrono::seconds{60};
};

struct SimDiskOptions {
    std::uint64_t bytes = 4 << 20;
    base::Duration latency_min = std::chrono::microseconds{50};
    base::Duration latency_max = std::chrono::microseconds{2000};
    std::uint64_t seed = 1;
    SimDiskFaults faults{};
};

/// What is left of a disk when the machine or the process has gone.
struct SimMedium {
    struct Write {
        std::uint64_t offset = 0;
        std::vector<std::byte> bytes;
        bool landed = false;    // can be read, and is not safe yet
        bool timed_out = false; // nobody waits for it; it may land until its place is written again
    };
    SimMedium() = default;
    SimMedium(std::vector<std::byte> image) : safe(image), visible(std::move(image)) {}

    std::vector<std::byte> safe;
    std::vector<std::byte> visible;
    std::list<Write> cached;
    std::set<std::uint64_t> unreadable; // blocks
};

class SimDisk final : public queue::Disk {
public:
    using Result = std::expected<void, queue::DiskError>;

    SimDisk(base::Loop& loop, SimDiskOptions options);
    /// Goes on with what a crash left.
    SimDisk(base::Loop& loop, SimDiskOptions options, SimMedium medium);
    ~SimDisk() override;

    [[nodiscard]] std::uint64_t size_bytes() const noexcept override {
        return medium_.visible.size();
    }
    [[nodiscard]] base::Task<Result> write(std::uint64_t offset, std::span<const std::byte> bytes,
                                           queue::Durable durable) override;
    [[nodiscard]] base::Task<Result> read(std::uint64_t offset,
                                          std::span<std::byte> bytes) override;
    [[nodiscard]] base::Task<Result> flush() override;

    /// What a power cut leaves. The disk answers nothing from now on.
    [[nodiscard]] std::vector<std::byte> crash();
    /// What the end of the process leaves: the device goes on, and keeps what its cache holds.
    [[nodiscard]] SimMedium kill();

    enum class Fault : std::uint8_t { io, short_transfer, no_space, timed_out };
    /// The next `count` writes from the `after`-th (0: the next) fail so; their bytes may land anyway.
    void fail_writes(Fault fault, std::uint64_t count, std::uint64_t after = 0);
    void fail_reads(std::uint64_t count) { failing_reads_ = count; }
    void fail_flushes(std::uint64_t count) { failing_flushes_ = count; }
    /// Operations of any kind from the `first`-th (0: the disk's first) fail.
    void fail_operations(std::uint64_t first, std::uint64_t count);
    static constexpr std::uint64_t always = std::numeric_limits<std::uint64_t>::max();
    /// Two in one machine: they stop in the same moment, and count each other's events. Before either is used.
    void share_power(SimDisk& other) noexcept {
        other_ = &other;
        other.other_ = this;
    }
    /// Stops answering when this many operations (of any kind) have begun: a crash point.
    void stop_after(std::uint64_t operations) { stop_after_ = operations; }
    /// The same between all that happens: an operation begins, or it is done and nobody knows yet.
    void stop_after_events(std::uint64_t events) { stop_after_events_ = events; }
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }
    /// Completes nothing while held.
    void hold(bool held) { held_ = held; }
    void set_faults(const SimDiskFaults& faults) { options_.faults = faults; }
    void make_unreadable(std::uint64_t offset);

    [[nodiscard]] std::uint64_t operation_count() const noexcept { return operations_; }
    [[nodiscard]] std::uint64_t write_count() const noexcept { return writes_; }
    [[nodiscard]] std::uint64_t event_count() const noexcept { return events_; }
    /// Faults so far that leave the only copy of something wrong: elsewhere, rotten, unreadable or not there.
    [[nodiscard]] std::uint64_t damage_count() const noexcept { return damage_; }
    [[nodiscard]] std::uint64_t refused_flush_count() const noexcept { return refused_flushes_; }
    /// What was under way at most, of writes and of reads.
    [[nodiscard]] std::uint64_t pending_bytes_max() const noexcept { return pending_bytes_max_; }
    [[nodiscard]] std::uint64_t reading_bytes_max() const noexcept { return reading_bytes_max_; }
    /// Whether a power cut now would leave these bytes as they can be read now.
    [[nodiscard]] bool safe(std::uint64_t offset, std::uint64_t bytes) const noexcept;
    [[nodiscard]] std::vector<std::byte>& bytes() noexcept {
        return medium_.visible;
    } // to damage by hand

private:
    using Write = SimMedium::Write;

    base::Task<bool> take_time(); // does not end once the disk has stopped
    base::Task<bool> answer();    // the same, between the deed and its report
    void event() noexcept;
    void count_event() noexcept {
        if (++events_ > stop_after_events_) stopped_ = true;
    }
    [[nodiscard]] bool falls(unsigned rate);
    void land(const Write& write);
    void make_safe(const Write& write);
    void end_flush(const std::vector<const Write*>& covered, bool refused);
    [[nodiscard]] Result refuse(std::list<Write>::iterator write, Fault fault);
    [[nodiscard]] std::uint64_t elsewhere(std::uint64_t offset, std::size_t bytes);

    base::Loop& loop_;
    SimDisk* other_ = nullptr; // with the same power
    SimDiskOptions options_;
    std::mt19937_64 random_;
    SimMedium medium_;
    std::uint64_t operations_ = 0;
    std::uint64_t writes_ = 0;
    std::uint64_t events_ = 0;
    std::uint64_t stop_after_ = always;
    std::uint64_t stop_after_events_ = always;
    bool stopped_ = false;
    bool held_ = false;
    Fault fault_ = Fault::io;
    std::uint64_t fault_from_ = always;
    std::uint64_t fault_to_ = 0;
    std::uint64_t operations_fail_from_ = always;
    std::uint64_t operations_fail_to_ = 0;
    std::uint64_t failing_reads_ = 0;
    std::uint64_t failing_flushes_ = 0;
    std::uint64_t refused_flushes_ = 0;
    std::uint64_t damage_ = 0;
    std::uint64_t pending_bytes_ = 0;
    std::uint64_t pending_bytes_max_ = 0;
    std::uint64_t reading_bytes_ = 0;
    std::uint64_t reading_bytes_max_ = 0;
};

} // namespace tests
