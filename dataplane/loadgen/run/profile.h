// profile.h: what a run does, as a TOML file says it.
//
// Scope      The file's tables as values, and every mistake in it with its line and its remedy. The
//            shipped profiles and provider presets are files too: scripts/bench.d, built in.
// Failure    read_profile() returns the mistakes. What only the machine can tell (a port in use, a
//            password file that is not there) shows when the run starts.
#pragma once

#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/message_maker.h"
#include "dataplane/loadgen/run/capacity.h"
#include "dataplane/loadgen/run/intruders.h"
#include "dataplane/loadgen/runtime.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"

#include <chrono>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

struct SourceSection {
    SourceOptions options; // `messages` and `time` are the run's; rate_per_s is this section's
    unsigned threads = 1;
    std::vector<int> cpus; // one for each thread; empty: anywhere
};

struct SinkSection {
    SinkOptions options;
    bool starttls = false;
    unsigned threads = 1;
    std::vector<int> cpus;
};

struct RelaySection {
    std::vector<int> pids;                    // of the processes to be watched, when they run here
    std::string process;                      // or: every process of this name
    std::vector<base::SocketAddress> metrics; // where it answers GET /metrics; of several the sum
    std::string spool_folder;                 // whose disk must be durable
    std::string note;         // what the relay was set up to do: DKIM keys, offload, shards
    std::optional<bool> dkim; // whether it signs: held against what arrives
};

struct Profile {
    std::string name;
    std::string description;
    std::string text; // the file
    std::chrono::milliseconds duration{60'000};
    std::chrono::milliseconds warm_up{10'000};
    std::chrono::milliseconds drain{30'000}; // how long to wait for what was accepted
    MessagePattern pattern;
    std::vector<SourceSection> sources;
    std::vector<SinkSection> sinks; // none: deliveries are not seen, and nothing is audited
    IntruderOptions hostile;
    AuditLimits audit;
    CapacityOptions capacity;
    RelaySection relay;
    bool dpdk = false; // source and sink on our own TCP/IP, on one thread
    NetOptions net;
};

struct ProfileError {
    unsigned line = 0;
    std::string text; // what is wrong, and what to do about it
};

/// \param presets  a TOML text with a table for each provider preset
[[nodiscard]] std::expected<Profile, std::vector<ProfileError>>
read_profile(const std::string& text, const std::string& name, std::string_view presets);

/// "127.0.0.1:25", "[::1]:25" or "localhost:25"; names are looked up once, here.
/// Throws std::runtime_error with a text for a person.
[[nodiscard]] base::SocketAddress read_address(const std::string& text);

/// A file that is built in.
struct Shipped {
    std::string_view name;
    std::string_view text;
};
/// The profiles, in the order of their names.
[[nodiscard]] std::vector<Shipped> shipped_profiles();
[[nodiscard]] std::string_view shipped_providers();

} // namespace dataplane::loadgen
