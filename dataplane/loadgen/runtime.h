// runtime.h: what a bench command runs on: one thread, one ring, kernel sockets, signals.
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

#include <functional>
#include <memory>
#include <string>

namespace dataplane::loadgen {

/// What signals have asked for since it was last looked at.
struct SignalsSeen {
    bool stop = false;   // SIGTERM, SIGINT
    bool report = false; // SIGUSR1
};
void catch_signals();
[[nodiscard]] SignalsSeen take_signals() noexcept;

/// Raises the descriptor limit as far as it goes; the bench needs one for each connection.
void raise_descriptor_limit() noexcept;
/// Pins this thread; throws std::system_error when there is no such CPU.
void pin_to_cpu(int cpu);

class Runtime {
public:
    Runtime();
    ~Runtime();
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] base::Transport& transport() noexcept { return transport_; }
    /// For the source: any certificate will do, it is the relay's speed that is measured.
    [[nodiscard]] std::unique_ptr<TlsWrapper> client_tls(std::string server_name);
    /// For the sink: a self-signed certificate made now, in a temporary folder that is removed
    /// again.
    [[nodiscard]] std::unique_ptr<TlsWrapper> server_tls(const std::string& host_name);

    /// Runs until the Loop is stopped, calling `tick` every `every`.
    void run(std::chrono::milliseconds every, std::function<void()> tick);

private:
    base::Task<void> keep_ticking(std::chrono::milliseconds every,
                                  const std::function<void()>* tick);

    base::RealClock clock_;
    base::Uring ring_;
    base::Loop loop_;
    net::kernel::KernelTransport transport_;
    tls_offload::TlsLibrary tls_library_;
};

} // namespace dataplane::loadgen
