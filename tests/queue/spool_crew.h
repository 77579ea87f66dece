// spool_crew.h: who uses the queue of a simulated boot: clients, deliveries, an operator.
//
// Scope      Coroutines that run until their World ends, and tell the oracle what they were told. What they do
//            and how often is a Mix, drawn from the seed.
// Threading  The World's.
#pragma once

#include "tests/queue/spool_oracle.h"
#include "tests/queue/spool_world.h"

#include <cstdint>

namespace tests {

struct Mix {
    std::uint64_t seed = 1;
    std::size_t writers = 8;
    std::size_t deliverers = 1;
    std::size_t small_bytes_max = 12'000;
    std::size_t large_percent = 5;
    std::size_t large_bytes_min = 100'000, large_bytes_max = 600'000;
    std::size_t recipients_max = 4;
    std::size_t many_percent = 0; // of messages with up to recipients_many
    std::size_t recipients_many = 1000;
    std::size_t cancel_percent = 0; // commits that their client does not wait for
    std::size_t drop_percent = 0;   // drafts that their client gives up
    std::size_t defer_percent = 20;
    std::size_t partial_percent = 20; // of those: some recipients are done with
    std::size_t park_percent = 0;
    std::size_t hold_percent = 0;
    std::size_t bounce_percent = 0; // with a report that must be safe first
    base::Duration defer_max = std::chrono::seconds{200};
    base::Duration pause_max = std::chrono::milliseconds{5};
    base::Duration stall{}; // nothing is delivered before that
    base::Duration sync_every = std::chrono::milliseconds{60};
    bool operate = false; // an operator flushes, removes and releases
};

/// Starts everybody but the clients.
void start_deliveries(World& world, Oracle& oracle, const Mix& mix);
void start_clients(World& world, Oracle& oracle, const Mix& mix);

/// One message from begin to its answer.
struct Letter {
    std::string body, prelude;
    std::size_t recipients = 1;
    base::Duration patience = base::Duration::max(); // for the commit
    bool give_up = false;                            // before it
    bool report = false;
    std::string tenant = "tenant0";
};
base::Task<queue::SpoolResult<queue::MessageRef>> send(World* world, Oracle* oracle, Letter letter);

} // namespace tests
