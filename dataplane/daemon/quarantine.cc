#include "dataplane/daemon/quarantine.h"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <filesystem>
#include <pthread.h>
#include <span>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <vector>

namespace dataplane::daemon {
namespace {

constexpr std::size_t text_bytes = 4096;

[[nodiscard]] bool write_all(int file, std::span<const std::byte> bytes) noexcept {
    while (!bytes.empty()) {
        const ssize_t written = ::write(file, bytes.data(), bytes.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return true;
}

[[nodiscard]] std::uint64_t bytes_in(const std::string& folder) {
    std::uint64_t total = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
        std::error_code gone;
        const std::uint64_t bytes = entry.file_size(gone);
        if (!gone) total += bytes;
    }
    return total;
}

} // namespace

std::string describe(const queue::DamagedRecord& record) {
    return "message " + record.id.to_string() + ": its record at offset " +
           std::to_string(record.offset) + " of segment " + std::to_string(record.segment_seq) +
           " in slot " + std::to_string(record.slot) + " does not check out, found by " +
           std::string(record.found_by);
}

QuarantineFolder::QuarantineFolder(std::string folder, std::uint64_t bytes_max)
    : folder_(std::move(folder)), bytes_left_(bytes_max) {}

QuarantineFolder::~QuarantineFolder() {
    {
        const std::lock_guard locked(mutex_);
        stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
}

std::string QuarantineFolder::path_of(const queue::DamagedRecord& record) const {
    return folder_ + "/" + record.id.to_string() + "-" + std::to_string(record.segment_seq) + "-" +
           std::to_string(record.offset) + ".record";
}

void QuarantineFolder::put(queue::DamagedRecord record) {
    {
        const std::lock_guard locked(mutex_);
        if (waiting_.size() == waiting_max) {
            ++lost_;
            return;
        }
        waiting_.push_back(std::move(record));
    }
    if (!thread_.joinable()) thread_ = std::thread(&QuarantineFolder::run, this);
    changed_.notify_one();
}

/// Writes what waits to the end, also when it is to stop.
void QuarantineFolder::run() {
    pthread_setname_np(pthread_self(), "quarantine");
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    std::filesystem::permissions(folder_, std::filesystem::perms::owner_all, error);
    bytes_left_ -= std::min(bytes_left_, bytes_in(folder_));
    std::unique_lock locked(mutex_);
    for (;;) {
        changed_.wait(locked, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        const queue::DamagedRecord record = std::move(waiting_.front());
        waiting_.pop_front();
        locked.unlock();
        ++(keep(record) ? kept_ : lost_);
        locked.lock();
    }
}

bool QuarantineFolder::keep(const queue::DamagedRecord& record) {
    const std::uint64_t bytes = text_bytes + record.header.size() + record.bytes.size();
    if (bytes > bytes_left_) return false;
    const std::string path = path_of(record);
    const int file = ::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    if (file < 0) return errno == EEXIST; // it was found before
    std::string pool;
    for (const std::byte byte : record.pool) {
        constexpr std::string_view digits = "0123456789abcdef";
        pool += digits[std::to_integer<unsigned>(byte) >> 4];
        pool += digits[std::to_integer<unsigned>(byte) & 15];
    }
    std::string text = describe(record) + "; pool " + pool + ", shard " +
                       std::to_string(record.shard) + ", payload of " +
                       std::to_string(record.payload_bytes) + " bytes; the record begins at byte " +
                       std::to_string(text_bytes + record.header.size() + record.offset_in_bytes) +
                       " of this file\n";
    text.resize(text_bytes);
    const bool written = write_all(file, std::as_bytes(std::span{text})) &&
                         write_all(file, record.header) && write_all(file, record.bytes) &&
                         ::fsync(file) == 0;
    ::close(file);
    if (!written)
        ::unlink(path.c_str()); // half of one says nothing, and may be why the disk is full
    if (written) bytes_left_ -= bytes;
    return written;
}

} // namespace dataplane::daemon
