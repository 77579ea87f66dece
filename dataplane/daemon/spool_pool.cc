#include "dataplane/daemon/spool_pool.h"

#include "queue/codec.h"
#include "queue/pool_content.h"

#include <algorithm>
#include <filesystem>
#include <random>
#include <sys/stat.h>

namespace dataplane::daemon {
namespace {

[[nodiscard]] bool mirrored(const policy::StartUp& start_up) noexcept {
    return start_up.durability != policy::Durability::local;
}

[[nodiscard]] queue::PoolId random_pair() {
    queue::PoolId pair{};
    std::random_device entropy;
    std::ranges::generate(pair, [&] { return static_cast<std::byte>(entropy()); });
    return pair;
}

[[nodiscard]] std::string_view name_of(queue::CommitStrategy strategy) noexcept {
    return strategy == queue::CommitStrategy::flush ? "flush" : "dsync";
}

/// What a pool that is opened alone says of the mirror it was part of, brought up to date.
base::Task<void> leave_mirror(queue::Disk* disk, bool told, std::string* problem) {
    const queue::BlockMemory block{queue::block_bytes};
    const std::span<std::byte, queue::block_bytes> bytes = block.span().first<queue::block_bytes>();
    queue::MirrorHalf half;
    for (unsigned copy = 0; copy < queue::mirror_record_copies; ++copy) {
        auto read = co_await disk->read(queue::mirror_record_offset(copy), bytes);
        std::span<const std::byte> found;
        if (read) found = bytes;
        queue::take_mirror_record(half, copy, found);
    }
    const auto next = queue::settle_alone(half.record, told);
    if (!next) {
        *problem = next.error();
    } else if (*next) {
        queue::encode_mirror_record(bytes, **next);
        bool written = false;
        for (const unsigned copy : queue::mirror_record_order(half.newest)) {
            auto result =
                co_await disk->write(queue::mirror_record_offset(copy), bytes, queue::Durable::yes);
            if (!result) break; // the only one that counts is never written over
            written = true;
        }
        if (!written) *problem = "the record of its mirror cannot be written";
    }
}

base::Task<void> join_mirror(base::Loop* loop, std::array<queue::MirrorSide, 2> sides,
                             queue::MirrorOptions* options,
                             std::expected<std::unique_ptr<queue::MirrorDisk>, std::string>* to) {
    auto opened = co_await queue::MirrorDisk::open(*loop, sides, std::move(*options));
    *to = std::move(opened);
}

} // namespace

SpoolDevices::~SpoolDevices() {
    for (auto& [device, coordinator] : coordinators_) {
        // Of a pool that was left as it is (SpoolPool::hung): its thread may never come back from a flush.
        if (coordinator->attached()) static_cast<void>(coordinator.release());
    }
}

SpoolDevices::Measured SpoolDevices::calibrate(const std::string& folder) {
    const std::scoped_lock lock(mutex_);
    struct stat status{};
    if (::stat(folder.c_str(), &status) != 0)
        return {0, std::unexpected(folder + " cannot be examined")};
    auto found = calibrations_.find(status.st_dev);
    if (found == calibrations_.end())
        found = calibrations_.emplace(status.st_dev, queue::measure(folder)).first;
    return {status.st_dev, found->second};
}

queue::FlushCoordinator& SpoolDevices::coordinator(dev_t device) {
    const std::scoped_lock lock(mutex_);
    auto& coordinator = coordinators_[device];
    if (!coordinator) coordinator = std::make_unique<queue::FlushCoordinator>();
    return *coordinator;
}

std::expected<std::unique_ptr<SpoolPool>, std::string>
SpoolPool::open(base::Loop& loop, base::Uring& ring, const policy::StartUp& start_up,
                unsigned shard, const std::string& attached, SpoolDevices& devices,
                const SpoolTampering& tampering, Note note) {
    std::unique_ptr<SpoolPool> pool{new SpoolPool{loop, ring, std::move(note)}};
    const bool two = mirrored(start_up) && attached.empty();
    const std::string name = "/shard-" + std::to_string(shard) + ".spool";
    const std::string own = attached.empty() ? start_up.spool_dir + name : attached;
    const std::array<std::string, 2> paths{own, start_up.mirror_dir + name};
    const std::string journal =
        tampering.journal_dir.empty()
            ? std::string{}
            : tampering.journal_dir + "/shard-" + std::to_string(shard) + ".journal";
    std::string problem;
    // A half that is made anew must be as large as the one that is there, whatever is configured by now.
    std::uint64_t bytes = start_up.spool_bytes_per_shard;
    for (unsigned side = 0; side < 2 && two; ++side) {
        std::error_code none;
        const std::uint64_t there = std::filesystem::file_size(paths[side], none);
        if (!none && there != 0) bytes = there;
    }
    for (unsigned side = 0; side < (two ? 2U : 1U); ++side) {
        auto opened = pool->open_half(pool->halves_[side], paths[side], bytes, start_up, devices,
                                      tampering.faults[side], side == 0 ? journal : std::string{});
        if (opened) continue;
        problem = opened.error();
        if (!two) return std::unexpected(problem);
        // One half may do: the records say.
        pool->note_(LogLevel::error, "spool_half_missing", problem);
        pool->halves_[side] = {};
    }
    auto joined = two ? pool->open_mirror(start_up) : pool->open_alone();
    if (!joined)
        return std::unexpected(problem.empty() ? joined.error()
                                               : joined.error() + " (" + problem + ")");
    return pool;
}

std::expected<void, std::string>
SpoolPool::open_half(Half& half, const std::string& path, std::uint64_t new_bytes,
                     const policy::StartUp& start_up, SpoolDevices& devices,
                     std::vector<queue::DiskFault> faults, const std::string& journal) {
    // Before a pool is made here: the zeros of another shard would be measured.
    SpoolDevices::Measured measured{0, std::unexpected(std::string{})};
    if (start_up.commit == policy::Commit::automatic)
        measured = devices.calibrate(std::filesystem::path(path).parent_path());
    auto file = queue::UringFile::open(loop_, ring_, path, {.pool_bytes = new_bytes});
    if (!file) return std::unexpected(file.error().text);
    half.file = std::move(*file);
    half.top = half.file.get();
    if (half.file->size_bytes() != start_up.spool_bytes_per_shard) {
        note_(LogLevel::warning, "spool_size",
              path + " keeps its size of " + std::to_string(half.file->size_bytes()) + " bytes");
    }
    if (!faults.empty()) {
        half.faulty = std::make_unique<queue::FaultyDisk>(*half.top, std::move(faults));
        half.top = half.faulty.get();
    }
    if (!journal.empty()) {
        if (!half.file->created())
            return std::unexpected(
                path + " is there already: a journal begins with a new spool; move it away");
        journal_.emplace(loop_, *half.top, journal);
        half.top = &*journal_;
    }
    if (strategy(start_up, *half.file, measured) == queue::CommitStrategy::flush) {
        struct stat status{};
        if (::fstat(half.file->descriptor(), &status) != 0)
            return std::unexpected(path + " cannot be examined");
        half.file->flush_through(devices.coordinator(status.st_dev));
        half.flush = std::make_unique<queue::FlushDisk>(loop_, *half.top);
        half.top = half.flush.get();
    }
    return {};
}

queue::CommitStrategy SpoolPool::strategy(const policy::StartUp& start_up,
                                          const queue::UringFile& file,
                                          const SpoolDevices::Measured& measured) {
    using enum queue::CommitStrategy;
    const bool overwrites = file.judgement().verdict == queue::PoolVerdict::overwrites;
    if (!overwrites) note_(LogLevel::warning, "spool_file_system", file.judgement().why);
    const auto say = [&](queue::CommitStrategy chosen, const std::string& why) {
        note_(LogLevel::info, "spool_commit", std::string{name_of(chosen)} + ": " + why);
        return chosen;
    };
    if (start_up.commit != policy::Commit::automatic)
        return say(start_up.commit == policy::Commit::flush ? flush : dsync, "as configured");
    if (!overwrites) return say(flush, "the file system does not overwrite in place");
    if (!measured.calibration) return say(dsync, "not measured: " + measured.calibration.error());
    const queue::CommitChoice choice = queue::choose(*measured.calibration);
    if (choice.suspect)
        note_(LogLevel::warning, "spool_device_suspect",
              "durable writes cost nothing although the device says that its cache is volatile: "
              "what it acknowledges may not survive a power cut");
    return say(choice.strategy, choice.why);
}

std::expected<void, std::string> SpoolPool::open_alone() {
    top_ = halves_[0].top;
    std::string problem;
    base::Task<void> task = leave_mirror(top_, false, &problem);
    run(task);
    if (!problem.empty()) return std::unexpected(problem);
    return {};
}

std::expected<void, std::string> SpoolPool::open_mirror(const policy::StartUp& start_up) {
    const auto same_device = [&] {
        struct stat a{}, b{};
        return halves_[0].file && halves_[1].file &&
               ::fstat(halves_[0].file->descriptor(), &a) == 0 &&
               ::fstat(halves_[1].file->descriptor(), &b) == 0 && a.st_dev == b.st_dev;
    };
    if (same_device())
        note_(LogLevel::warning, "spool_mirror",
              "both halves are on the same device and will be lost together");
    std::array<queue::MirrorSide, 2> sides;
    for (unsigned side = 0; side < 2; ++side) {
        const Half& half = halves_[side];
        if (half.file) sides[side] = {half.top, half.file->created()};
    }
    queue::MirrorOptions options{
        .copy_bytes_per_s = start_up.mirror_copy_bytes_per_s,
        .told = start_up.durability == policy::Durability::mirror_alone,
        .fresh_pair = random_pair(),
        .pool_of = queue::pool_of_superblock,
        .content = std::make_shared<queue::PoolContent>(),
        .report = [this](queue::MirrorState state, const std::string& text) {
            note_(state == queue::MirrorState::degraded ? LogLevel::error : LogLevel::info,
                  "spool_mirror", std::string{to_string(state)} + ": " + text);
        }};
    std::expected<std::unique_ptr<queue::MirrorDisk>, std::string> opened;
    base::Task<void> task = join_mirror(&loop_, sides, &options, &opened);
    run(task);
    if (!opened) return std::unexpected(opened.error());
    mirror_ = std::move(*opened);
    top_ = mirror_.get();
    return {};
}

/// Before the shard's loop runs for good.
void SpoolPool::run(base::Task<void>& task) {
    task.start();
    while (!task.done()) {
        ring_.poll();
        if (!loop_.turn() && !task.done()) ring_.sleep_until(loop_.now(), loop_.next_due());
    }
}

base::Task<void> SpoolPool::close() {
    if (mirror_) co_await mirror_->close();
}

void SpoolPool::publish_stats(telemetry::Stats& stats) const {
    using telemetry::Counter;
    using telemetry::Gauge;
    std::uint64_t flushes = 0;
    for (const Half& half : halves_) {
        if (half.flush) flushes += half.flush->flush_count();
    }
    stats.set(Counter::spool_flushes, flushes);
    stats.set(Gauge::spool_flushing, flushes != 0 || halves_[0].flush ? 1 : 0);
    if (!mirror_) return;
    stats.set(Gauge::spool_mirror_state, static_cast<std::uint64_t>(mirror_->state()));
    stats.set(Counter::spool_copied_bytes, mirror_->copied_bytes());
    stats.set(Counter::spool_rescued_reads, mirror_->rescued_reads());
}

} // namespace dataplane::daemon
