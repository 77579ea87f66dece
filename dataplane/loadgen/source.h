// source.h: submits numbered messages over many connections and remembers every answer.
//
// Scope      Closed loop (each connection sends its next message when the last was answered) or
//            open loop (message i is due at start + i / rate, and its latency counts from then, so
//            that a slow relay cannot hide its queueing; what was due and could not even be begun
//            counts with the time it had waited by the end). A message whose answer never came counts
//            with at least the limit for replies: it is no quicker than the slowest answer. Each message
//            is tried once; what became of it goes to the ledger. A broken connection is made again for
//            reconnect_limit.
// Owns       Its connections' tasks are the Loop's; a Source must outlive them: see finished().
// Threading  The Loop's.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/loadgen/dialogue.h"
#include "dataplane/loadgen/histogram.h"
#include "dataplane/loadgen/ledger.h"
#include "dataplane/loadgen/message_maker.h"

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace dataplane::loadgen {

enum class SourceTls : std::uint8_t { none, starttls, implicit };

struct SourceOptions {
    std::vector<base::SocketAddress> targets; // connections are dealt out to them in turn
    std::size_t first_connection =
        0; // where the turn begins: another source may have had the others
    std::size_t connections = 1;
    std::uint64_t messages = 0;        // 0: until `time` is over
    std::chrono::milliseconds time{0}; // 0: until `messages` are sent
    std::uint64_t first_sequence = 0;
    double rate_per_s = 0;  // 0: closed loop
    bool pipelining = true; // when offered
    bool chunking = false;  // BDAT, when offered
    SourceTls tls = SourceTls::none;
    double tls_share = 1;        // of the connections, when there is TLS at all
    double resumption_share = 1; // of those, that may resume a session
    std::string user, password;  // AUTH PLAIN when there is a user
    std::string helo_name = "bench.example";
    std::uint64_t messages_per_connection = 0; // 0: as many as there are
    // The first connections are made spread over this: a relay with a short listen queue drops some of
    // many that come at once, and a client that waits for a greeting never hears of it.
    std::chrono::milliseconds ramp{0};
    std::chrono::milliseconds reply_limit{60'000};
    std::chrono::milliseconds reconnect_limit{
        10'000}; // how long to go on trying after a connection broke; 0: as long as there is time
};

/// What one relay of several did.
struct TargetTally {
    std::string name; // its address
    std::uint64_t accepted = 0;
    std::uint64_t failed = 0; // refused, or of unknown fate
    std::uint64_t connections = 0;
    Histogram accept_latency_ns = {}; // as below
};

struct SourceTally {
    std::uint64_t sent = 0; // content handed over whole, plus what was refused before
    std::uint64_t accepted = 0;
    std::uint64_t transient = 0;
    std::uint64_t permanent = 0;
    std::uint64_t unknown = 0;
    std::uint64_t connections_made = 0;
    std::uint64_t connections_broken = 0;
    std::uint64_t connections_open = 0;
    std::uint64_t tls_connections = 0;
    std::uint64_t tls_resumed = 0;
    std::uint64_t bytes = 0;              // of the content of accepted messages
    std::uint64_t recipients = 0;         // of accepted messages
    std::uint64_t recipients_refused = 0; // of accepted messages too: a RCPT that was not let in
    std::uint64_t due = 0;                // open loop: messages whose time had come by the end
    std::uint64_t overdue = 0;            // of those, how many were not begun
    std::string last_error;           // of a connection that broke, or of a refusal: for a person
    std::string greeting;             // the first that came
    std::vector<TargetTally> targets; // in the order of the options
    // Of accepted messages; of the overdue, as far as they got; of those whose connection went, the wait
    // for an answer that did not come.
    Histogram accept_latency_ns;
    Histogram wake_lateness_ns; // open loop: how much later than due a free connection began
};

class Source {
public:
    /// \param tls, ledger  may be null; borrowed for the Source's life
    /// \param fresh_tls    for connections that must not resume; needed when resumption_share < 1
    Source(base::Loop& loop, base::Transport& transport, SourceOptions options, MessageMaker maker,
           TlsWrapper* tls, Ledger* ledger, TlsWrapper* fresh_tls = nullptr);

    /// Starts every connection's task.
    void start();
    /// Stops taking new messages; those under way are finished, connections that are still being opened
    /// are given up.
    void stop() noexcept {
        settle_overdue();
        stopping_ = true;
        stop_sleeping_.cancel();
    }
    [[nodiscard]] bool finished() const noexcept { return tasks_left_ == 0; }
    [[nodiscard]] const SourceTally& tally() const noexcept { return tally_; }
    /// Sequence numbers that were used up.
    [[nodiscard]] std::uint64_t taken() const noexcept { return next_; }
    [[nodiscard]] base::Duration elapsed() const noexcept { return last_reply_ - started_; }

private:
    struct Offers { // what the server's EHLO says
        bool pipelining = false;
        bool chunking = false;
        bool size = false;
        bool eight_bit_mime = false;
    };
    enum class SessionEnd : std::uint8_t { no_more, turn_over, broken };
    struct Attempt { // one message on one connection
        Outcome outcome = Outcome::transient;
        std::uint32_t recipients = 0;
        std::vector<std::size_t> refused; // recipients that RCPT did not let in, by number
        bool connection_lost = false;
        Reply reply;
    };

    base::Task<void> run_connection(std::size_t number);
    base::Task<SessionEnd> run_session(std::size_t target, std::size_t client);
    base::Task<base::NetResult<Offers>> open(Dialogue& dialogue, std::size_t client);
    base::Task<base::NetResult<>> secure(Dialogue& dialogue, std::size_t client);
    [[nodiscard]] SourceTls draw_tls() noexcept;
    base::Task<base::NetResult<Offers>> greet(Dialogue& dialogue);
    base::Task<Attempt> transact(Dialogue& dialogue, const Offers& offers, const Message& message,
                                 base::TimePoint* content_sent);

    [[nodiscard]] bool more() noexcept;
    [[nodiscard]] base::TimePoint due_at(std::uint64_t index) const noexcept;
    /// Once, when the time is over: what was due and is not begun will not be begun.
    void settle_overdue() noexcept;
    [[nodiscard]] base::Deadline reply_deadline() const noexcept {
        return base::Deadline::in(loop_, options_.reply_limit);
    }
    [[nodiscard]] base::Deadline opening_deadline() noexcept {
        return base::Deadline::in(loop_, options_.reply_limit, &stop_sleeping_);
    }
    void remember(std::string_view stage, base::NetError error);
    void refresh_date();
    void count(const Attempt& attempt, const Message& message, base::TimePoint since,
               std::size_t target);
    void tell_ledger(const Attempt& attempt, const Message& message);

    base::Loop& loop_;
    base::Transport& transport_;
    SourceOptions options_;
    MessageMaker maker_;
    TlsWrapper* tls_;
    TlsWrapper* fresh_tls_;
    Ledger* ledger_;
    SourceTally tally_;
    std::uint64_t next_ = 0; // messages taken so far
    std::size_t tasks_left_ = 0;
    std::uint64_t draws_ = 0; // of draw_tls() and secure()
    bool stopping_ = false;
    bool settled_ = false;
    base::CancelSource stop_sleeping_;
    base::TimePoint started_{};
    base::TimePoint last_reply_{};
    base::TimePoint last_good_{}; // when a session last got as far as a reply
    std::string date_;
    std::chrono::sys_seconds date_second_{};
};

} // namespace dataplane::loadgen
