#include "dataplane/net/tcp/rtt_estimator.h"

#include <gtest/gtest.h>

namespace dataplane::net::tcp {
namespace {

using base::Duration;
using base::TimePoint;
using namespace std::chrono_literals;

Config open_config() { // no floor: the RFC's bare numbers
    Config config;
    config.rto_min = 1ms;
    return config;
}

TEST(RttEstimator, FollowsTheNumbersOfRfc6298) {
    const Config config = open_config();
    RttEstimator rtt;
    rtt.begin(1s);
    EXPECT_EQ(rtt.rto(config), 1s); // §2.1
    rtt.on_sample(100ms, 1);        // §2.2
    EXPECT_EQ(rtt.smoothed(), 100ms);
    EXPECT_EQ(rtt.variation(), 50ms);
    EXPECT_EQ(rtt.rto(config), 300ms);
    rtt.on_sample(180ms, 1); // §2.3: 3/4 * 50 + 1/4 * 80, then 7/8 * 100 + 1/8 * 180
    EXPECT_EQ(rtt.variation(), 57500us);
    EXPECT_EQ(rtt.smoothed(), 110ms);
    EXPECT_EQ(rtt.rto(config), 340ms);
}

TEST(RttEstimator, TheFloorLiesAboveTheSmoothedRtt) {
    Config config; // rto_min 200 ms
    RttEstimator rtt;
    rtt.begin(1s);
    for (int i = 0; i < 100; ++i)
        rtt.on_sample(300ms, 1);
    EXPECT_EQ(rtt.rto(config), 500ms) << "a delayed ACK on a steady path is no timeout";
}

TEST(RttEstimator, StaysBetweenItsBounds) {
    Config config;
    RttEstimator rtt;
    rtt.begin(1s);
    rtt.on_sample(1us, 1);
    EXPECT_GE(rtt.rto(config), config.rto_min);
    rtt.on_sample(1h, 1);
    EXPECT_EQ(rtt.rto(config), config.rto_max);
    rtt.on_sample(-5s, 1); // a clock that jumped
    EXPECT_LE(rtt.rto(config), config.rto_max);
    EXPECT_GE(rtt.rto(config), config.rto_min);
}

// T1 (the delays), T23
TEST(RttEstimator, BackoffDoublesUpToTheMaximumAndASampleEndsIt) {
    Config config;
    RttEstimator rtt;
    rtt.begin(1s);
    for (const Duration expected : {2s, 4s, 8s, 16s, 32s, 60s, 60s}) {
        rtt.back_off();
        EXPECT_EQ(rtt.rto(config), expected);
    }
    for (int i = 0; i < 1000; ++i)
        rtt.back_off();
    EXPECT_EQ(rtt.rto(config), 60s);
    rtt.on_sample(100ms, 1);
    EXPECT_EQ(rtt.rto(config), 300ms);
}

TEST(RttEstimator, ManySamplesInAWindowWeighAsOne) { // RFC 7323 appendix G
    RttEstimator once;
    RttEstimator often;
    once.on_sample(100ms, 1);
    often.on_sample(100ms, 1);
    once.on_sample(200ms, 1);
    for (int i = 0; i < 8; ++i)
        often.on_sample(200ms, 8);
    EXPECT_NEAR(static_cast<double>(once.smoothed().count()),
                static_cast<double>(often.smoothed().count()), 1e6);
    EXPECT_NEAR(static_cast<double>(once.variation().count()),
                static_cast<double>(often.variation().count()), 3e6);
}

TEST(RttEstimator, TheMinimumForgetsWhatIsOld) {
    RttEstimator rtt;
    TimePoint now{100s};
    EXPECT_EQ(rtt.minimum(), Duration::zero());
    rtt.on_minimum(10ms, now);
    rtt.on_minimum(50ms, now + 1s);
    EXPECT_EQ(rtt.minimum(), 10ms);
    rtt.on_minimum(50ms, now + 11s);
    EXPECT_EQ(rtt.minimum(), 10ms) << "of the window before";
    rtt.on_minimum(50ms, now + 22s);
    EXPECT_EQ(rtt.minimum(), 50ms);
}

} // namespace
} // namespace dataplane::net::tcp
