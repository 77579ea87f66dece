// source.h: submits numbered messages over many connections and remembers every answer.
//
// Scope      Closed loop (each connection sends its next message when the last was answered) or
//            open loop (message i is due at start + i / rate, and its latency counts from then, so
//            that a slow relay cannot hide its queueing). Each message is tried once; what became
//            of it goes to the ledger. A broken connection is made again for reconnect_limit.
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

namespace dataplane::loadgen {

enum class SourceTls : std::uint8_t { none, starttls, implicit };

struct SourceOptions {
    base::SocketAddress target;
    std::size_t connections = 1;
    std::uint64_t messages = 0;        // 0: until `time` is over
    std::chrono::milliseconds time{0}; // 0: until `messages` are sent
    std::uint64_t first_sequence = 0;
    double rate_per_s = 0;  // 0: closed loop
    bool pipelining = true; // when offered
    bool chunking = false;  // BDAT, when offered
    SourceTls tls = SourceTls::none;
    std::string user, password; // AUTH PLAIN when there is a user
    std::string helo_name = "bench.example";
    std::uint64_t messages_per_connection = 0; // 0: as many as there are
    std::chrono::milliseconds reply_limit{60'000};
    std::chrono::milliseconds reconnect_limit{
        10'000}; // how long to go on trying after a connection broke
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
    std::string last_error; // of a connection that broke, or of a refusal: for a person
    Histogram accept_latency_ns;
};

class Source {
public:
    /// \param tls, ledger  may be null; borrowed for the Source's life
    Source(base::Loop& loop, base::Transport& transport, SourceOptions options, MessageMaker maker,
           TlsWrapper* tls, LedgerWriter* ledger);

    /// Starts every connection's task.
    void start();
    /// Stops taking new messages; what is under way is finished.
    void stop() noexcept { stopping_ = true; }
    [[nodiscard]] bool finished() const noexcept { return tasks_left_ == 0; }
    [[nodiscard]] const SourceTally& tally() const noexcept { return tally_; }
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
        bool connection_lost = false;
        Reply reply;
    };

    base::Task<void> run_connection();
    base::Task<SessionEnd> run_session();
    base::Task<base::NetResult<Offers>> open(Dialogue& dialogue);
    base::Task<base::NetResult<Offers>> greet(Dialogue& dialogue);
    base::Task<Attempt> transact(Dialogue& dialogue, const Offers& offers, const Message& message,
                                 base::TimePoint* content_sent);

    [[nodiscard]] bool more() const noexcept;
    [[nodiscard]] base::Deadline reply_deadline() const noexcept {
        return base::Deadline::in(loop_, options_.reply_limit);
    }
    void refresh_date();
    void count(const Attempt& attempt, std::uint64_t sequence, base::TimePoint since);

    base::Loop& loop_;
    base::Transport& transport_;
    SourceOptions options_;
    MessageMaker maker_;
    TlsWrapper* tls_;
    LedgerWriter* ledger_;
    SourceTally tally_;
    std::uint64_t next_ = 0; // messages taken so far
    std::size_t tasks_left_ = 0;
    bool stopping_ = false;
    base::TimePoint started_{};
    base::TimePoint last_reply_{};
    base::TimePoint last_good_{}; // when a session last got as far as a reply
    std::string date_;
    std::chrono::sys_seconds date_second_{};
};

} // namespace dataplane::loadgen
