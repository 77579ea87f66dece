#include "tests/support/sim_disk.h"

#include "dataplane/base/check.h"
#include "dataplane/base/wait.h"

#include <algorithm>
#include <cstring>

namespace tests {
namespace {

constexpr std::size_t sector_bytes = 512;

void flip_bit(std::span<std::byte> bytes, std::uint64_t draw) {
    bytes[draw / 8 % bytes.size()] ^= std::byte{1} << (draw % 8);
}

bool overlap(std::uint64_t a, std::uint64_t a_bytes, std::uint64_t b, std::uint64_t b_bytes) {
    return a < b + b_bytes && b < a + a_bytes;
}

} // namespace

SimDisk::SimDisk(base::Loop& loop, SimDiskOptions options)
    : SimDisk(loop, options, std::vector<std::byte>(options.bytes)) {}

SimDisk::SimDisk(base::Loop& loop, SimDiskOptions options, SimMedium medium)
    : loop_(loop), options_(options), random_(options.seed), medium_(std::move(medium)) {}

SimDisk::~SimDisk() = default;

void SimDisk::event() noexcept {
    count_event();
    if (other_ == nullptr) return;
    other_->count_event();
    stopped_ = other_->stopped_ = stopped_ || other_->stopped_;
}

bool SimDisk::falls(unsigned rate) {
    return rate != 0 && random_() % 10'000 < rate;
}

base::Task<bool> SimDisk::take_time() {
    if (++operations_ > stop_after_) stopped_ = true;
    event();
    std::uniform_int_distribution<std::int64_t> latency(options_.latency_min.count(),
                                                        options_.latency_max.count());
    base::Duration time{latency(random_)};
    if (falls(options_.faults.slow)) {
        constexpr std::int64_t least = 1'000'000;
        // Short ones are more frequent than long ones: every order of magnitude alike.
        std::int64_t most = options_.faults.slow_max.count();
        while (most > 10 * least && random_() % 3 != 0)
            most /= 10;
        time += base::Duration{std::uniform_int_distribution<std::int64_t>(least, most)(random_)};
    }
    static_cast<void>(co_await base::sleep_for(loop_, time));
    while (held_ && !stopped_)
        static_cast<void>(co_await base::sleep_for(loop_, time + std::chrono::milliseconds{10}));
    // A machine that has lost power says nothing at all.
    while (stopped_)
        static_cast<void>(co_await base::sleep_until(loop_, base::Deadline::never()));
    co_return true;
}

base::Task<bool> SimDisk::answer() {
    event();
    while (stopped_)
        static_cast<void>(co_await base::sleep_until(loop_, base::Deadline::never()));
    co_return true;
}

void SimDisk::land(const Write& write) {
    std::memcpy(medium_.visible.data() + write.offset, write.bytes.data(), write.bytes.size());
    const std::uint64_t first = write.offset / queue::block_bytes;
    const std::uint64_t end = first + write.bytes.size() / queue::block_bytes;
    medium_.unreadable.erase(medium_.unreadable.lower_bound(first),
                             medium_.unreadable.lower_bound(end));
}

void SimDisk::make_safe(const Write& write) {
    std::memcpy(medium_.safe.data() + write.offset, write.bytes.data(), write.bytes.size());
}

std::uint64_t SimDisk::elsewhere(std::uint64_t offset, std::size_t bytes) {
    const std::uint64_t places = (size_bytes() - bytes) / queue::block_bytes + 1;
    const std::uint64_t other = random_() % places * queue::block_bytes;
    const bool busy = std::ranges::any_of(medium_.cached, [&](const Write& write) {
        return overlap(other, bytes, write.offset, write.bytes.size());
    });
    return busy ? offset : other;
}

/// What a refused write leaves: all of it, the front of it, nothing, or something later.
SimDisk::Result SimDisk::refuse(std::list<Write>::iterator write, Fault fault) {
    if (fault == Fault::short_transfer)
        write->bytes.resize(write->bytes.size() / 2 / sector_bytes * sector_bytes);
    if (fault == Fault::no_space || random_() % 2 == 0) write->bytes.clear();
    if (fault == Fault::timed_out && random_() % 2 == 0) {
        // It is still on its way, for all that anybody knows.
        write->timed_out = true;
        return std::unexpected(queue::DiskError::timed_out);
    }
    land(*write);
    make_safe(*write);
    medium_.cached.erase(write);
    switch (fault) {
    case Fault::io:
        break;
    case Fault::short_transfer:
        return std::unexpected(queue::DiskError::short_transfer);
    case Fault::no_space:
        return std::unexpected(queue::DiskError::no_space);
    case Fault::timed_out:
        return std::unexpected(queue::DiskError::timed_out);
    }
    return std::unexpected(queue::DiskError::io);
}

base::Task<SimDisk::Result> SimDisk::write(std::uint64_t offset, std::span<const std::byte> bytes,
                                           queue::Durable durable) {
    CHECK(offset % queue::block_bytes == 0);
    CHECK(bytes.size() % queue::block_bytes == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(bytes.data()) % queue::block_bytes == 0);
    CHECK(offset + bytes.size() <= size_bytes());
    std::erase_if(medium_.cached, [&](const Write& other) {
        return other.timed_out && overlap(offset, bytes.size(), other.offset, other.bytes.size());
    });
    for (const Write& other : medium_.cached) { // what two overlapping writes leave, nobody can say
        CHECK(other.landed || !overlap(offset, bytes.size(), other.offset, other.bytes.size()));
    }
    const std::uint64_t number = writes_++;
    bool refused = (number >= fault_from_ && number < fault_to_) ||
                   (operations_ >= operations_fail_from_ && operations_ < operations_fail_to_);
    Fault fault = fault_;
    if (falls(options_.faults.write_refused)) {
        refused = true;
        fault = static_cast<Fault>(random_() % 4);
    }
    const auto write =
        medium_.cached.insert(medium_.cached.end(), Write{offset, {bytes.begin(), bytes.end()}});
    pending_bytes_ += bytes.size();
    pending_bytes_max_ = std::max(pending_bytes_max_, pending_bytes_);
    const std::size_t whole = bytes.size();
    static_cast<void>(co_await take_time());
    pending_bytes_ -= whole;
    if (refused) {
        Result result = refuse(write, fault);
        static_cast<void>(co_await answer());
        co_return result;
    }
    if (falls(options_.faults.misdirected)) {
        const std::uint64_t other = elsewhere(offset, whole);
        if (other != offset) ++damage_;
        write->offset = other;
    }
    if (falls(options_.faults.write_flipped)) {
        flip_bit(write->bytes, random_());
        ++damage_;
    }
    land(*write);
    write->landed = true;
    const bool lied = durable == queue::Durable::yes && falls(options_.faults.lied);
    if (lied) ++damage_;
    if (durable == queue::Durable::yes && !lied) {
        // An older write of the same place that is still in the cache has been overtaken.
        std::erase_if(medium_.cached, [&](const Write& other) {
            return &other != &*write && other.landed && other.offset == write->offset &&
                   other.bytes.size() <= write->bytes.size();
        });
        make_safe(*write);
        medium_.cached.erase(write);
    }
    static_cast<void>(co_await answer());
    co_return Result{};
}

base::Task<SimDisk::Result> SimDisk::read(std::uint64_t offset, std::span<std::byte> bytes) {
    CHECK(offset % queue::block_bytes == 0);
    CHECK(bytes.size() % queue::block_bytes == 0);
    CHECK(offset + bytes.size() <= size_bytes());
    const bool refused = operations_ >= operations_fail_from_ && operations_ < operations_fail_to_;
    reading_bytes_ += bytes.size();
    reading_bytes_max_ = std::max(reading_bytes_max_, reading_bytes_);
    static_cast<void>(co_await take_time());
    reading_bytes_ -= bytes.size();
    const std::uint64_t first = offset / queue::block_bytes;
    const std::uint64_t count = bytes.size() / queue::block_bytes;
    if (falls(options_.faults.block_unreadable)) {
        medium_.unreadable.insert(first + random_() % count);
        ++damage_;
    }
    const auto unreadable = medium_.unreadable.lower_bound(first);
    const bool lost = unreadable != medium_.unreadable.end() && *unreadable < first + count;
    if (failing_reads_ > 0 || refused || lost) {
        if (failing_reads_ > 0) --failing_reads_;
        static_cast<void>(co_await answer());
        co_return std::unexpected(queue::DiskError::io);
    }
    std::memcpy(bytes.data(), medium_.visible.data() + offset, bytes.size());
    if (falls(options_.faults.read_flipped)) {
        flip_bit(bytes, random_());
        ++damage_;
    }
    static_cast<void>(co_await answer());
    co_return Result{};
}

base::Task<SimDisk::Result> SimDisk::flush() {
    bool refused = falls(options_.faults.flush_refused) ||
                   (operations_ >= operations_fail_from_ && operations_ < operations_fail_to_);
    if (failing_flushes_ > 0) {
        --failing_flushes_;
        refused = true;
    }
    if (refused) ++refused_flushes_;
    std::vector<const Write*> covered; // landed before the flush began
    for (const Write& write : medium_.cached) {
        if (write.landed) covered.push_back(&write);
    }
    static_cast<void>(co_await take_time());
    end_flush(covered, refused);
    static_cast<void>(co_await answer());
    if (refused) co_return std::unexpected(queue::DiskError::io);
    co_return Result{};
}

/// One that failed leaves pages that count as clean and are not on the medium: nothing writes them again, and
/// what is read is not what a power cut leaves (Rebello et al., ATC 2020).
void SimDisk::end_flush(const std::vector<const Write*>& covered, bool refused) {
    std::erase_if(medium_.cached, [&](const Write& write) {
        if (std::ranges::find(covered, &write) == covered.end()) return false;
        if (!refused || random_() % 2 == 0) make_safe(write);
        return true;
    });
}

void SimDisk::fail_writes(Fault fault, std::uint64_t count, std::uint64_t after) {
    fault_ = fault;
    fault_from_ = writes_ + after;
    fault_to_ = count == always ? always : fault_from_ + count;
}

void SimDisk::fail_operations(std::uint64_t first, std::uint64_t count) {
    operations_fail_from_ = first;
    operations_fail_to_ = count == always ? always : first + count;
}

void SimDisk::make_unreadable(std::uint64_t offset) {
    medium_.unreadable.insert(offset / queue::block_bytes);
    ++damage_;
}

bool SimDisk::safe(std::uint64_t offset, std::uint64_t bytes) const noexcept {
    const bool cached = std::ranges::any_of(medium_.cached, [&](const Write& write) {
        return overlap(offset, bytes, write.offset, write.bytes.size());
    });
    return !cached &&
           std::memcmp(medium_.safe.data() + offset, medium_.visible.data() + offset, bytes) == 0;
}

std::vector<std::byte> SimDisk::crash() {
    stopped_ = true;
    std::vector<std::byte> image = medium_.safe;
    for (const Write& write : medium_.cached) {
        const auto fate = random_() % 3; // kept, dropped, torn
        if (fate == 1) continue;
        const std::uint64_t kept_of_8 = fate == 0 ? 8 : random_() % 8;
        const std::uint64_t garbage_of_8 = fate == 0 ? 0 : random_() % 4;
        for (std::size_t at = 0; at < write.bytes.size(); at += sector_bytes) {
            const std::size_t bytes = std::min(sector_bytes, write.bytes.size() - at);
            std::byte* to = image.data() + write.offset + at;
            if (random_() % 8 < kept_of_8) {
                std::memcpy(to, write.bytes.data() + at, bytes);
            } else if (random_() % 8 < garbage_of_8) { // a sector that was being written
                const std::size_t from = random_() % 2 == 0 ? 0 : random_() % bytes;
                for (std::size_t i = from; i < bytes; ++i)
                    to[i] = static_cast<std::byte>(random_());
            }
        }
    }
    return image;
}

SimMedium SimDisk::kill() {
    stopped_ = true;
    std::erase_if(medium_.cached, [&](Write& write) {
        if (write.landed) return false;
        // The device has it, or it never will: what had begun is not called back.
        if (random_() % 3 == 0) return true;
        land(write);
        write.landed = true;
        if (random_() % 2 != 0) return false;
        make_safe(write);
        return true;
    });
    return std::move(medium_);
}

} // namespace tests
