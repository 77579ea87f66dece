// client.h: those who submit mail: honest, hasty, slow, dying, uninvited, and malicious.
//
// Scope      One coroutine per connection, which speaks SMTP of its own, tells the audit what it sent and what
//            it was answered, and draws from its own dice. Nothing of the product's SMTP code is in it.
// Owns       Its connection. Letters belong to the audit.
// Threading  The Loop's. A crash of the relay drops the task: the audit then calls its open letters unknown.
#pragma once

#include "dataplane/base/loop.h"
#include "tests/sim/audit.h"
#include "tests/sim/random.h"
#include "tests/support/sim_net.h"

#include <cstdint>
#include <string>
#include <vector>

namespace tests::sim {

enum class ClientKind : std::uint8_t {
    honest,         // has an account, or comes from a listed network
    wrong_password, // has neither, and tries
    disabled,       // an account that is switched off
    stranger,       // does not even try
    garbage,        // does not speak SMTP
};

/// What clients know of the world.
struct Town {
    base::Loop& loop;
    SimNet& net;
    Audit& audit;
    base::SocketAddress relay_port, submission_port;
    std::vector<std::string> domains;
    std::uint64_t message_bytes_max = 0;
    bool rules = false;          // the relay screens
    std::uint64_t big_bytes = 0; // of the largest letters
    bool heavy = false;          // most letters are large
};

struct ClientPlan {
    ClientKind kind = ClientKind::honest;
    bool submission = true; // which port
    bool listed = false;    // comes from the relay's network
    std::uint32_t letters = 1;
    std::uint64_t seed = 1;
};

inline constexpr std::string_view account_name = "alice";
inline constexpr std::string_view account_password = "correct horse";
inline constexpr std::string_view disabled_name = "mallory";

/// \param town  outlives the task
[[nodiscard]] base::Task<void> run_client(Town* town, ClientPlan plan);

} // namespace tests::sim
