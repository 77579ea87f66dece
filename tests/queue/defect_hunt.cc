// defect_hunt: turns on one seeded defect after the other and runs the simulation until it is noticed.
//
// Linked with a second build of the queue in which the defects of queue/seeded_defect.h can be made. A child
// process runs the seeds of one defect, so that a check that fails in the queue is an answer like any other.
#include "queue/seeded_defect.h"
#include "tests/queue/spool_sim.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using queue::SeededDefect;

constexpr const char* usage =
    R"(Usage: defect_hunt [--hunt N] [--defect NAME]

Without arguments: each seeded defect must be noticed within some seeds of the one that noticed it when the
table was made (docs/reliability.md), and that seed must pass without the defect.

  --hunt N       look from seed 1 on, through at most N, and print the table
  --defect NAME  this one alone
)";

struct Known {
    SeededDefect defect;
    const char* name;
    std::uint64_t seed; // that noticed it first, or one_by_one
    tests::Devices devices = tests::Devices::one;
};

// Seen only where one record is damaged at a time: spool_sim.h, run_one_damaged_record().
constexpr std::uint64_t one_by_one = 0;
constexpr std::uint64_t damaged_records = 300;

#define DEFECT(name, seed)                                                                         \
    Known {                                                                                        \
        SeededDefect::name, #name, seed                                                            \
    }
#define MIRROR_DEFECT(name, seed)                                                                  \
    Known {                                                                                        \
        SeededDefect::name, #name, seed, tests::Devices::two                                       \
    }
constexpr std::array known{
    DEFECT(drop_dsync, 1),
    DEFECT(ack_on_submit, 1),
    DEFECT(ignore_short_write, 5),
    DEFECT(swallow_store_error, 1),
    DEFECT(forget_salvage, 10),
    DEFECT(forget_failed_batch, 983),
    DEFECT(skip_header_barrier, 18),
    DEFECT(reuse_generation, 1),
    DEFECT(reuse_lsn, 1),
    DEFECT(reuse_epoch, 1),
    DEFECT(recycle_too_early, 3079),
    DEFECT(retire_too_early, 3123),
    DEFECT(recycle_under_copy, 5),
    DEFECT(swallow_copy_error, 805),
    DEFECT(free_out_of_order, 68),
    DEFECT(stale_crc_seed, 16),
    DEFECT(unchecked_payload, 28),
    DEFECT(stop_at_first_hole, 64),
    DEFECT(truncate_tail, 1),
    DEFECT(drop_damaged_batch, one_by_one),
    DEFECT(older_status_wins, 30),
    DEFECT(status_delta, 12),
    DEFECT(skip_checkpoint_end, one_by_one),
    DEFECT(checkpoint_position_late, 30),
    DEFECT(checkpoint_passes_pending, 30),
    DEFECT(checkpoint_covers_all, 53),
    DEFECT(superblock_at_once, 31),
    DEFECT(retry_failed_flush, 12),
    DEFECT(forget_abort, 1),
    DEFECT(forget_reserve, 78),
    DEFECT(forget_chunks, 12),
    DEFECT(tell_nothing, 36),
    DEFECT(forget_place, 1),
    DEFECT(tomb_before_report, 1),
    MIRROR_DEFECT(mirror_lazy_half, 2),
    MIRROR_DEFECT(mirror_keeps_refused_half, 2),
    MIRROR_DEFECT(mirror_blind_copy, 7),
    MIRROR_DEFECT(mirror_one_superblock, 116),
    MIRROR_DEFECT(mirror_first_generation, 109),
    MIRROR_DEFECT(mirror_one_half_read, 116),
};
#undef DEFECT
#undef MIRROR_DEFECT

// The random course of a seed changes with the queue's code: look a little further than the table says.
constexpr std::uint64_t seeds_beyond = 400;
constexpr int seed_cpu_seconds_max = 20;

/// What the child tells.
struct Shared {
    std::uint64_t seed;
    std::array<char, 160> what;
};

void run_child(SeededDefect defect, tests::Devices devices, std::uint64_t first, std::uint64_t last,
               Shared& shared) {
    queue::seeded_defect = defect;
    const int quiet = dup(STDERR_FILENO);
    static_cast<void>(quiet);
    static_cast<void>(std::freopen("/dev/null", "w", stderr));
    for (std::uint64_t seed = first; seed <= last; ++seed) {
        shared.seed = seed;
        const itimerval limit{.it_interval = {}, .it_value = {seed_cpu_seconds_max, 0}};
        setitimer(ITIMER_PROF, &limit, nullptr);
        const tests::SimResult result = seed == one_by_one
                                            ? tests::run_one_damaged_record(damaged_records)
                                            : tests::run_spool_seed(seed, devices);
        if (result.violations.empty()) continue;
        std::strncpy(shared.what.data(), result.violations.front().c_str(), shared.what.size() - 1);
        _exit(1);
    }
    _exit(0);
}

/// Whether any of these seeds notices the defect; `shared` says which, and how.
bool noticed(SeededDefect defect, tests::Devices devices, std::uint64_t first, std::uint64_t last,
             Shared& shared) {
    shared = {};
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) run_child(defect, devices, first, last, shared);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) std::abort();
    if (WIFSIGNALED(status)) {
        std::snprintf(shared.what.data(), shared.what.size(), "%s",
                      WTERMSIG(status) == SIGPROF ? "the run does not end"
                                                  : "a check in the queue fails");
        return true;
    }
    return WEXITSTATUS(status) != 0;
}

/// A seed that fails without the defect, too, says nothing of it: that is an error of the queue.
bool hunt(const Known& one, std::uint64_t first, std::uint64_t last, Shared& shared) {
    for (bool sound = true;; sound = false) {
        if (!noticed(one.defect, one.devices, first, last, shared)) {
            std::printf("| `%s` | NOT NOTICED in seeds %llu to %llu | |\n", one.name,
                        static_cast<unsigned long long>(first),
                        static_cast<unsigned long long>(last));
            return false;
        }
        const std::uint64_t seed = shared.seed;
        std::printf("| `%s` | %llu | %s |\n", one.name, static_cast<unsigned long long>(seed),
                    shared.what.data());
        if (!noticed(SeededDefect::none, one.devices, seed, seed, shared)) return sound;
        std::printf("seed %llu fails without the defect, too: %s\n",
                    static_cast<unsigned long long>(seed), shared.what.data());
        first = seed + 1;
    }
}

} // namespace

int main(int count, char** words) {
    std::uint64_t limit = 0;
    std::string_view only;
    for (int i = 1; i < count; ++i) {
        const std::string_view word = words[i];
        const std::string_view value = i + 1 < count ? words[i + 1] : "";
        if (word == "--help") {
            std::fputs(usage, stdout);
            return 0;
        }
        if (word == "--hunt" && !value.empty()) {
            std::from_chars(value.data(), value.data() + value.size(), limit);
        } else if (word == "--defect" && !value.empty()) {
            only = value;
        } else {
            std::fputs(usage, stderr);
            return 2;
        }
        ++i;
    }
    void* const memory =
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    Shared& shared = *new (memory) Shared{};
    bool good = true;
    for (const Known& one : known) {
        if (!only.empty() && only != one.name) continue;
        const bool seeds = one.seed != one_by_one;
        const std::uint64_t first = !seeds || limit == 0 ? one.seed : 1;
        const std::uint64_t last = !seeds       ? one_by_one
                                   : limit != 0 ? limit
                                                : one.seed + seeds_beyond;
        if (!hunt(one, first, last, shared)) good = false;
    }
    return good ? 0 : 1;
}
