// client_session.h: the client's side of one SMTP connection: greet, hello, STARTTLS, then
// transactions.
//
// Scope      RFC 5321 with PIPELINING (2920), SIZE (1870), 8BITMIME (6152), SMTPUTF8 (6531),
//            CHUNKING and BINARYMIME (3030), DSN (3461), STARTTLS (3207), ENHANCEDSTATUSCODES
//            (2034). It says what the peer answered and where; what that means for the mail is
//            decided in delivery/fate.h, and which host to speak to in delivery/dispatcher.h.
// Owns       Its stream, one buffer of commands, and one Outcome per recipient of the last
//            transaction; all are reused, so that a warm session does not allocate.
// Threading  Bound to one shard.
// Failure    An Outcome each for the opening and for every recipient. After a broken connection, a
//            reply that makes no sense, or a 421, usable() is false and the session can only be
//            dropped.
#pragma once

#include "dataplane/base/line_reader.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/base/task.h"
#include "dataplane/policy/policy.h"
#include "dataplane/smtp/outcome.h"
#include "dataplane/smtp/reply_parser.h"
#include "queue/message.h"
#include "queue/queue.h"
#include "tls_offload/tls_context.h"
#include "tls_offload/tls_stream.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::smtp {

// Content up to this goes out with the envelope, in one write and one round trip, before a
// recipient has been accepted. Larger content waits for the answer: a refusal is common enough not
// to waste more.
inline constexpr std::size_t speculative_content_bytes_max = 64 * 1024;
// RFC 5321 §4.5.3.1.8 has every server take 100; more is between operator and destination.
inline constexpr std::size_t transaction_recipients_max = 1000;

enum class Extension : std::uint16_t {
    pipelining = 1,
    size = 2,
    eight_bit_mime = 4,
    smtputf8 = 8,
    chunking = 16,
    binary_mime = 32,
    dsn = 64,
    starttls = 128,
    enhanced_status_codes = 256,
};

/// What an EHLO reply offers.
struct Capabilities {
    std::uint16_t bits = 0;
    std::uint64_t size_max = 0; // 0: no limit was told

    [[nodiscard]] bool offers(Extension extension) const noexcept {
        return (bits & static_cast<std::uint16_t>(extension)) != 0;
    }
    /// Reads one line of the reply behind its first: "SIZE 1000000".
    void add(std::string_view line) noexcept;
    void remove(Extension extension) noexcept {
        bits &= static_cast<std::uint16_t>(~static_cast<unsigned>(extension));
    }
};

struct ClientOptions {
    std::string helo_name;
    std::string host_name;                             // the peer's, for SNI and certificate checks
    policy::TlsLevel tls = policy::TlsLevel::may;      // not dane_only: who plans knows which it is
    std::vector<tls_offload::TlsaRecord> tlsa = {};    // at TlsLevel::dane
    std::vector<std::string> peer_names = {};          // at verify and secure; empty: host_name
    tls_offload::ClientContext* tls_context = nullptr; // nullptr: STARTTLS is not tried
    bool pipelining = true;
    bool chunking = true;
    policy::Timeouts timeouts;
    base::CancelSource* cancel = nullptr;
};

class ClientSession {
public:
    ClientSession(base::Loop& loop, ClientOptions options);
    ~ClientSession();
    ClientSession(const ClientSession&) = delete;
    ClientSession& operator=(const ClientSession&) = delete;

    /// Greeting, EHLO or HELO, and TLS as far as it is wanted. False: see failure(). When its stage
    /// is starttls and its cause tls, another connection with TlsLevel::none may fare better.
    [[nodiscard]] base::Task<bool> open(base::StreamPtr stream);
    [[nodiscard]] const Outcome& failure() const noexcept { return failure_; }

    /// One transaction for these recipients (indices into the envelope); results() then has an
    /// Outcome for each, in their order. `message` and `recipients` outlive the task.
    /// \pre  usable(), 1 to transaction_recipients_max recipients
    [[nodiscard]] base::Task<void> transact(const queue::Message& message,
                                            std::span<const std::uint32_t> recipients,
                                            queue::ContentReader content);
    [[nodiscard]] std::span<const Outcome> results() const noexcept {
        return std::span{results_}.first(result_count_);
    }

    /// Whether another transaction may follow.
    [[nodiscard]] bool usable() const noexcept { return stream_ != nullptr && usable_; }
    /// Whether an idle peer has spoken or gone: it has nothing to say between transactions.
    [[nodiscard]] bool disturbed() noexcept {
        lines_->release();
        return !stream_->unread().empty();
    }
    /// Says QUIT without waiting for the answer, and lets it leave in the background.
    [[nodiscard]] base::Task<void> quit();

    [[nodiscard]] const Capabilities& capabilities() const noexcept { return capabilities_; }
    [[nodiscard]] const base::StreamInfo& info() const noexcept { return stream_->info(); }
    [[nodiscard]] bool tls() const noexcept { return tls_; }
    /// Null in the clear.
    [[nodiscard]] const tls_offload::TlsState* tls_state() const noexcept {
        return tls_offload::tls_state(*stream_);
    }

private:
    [[nodiscard]] base::Deadline within(std::chrono::seconds limit) const noexcept {
        return base::Deadline::in(loop_, limit, options_.cancel);
    }
    base::Task<bool> hello();
    base::Task<bool> say_hello(std::string_view verb);
    base::Task<bool> start_tls();
    base::Task<bool> send(std::string_view text, Stage stage, std::chrono::seconds limit,
                          Outcome& out);
    base::Task<bool> send_slabs(base::SlabChain slabs, Stage stage, Outcome& out);
    base::Task<bool> read_reply(Stage stage, std::chrono::seconds limit, Outcome& out);
    base::Task<bool> command(std::string_view text, Stage stage, std::chrono::seconds limit,
                             Outcome& out);
    base::Task<void> explain_broken_write(Outcome& out);

    base::Task<bool> envelope_pipelined(const queue::Message& message,
                                        std::span<const std::uint32_t> recipients, bool with_data,
                                        base::SlabChain content);
    base::Task<bool> envelope_in_steps(const queue::Message& message,
                                       std::span<const std::uint32_t> recipients);
    base::Task<void> send_chunks(base::SlabChain piece, queue::ContentReader& content);
    base::Task<void> send_dotted(base::SlabChain piece, queue::ContentReader& content);
    base::Task<bool> send_stuffed(base::SlabChain piece);
    base::Task<bool> reset();

    [[nodiscard]] bool refuse_here(const queue::Message& message,
                                   std::span<const std::uint32_t> recipients,
                                   const base::SlabChain& content, bool whole);
    void append_mail(const queue::Message& message);
    void append_rcpt(const queue::Envelope::Recipient& recipient);
    void fail_locally(Outcome& out, Stage stage, std::uint16_t code, EnhancedCode enhanced,
                      std::string_view text);
    void fail_unreadable(Outcome& out, Stage stage, queue::SpoolError error);
    void distrust(Outcome& out) noexcept;
    /// Gives this outcome to every recipient that has not been refused already.
    void settle_open(const Outcome& outcome);
    [[nodiscard]] std::size_t open_count() const noexcept;
    [[nodiscard]] bool chunking() const noexcept;

    base::Loop& loop_;
    ClientOptions options_;
    base::StreamPtr stream_;
    std::optional<base::LineReader> lines_;
    ReplyParser parser_;
    Capabilities capabilities_;
    Outcome failure_;
    Outcome scratch_;              // answers that concern no recipient alone
    std::vector<Outcome> results_; // keeps its texts' memory between transactions
    std::size_t result_count_ = 0;
    std::string out_; // commands on their way
    bool usable_ = false;
    bool tls_ = false;
    bool needs_reset_ = false;  // the last transaction was left open
    bool at_line_start_ = true; // dot-stuffing, across pieces
    std::uint8_t tail_ =
        0; // the content's last two bytes, for the final CRLF: 1 after CR, 2 after CRLF
};

} // namespace dataplane::smtp
