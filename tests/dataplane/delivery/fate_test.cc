#include "dataplane/delivery/fate.h"

#include <gtest/gtest.h>

namespace {

using namespace dataplane;
using namespace std::chrono_literals;
using base::NetError;
using delivery::Circumstances;
using delivery::next_step;
using delivery::NextStep;
using smtp::Cause;
using smtp::Outcome;
using smtp::Stage;

Outcome reply(Stage stage, std::uint16_t code) {
    Outcome outcome;
    outcome.stage = stage;
    outcome.code = code;
    return outcome;
}
Outcome failure(Stage stage, Cause cause, NetError net = NetError::reset) {
    Outcome outcome;
    outcome.stage = stage;
    outcome.cause = cause;
    outcome.net = net;
    return outcome;
}
Outcome local(Stage stage, std::uint16_t code) {
    Outcome outcome = reply(stage, code);
    outcome.cause = Cause::local;
    return outcome;
}

struct Case {
    const char* what;
    Outcome outcome;
    // With another host to try, without one, on a connection that was used before, and when
    // expired.
    NextStep more_hosts, last_host, reused, expired;
};

constexpr auto delivered = NextStep::delivered;
constexpr auto next = NextStep::try_next_host;
constexpr auto later = NextStep::retry_later;
constexpr auto bounce = NextStep::bounce;
constexpr auto expire = NextStep::expire;

const Case cases[] = {
    {"accepted", reply(Stage::last_dot, 250), delivered, delivered, delivered, delivered},
    {"a 2xx that is not about the whole mail", reply(Stage::rcpt, 250), later, later, later,
     expire},
    {"a 3xx after the dot", reply(Stage::last_dot, 354), later, later, later, expire},

    {"4xx greeting", reply(Stage::greeting, 421), next, later, later, expire},
    {"5xx greeting", reply(Stage::greeting, 554), next, later, later, expire},
    {"4xx to EHLO", reply(Stage::hello, 450), next, later, later, expire},
    {"5xx to HELO", reply(Stage::hello, 550), next, later, later, expire},
    {"STARTTLS refused", reply(Stage::starttls, 454), next, later, later, expire},
    {"TLS required, not offered", local(Stage::starttls, 454), next, later, later, expire},
    {"TLS handshake", failure(Stage::starttls, Cause::tls), next, later, later, expire},

    {"4xx to MAIL", reply(Stage::mail, 451), later, later, later, expire},
    {"4xx to RCPT", reply(Stage::rcpt, 450), later, later, later, expire},
    {"4xx to DATA", reply(Stage::data, 451), later, later, later, expire},
    {"4xx after the dot", reply(Stage::last_dot, 452), later, later, later, expire},
    {"5xx to MAIL", reply(Stage::mail, 553), bounce, bounce, bounce, bounce},
    {"5xx to RCPT", reply(Stage::rcpt, 550), bounce, bounce, bounce, bounce},
    {"5xx to DATA", reply(Stage::data, 554), bounce, bounce, bounce, bounce},
    {"5xx amid the content", reply(Stage::body, 552), bounce, bounce, bounce, bounce},
    {"5xx after the dot", reply(Stage::last_dot, 554), bounce, bounce, bounce, bounce},

    {"421 to MAIL", reply(Stage::mail, 421), next, later, next, expire},
    {"421 to RCPT", reply(Stage::rcpt, 421), next, later, later, expire},
    {"421 after the dot", reply(Stage::last_dot, 421), later, later, later, expire},

    {"connect refused", failure(Stage::connect, Cause::network, NetError::refused), next, later,
     later, expire},
    {"connect timed out", failure(Stage::connect, Cause::network, NetError::timed_out), next, later,
     later, expire},
    {"silent greeting", failure(Stage::greeting, Cause::network, NetError::timed_out), next, later,
     later, expire},
    {"reset at MAIL", failure(Stage::mail, Cause::network), next, later, next, expire},
    {"closed at MAIL", failure(Stage::mail, Cause::network, NetError::end_of_stream), next, later,
     next, expire},
    {"reset at RCPT", failure(Stage::rcpt, Cause::network), next, later, later, expire},
    {"reset at DATA", failure(Stage::data, Cause::network), next, later, later, expire},
    {"reset amid the content", failure(Stage::body, Cause::network), next, later, later, expire},
    {"silence after the dot", failure(Stage::last_dot, Cause::network, NetError::timed_out), later,
     later, later, expire},
    {"reset after the dot", failure(Stage::last_dot, Cause::network), later, later, later, expire},
    {"nonsense at MAIL", failure(Stage::mail, Cause::protocol), next, later, later, expire},
    {"nonsense after the dot", failure(Stage::last_dot, Cause::protocol), later, later, later,
     expire},
    {"our own shutdown", failure(Stage::rcpt, Cause::network, NetError::cancelled), later, later,
     later, later},

    {"no such domain", local(Stage::route, 550), bounce, bounce, bounce, bounce},
    {"null MX", local(Stage::route, 556), bounce, bounce, bounce, bounce},
    {"DNS out of order", local(Stage::route, 451), later, later, later, expire},
    {"message too large", local(Stage::mail, 552), bounce, bounce, bounce, bounce},
    {"content unreadable", local(Stage::mail, 451), later, later, later, expire},
};

TEST(Fate, FollowsTheTable) {
    for (const Case& one : cases) {
        EXPECT_EQ(next_step(one.outcome, {.last_host = false}), one.more_hosts) << one.what;
        EXPECT_EQ(next_step(one.outcome, {.last_host = true}), one.last_host) << one.what;
        EXPECT_EQ(next_step(one.outcome, {.last_host = true, .reused_connection = true}),
                  one.reused)
            << one.what;
        EXPECT_EQ(next_step(one.outcome, {.last_host = true, .expired = true}), one.expired)
            << one.what;
    }
}

// Goal: no outcome whatever turns into "delivered" except a 2xx to the whole content.
TEST(Fate, OnlyAnAcceptedContentIsDelivered) {
    for (int stage = 0; stage <= static_cast<int>(Stage::last_dot); ++stage) {
        for (int cause = 0; cause <= static_cast<int>(Cause::local); ++cause) {
            for (std::uint16_t code = 0; code < 600; ++code) {
                Outcome outcome = reply(static_cast<Stage>(stage), code);
                outcome.cause = static_cast<Cause>(cause);
                const bool accepted = outcome.cause == Cause::reply &&
                                      outcome.stage == Stage::last_dot && code / 100 == 2;
                ASSERT_EQ(next_step(outcome, {}) == NextStep::delivered, accepted)
                    << stage << ' ' << cause << ' ' << code;
                ASSERT_EQ(next_step(outcome, {.last_host = false, .expired = true}) ==
                              NextStep::delivered,
                          accepted);
            }
        }
    }
}

TEST(RetryWait, GrowsByItsFactorUpToItsBound) {
    const policy::RetryPolicy retry{
        .first = 300s, .factor = 2.0, .interval_max = 4000s, .jitter = 0.0};
    EXPECT_EQ(delivery::retry_wait(retry, 0, 1), 300s);
    EXPECT_EQ(delivery::retry_wait(retry, 1, 1), 300s);
    EXPECT_EQ(delivery::retry_wait(retry, 2, 1), 600s);
    EXPECT_EQ(delivery::retry_wait(retry, 4, 1), 2400s);
    EXPECT_EQ(delivery::retry_wait(retry, 5, 1), 4000s);
    EXPECT_EQ(delivery::retry_wait(retry, 4'000'000'000U, 1), 4000s);
}

TEST(RetryWait, JitterStaysWithinItsShare) {
    const policy::RetryPolicy retry{.first = 1000s, .jitter = 0.25};
    EXPECT_EQ(delivery::retry_wait(retry, 1, 0), 750s);
    EXPECT_GE(delivery::retry_wait(retry, 1, ~0ULL), 1249s);
    EXPECT_LE(delivery::retry_wait(retry, 1, ~0ULL), 1250s);
    EXPECT_NEAR(static_cast<double>(delivery::retry_wait(retry, 1, 1ULL << 63).count()), 1e6, 1.0);
}

TEST(SitePause, DoublesUpToItsBound) {
    const policy::RetryPolicy retry{.site_pause_first = 60s, .site_pause_max = 3600s};
    EXPECT_EQ(delivery::site_pause(retry, 1), 60s);
    EXPECT_EQ(delivery::site_pause(retry, 3), 240s);
    EXPECT_EQ(delivery::site_pause(retry, 7), 3600s);
    EXPECT_EQ(delivery::site_pause(retry, 4'000'000'000U), 3600s);
}

TEST(Status, SaysWhatHappenedToTheMail) {
    using smtp::EnhancedCode;
    Outcome outcome = reply(Stage::rcpt, 550);
    EXPECT_EQ(delivery::status_of(outcome, bounce), (EnhancedCode{5, 1, 0}));
    outcome.enhanced = {5, 7, 26};
    EXPECT_EQ(delivery::status_of(outcome, bounce), (EnhancedCode{5, 7, 26}));
    EXPECT_EQ(delivery::status_of(outcome, expire), (EnhancedCode{5, 4, 7}));
    EXPECT_EQ(delivery::status_of(failure(Stage::connect, Cause::network), later),
              (EnhancedCode{4, 4, 1}));
    EXPECT_EQ(delivery::status_of(failure(Stage::rcpt, Cause::network), later),
              (EnhancedCode{4, 4, 2}));
    EXPECT_EQ(delivery::status_of(reply(Stage::last_dot, 250), delivered), (EnhancedCode{2, 0, 0}));
}

} // namespace
