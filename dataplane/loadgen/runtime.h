// runtime.h: what a bench command runs on: one thread, one ring, kernel sockets or our own stack, signals.
//
// Scope      Set-up and tear-down, and the once-a-tick look at signals. What is measured is
//            elsewhere.
// Owns       Everything of the thread; run() returns when the Loop was stopped, and has dropped the
//            tasks by then.
// Failure    Construction throws std::system_error or std::runtime_error (start-up).
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/loadgen/dialogue.h"
#include "dataplane/net/kernel/kernel_transport.h"
#include "tls_offload/tls_context.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::net::stack {
class Stack;
}

namespace dataplane::loadgen {

/// What signals have asked for since it was last looked at.
struct SignalsSeen {
    bool stop = false;   // SIGTERM, SIGINT
    bool report = false; // SIGUSR1
};
void catch_signals();
[[nodiscard]] SignalsSeen take_signals() noexcept;

/// Of the libraries that a measurement stands on, by name.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> library_versions();

/// Raises the descriptor limit as far as it goes; the bench needs one for each connection.
void raise_descriptor_limit() noexcept;
/// Pins this thread; throws std::system_error when there is no such CPU.
void pin_to_cpu(int cpu);
/// Wakes when it is time, also when others want the CPU: for what waits most of the time and stands for a
/// line, or for a stack on one. Without the privilege it is as punctual as the machine's load allows.
void be_punctual() noexcept;

/// Our own TCP/IP instead of the kernel's, on a device that DPDK drives.
struct NetOptions {
    std::string device; // "net_memif0,role=client,id=0,socket=/run/x.sock"; empty: kernel sockets
    std::vector<std::string> addresses; // ours: "10.88.0.2/16"
    std::uint32_t memory_mb = 512;
    bool huge_pages = false;
    bool busy_poll =
        false; // never naps: for a CPU that does nothing else, disk completions included
    std::uint32_t connections_max = 100'000;
    std::uint16_t mtu = 1500; // of IP
    // A bad line in front of the device, each way: probabilities per frame, and delay.
    double loss = 0;
    double reorder = 0;
    double duplicate = 0;
    std::chrono::microseconds delay{0};
};

class Runtime {
public:
    explicit Runtime(const NetOptions& net = {});
    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] base::Transport& transport() noexcept;
    /// Null on kernel sockets.
    [[nodiscard]] const net::stack::Stack* own_stack() const noexcept;
    /// Frames that our own stack's device dropped; 0 on kernel sockets.
    [[nodiscard]] std::uint64_t port_drops() const;
    /// Waits until the device has its peer (memif) or its cable; false after `limit`.
    [[nodiscard]] bool wait_for_link(std::chrono::seconds limit);
    /// For the source: any certificate will do, it is the relay's speed that is measured.
    /// \param clients  how many of them it plays that may resume sessions; 0: every handshake in full
    [[nodiscard]] std::unique_ptr<TlsWrapper> client_tls(std::string server_name,
                                                         std::size_t clients);
    /// For the sink: a self-signed certificate made now, in a temporary folder that is removed
    /// again.
    [[nodiscard]] std::unique_ptr<TlsWrapper> server_tls(const std::string& host_name);

    /// Runs until the Loop is stopped, calling `tick` every `every`.
    void run(std::chrono::milliseconds every, std::function<void()> tick);

private:
    base::Task<void> keep_ticking(std::chrono::milliseconds every,
                                  const std::function<void()>* tick);

    struct OwnStack;

    base::RealClock clock_;
    base::Uring ring_;
    base::Loop loop_;
    std::optional<net::kernel::KernelTransport> kernel_; // or:
    std::unique_ptr<OwnStack> own_;
    tls_offload::TlsLibrary tls_library_;
};

} // namespace dataplane::loadgen
