// sink.h: answers like an MX, checks what arrives, and can be as unpleasant as a real one.
//
// Scope      The receiving side of SMTP with PIPELINING, CHUNKING, 8BITMIME, SMTPUTF8, DSN and
//            optional STARTTLS. Every message is checked against its own header fields as its bytes
//            go by; nothing is stored. It never judges syntax: that is what conformance tests are
//            for.
// Owns       Its sessions' tasks are the Loop's; a Sink must outlive them.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/loadgen/content_check.h"
#include "dataplane/loadgen/dialogue.h"
#include "dataplane/loadgen/key_set.h"
#include "dataplane/loadgen/ledger.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

namespace dataplane::loadgen {

enum class RefuseAt : std::uint8_t { rcpt, data }; // data: in place of the final 250

/// How one receiver treats those who bring it mail. Refusals, greylisting and delays go by the domain
/// of the recipient; what comes before a recipient is known goes by the address connected to.
struct Manner {
    double reply_4xx_share = 0; // 0 to 1
    double reply_5xx_share = 0;
    RefuseAt refuse_at = RefuseAt::rcpt;
    std::chrono::milliseconds delay{0};     // before the answer to each message
    std::chrono::milliseconds delay_max{0}; // evenly spread up to this; 0: always `delay`
    std::chrono::milliseconds tarpit{0};    // before the answer to each group of commands
    std::chrono::milliseconds greylist{
        0};                      // 451 to a recipient until so long after its first attempt
    double disconnect_share = 0; // of the messages: cut off in place of the answer, nothing taken
    std::size_t connections_max = 0;               // at once, then 421; 0: no limit
    std::uint64_t messages_per_connection_max = 0; // then 421; 0: no limit
    bool tls = true;                               // STARTTLS is offered, when the sink has it
    bool chunking = true;
    bool pipelining = true;
};

struct Provider {
    std::string name;
    std::vector<std::string> domains;           // these and what is below them
    std::vector<base::SocketAddress> addresses; // its own hosts; none: it is met on the sink's
    Manner manner;
};

/// What a receiver knows as a whole, whichever of its threads a connection came to: how many there are,
/// and whom it has seen before. Sinks of one section share it.
class Reception {
public:
    /// Counts a connection; false when that is one too many (it counts all the same until leave()).
    [[nodiscard]] bool enter(std::size_t whose, std::size_t connections_max);
    void leave(std::size_t whose);
    /// Whether `wait` has not passed since this recipient was first tried.
    [[nodiscard]] bool too_early(std::uint64_t recipient, base::TimePoint now, base::Duration wait);

private:
    std::mutex lock_; // held for a look-up
    std::vector<std::size_t> open_;
    std::unordered_map<std::uint64_t, base::TimePoint> first_attempts_;
};

struct SinkOptions {
    std::vector<base::SocketAddress> addresses;
    std::string host_name = "sink.bench.example";
    Manner manner;                   // of everybody else
    std::vector<Provider> providers; // the first whose domain fits
    std::string run_prefix;          // runs that do not begin so are another time's, and foreign
    std::shared_ptr<Reception> reception; // shared with other threads' Sinks; null: its own
    std::uint64_t message_bytes_max = 100UL << 20; // offered as SIZE
    std::uint64_t seed = 1;
    std::chrono::milliseconds command_limit{300'000};
};

struct ProviderTally {
    std::string name;
    std::uint64_t taken = 0; // recipients
    std::uint64_t refused_4xx = 0;
    std::uint64_t refused_5xx = 0;
    std::uint64_t greylisted = 0;
    std::uint64_t disconnected = 0;
    std::uint64_t connections_refused = 0;
};

struct SinkTally {
    std::uint64_t messages = 0;   // answered with 250
    std::uint64_t received = 0;   // their recipients, ours and foreign
    std::uint64_t unique = 0;     // ours, the first time
    std::uint64_t duplicated = 0; // ours, again
    std::uint64_t altered = 0;
    std::uint64_t foreign = 0;    // not from our source: bounces, other mail
    std::uint64_t other_runs = 0; // of those, what a source sent in a run that is not this one
    std::uint64_t refused_4xx = 0;
    std::uint64_t refused_5xx = 0;
    std::uint64_t refused_for_good = 0; // recipients, those of a refused message included
    std::uint64_t signed_messages = 0;  // of `messages`, those with a DKIM signature
    std::uint64_t greylisted = 0;
    std::uint64_t disconnected = 0;        // messages cut off in place of their answer
    std::uint64_t connections_refused = 0; // at a limit
    std::uint64_t bytes = 0;               // of content
    std::uint64_t connections = 0;
    std::uint64_t connections_open = 0;
    std::uint64_t tls_connections = 0;
    base::TimePoint first_arrival{};
    base::TimePoint last_arrival{};
    base::WallTime first_arrival_wall{};
    base::WallTime last_arrival_wall{};
    std::vector<ProviderTally> providers; // "other" first, then in the order of the options
};

class Sink {
public:
    /// \param tls, ledger  may be null; borrowed for the Sink's life
    Sink(base::Loop& loop, base::Transport& transport, SinkOptions options, TlsWrapper* tls,
         Ledger* ledger);

    /// Listens on every address; an error names the first that failed in failed_address().
    [[nodiscard]] base::NetResult<> start();
    [[nodiscard]] std::vector<base::SocketAddress> local_addresses() const;
    [[nodiscard]] const base::SocketAddress& failed_address() const noexcept {
        return failed_address_;
    }
    [[nodiscard]] const SinkTally& tally() const noexcept { return tally_; }

private:
    /// Providers by number: 0 is everybody else.
    struct Session {
        Session(base::StreamPtr stream, std::size_t where)
            : dialogue(std::move(stream)), host(where) {}
        Dialogue dialogue;
        std::size_t host;      // whose address was connected to
        std::size_t whose = 0; // whose recipient came last
        std::uint64_t messages = 0;
        bool secured = false;
        bool in_mail = false;
        bool null_sender = false; // a bounce: taken as it is
        bool in_bdat = false;     // some chunks have come
        std::vector<std::string> recipients;
        std::vector<std::size_t> owners; // of the recipients
        std::size_t recipient_count = 0; // strings are kept for reuse
        ContentCheck check;
        DotReader dots;
        void reset() noexcept {
            in_mail = in_bdat = false;
            recipient_count = 0;
        }
    };
    enum class Next : std::uint8_t { go_on, quit, start_tls };

    [[nodiscard]] base::NetResult<> listen(const base::SocketAddress& address, std::size_t whose);
    base::Task<void> accept_all(base::Listener* listener, std::size_t whose);
    base::Task<void> serve(base::StreamPtr stream, std::size_t whose);
    base::Task<base::NetResult<>> converse(Session& session);
    base::Task<base::NetResult<Next>> obey(Session& session, std::string_view line);
    base::Task<base::NetResult<>> take_data(Session& session);
    base::Task<base::NetResult<>> take_chunk(Session& session, std::uint64_t bytes, bool last);
    base::Task<base::NetResult<>> answer_message(Session& session);
    void say_hello(Session& session, bool extended) const;
    void add_recipient(Session& session, std::string_view line);
    void count(Session& session);
    void put_off(std::string_view recipient);
    [[nodiscard]] const Manner& manner(std::size_t whose) const noexcept {
        return whose == 0 ? options_.manner : options_.providers[whose - 1].manner;
    }
    [[nodiscard]] std::size_t provider_of(std::string_view recipient, std::size_t host) const;
    /// 0, or the code of the refusal that chance decided on.
    [[nodiscard]] std::uint16_t draw_refusal(std::size_t whose, RefuseAt moment);
    [[nodiscard]] bool draw(double share);
    /// Whether the recipient's time has not come yet.
    [[nodiscard]] bool greylists(std::size_t whose, std::string_view recipient);
    [[nodiscard]] base::Deadline command_deadline() const noexcept {
        return base::Deadline::in(loop_, options_.command_limit);
    }

    base::Loop& loop_;
    base::Transport& transport_;
    SinkOptions options_;
    TlsWrapper* tls_;
    Ledger* ledger_;
    std::vector<std::unique_ptr<base::Listener>> listeners_;
    base::SocketAddress failed_address_;
    SinkTally tally_;
    KeySet arrived_;
    std::shared_ptr<Reception> reception_; // other threads' Sinks have it too
    std::mt19937_64 random_;
    std::uint64_t next_id_ = 0;
};

} // namespace dataplane::loadgen
