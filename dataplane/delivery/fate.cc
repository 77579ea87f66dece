#include "dataplane/delivery/fate.h"

#include <algorithm>
#include <cmath>

namespace dataplane::delivery {

using smtp::Cause;
using smtp::EnhancedCode;
using smtp::Outcome;
using smtp::Stage;

namespace {

/// Of what was not the message's or the recipient's fault, but the host's, the wire's or ours.
[[nodiscard]] NextStep elsewhere_or_later(Circumstances circumstances) noexcept {
    if (circumstances.expired) return NextStep::expire;
    return circumstances.last_host ? NextStep::retry_later : NextStep::try_next_host;
}

[[nodiscard]] NextStep later(Circumstances circumstances) noexcept {
    return circumstances.expired ? NextStep::expire : NextStep::retry_later;
}

/// A connection that was kept open may have been closed under us: that says nothing of the message.
[[nodiscard]] NextStep lost(const Outcome& outcome, Circumstances circumstances) noexcept {
    if (circumstances.reused_connection && outcome.stage == Stage::mail)
        return NextStep::try_next_host;
    return elsewhere_or_later(circumstances);
}

[[nodiscard]] NextStep after_reply(const Outcome& outcome, Circumstances circumstances) noexcept {
    switch (outcome.stage) {
    case Stage::route:
    case Stage::connect:
    case Stage::greeting:
    case Stage::hello:
    case Stage::starttls:
        // The host does not want us, whatever the class of its answer: a 554 greeting is as often a
        // list of addresses we are on for a day as a host that never takes mail. Expiry bounds
        // both.
        return elsewhere_or_later(circumstances);
    case Stage::mail:
    case Stage::rcpt:
    case Stage::data:
    case Stage::body:
    case Stage::last_dot:
        break;
    }
    if (outcome.code / 100 == 5) return NextStep::bounce;
    if (outcome.code == 421) {
        return outcome.stage == Stage::last_dot ? later(circumstances)
                                                : lost(outcome, circumstances);
    }
    if (outcome.positive() && outcome.stage == Stage::last_dot) return NextStep::delivered;
    // 4xx; and what should not be there, a 2xx to something else than the whole message.
    return later(circumstances);
}

[[nodiscard]] std::uint16_t status_class(NextStep step) noexcept {
    switch (step) {
    case NextStep::delivered:
        return 2;
    case NextStep::try_next_host:
    case NextStep::retry_later:
        return 4;
    case NextStep::bounce:
    case NextStep::expire:
        return 5;
    }
    return 4;
}

} // namespace

NextStep next_step(const Outcome& outcome, Circumstances circumstances) noexcept {
    switch (outcome.cause) {
    case Cause::reply:
        return after_reply(outcome, circumstances);
    case Cause::local:
        if (outcome.stage == Stage::starttls) return elsewhere_or_later(circumstances);
        return outcome.code / 100 == 5 ? NextStep::bounce : later(circumstances);
    case Cause::network:
        // Silence after the dot may still mean "accepted": a retry risks a duplicate, another host
        // at once would make one likely (RFC 1047). A lost mail is worse than a double one.
        if (outcome.net == base::NetError::cancelled) return NextStep::retry_later;
        if (outcome.stage == Stage::last_dot) return later(circumstances);
        return lost(outcome, circumstances);
    case Cause::protocol:
        return outcome.stage == Stage::last_dot ? later(circumstances)
                                                : elsewhere_or_later(circumstances);
    case Cause::tls:
        return elsewhere_or_later(circumstances);
    }
    return later(circumstances);
}

std::chrono::milliseconds retry_wait(const policy::RetryPolicy& retry, std::uint32_t attempts,
                                     std::uint64_t random) noexcept {
    const double longest = static_cast<double>(retry.interval_max.count());
    const double exponent = static_cast<double>(std::max(attempts, 1U) - 1);
    const double base =
        static_cast<double>(retry.first.count()) * std::pow(std::max(retry.factor, 1.0), exponent);
    const double share =
        static_cast<double>(random >> 11) / static_cast<double>(1ULL << 53); // [0, 1)
    const double spread = 1.0 + retry.jitter * (2.0 * share - 1.0);
    const double wait_s =
        std::min(base, longest) * spread; // pow may be infinite: min() takes care of it
    return std::chrono::milliseconds{std::max<std::int64_t>(1, std::llround(wait_s * 1000.0))};
}

std::chrono::milliseconds site_pause(const policy::RetryPolicy& retry,
                                     std::uint32_t failures) noexcept {
    const unsigned doublings = std::min(std::max(failures, 1U) - 1, 20U);
    const std::chrono::milliseconds pause = retry.site_pause_first * (1LL << doublings);
    return std::min<std::chrono::milliseconds>(pause, retry.site_pause_max);
}

EnhancedCode status_of(const Outcome& outcome, NextStep step) noexcept {
    const std::uint16_t wanted = status_class(step);
    if (step == NextStep::expire) return {5, 4, 7};
    if (outcome.enhanced) return {wanted, outcome.enhanced.subject, outcome.enhanced.detail};
    switch (outcome.cause) {
    case Cause::reply:
        if (outcome.stage == Stage::rcpt && wanted == 5) return {5, 1, 0};
        return {wanted, 0, 0};
    case Cause::network:
        return {wanted, 4, static_cast<std::uint16_t>(outcome.stage <= Stage::greeting ? 1 : 2)};
    case Cause::protocol:
        return {wanted, 5, 0};
    case Cause::tls:
        return {wanted, 7, 5};
    case Cause::local:
        return {wanted, 0, 0};
    }
    return {wanted, 0, 0};
}

} // namespace dataplane::delivery
