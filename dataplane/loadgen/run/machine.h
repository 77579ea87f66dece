// machine.h: the machine under the measurement: what it is, and who uses it.
//
// Scope      Reads /proc and /sys. An inventory once, usage as often as asked.
// Threading  Any; reading may take a millisecond, so not on a thread that measures latency.
// Failure    What cannot be read is left out, or "unknown".
#pragma once

#include "dataplane/loadgen/run/result.h"

#include <cstdint>
#include <optional>
#include <string>

namespace dataplane::loadgen {

/// CPU, memory, network and crypto devices with their drivers (those that no kernel driver has too), disk below `spool_folder` (may be empty), kernel, huge pages,
/// and what built this program; for the libraries it stands on see runtime.h.
[[nodiscard]] Facts inventory(const std::string& spool_folder);

/// Empty when what is written and synced in `folder` outlives a power cut, as far as mounts tell.
[[nodiscard]] std::string why_not_durable(const std::string& folder);

struct MachineUse {
    double total_s = 0; // of all CPUs since boot, idle included
    double busy_s = 0;
    double stolen_s = 0;            // by the hypervisor
    std::uint64_t listen_drops = 0; // connections that the kernel's queues did not take
};
[[nodiscard]] MachineUse machine_use();

/// Seconds that a thread of this process could have run and had no core; nothing when the kernel does not
/// say.
[[nodiscard]] std::optional<double> thread_wait_s(int thread);
/// Of the calling thread.
[[nodiscard]] double thread_cpu_s() noexcept;
/// Of this process.
[[nodiscard]] double own_cpu_s() noexcept;
[[nodiscard]] unsigned cpu_count() noexcept;

} // namespace dataplane::loadgen
