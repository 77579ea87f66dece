// spool_pool.h: a shard's spool on its device or devices, opened as the configuration says.
//
// Scope      Which files, how writes become durable on them, one half or two of a mirror; and the disks that
//            tests put in between. What lies in the pool is queue/'s business.
// Owns       The files and everything between them and the queue.
// Threading  SpoolDevices: any shard's thread, at start. SpoolPool: its shard.
// Failure    open() returns a sentence for the operator.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/daemon/log.h"
#include "dataplane/policy/policy.h"
#include "dataplane/telemetry/stats.h"
#include "queue/disk/calibration.h"
#include "queue/disk/faulty_disk.h"
#include "queue/disk/flush_coordinator.h"
#include "queue/disk/flush_disk.h"
#include "queue/disk/journal.h"
#include "queue/disk/mirror_disk.h"
#include "queue/disk/uring_file.h"

#include <array>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

namespace dataplane::daemon {

/// What shards share of a device: its calibration, and the thread that flushes it for all of them.
class SpoolDevices {
public:
    struct Measured {
        dev_t device = 0;
        std::expected<queue::Calibration, std::string> calibration;
    };
    SpoolDevices() = default;
    ~SpoolDevices();
    SpoolDevices(const SpoolDevices&) = delete;
    SpoolDevices& operator=(const SpoolDevices&) = delete;
    /// Measures a device once, by a file in this folder; others wait for the result.
    [[nodiscard]] Measured calibrate(const std::string& folder);
    [[nodiscard]] queue::FlushCoordinator& coordinator(dev_t device);

private:
    std::mutex mutex_;
    std::map<dev_t, std::expected<queue::Calibration, std::string>> calibrations_;
    std::map<dev_t, std::unique_ptr<queue::FlushCoordinator>> coordinators_;
};

/// For tests, from hidden options.
struct SpoolTampering {
    std::string
        journal_dir; // where each spool writes down what it does (queue/disk/journal.h); empty: nowhere
    // What fails: of spool_dir's half, and of mirror_dir's.
    std::array<std::vector<queue::DiskFault>, 2> faults;
};

class SpoolPool {
public:
    using Note = std::function<void(LogLevel level, std::string_view event, std::string_view text)>;

    /// \param attached  a pool of another node (attach.h), by its path; empty: the shard's own
    /// Blocks: for calibration, and for as long as making a pool takes.
    [[nodiscard]] static std::expected<std::unique_ptr<SpoolPool>, std::string>
    open(base::Loop& loop, base::Uring& ring, const policy::StartUp& start_up, unsigned shard,
         const std::string& attached, SpoolDevices& devices, const SpoolTampering& tampering,
         Note note);

    [[nodiscard]] queue::Disk& disk() noexcept { return *top_; }
    [[nodiscard]] queue::Journal* journal() noexcept { return journal_ ? &*journal_ : nullptr; }
    /// The queue was closed, and everything of it is on disk.
    [[nodiscard]] base::Task<void> close();
    /// After close(): a device of the mirror still has operations of ours, perhaps for good. Destroying this would
    /// wait for it, and what it works on must not be freed.
    [[nodiscard]] bool hung() const noexcept { return mirror_ && mirror_->hung(); }
    void publish_stats(telemetry::Stats& stats) const;

private:
    struct Half {
        std::unique_ptr<queue::UringFile> file;
        std::unique_ptr<queue::FaultyDisk> faulty;
        std::unique_ptr<queue::FlushDisk> flush; // null: strategy A
        queue::Disk* top = nullptr;
    };

    SpoolPool(base::Loop& loop, base::Uring& ring, Note note)
        : loop_(loop), ring_(ring), note_(std::move(note)) {}
    [[nodiscard]] std::expected<void, std::string>
    open_half(Half& half, const std::string& path, std::uint64_t new_bytes,
              const policy::StartUp& start_up, SpoolDevices& devices,
              std::vector<queue::DiskFault> faults, const std::string& journal);
    [[nodiscard]] std::expected<void, std::string> open_mirror(const policy::StartUp& start_up);
    [[nodiscard]] std::expected<void, std::string> open_alone();
    [[nodiscard]] queue::CommitStrategy strategy(const policy::StartUp& start_up,
                                                 const queue::UringFile& file,
                                                 const SpoolDevices::Measured& measured);
    void run(base::Task<void>& task);

    base::Loop& loop_;
    base::Uring& ring_;
    Note note_;
    std::array<Half, 2> halves_;
    std::optional<queue::Journal> journal_;
    std::unique_ptr<queue::MirrorDisk> mirror_;
    queue::Disk* top_ = nullptr;
};

} // namespace dataplane::daemon
