#include "queue/disk/calibration.h"

#include "queue/disk/block_memory.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <liburing.h>
#include <optional>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <vector>

namespace queue {
namespace {

using Steady = std::chrono::steady_clock;

constexpr std::size_t group_bytes = std::size_t{calibration_sizes.back()} * calibration_group;

enum class Way : std::uint8_t { dsync, flush, plain };
constexpr std::array ways{Way::dsync, Way::flush, Way::plain};

/// The file, the ring and the buffer of one measurement.
class Bench {
public:
    explicit Bench(const std::string& folder)
        : path_(folder + "/calibration." + std::to_string(::getpid())), memory_(group_bytes) {
        std::memset(memory_.span().data(), 0, group_bytes);
        file_ = ::open(path_.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
        if (file_ < 0) return;
        ::unlink(path_.c_str());
        has_ring_ = io_uring_queue_init(2 * calibration_group, &ring_, 0) == 0;
    }
    ~Bench() {
        if (has_ring_) io_uring_queue_exit(&ring_);
        if (file_ >= 0) ::close(file_);
    }
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] int file() const noexcept { return file_; }
    /// Written and synced, so that what is measured are overwrites, as in a pool.
    [[nodiscard]] bool ready() {
        return file_ >= 0 && has_ring_ &&
               ::pwrite(file_, memory_.span().data(), group_bytes, 0) ==
                   static_cast<ssize_t>(group_bytes) &&
               ::fsync(file_) == 0;
    }

    /// The ways take turns, and the middle one of their groups counts: a device that others use halts now and then,
    /// and that says nothing about a way. Nothing when a write or a flush failed.
    [[nodiscard]] std::optional<CommitRates> rates(std::uint32_t bytes,
                                                   std::chrono::milliseconds time) {
        std::array<std::vector<double>, ways.size()> took; // seconds
        const auto began = Steady::now();
        do {
            for (std::size_t i = 0; i < ways.size(); ++i) {
                const auto start = Steady::now();
                if (!group(bytes, ways[i])) return std::nullopt;
                took[i].push_back(std::chrono::duration<double>(Steady::now() - start).count());
            }
        } while (Steady::now() - began < time);
        const auto rate = [&](Way way) {
            std::vector<double>& all = took[static_cast<std::size_t>(way)];
            const auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
            std::ranges::nth_element(all, middle);
            return calibration_group / *middle;
        };
        return CommitRates{bytes, rate(Way::dsync), rate(Way::flush), rate(Way::plain)};
    }

private:
    [[nodiscard]] bool group(std::uint32_t bytes, Way way) {
        for (unsigned i = 0; i < calibration_group; ++i) {
            io_uring_sqe* entry = io_uring_get_sqe(&ring_);
            const std::uint64_t at = std::uint64_t{i} * bytes;
            io_uring_prep_write(entry, file_, memory_.span().data() + at, bytes, at);
            if (way == Way::dsync) entry->rw_flags = RWF_DSYNC;
        }
        if (io_uring_submit(&ring_) != static_cast<int>(calibration_group)) return false;
        bool good = true;
        for (unsigned done = 0; done < calibration_group;) {
            io_uring_cqe* entry = nullptr;
            if (io_uring_wait_cqe(&ring_, &entry) != 0) continue;
            good = entry->res == static_cast<int>(bytes) && good;
            io_uring_cqe_seen(&ring_, entry);
            ++done;
        }
        return good && (way != Way::flush || ::fdatasync(file_) == 0);
    }

    std::string path_;
    BlockMemory memory_;
    io_uring ring_{};
    int file_ = -1;
    bool has_ring_ = false;
};

/// A line of the device's queue settings; empty where there is none (a network share, a device mapper).
[[nodiscard]] std::string queue_setting(dev_t device, const char* name) {
    const std::string base = "/sys/dev/block/" + std::to_string(major(device)) + ':' +
                             std::to_string(minor(device)) + '/';
    for (const char* const queue : {"queue/", "../queue/"}) { // a partition has its disk's
        std::ifstream in(base + queue + name);
        std::string line;
        if (std::getline(in, line)) return line;
    }
    return {};
}

} // namespace

std::expected<Calibration, std::string> measure(const std::string& folder) {
    Bench bench(folder);
    if (!bench.ready())
        return std::unexpected(bench.path() + " cannot be written: " + std::strerror(errno));
    Calibration result;
    struct stat status{};
    if (::fstat(bench.file(), &status) == 0) {
        result.volatile_cache = queue_setting(status.st_dev, "write_cache") == "write back";
        result.fua = queue_setting(status.st_dev, "fua") == "1";
    }
    for (std::size_t i = 0; i < calibration_sizes.size(); ++i) {
        const auto rates =
            bench.rates(calibration_sizes[i], calibration_time / calibration_sizes.size());
        if (!rates) return std::unexpected("a write or flush to " + bench.path() + " failed");
        result.rates[i] = *rates;
    }
    return result;
}

CommitChoice choose(const Calibration& measured) {
    CommitChoice choice;
    double product = 1;
    std::string sizes, dsync, flush, plain;
    const auto add = [](std::string& list, double number) {
        if (!list.empty()) list += '/';
        list += std::to_string(std::llround(number));
    };
    for (const CommitRates& rates : measured.rates) {
        if (rates.dsync <= 0 || rates.flush <= 0) return {.why = "nothing was measured"};
        product *= rates.flush / rates.dsync;
        add(sizes, rates.write_bytes >> 10);
        add(dsync, rates.dsync);
        add(flush, rates.flush);
        add(plain, rates.plain);
    }
    const double advantage = std::pow(product, 1.0 / static_cast<double>(measured.rates.size()));
    if (advantage >= flush_advantage_min) choice.strategy = CommitStrategy::flush;
    // The smallest size: there a real flush is dearest beside the write itself.
    const CommitRates& small = measured.rates.front();
    choice.suspect = measured.volatile_cache && small.dsync >= suspect_share * small.plain;
    std::array<char, 64> times{};
    std::snprintf(times.data(), times.size(), "flush/dsync %.2f", advantage);
    choice.why = std::string{times.data()} + (measured.volatile_cache ? ", volatile cache" : "") +
                 (measured.fua ? ", FUA" : "") + "; writes/s at " + sizes + " KiB: dsync " + dsync +
                 ", flush " + flush + ", plain " + plain;
    return choice;
}

} // namespace queue
