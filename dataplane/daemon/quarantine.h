// quarantine.h: the folder with what was found damaged in the spool.
//
// Scope      Writes each record into a file of its own, beside the shard's thread, within a bound. Never deletes one:
//            that is for people who have looked (docs/operating.md).
// Owns       Its thread, which begins with the first record.
// Threading  put() on the shard; the counts from anywhere.
// Failure    What cannot be written is counted as lost; the mail's own fate does not depend on it.
//
// A file is a line of text and zeros up to 4096 bytes, the segment's two header blocks (8192), then the blocks with the
// record, as they lay on the disk: encrypted where the spool is.
#pragma once

#include "queue/quarantine.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

namespace dataplane::daemon {

class QuarantineFolder {
public:
    /// \param folder  made when it is needed
    QuarantineFolder(std::string folder, std::uint64_t bytes_max);
    ~QuarantineFolder();
    QuarantineFolder(const QuarantineFolder&) = delete;
    QuarantineFolder& operator=(const QuarantineFolder&) = delete;

    void put(queue::DamagedRecord record);
    [[nodiscard]] std::uint64_t kept() const noexcept { return kept_; }
    [[nodiscard]] std::uint64_t lost() const noexcept { return lost_; }

    /// Where put() keeps it.
    [[nodiscard]] std::string path_of(const queue::DamagedRecord& record) const;

private:
    static constexpr std::size_t waiting_max = 64;
    void run();
    [[nodiscard]] bool keep(const queue::DamagedRecord& record);

    std::string folder_;
    std::uint64_t bytes_left_; // the thread's
    std::atomic<std::uint64_t> kept_ = 0;
    std::atomic<std::uint64_t> lost_ = 0;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<queue::DamagedRecord> waiting_;
    bool stopping_ = false;
    std::thread thread_;
};

/// For the log: which message, where it lay and who found it.
[[nodiscard]] std::string describe(const queue::DamagedRecord& record);

} // namespace dataplane::daemon
