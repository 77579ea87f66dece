#include "dataplane/loadgen/run/profile.h"

#include <gtest/gtest.h>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view least = R"([[source]]
target = "127.0.0.1:2525"
)";

std::expected<Profile, std::vector<ProfileError>> read(const std::string& text) {
    return read_profile(text, "test", shipped_providers());
}
/// The mistakes, one a line: "LINE: TEXT".
std::string mistakes(const std::string& text) {
    const auto profile = read(text);
    std::string all;
    if (profile) return all;
    for (const ProfileError& error : profile.error())
        all += std::to_string(error.line) + ": " + error.text + "\n";
    return all;
}

TEST(Profile, EveryShippedOneIsRight) {
    ASSERT_GE(shipped_profiles().size(), 6U);
    for (const Shipped& shipped : shipped_profiles()) {
        const auto profile =
            read_profile(std::string(shipped.text), std::string(shipped.name), shipped_providers());
        ASSERT_TRUE(profile) << shipped.name << ": " << profile.error().front().line << ": "
                             << profile.error().front().text;
        EXPECT_FALSE(profile->description.empty()) << shipped.name;
        EXPECT_FALSE(profile->sinks.empty()) << shipped.name;
    }
}

TEST(Profile, WhatWouldBeIgnoredIsAMistake) {
    const std::string text(least);
    EXPECT_NE(mistakes(text + "[message]\nsize = [{bytes = \"8KB\", wieght = 3}]\n").find("size"),
              std::string::npos);
    EXPECT_EQ(mistakes(text + "[message]\nsize = [{bytes = \"8KB\", weight = 3}]\n"), "");
    EXPECT_NE(mistakes(text + "[capacity]\nrate_first = 500\nrate_max = 100\n").find("rate_first"),
              std::string::npos);
    EXPECT_EQ(read(text + "[capacity]\ntrial = \"2500ms\"\n")->capacity.trial, 2500ms);
    EXPECT_FALSE(read(text)->capacity.watch_backlog); // nobody sees deliveries
    EXPECT_FALSE(read(text)->relay.dkim.has_value());
    EXPECT_EQ(read(text + "[relay]\ndkim = true\n")->relay.dkim, true);
}

TEST(Profile, ShippedOnesAreWhatTheirNamesSay) {
    const auto named = [](std::string_view name) {
        for (const Shipped& shipped : shipped_profiles()) {
            if (shipped.name == name) return *read(std::string(shipped.text));
        }
        return Profile{};
    };
    EXPECT_EQ(named("transactional").pattern.recipient_count_max, 1U);
    EXPECT_EQ(named("transactional").sources.at(0).options.messages_per_connection, 5U);
    double gmail = 0, all = 0;
    for (const WeightedDomain& domain : named("newsletter").pattern.domains) {
        all += domain.weight;
        gmail += domain.name == "gmail.bench.example" ? domain.weight : 0;
    }
    EXPECT_NEAR(gmail, 67.4, 0.01);
    EXPECT_NEAR(all, 100, 0.01);
    EXPECT_GE(named("large").pattern.sizes.at(0).bytes_min, 1'000'000U);
    EXPECT_EQ(named("large").pattern.sizes.at(0).bytes_max, 10'000'000U);
    EXPECT_TRUE(named("hostile").hostile.any());
    EXPECT_EQ(named("hostile").hostile.targets.size(), 1U);
    EXPECT_EQ(named("ci").duration + named("ci").warm_up, 20s);
}

TEST(Profile, ReadsUnitsRangesAndWeights) {
    const auto profile =
        read("duration = \"90s\"\nwarm_up = \"500ms\"\n" + std::string(least) +
             "rate = 120.5\n[message]\nsize = [{bytes = \"2KiB-3KB\", weight = 3}, "
             "\"1MB\", 5000]\nrecipients = \"2-7\"\n[domains]\n\"a.example\" = 3\n"
             "\"b.example\" = 1\n");
    ASSERT_TRUE(profile) << mistakes(std::string(least));
    EXPECT_EQ(profile->duration, 90s);
    EXPECT_EQ(profile->warm_up, 500ms);
    ASSERT_EQ(profile->pattern.sizes.size(), 3U);
    EXPECT_EQ(profile->pattern.sizes[0].bytes_min, 2048U);
    EXPECT_EQ(profile->pattern.sizes[0].bytes_max, 3000U);
    EXPECT_EQ(profile->pattern.sizes[0].weight, 3);
    EXPECT_EQ(profile->pattern.sizes[1].bytes_max, 1'000'000U);
    EXPECT_EQ(profile->pattern.sizes[2].bytes_min, 5000U);
    EXPECT_EQ(profile->pattern.recipient_count, 2U);
    EXPECT_EQ(profile->pattern.recipient_count_max, 7U);
    EXPECT_EQ(profile->pattern.domains.size(), 2U);
    EXPECT_EQ(profile->sources.at(0).options.rate_per_s, 120.5);
}

TEST(Profile, AProviderMayOverrideItsPreset) {
    const auto profile =
        read(std::string(least) + "[[sink]]\nlisten = \"127.0.0.1:2526\"\n[[provider]]\npreset = "
                                  "\"yahoo\"\ndomains = [\"y.example\"]\nreply_4xx_percent = 50\n");
    ASSERT_TRUE(profile);
    const Provider& provider = profile->sinks.at(0).options.providers.at(0);
    EXPECT_EQ(provider.name, "yahoo");
    EXPECT_EQ(provider.domains, std::vector<std::string>{"y.example"});
    EXPECT_EQ(provider.manner.reply_4xx_share, 0.5);
    EXPECT_EQ(provider.manner.messages_per_connection_max, 20U);
}

TEST(Profile, MistakesHaveTheirLineAndRemedy) {
    EXPECT_EQ(mistakes("[[source]]\ntarget = \"127.0.0.1:2525\"\nconections = 5\n").substr(0, 43),
              "3: source 1.conections: no such key; this t");
    EXPECT_NE(
        mistakes("duration = \"long\"\n" + std::string(least)).find("1: duration: must be a time"),
        std::string::npos);
    EXPECT_NE(mistakes("duration = \"5s\"\n").find("add [[source]] with target"),
              std::string::npos);
    EXPECT_NE(mistakes("[[source]]\nconnections = 0\ntarget = \"127.0.0.1:1\"\n")
                  .find("2: source 1.connections: must be a whole number from 1"),
              std::string::npos);
    EXPECT_NE(mistakes(std::string(least) + "[[sink]]\nlisten = \"127.0.0.1:2526\"\n[[provider]]\n"
                                            "preset = \"hotmale\"\n")
                  .find("6: provider 1.preset: no preset is named \"hotmale\"; there are"),
              std::string::npos);
    EXPECT_NE(mistakes(std::string(least) + "tls = \"yes\"\n").find("3: source 1.tls: must be"),
              std::string::npos);
    EXPECT_NE(mistakes("[[source]]\ntarget = \"nowhere\"\n").find("2: source 1.target: 'nowhere'"),
              std::string::npos);
    EXPECT_NE(mistakes("x = [\n").find(": "), std::string::npos);
    EXPECT_NE(mistakes(std::string(least) + "[message]\nsize = \"10B\"\n").find("size must lie"),
              std::string::npos);
    EXPECT_NE(mistakes(std::string(least) + "rate = 5\n" + std::string(least)).find("open loop"),
              std::string::npos);
    EXPECT_NE(mistakes("transport = \"dpdk\"\n" + std::string(least)).find("needs [dpdk]"),
              std::string::npos);
}

} // namespace
} // namespace dataplane::loadgen
