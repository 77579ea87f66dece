// commands.h: millrace-bench's commands about mail, as main() calls them.
//
// Scope      Runs a command from its parsed options and returns the process's exit status. Progress
//            goes to stderr once a second, results to stdout, and as JSON to a file when asked.
// Failure    Throws std::runtime_error or std::system_error with a text for a person (start-up
//            only).
#pragma once

#include "dataplane/loadgen/runtime.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"

#include <chrono>
#include <cstdint>
#include <string>

namespace dataplane::loadgen {

struct SourceCommand {
    SourceOptions source;
    MessagePattern pattern;
    std::string ledger_file; // each empty: none
    std::string json_file;
    int cpu = -1;
    bool quiet = false;
};

struct SinkCommand {
    SinkOptions sink;
    bool starttls = false;
    std::string ledger_file;
    std::string json_file;
    std::uint64_t expect = 0;               // deliveries after which to stop; 0: never
    std::chrono::milliseconds linger{500};  // after that, for duplicates that come late
    std::chrono::milliseconds idle_exit{0}; // without arrivals, once something came; 0: never
    int cpu = -1;
    bool quiet = false;
};

/// Source and sink in one process and on one thread, so that a relay's load fits one core and one port.
struct LoadCommand {
    SourceOptions source;
    MessagePattern pattern;
    base::SocketAddress listen; // the sink's
    NetOptions net;
    std::chrono::seconds limit{120}; // for the whole run
    std::string json_file;
    int cpu = -1;
};

struct AuditCommand {
    std::string source_ledger;
    std::string sink_ledger;
    std::string json_file;
};

/// 0 when at least one message was accepted and none was refused or left unknown.
[[nodiscard]] int run_source(const SourceCommand& command);
/// 0 unless something arrived altered or, with `expect`, not enough arrived.
[[nodiscard]] int run_sink(const SinkCommand& command);
/// 0 when every message was accepted and arrived once, unaltered.
[[nodiscard]] int run_load(const LoadCommand& command);
/// 0 unless something accepted was lost or altered.
[[nodiscard]] int run_audit(const AuditCommand& command);

} // namespace dataplane::loadgen
