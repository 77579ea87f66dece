// net_bench.h: millrace-bench net: the same program on our own TCP/IP and on the kernel's, side by side.
//
// Scope      Runs a server and a client process for each case, stack and line, each on its own CPU, and puts
//            what they measured into rows. What the two ends do is net_cases.h's, what joins them
//            net_lines.h's.
// Owns       The child processes and what they share, which end with the run, also when interrupted.
// Failure    Throws std::runtime_error with a text for a person. What the machine does not allow is left out
//            and its reason said.
#pragma once

#include "dataplane/loadgen/net_cases.h"
#include "dataplane/loadgen/net_lines.h"
#include "dataplane/loadgen/runtime.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dataplane::loadgen {

inline constexpr std::uint16_t mtu_usual = 1500;

struct NetCommand {
    std::vector<std::string> cases{"short", "request", "bulk", "idle"};
    std::vector<std::string> stacks{"millrace", "kernel"};
    std::vector<std::string> kernel_lines{"loopback", "veth", "frames"};
    std::chrono::milliseconds time{5000}; // measured, behind a second of warming up
    std::size_t connections = 0;          // 0: what suits the case
    unsigned repeats = 0;                 // 0: 5 for bulk_loss, else 1; the median counts
    int server_cpu = 0;
    int client_cpu = 1;
    LineQuality quality; // of bulk_loss
    bool sweep = false;  // bulk_loss: over losses and round trips
    bool huge_pages = false;
    std::uint16_t mtu = mtu_usual; // of all lines but loopback's
    std::string json_file;
    bool quiet = false;
};

/// One of the two ends, as the command above starts it.
struct NetEndCommand {
    bool server = false;
    NetCase which = NetCase::request;
    std::chrono::milliseconds time{5000};
    std::size_t connections = 64;
    std::string address; // the server's, HOST:PORT
    std::vector<std::string> sources;
    NetOptions net;
    int cpu = -1;
    bool punctual = false; // on a wire: naps, but not for long
};

/// 0 when every case gave a figure, but for what is not possible here.
[[nodiscard]] int run_net(const NetCommand& command);
/// Speaks to run_net() in lines: "ready", "begin {json}", "end {json}"; a server answers SIGUSR1 with "at {json}".
[[nodiscard]] int run_net_end(const NetEndCommand& command);

} // namespace dataplane::loadgen
