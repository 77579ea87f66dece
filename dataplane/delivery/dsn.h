// dsn.h: delivery status notifications: who gets one, and the report itself (RFC 3461, 3462, 3464,
// 6533).
//
// Scope      Failure, delay and "relayed" reports to the sender of a message, as multipart/report:
//            a text for people, the machine's part, and the message's headers or all of it. Never
//            for a null sender, never against NOTIFY.
// Owns       Nothing: a report goes through the queue like any message, with a null sender.
// Threading  Bound to one shard.
// Failure    SpoolError of the queue: the caller must then not settle what the report was about.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/task.h"
#include "dataplane/message/dkim/message_signer.h"
#include "dataplane/smtp/reply_parser.h"
#include "queue/message.h"
#include "queue/queue.h"

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::delivery {

enum class DsnKind : std::uint8_t { failure, delay, relayed };

struct DsnRecipient {
    std::uint32_t index = 0; // in the original's envelope
    smtp::EnhancedCode status;
    bool answered = false;   // `text` is a peer's reply; otherwise the reason in our words
    std::string text;        // "550 5.1.1 no such user"
    std::string remote_host; // that gave the reply; may be empty
};

struct DsnOptions {
    std::string_view hostname;
    std::chrono::seconds expiry{432'000}; // of the report itself
    std::uint64_t random = 0;             // makes the boundary unguessable
};

/// Whether this recipient's fate is reported (RFC 3461 §4.1, §5.2, RFC 5321 §6.1). Without NOTIFY,
/// failures are, and delays as well.
[[nodiscard]] bool dsn_due(const queue::Envelope& envelope, std::uint32_t recipient,
                           DsnKind kind) noexcept;

/// The report up to the returned content, and what closes it.
struct DsnText {
    std::string head, tail;
    bool full = false; // the whole message is returned, not only its headers
    bool eight_bit = false;
};
[[nodiscard]] DsnText compose_dsn(const queue::Message& original, DsnKind kind,
                                  std::span<const DsnRecipient> recipients, base::WallTime now,
                                  DsnOptions options);

/// Composes and queues one report. Success means that it is durable. What it refers to outlives the
/// task.
/// \param desk  whose keys for the relay's own host name sign it, as of no tenant; null: nobody. A report that
///              cannot be signed goes unsigned, whatever the key's table says: the sender must learn of it.
[[nodiscard]] base::Task<queue::SpoolResult<>>
send_dsn(base::Loop& loop, queue::MessageQueue& queue, queue::MessageRef original, DsnKind kind,
         std::span<const DsnRecipient> recipients, DsnOptions options,
         message::dkim::SigningDesk* desk = nullptr);

/// RFC 5322 §3.3, in UTC.
[[nodiscard]] std::string mail_date(base::WallTime time);

} // namespace dataplane::delivery
