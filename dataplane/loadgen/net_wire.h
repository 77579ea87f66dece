// net_wire.h: a bad line between two devices, so that two TCPs that know nothing of it meet on it.
//
// Scope      Frames from each device to the other, through the impairments of net/port: our own TCP/IP
//            (memif) and Linux's (AF_PACKET on veth pairs) are measured on the same line with it.
//            A process of its own: `millrace-bench net-wire`, which `net` starts.
// Owns       Both devices and the frames on their way.
// Threading  The calling thread, which naps between frames: the two ends need the CPUs.
// Failure    Throws std::runtime_error at the start. A device that takes no more makes frames wait; a full
//            line drops them and counts it.
#pragma once

#include "dataplane/net/port/impairment.h"

#include <array>
#include <cstdint>
#include <string>

namespace dataplane::loadgen {

/// The same in both directions.
struct LineQuality {
    double loss = 0.01; // of frames, each way
    std::chrono::microseconds delay{5000};
    std::chrono::microseconds jitter{0};
    std::uint64_t rate_mbit_per_s = 1000;
    std::uint64_t queue_kb = 512;
    std::uint64_t seed = 1;

    [[nodiscard]] net::ImpairmentOptions way() const;
};

struct NetWireCommand {
    std::array<std::string, 2> devices; // as DPDK names them: "net_af_packet0,iface=wire-a"
    LineQuality line;
    std::uint32_t memory_mb = 256;
};

/// Until SIGTERM. Says "ready"; answers SIGUSR1 with "at {json}", the fates of frames by now.
[[nodiscard]] int run_net_wire(const NetWireCommand& command);

} // namespace dataplane::loadgen
