// scripted_peer.h: an SMTP destination that does what a test says, and remembers what it was given.
//
// Scope      A server on any Transport. Rules answer a command (or the greeting, or the end of the
//            content) with a reply of their own, late, never, or by hanging up. Its ledger of
//            accepted mail is what a test's audit compares with.
// Owns       Its listener and its connections' tasks on the Loop, which therefore drops its tasks
//            (Loop::drop_tasks) before the peer dies.
// Threading  The Loop's.
#pragma once

#include "dataplane/base/line_reader.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

namespace base = dataplane::base;

/// What a rule does instead of the usual answer.
struct PeerAction {
    std::string reply;      // whole, without CRLF; empty: the usual answer
    base::Duration delay{}; // before it
    bool silent = false;    // no answer, ever
    bool hang_up = false;   // closes, after the reply if there is one
    bool reset = false;     // the same with a reset
};

struct PeerRule {
    // "connect", "EHLO", "HELO", "STARTTLS", "MAIL", "RCPT", "DATA", "BDAT" (refused as a command),
    // "RSET", "QUIT", or "." for the end of the content, however it came.
    std::string verb;
    PeerAction action;
    std::string contains; // only commands with this in them
    int times = -1;       // so often, then no more; -1: always
};

struct AcceptedMail {
    std::string sender, mail_parameters;
    struct Recipient {
        std::string address, parameters;
    };
    std::vector<Recipient> recipients;
    std::string content; // as meant: without dot-stuffing
    std::string helo;
    base::SocketAddress client;
    base::TimePoint time{};
    unsigned connection = 0; // number of it, from 1
    unsigned chunks = 0;     // BDATs; 0: DATA
    bool tls = false;
};

class ScriptedPeer {
public:
    /// Listens at once; the address must be free.
    ScriptedPeer(base::Loop& loop, base::Transport& transport, const base::SocketAddress& address);
    ScriptedPeer(const ScriptedPeer&) = delete;
    ScriptedPeer& operator=(const ScriptedPeer&) = delete;

    /// The last rule that matches wins.
    void when(std::string verb, PeerAction action, std::string contains = {}, int times = -1);
    void reply(std::string verb, std::string text, std::string contains = {}, int times = -1);
    void forget_rules() { rules_.clear(); }

    std::string name = "peer.example";
    std::vector<std::string> extensions{"PIPELINING", "8BITMIME", "SIZE 52428800",      "SMTPUTF8",
                                        "CHUNKING",   "DSN",      "ENHANCEDSTATUSCODES"};
    void without(std::string_view extension);
    /// Takes over the stream after a 220 to STARTTLS; a null result ends the connection.
    std::function<base::Task<base::StreamPtr>(base::StreamPtr)> upgrade;
    /// Sees every mail it accepts, at once; the ledger below is kept as well unless this says
    /// false.
    std::function<bool(const AcceptedMail&)> on_accepted;

    // Both grow without moving what is there: others measure turns beside this.
    std::deque<AcceptedMail> accepted;
    std::deque<std::string> commands; // all, in the order they came
    unsigned connections = 0;         // so far
    unsigned open = 0, open_max = 0;
    [[nodiscard]] std::size_t count(std::string_view verb) const;
    [[nodiscard]] const base::SocketAddress& address() const { return address_; }
    /// Connections to it are refused from now on; those that are open go on.
    void stop_listening() { listener_->close(); }

private:
    struct Dialogue;
    base::Task<void> accept_all();
    base::Task<void> serve(base::StreamPtr stream);
    base::Task<bool> greet(Dialogue* dialogue);
    base::Task<bool> converse(Dialogue* dialogue, std::string line);
    base::Task<bool> answer(Dialogue* dialogue, std::string verb, std::string line,
                            std::string usual);
    base::Task<bool> read_data(Dialogue* dialogue);
    base::Task<bool> read_chunk(Dialogue* dialogue, std::string line);
    base::Task<bool> end_of_content(Dialogue* dialogue);
    [[nodiscard]] const PeerAction* match(std::string_view verb, std::string_view line);

    base::Loop& loop_;
    base::SocketAddress address_;
    std::unique_ptr<base::Listener> listener_;
    std::deque<PeerRule> rules_;
    PeerAction matched_;
};

} // namespace tests
