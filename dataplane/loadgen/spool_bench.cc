#include "dataplane/loadgen/spool_bench.h"

#include "dataplane/loadgen/child.h"
#include "dataplane/loadgen/fio.h"
#include "dataplane/loadgen/runtime.h"
#include "dataplane/loadgen/spool_load.h"
#include "queue/disk/calibration.h"
#include "queue/keyring.h"
#include "queue/limits.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <x86intrin.h>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::json;
using Steady = std::chrono::steady_clock;

constexpr std::uint32_t paced_bytes = 30'720;
constexpr std::size_t file_writers = 20; // processes of Postfix that write at the same time
// The spool and fio take turns of this length: a shared disk is not the same from one second to the next.
constexpr std::chrono::milliseconds slice_time{1000};
constexpr std::chrono::milliseconds warm_up{500};
constexpr std::chrono::seconds restart_limit{600};

/// A file in the folder, removed whatever happens.
class PoolPath {
public:
    PoolPath(const std::string& folder, std::string_view ending)
        : path_(folder + "/millrace-bench-" + std::to_string(getpid()) + std::string{ending}) {}
    ~PoolPath() { unlink(path_.c_str()); }
    PoolPath(const PoolPath&) = delete;
    PoolPath& operator=(const PoolPath&) = delete;
    [[nodiscard]] const std::string& text() const noexcept { return path_; }

private:
    std::string path_;
};

std::shared_ptr<const queue::KeyRing> keys_of(const SpoolCommand& command) {
    if (!command.encrypt) return nullptr;
    return queue::KeyRing::parse(std::string(64, '7'), "--encrypt").value();
}

queue::CommitStrategy commit_of(const SpoolCommand& command) {
    if (command.commit == "dsync") return queue::CommitStrategy::dsync;
    if (command.commit == "flush") return queue::CommitStrategy::flush;
    const auto measured = queue::measure(command.folder);
    if (!measured) throw std::runtime_error(measured.error());
    const queue::CommitChoice choice = queue::choose(*measured);
    say(std::string{choice.strategy == queue::CommitStrategy::flush ? "flush" : "dsync"} + ": " +
        choice.why);
    return choice.strategy;
}

double cycles_per_second() {
    const auto began = Steady::now();
    const std::uint64_t first = __rdtsc();
    while (Steady::now() - began < std::chrono::milliseconds{20}) {
    }
    const std::uint64_t last = __rdtsc();
    return static_cast<double>(last - first) /
           std::chrono::duration<double>(Steady::now() - began).count();
}

double microseconds(std::uint64_t ns) {
    return static_cast<double>(ns) / 1000;
}

double resident_bytes() {
    std::ifstream in("/proc/self/statm");
    double all = 0, resident = 0;
    in >> all >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

class Report {
public:
    explicit Report(const SpoolCommand& command) : command_(command) {}

    void add(std::string_view name, std::uint32_t bytes, double value, std::string_view unit,
             Json more, const std::string& text) {
        more["case"] = name;
        more["size_bytes"] = bytes;
        more["value"] = value;
        more["unit"] = unit;
        rows_.push_back(std::move(more));
        say(text);
        if (command_.json_file.empty()) return;
        std::ofstream out(command_.json_file);
        out << rows_.dump(1) << '\n';
        if (!out) throw std::runtime_error(command_.json_file + ": cannot be written");
    }

private:
    const SpoolCommand& command_;
    Json rows_ = Json::array();
};

template <class... Values>
std::string format(const char* pattern, Values... values) {
    std::array<char, 400> text{};
    std::snprintf(text.data(), text.size(), pattern, values...);
    return text.data();
}

void add(SpoolFigures& sum, const SpoolFigures& more) {
    sum.messages += more.messages;
    sum.refused += more.refused;
    sum.seconds += more.seconds;
    sum.cpu_seconds += more.cpu_seconds;
    sum.batches += more.batches;
    sum.written_bytes += more.written_bytes;
    sum.latency.merge(more.latency);
}

std::uint64_t batch_bytes(const SpoolFigures& figures) {
    return figures.written_bytes / std::max<std::uint64_t>(figures.batches, 1);
}

double bytes_per_s(const SpoolFigures& figures) {
    return static_cast<double>(figures.written_bytes) / figures.seconds;
}

std::uint64_t whole_blocks(std::uint64_t bytes) {
    return (bytes + queue::block_bytes - 1) / queue::block_bytes * queue::block_bytes;
}

/// fio beside the spool, on a file like the pool's: the pool itself is in use.
struct Beside {
    PoolPath file;
    Fio fio;
    explicit Beside(const SpoolCommand& command)
        : file(command.folder, ".fio"), fio(file.text(), command.cpu) {
        SpoolLoad(file.text(), command.pool_mib << 20, queue::CommitStrategy::dsync);
    }
};

/// What the spool and fio did in turn, a slice each.
struct Accepts {
    SpoolFigures spool;
    std::vector<double> slices; // bytes/s
    std::optional<Fio::Best> fio;
    const char* fio_memory = "";
};

Accepts run_accepts(const SpoolCommand& command, queue::CommitStrategy commit, std::uint32_t size,
                    bool with_fio) {
    const PoolPath pool(command.folder, ".pool");
    std::optional<Beside> beside;
    if (with_fio) beside.emplace(command);
    SpoolLoad load(pool.text(), command.pool_mib << 20, commit);
    static_cast<void>(load.open(false, keys_of(command)));
    static_cast<void>(load.run({.body_bytes = size, .writers = command.writers, .time = warm_up}));
    Accepts accepts;
    const auto count = std::max<std::int64_t>(1, command.time / slice_time);
    for (std::int64_t i = 0; i < count; ++i) {
        const SpoolFigures figures =
            load.run({.body_bytes = size, .writers = command.writers, .time = slice_time});
        if (figures.messages == 0) throw std::runtime_error("no message became durable");
        accepts.slices.push_back(bytes_per_s(figures));
        add(accepts.spool, figures);
        if (beside) beside->fio.run(whole_blocks(batch_bytes(accepts.spool)), slice_time);
    }
    if (beside) {
        accepts.fio = beside->fio.best();
        accepts.fio_memory = beside->fio.memory();
    }
    return accepts;
}

void measure_accepts(const SpoolCommand& command, queue::CommitStrategy commit, Report& report) {
    const double clock_rate = cycles_per_second();
    const bool with_fio = Fio::installed();
    if (!with_fio) say("fio is not installed: its rows are left out (apt-get install fio)");
    for (const std::uint32_t size : command.sizes) {
        const Accepts accepts = run_accepts(command, commit, size, with_fio);
        const SpoolFigures& figures = accepts.spool;
        const double rate = static_cast<double>(figures.messages) / figures.seconds;
        const double spool_bytes = bytes_per_s(figures);
        const std::uint64_t batch = batch_bytes(figures);
        const double cycles =
            figures.cpu_seconds * clock_rate / static_cast<double>(figures.messages);
        Json more{{"commit", commit == queue::CommitStrategy::flush ? "flush" : "dsync"},
                  {"p50_us", microseconds(figures.latency.percentile(0.5))},
                  {"p99_us", microseconds(figures.latency.percentile(0.99))},
                  {"p999_us", microseconds(figures.latency.percentile(0.999))},
                  {"writers", command.writers},
                  {"batch_bytes", batch},
                  {"cycles_per_message", cycles},
                  {"cpu_share", figures.cpu_seconds / figures.seconds},
                  {"write_amplification", static_cast<double>(figures.written_bytes) /
                                              (static_cast<double>(figures.messages) * size)},
                  {"spool_bytes_per_s", spool_bytes},
                  {"spool_slices", accepts.slices}};
        std::string text =
            format("accept %6u B: %8.0f/s, %5.0f MB/s in batches of %llu KiB, p50 %.0f p99 %.0f "
                   "p99.9 %.0f us, %.0f cycles each",
                   size, rate, spool_bytes / 1e6, static_cast<unsigned long long>(batch / 1024),
                   microseconds(figures.latency.percentile(0.5)),
                   microseconds(figures.latency.percentile(0.99)),
                   microseconds(figures.latency.percentile(0.999)), cycles);
        if (accepts.fio) {
            const Fio::Best& fio = *accepts.fio;
            const auto [low, high] = std::ranges::minmax(fio.slices);
            more["fio_bytes_per_s"] = fio.bytes_per_s;
            more["fio_block_bytes"] = whole_blocks(batch);
            more["fio_depth"] = fio.depth;
            more["fio_slices"] = fio.slices;
            more["fio_memory"] = accepts.fio_memory;
            more["ratio"] = spool_bytes / fio.bytes_per_s;
            text += format("; fio at %llu KiB, %u at a time, %s: %.0f MB/s (%.0f to %.0f in %zu "
                           "slices), so %.2f of it",
                           static_cast<unsigned long long>(whole_blocks(batch) / 1024), fio.depth,
                           accepts.fio_memory, fio.bytes_per_s / 1e6, low / 1e6, high / 1e6,
                           fio.slices.size(), spool_bytes / fio.bytes_per_s);
        }
        report.add("accept", size, rate, "messages/s", std::move(more), text);
    }
}

void measure_paced(const SpoolCommand& command, queue::CommitStrategy commit, Report& report) {
    const double clock_rate = cycles_per_second();
    const PoolPath pool(command.folder, ".pool");
    SpoolLoad load(pool.text(), command.pool_mib << 20, commit);
    static_cast<void>(load.open(false, keys_of(command)));
    const SpoolFigures figures =
        load.run({paced_bytes, command.writers, command.rate_per_s, command.time});
    const double rate = static_cast<double>(figures.messages) / figures.seconds;
    const double share = figures.cpu_seconds / figures.seconds;
    const double cycles = figures.cpu_seconds * clock_rate /
                          static_cast<double>(std::max<std::uint64_t>(figures.messages, 1));
    report.add(
        "paced", paced_bytes, share, "cores",
        Json{{"messages_per_s", rate},
             {"wanted_per_s", command.rate_per_s},
             {"cycles_per_message", cycles},
             {"p50_us", microseconds(figures.latency.percentile(0.5))},
             {"p99_us", microseconds(figures.latency.percentile(0.99))},
             {"p999_us", microseconds(figures.latency.percentile(0.999))}},
        format("paced  %6u B: %8.0f/s of %u wanted take %.1f %% of a core, %.0f cycles each, "
               "p50 %.0f p99 %.0f p99.9 %.0f us",
               paced_bytes, rate, command.rate_per_s, 100 * share, cycles,
               microseconds(figures.latency.percentile(0.5)),
               microseconds(figures.latency.percentile(0.99)),
               microseconds(figures.latency.percentile(0.999))));
}

/// Open, write, fsync, close, rename, remove: what a queue of files costs a message.
void keep_files(const std::string& folder, std::size_t number, std::uint32_t bytes,
                const std::atomic<bool>* stop, std::atomic<std::uint64_t>* count) {
    const std::string body(bytes, 'x');
    const std::string written = folder + "/" + std::to_string(number) + ".tmp";
    const std::string kept = folder + "/" + std::to_string(number) + ".mail";
    while (!stop->load(std::memory_order_relaxed)) {
        const int file = open(written.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
        const bool safe =
            file >= 0 &&
            write(file, body.data(), body.size()) == static_cast<ssize_t>(body.size()) &&
            fsync(file) == 0;
        if (file >= 0) close(file);
        if (!safe || rename(written.c_str(), kept.c_str()) != 0)
            return; // counted by what is missing
        unlink(kept.c_str());
        count->fetch_add(1, std::memory_order_relaxed);
    }
}

void measure_files(const SpoolCommand& command, Report& report) {
    for (const std::uint32_t size : command.sizes) {
        const std::string folder =
            command.folder + "/millrace-bench-" + std::to_string(getpid()) + ".files";
        std::filesystem::create_directory(folder);
        std::atomic<bool> stop{false};
        std::atomic<std::uint64_t> count{0};
        const auto began = Steady::now();
        {
            std::vector<std::jthread> writers;
            for (std::size_t i = 0; i < file_writers; ++i)
                writers.emplace_back(keep_files, folder, i, size, &stop, &count);
            std::this_thread::sleep_for(command.time);
            stop = true;
        }
        const double rate = static_cast<double>(count) /
                            std::chrono::duration<double>(Steady::now() - began).count();
        std::filesystem::remove_all(folder);
        if (rate == 0) throw std::runtime_error(folder + ": files cannot be written there");
        report.add(
            "file", size, rate, "messages/s", Json{{"writers", file_writers}},
            format("file   %6u B: %8.0f/s, a file and an fsync for each message, %zu writers", size,
                   rate, file_writers));
    }
}

void measure_queued(const SpoolCommand& command, queue::CommitStrategy commit, Report& report) {
    const PoolPath pool(command.folder, ".pool");
    const double before = resident_bytes();
    double each = 0, fill_rate = 0, resident = 0;
    {
        SpoolLoad load(pool.text(), command.pool_mib << 20, commit);
        static_cast<void>(load.open(true, keys_of(command)));
        const auto began = Steady::now();
        load.fill(command.queued, command.destinations);
        fill_rate = static_cast<double>(command.queued) /
                    std::chrono::duration<double>(Steady::now() - began).count();
        resident = resident_bytes();
        each = (resident - before) / static_cast<double>(command.queued);
        load.close();
    }
    SpoolLoad load(pool.text(), command.pool_mib << 20, commit);
    const auto began = Steady::now();
    const queue::RecoveryReport recovery = load.open(true, keys_of(command));
    static_cast<void>(load.one());
    const double first_accept = std::chrono::duration<double>(Steady::now() - began).count();
    const bool all = load.turn_until(
        [&] { return load.counters().deferred_messages >= command.queued; }, restart_limit);
    const double scheduled = std::chrono::duration<double>(Steady::now() - began).count();
    if (!all) throw std::runtime_error("a restart did not bring all messages back");
    report.add(
        "queued", 0, each, "bytes/message",
        Json{{"messages", command.queued},
             {"destinations", command.destinations},
             {"filled_per_s", fill_rate},
             {"resident_bytes", resident},
             {"restart_accept_s", first_accept},
             {"restart_scheduled_s", scheduled},
             {"segments_read", recovery.segments_read}},
        format(
            "queued %llu messages, %u destinations: %.0f bytes of memory each (%.2f GiB in all), "
            "filled at %.0f/s; after a restart mail is taken in %.2f s and all are scheduled in "
            "%.2f s",
            static_cast<unsigned long long>(command.queued), command.destinations, each,
            resident / (1 << 30), fill_rate, first_accept, scheduled));
}

} // namespace

int run_spool(const SpoolCommand& command) {
    if (!std::filesystem::is_directory(command.folder))
        throw std::runtime_error(command.folder + ": is not a folder");
    pin_to_cpu(command.cpu);
    Report report(command);
    const queue::CommitStrategy commit = commit_of(command);
    for (const std::string& name : command.cases) {
        if (name == "accept") {
            measure_accepts(command, commit, report);
        } else if (name == "paced") {
            measure_paced(command, commit, report);
        } else if (name == "file") {
            measure_files(command, report);
        } else if (name == "queued") {
            measure_queued(command, commit, report);
        } else {
            throw std::runtime_error("no case is named '" + name +
                                     "': accept, paced, file, queued");
        }
    }
    return 0;
}

} // namespace dataplane::loadgen
