#include "tests/support/sim_disk.h"

#include "dataplane/base/check.h"
#include "dataplane/base/wait.h"

#include <algorithm>
#include <cstring>

namespace tests {
namespace {

constexpr std::size_t sector_bytes = 512;

} // namespace

SimDisk::SimDisk(base::Loop& loop, SimDiskOptions options)
    : SimDisk(loop, options, std::vector<std::byte>(options.bytes)) {}

SimDisk::SimDisk(base::Loop& loop, SimDiskOptions options, std::vector<std::byte> image)
    : loop_(loop), options_(options), random_(options.seed), safe_(image),
      visible_(std::move(image)) {}

SimDisk::~SimDisk() = default;

base::Task<bool> SimDisk::take_time() {
    if (++operations_ > stop_after_) stopped_ = true;
    std::uniform_int_distribution<std::int64_t> latency(options_.latency_min.count(),
                                                        options_.latency_max.count());
    const base::Duration time{latency(random_)};
    static_cast<void>(co_await base::sleep_for(loop_, time));
    while (held_ && !stopped_)
        static_cast<void>(co_await base::sleep_for(loop_, time + std::chrono::milliseconds{10}));
    // A machine that has lost power says nothing at all.
    while (stopped_)
        static_cast<void>(co_await base::sleep_until(loop_, base::Deadline::never()));
    co_return true;
}

void SimDisk::land(const Write& write) {
    std::memcpy(visible_.data() + write.offset, write.bytes.data(), write.bytes.size());
}

base::Task<SimDisk::Result> SimDisk::write(std::uint64_t offset, std::span<const std::byte> bytes,
                                           queue::Durable durable) {
    CHECK(offset % queue::block_bytes == 0);
    CHECK(bytes.size() % queue::block_bytes == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(bytes.data()) % queue::block_bytes == 0);
    CHECK(offset + bytes.size() <= visible_.size());
    for (const Write& other : unsafe_) { // what two overlapping writes leave, nobody can say
        CHECK(offset >= other.offset + other.bytes.size() || other.offset >= offset + bytes.size());
    }
    const std::uint64_t number = writes_++;
    const bool faulty = number >= fault_from_ && number < fault_to_;
    const auto write = unsafe_.insert(unsafe_.end(), Write{offset, {bytes.begin(), bytes.end()}});
    static_cast<void>(co_await take_time());
    if (faulty) {
        if (fault_ == Fault::short_transfer)
            write->bytes.resize(write->bytes.size() / 2 / sector_bytes * sector_bytes);
        if (fault_ == Fault::no_space || random_() % 2 == 0) write->bytes.clear();
        land(*write);
        std::memcpy(safe_.data() + offset, write->bytes.data(), write->bytes.size());
        unsafe_.erase(write);
        switch (fault_) {
        case Fault::io:
            co_return std::unexpected(queue::DiskError::io);
        case Fault::short_transfer:
            co_return std::unexpected(queue::DiskError::short_transfer);
        case Fault::no_space:
            co_return std::unexpected(queue::DiskError::no_space);
        }
    }
    land(*write);
    write->landed = true;
    if (durable == queue::Durable::yes) {
        std::memcpy(safe_.data() + offset, write->bytes.data(), write->bytes.size());
        unsafe_.erase(write);
    }
    co_return Result{};
}

base::Task<SimDisk::Result> SimDisk::read(std::uint64_t offset, std::span<std::byte> bytes) {
    CHECK(offset % queue::block_bytes == 0);
    CHECK(bytes.size() % queue::block_bytes == 0);
    CHECK(offset + bytes.size() <= visible_.size());
    static_cast<void>(co_await take_time());
    if (failing_reads_ > 0) {
        --failing_reads_;
        co_return std::unexpected(queue::DiskError::io);
    }
    std::memcpy(bytes.data(), visible_.data() + offset, bytes.size());
    co_return Result{};
}

base::Task<SimDisk::Result> SimDisk::flush() {
    std::vector<const Write*> covered; // landed before the flush began
    for (const Write& write : unsafe_) {
        if (write.landed) covered.push_back(&write);
    }
    static_cast<void>(co_await take_time());
    std::erase_if(unsafe_, [&](const Write& write) {
        if (std::ranges::find(covered, &write) == covered.end()) return false;
        std::memcpy(safe_.data() + write.offset, write.bytes.data(), write.bytes.size());
        return true;
    });
    co_return Result{};
}

void SimDisk::fail_writes(Fault fault, std::uint64_t count, std::uint64_t after) {
    fault_ = fault;
    fault_from_ = writes_ + after;
    fault_to_ = count == always ? always : fault_from_ + count;
}

std::vector<std::byte> SimDisk::crash() {
    stopped_ = true;
    std::vector<std::byte> image = safe_;
    for (const Write& write : unsafe_) {
        const auto fate = random_() % 3; // kept, dropped, torn
        for (std::size_t at = 0; at < write.bytes.size(); at += sector_bytes) {
            const std::size_t bytes = std::min(sector_bytes, write.bytes.size() - at);
            const auto draw = random_() % 8;
            const bool kept = fate == 0 || (fate == 2 && draw < 4);
            std::byte* to = image.data() + write.offset + at;
            if (kept) {
                std::memcpy(to, write.bytes.data() + at, bytes);
            } else if (fate == 2 && draw == 7) { // a sector that was being written
                for (std::size_t i = 0; i < bytes; ++i)
                    to[i] = static_cast<std::byte>(random_());
            }
        }
    }
    return image;
}

} // namespace tests
