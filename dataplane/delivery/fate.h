// fate.h: what happens to the mail. The only place that decides it.
//
// Scope      Turns what came of a delivery attempt into the next step for one recipient, and the
//            next step's time. Who acts on it is dispatcher.h.
// Threading  Pure.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/policy/policy.h"
#include "dataplane/smtp/client_session.h"

#include <cstdint>

namespace dataplane::delivery {

enum class NextStep : std::uint8_t {
    delivered,
    try_next_host, // at once, within this round
    retry_later,
    bounce,
    expire, // a bounce for age alone: it has an event and a status code of its own
};

struct Circumstances {
    bool last_host = true;          // no other address is left to try in this round
    bool reused_connection = false; // it has carried a message before this one
    bool expired = false;           // the recipient's time is over
};

/// \param outcome  of the opening for all recipients alike, or of a transaction for one of them
[[nodiscard]] NextStep next_step(const smtp::Outcome& outcome,
                                 Circumstances circumstances) noexcept;

/// How long to wait after the given number of attempts: exponential, with jitter.
/// \param attempts  made so far, at least 1
/// \param random    uniform over all 64 bits
[[nodiscard]] std::chrono::milliseconds
retry_wait(const policy::RetryPolicy& retry, std::uint32_t attempts, std::uint64_t random) noexcept;

/// How long a site whose connections failed `failures` times in a row (at least 1) is left alone.
[[nodiscard]] std::chrono::milliseconds site_pause(const policy::RetryPolicy& retry,
                                                   std::uint32_t failures) noexcept;

/// RFC 3463 status of an outcome for a DSN: the peer's enhanced code, or the best that its reply
/// code or our own finding gives. The class says what happened to the mail, also where the peer
/// said otherwise.
[[nodiscard]] smtp::EnhancedCode status_of(const smtp::Outcome& outcome, NextStep step) noexcept;

} // namespace dataplane::delivery
