// setting.h: what a seed decides before anything happens: domains and their hosts, the relay's policies,
// who sends what when, and everything that will go wrong.
//
// Scope      Values only, drawn once. What comes of them is world.cc's business.
#pragma once

#include "dataplane/policy/policy.h"
#include "tests/sim/client.h"
#include "tests/sim/peer.h"
#include "tests/support/sim_disk.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace tests::sim {

using std::chrono::milliseconds;

struct HostSetting {
    std::string name;
    base::SocketAddress address;
    std::size_t provider = 0;
    std::uint16_t preference = 0;
};

struct DomainSetting {
    enum class Kind : std::uint8_t { mx, implicit_mx, smart_host, null_mx, missing };
    std::string name;
    Kind kind = Kind::mx;
    std::size_t provider = Terms::no_provider;
};

/// When the relay dies, counted from its start.
struct CrashPlan {
    enum class After : std::uint8_t {
        milliseconds,
        disk_writes,
        mails_taken,
        acknowledgements,
        recovery_operations
    };
    After after = After::milliseconds;
    std::uint64_t count = 0;
    unsigned turns = 0; // more of the loop
    milliseconds down{};
};

/// One thing that happens at its time.
struct Happening {
    enum class What : std::uint8_t {
        mood,
        calm,
        unreachable,
        reachable,
        disk_fault,
        disk_stalls,
        disk_goes_on,
        read_fault,
        swap_policy,
        restart,
        operate
    };
    /// What an operator asks of the queued mail of a domain.
    enum class Operation : std::uint8_t {
        count,
        flush,
        suspend,
        resume,
        reroute,
        expire,
        end_with_report,
        end_silently
    };
    What what = What::mood;
    milliseconds at{};
    std::size_t host = 0;
    bool silent = false; // unreachable: packets vanish instead of being refused
    SimDisk::Fault fault{};
    std::uint64_t after = 0; // writes
    std::uint64_t count = 1;
    std::size_t policy = 0;
    Operation operation{};
    std::size_t domain = 0;
};

struct Arrivals {
    milliseconds at{};
    ClientPlan plan;
};

struct Setting {
    std::uint64_t seed = 0;
    SimNetOptions net;
    SimDiskOptions disk;
    std::vector<std::vector<HostSetting>> providers;   // 0: the senders' own, which reports go to
    std::vector<dataplane::policy::SitePolicy> shapes; // by provider
    std::vector<DomainSetting> domains;                // the last one is the senders' own
    std::vector<dataplane::policy::PolicyPtr> policies;
    bool rules = false;
    std::uint64_t big_bytes = 0;
    bool heavy = false; // much large mail on a small disk
    std::vector<Arrivals> clients;
    std::vector<CrashPlan> crashes;
    std::vector<Happening> happenings;
    milliseconds clients_end{}, trouble_ends{};
    std::chrono::seconds expiry_max{};
};

[[nodiscard]] Setting draw_setting(std::uint64_t seed);

/// Rules named SIMREJECT, SIMDEFER and SIMTAG that hit lines with these words.
[[nodiscard]] dataplane::policy::ScreenPolicy screening_rules();

} // namespace tests::sim
