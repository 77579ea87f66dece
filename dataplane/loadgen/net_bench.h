// net_bench.h: millrace-bench net: the same program on our own TCP/IP and on the kernel's, side by side.
//
// Scope      Runs a server and a client process for each case and stack, each on its own CPU, and puts what
//            they measured into rows. Over memif (two processes, shared memory) for our stack, over
//            loopback for the kernel's. What the two ends do is net_cases.h's.
// Owns       The child processes and a temporary folder, which end with the run, also when interrupted.
// Failure    Throws std::runtime_error with a text for a person.
#pragma once

#include "dataplane/loadgen/net_cases.h"
#include "dataplane/loadgen/runtime.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct NetCommand {
    std::vector<std::string> cases{"short", "request", "bulk", "idle"};
    std::vector<std::string> stacks{"millrace", "kernel"};
    std::chrono::milliseconds time{5000}; // measured, behind a second of warming up
    std::size_t connections = 0;          // 0: what suits the case
    int server_cpu = 0;
    int client_cpu = 1;
    double loss = 0.01; // of case bulk_loss, each way, on our stack: a bad line in software
    std::chrono::microseconds delay{0};
    bool huge_pages = false;
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
};

/// 0 when every case gave a figure.
[[nodiscard]] int run_net(const NetCommand& command);
/// Speaks to run_net() in lines: "ready", "begin", "end {json}"; a server answers SIGUSR1 with "{json}".
[[nodiscard]] int run_net_end(const NetEndCommand& command);

} // namespace dataplane::loadgen
