// server_session.h: one client's session on a listener: submission (RFC 6409) or relay (RFC 5321).
//
// Scope      The dialogue from the greeting to QUIT. Grammar is in command_parser.h, who may send
//            in admission.h, the content's bytes in data_decoder.h, texts in server_reply.h. The
//            session keeps the legal order, moves content into the spool, and answers 250 only for
//            what is durable.
// Owns       The stream, the replies not yet sent, and the draft of the transaction under way.
// Threading  Bound to its shard.
// Failure    Every failure is a reply, a counter and, where mail is concerned, an event. A peer
//            that vanishes, stalls or misbehaves loses its connection; the draft is dropped with
//            it.
//
// Replies are collected and leave when the session would wait, so that one turn's pipelined
// commands cost one write (RFC 2920 §3.2). The body never lies in a buffer of ours: it is decoded
// from the stream's receive buffer straight into the draft, and while the draft has no room nothing
// is read.
//
// Files: server_session.cc (lifecycle, dispatch, the small commands), server_auth.cc (STARTTLS,
// AUTH), server_mail.cc (MAIL, RCPT), server_data.cc (DATA, BDAT, and what follows the last byte).
#pragma once

#include "dataplane/base/line_reader.h"
#include "dataplane/base/stream.h"
#include "dataplane/message/dkim/message_signer.h"
#include "dataplane/message/header_scan.h"
#include "dataplane/policy/policy.h"
#include "dataplane/screen/screen.h"
#include "dataplane/smtp/admission.h"
#include "dataplane/smtp/command_parser.h"
#include "dataplane/smtp/data_decoder.h"
#include "dataplane/smtp/hex.h"
#include "dataplane/smtp/server_context.h"
#include "dataplane/smtp/server_reply.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::smtp {

/// Serves one accepted connection to its end.
/// \param listener  index into policy->listeners
[[nodiscard]] base::Task<void> serve(ServerContext& shard, base::StreamPtr stream,
                                     policy::PolicyPtr policy, std::size_t listener);

class ServerSession {
public:
    ServerSession(ServerContext& shard, base::StreamPtr stream, policy::PolicyPtr policy,
                  const policy::ListenerPolicy& listener);
    ServerSession(const ServerSession&) = delete;
    ServerSession& operator=(const ServerSession&) = delete;

    [[nodiscard]] base::Task<void> run();

private:
    // MAIL -> RCPT* -> DATA, or BDAT* -> BDAT LAST; RSET, EHLO and the end of each lead back to
    // none.
    enum class Transaction : std::uint8_t { none, mail, chunks };

    // Lifecycle.
    base::Task<void> converse();
    base::Task<void> flush();
    base::Task<void> farewell();
    void hang_up(base::NetError why);
    [[nodiscard]] base::Deadline deadline(base::Duration limit) const noexcept;
    void refresh_policy();

    // Answers. refuse() is for syntax and sequence; reject() is for mail, and leaves an event.
    void say(const ServerReply& reply) { append_reply(replies_, reply); }
    void refuse(const ServerReply& reply);
    void reject(const ServerReply& reply, telemetry::Counter reason, std::string_view command);
    void close_with(const ServerReply& reply);
    void end_endless_line();
    void count_error();

    // Commands that never wait.
    void on(const Ehlo& ehlo);
    void on(const Helo& helo);
    void on(const Mail& mail);
    void on(const Rcpt& rcpt);
    void on(const Rset& rset);
    void on(const Noop& noop);
    void on(const Quit& quit);
    void on(const Vrfy& vrfy);
    void on(const Expn& expn);
    void on(const Help& help);
    void say_extensions();
    [[nodiscard]] bool greeted(std::string_view name, bool extended);

    // Commands that do.
    base::Task<void> start_tls();
    [[nodiscard]] base::Task<bool> handshake();
    base::Task<void> authenticate(Auth auth);
    base::Task<void> authenticate_by_certificate(Auth auth);
    [[nodiscard]] bool has_certificate() const noexcept;
    void log_in(const policy::AccountPolicy& account);
    base::Task<std::optional<std::string>> ask(const ServerReply& challenge);
    base::Task<void> verify(std::string user, std::string password);
    base::Task<void> auth_failure(const ServerReply& reply, bool counts);
    base::Task<void> receive_data();
    base::Task<void> receive_chunk(Bdat bdat);

    // Content.
    [[nodiscard]] const ServerReply* objection_to_data() noexcept;
    [[nodiscard]] const ServerReply* objection_to_chunk() noexcept;
    void begin_content(Framing framing);
    [[nodiscard]] base::Task<bool> pump(std::uint64_t input_bytes_max);
    [[nodiscard]] base::Task<bool> swallow(std::uint64_t bytes);
    void took(std::span<const std::byte> content);
    void show_signer(std::span<const std::byte> content, std::size_t header_bytes);
    void spoil(const ServerReply& reply, telemetry::Counter reason);
    base::Task<void> finish_message();
    void screen_content();
    void build_prelude();
    base::Task<void> sign_content();
    void drop_signer() noexcept;
    void accepted(const queue::Message& message, base::TimePoint content_ended);
    void end_transaction(bool sent);

    [[nodiscard]] bool tls_active() const noexcept { return !stream_->info().tls_version.empty(); }
    [[nodiscard]] bool authenticated() const noexcept { return !account_.empty(); }
    [[nodiscard]] bool submitting() const noexcept {
        return listener_kind_ != policy::ListenerKind::relay || authenticated();
    }
    [[nodiscard]] ClientStanding standing() const noexcept;
    void publish_rejection(const ServerReply& reply, std::string_view command);
    void describe_client(telemetry::Event& event) const;

    ServerContext& shard_;
    base::StreamPtr stream_;
    base::LineReader reader_;
    policy::PolicyPtr policy_;
    const policy::ListenerKind listener_kind_;
    const bool plain_auth_allowed_;
    const HexText session_id_;
    const base::SocketAddress client_;
    const std::string client_literal_;
    const base::TimePoint session_end_;

    bool open_ = true;
    std::string replies_; // not yet written
    std::uint32_t errors_ = 0;
    bool put_off_ = false; // the last MAIL was told to wait
    std::uint32_t auth_failures_ = 0;
    std::uint32_t messages_ = 0;
    std::uint32_t idle_commands_ = 0;
    std::string helo_;      // empty before EHLO and HELO
    bool extended_ = false; // EHLO, not HELO
    std::string account_;
    std::uint64_t account_generation_ = 0;
    std::string_view line_; // the command being served; valid until the next line is read

    // The transaction.
    Transaction transaction_ = Transaction::none;
    queue::Draft draft_;
    bool rate_taken_ = false;
    bool recipients_tried_ = false;
    bool too_many_recipients_told_ = false;
    bool smtputf8_ = false;
    queue::BodyKind body_ = queue::BodyKind::seven_bit;
    DataDecoder decoder_;
    message::HeaderScan headers_;
    screen::Scan scan_;
    screen::Verdict verdict_; // points into scan_
    std::string rules_hit_;
    std::unique_ptr<message::dkim::MessageSigner> signer_; // null: nothing is signed
    std::string dkim_result_; // for the event: who signed, or why nobody did
    std::uint64_t content_bytes_ = 0;
    std::uint64_t swallowed_bytes_ = 0;
    bool spoiled_ = false; // the message is refused; spoiled_reply_ says so once its end is reached
    ServerReply spoiled_reply_;
    std::string prelude_;
};

} // namespace dataplane::smtp
