#include "queue/disk/flush_disk.h"

#include <algorithm>

namespace queue {

base::Task<std::expected<void, DiskError>>
FlushDisk::write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) {
    const std::uint64_t failures = failures_;
    auto written = co_await below_.write(offset, bytes, Durable::no);
    if (!written || durable == Durable::no) co_return written;
    auto flushed = co_await join_epoch(failures);
    co_return flushed;
}

base::Task<std::expected<void, DiskError>> FlushDisk::flush() {
    return join_epoch(failures_);
}

base::Task<std::expected<void, DiskError>> FlushDisk::join_epoch(std::uint64_t failures_before) {
    // One that is under way may have begun before our bytes landed: only the next one counts.
    const std::uint64_t mine = begun_ + 1;
    wanted_ = std::max(wanted_, mine);
    if (!flushing_ && failures_ == failures_before) {
        task_ = run();
        task_.start();
    }
    while (good_ < mine && failures_ == failures_before)
        static_cast<void>(co_await ended_.wait(loop_, base::Deadline::never()));
    // A flush that failed while the write was under way has failed it as well, whatever came later.
    if (failures_ != failures_before) co_return std::unexpected(error_);
    co_return std::expected<void, DiskError>{};
}

base::Task<void> FlushDisk::run() {
    flushing_ = true;
    while (wanted_ > begun_) {
        const std::uint64_t number = ++begun_;
        auto flushed = co_await below_.flush();
        if (flushed) {
            good_ = number;
        } else {
            ++failures_;
            error_ = flushed.error();
            wanted_ = begun_; // who waits for the next has failed with this one
        }
        ended_.wake_all();
    }
    flushing_ = false;
}

} // namespace queue
