// peer.h: a destination's mail host, with moods.
//
// Scope      An SMTP server of its own, nothing of the product in it: greeting to QUIT, with or without
//            PIPELINING, CHUNKING, DSN and SIZE, which at every stage may refuse for now or for good, hang up,
//            fall silent or be slow, as its present Manner has it. It checks what only the far end can see:
//            limits per connection and transaction, rates, pipelining that was not offered.
// Owns       Its listener, and one task per connection.
// Threading  The Loop's. A crash of the relay drops all tasks; start() spawns the accepting one again.
#pragma once

#include "dataplane/base/line_reader.h"
#include "tests/sim/audit.h"
#include "tests/sim/crew.h"
#include "tests/sim/random.h"
#include "tests/support/sim_net.h"

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace tests::sim {

enum class PeerStage : std::uint8_t { greeting, hello, mail, rcpt, data, body, dot, count };

/// How a host behaves for now. Chances are in percent.
struct Manner {
    struct Mood {
        unsigned later = 0; // 4xx
        unsigned never = 0; // 5xx
        unsigned hang_up = 0;
        unsigned silent = 0; // until the other side gives up
        unsigned slow = 0;
    };
    std::array<Mood, static_cast<std::size_t>(PeerStage::count)> moods{};
    unsigned hang_up_after_taking = 0; // the 250 is never sent
    unsigned silent_after_taking = 0;
    std::chrono::milliseconds slowness{2000}; // at most
    bool ehlo = true, pipelining = true, chunking = true, dsn = true;
    std::uint64_t size_max = 0;     // told with SIZE; 0: none
    std::uint32_t messages_max = 0; // then 421 to the next MAIL; 0: unlimited

    [[nodiscard]] static Manner friendly(Random& random);
    /// \param final_refusals  whether 5xx may be among them
    [[nodiscard]] static Manner moody(Random& random, bool final_refusals,
                                      std::chrono::seconds answer_time);
};

/// What the relay has promised its operator about a site; 0: no limit.
struct SiteLimits {
    std::uint32_t messages_per_connection_max = 0;
    std::uint32_t recipients_per_message_max = 0;
    std::uint32_t messages_per_second_max = 0;
};

/// Hosts that are one site: domains point to all of them.
struct Provider {
    std::size_t index = 0;
    SiteLimits limits;
    std::deque<TimePoint> mails; // of the last second
    TimePoint
        rate_counts_from{}; // content that waited for a stalled disk comes all at once when it goes on
};

class Peer {
public:
    Peer(base::Loop& loop, SimNet& net, Crew& crew, Audit& audit, Provider& provider,
         base::SocketAddress address, std::uint64_t seed);
    void start();

    Manner manner;
    [[nodiscard]] const base::SocketAddress& address() const noexcept { return address_; }
    [[nodiscard]] Provider& provider() noexcept { return provider_; }
    [[nodiscard]] Random& random() noexcept { return random_; }
    [[nodiscard]] std::uint64_t taken() const noexcept { return taken_; }

private:
    struct Session;
    base::Task<void> accept_all();
    base::Task<void> serve(base::StreamPtr stream);
    base::Task<bool> command(Session* session, std::string line);
    base::Task<bool> hello(Session* session, bool extended);
    base::Task<bool> mail(Session* session, std::string_view line);
    base::Task<bool> rcpt(Session* session, std::string_view line);
    base::Task<bool> data(Session* session);
    base::Task<bool> bdat(Session* session, std::string_view line);
    base::Task<bool> take(Session* session, bool by_data);
    /// Says `text` unless the mood is otherwise. False when the connection is over.
    base::Task<bool> answer(Session* session, PeerStage stage, std::string_view text, int* code);
    base::Task<bool> say(Session* session, std::string_view text);
    base::Task<bool> fall_silent(Session* session);
    void refuse(const Session& session, std::vector<std::string> recipients);

    base::Loop& loop_;
    SimNet& net_;
    Crew& crew_;
    Audit& audit_;
    Provider& provider_;
    base::SocketAddress address_;
    Random random_;
    std::unique_ptr<base::Listener> listener_;
    std::uint64_t next_session_ = 1;
    std::uint64_t taken_ = 0;
};

} // namespace tests::sim
