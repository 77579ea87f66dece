// schedule_bench.cc: how fast the schedule is, and what an entry costs.
//
//   schedule_bench [entries] [sites]      10,000,000 and 500,000 unless told
//
// One operation is one call of schedule(), park(), cancel() or take_ready(), or one entry that advance()
// or release() makes ready. Each site has mail of three tenants. Half of the entries park at sites, half have timers of their own; then all
// of it is worked off as a shard would, in slices of 2,048, and the longest slice is named.
#include "queue/schedule.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace queue;

/// Of this thread's own time, so that what else the machine does counts less.
struct Clock {
    static double now() {
        timespec time{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
    }
};

double seconds(double since) {
    return Clock::now() - since;
}

void report(const char* what, std::uint64_t operations, double took) {
    std::printf("%-34s %11llu operations  %6.2f s  %8.2f million/s\n", what,
                static_cast<unsigned long long>(operations), took,
                static_cast<double>(operations) / took / 1e6);
}

} // namespace

int main(int argc, char** argv) {
    const auto entries = static_cast<EntryRef>(argc > 1 ? std::atoi(argv[1]) : 10'000'000);
    const auto site_count = static_cast<SiteRef>(argc > 2 ? std::atoi(argv[2]) : 500'000);
    std::mt19937 random{1};
    Schedule schedule{0};

    auto began = Clock::now();
    std::vector<SiteRef> sites;
    for (SiteRef i = 0; i < site_count; ++i) {
        sites.push_back(
            schedule.site("(mx1|mx2|mx3)." + std::to_string(i) + ".example.com\ndefault"));
        schedule.pause(sites.back(), 60 + random() % 3600);
    }
    report("site(), pause()", 2ULL * site_count, seconds(began));

    began = Clock::now();
    for (EntryRef e = 0; e < entries; ++e)
        schedule.admit(e, random() % 3, random() % 60'000, Schedule::Share::retry);
    report("admit()", entries, seconds(began));

    began = Clock::now();
    for (EntryRef e = 0; e < entries; ++e) {
        if (e % 2 == 0) {
            schedule.schedule(e, 1 + random() % 14'400);
        } else {
            schedule.park(e, sites[random() % site_count], 400'000);
        }
    }
    const double filled = seconds(began);
    report("schedule(), park()", entries, filled);
    const double bytes = static_cast<double>(schedule.memory_bytes());
    std::printf("%-34s %8.1f bytes per entry, sites included (%.0f MB)\n", "memory",
                bytes / entries, bytes / 1e6);

    began = Clock::now();
    std::uint64_t operations = 0;
    for (EntryRef i = 0; i < entries / 4; ++i) {
        const EntryRef e = static_cast<EntryRef>(random()) % entries;
        schedule.cancel(e);
        schedule.schedule(e, schedule.now() + 1 + random() % 14'400);
        operations += 2;
    }
    report("cancel() and schedule(), random", operations, seconds(began));

    began = Clock::now();
    operations = 0;
    double longest = 0;
    std::uint64_t done = 0;
    for (Tick now = 0; done < entries; ++now) {
        do {
            const auto slice = Clock::now();
            schedule.advance(now, 2048);
            longest = std::max(longest, seconds(slice));
            for (;;) {
                const EntryRef e = schedule.take_ready(Schedule::Share::retry);
                if (e == no_entry) break;
                operations += 2;
                ++done;
            }
        } while (schedule.behind());
        if (now % 16 != 15) continue;
        for (int i = 0; i < 2000; ++i) { // sites that take their mail
            const SiteRef site = sites[random() % site_count];
            if (schedule.view(site).paused_until == 0) schedule.release(site, 20);
        }
    }
    report("advance(), release(), take_ready()", operations, seconds(began));
    std::printf("%-34s %8.3f ms\n", "longest slice of advance()", longest * 1e3);
    return 0;
}
