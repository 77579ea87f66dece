// server_load.h: a server session's whole load without a network: messages from memory, a disk
// ready at once.
//
// Scope      For what the SMTP room itself costs: the benchmark, and the test that counts
//            allocations. The binary that links server_load.cc counts its calls of operator new.
#pragma once

#include "dataplane/smtp/server_session.h"
#include "queue/queue.h"

#include <cstdint>
#include <memory>
#include <string>

namespace tests {

namespace base = dataplane::base;

[[nodiscard]] std::uint64_t allocation_count() noexcept;

class ServerLoad {
public:
    explicit ServerLoad(std::size_t message_bytes);
    ~ServerLoad();
    ServerLoad(const ServerLoad&) = delete;
    ServerLoad& operator=(const ServerLoad&) = delete;

    /// Begins `sessions` sessions of endless messages; run() lets them go on.
    void begin(unsigned sessions);
    /// Returns when so many more messages were acknowledged.
    void run(std::uint64_t messages);

private:
    struct World;
    std::unique_ptr<World> world_;
};

} // namespace tests
