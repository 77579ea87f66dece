// The choice of backends at start, and keys: what is taken, what is refused, and what is said of it.
#include "tests/tls_offload/engine/rig.h"
#include "tls_offload/engine/host.h"

#include <algorithm>
#include <fstream>
#include <gtest/gtest.h>
#include <sstream>
#include <unistd.h>

namespace tests {
namespace {

using offload::Choice;
using offload::Host;
using offload::KeyError;
using offload::PrivateKey;

std::string names(const Host& host, unsigned shard = 0) {
    std::string out;
    for (const auto& backend : host.chain(shard, nullptr))
        out += (out.empty() ? "" : " ") + std::string{backend->traits().name};
    return out;
}

/// Nothing of what this machine may have installed.
offload::HostOptions bare(Choice choice, unsigned processors) {
    return {.choice = choice,
            .shards = 2,
            .processors = processors,
            .engine_file = "/nowhere/qatengine.so",
            .mb8_file = "/nowhere/libcrypto_mb.so"};
}

TEST(OffloadHost, AutoTakesThreadsWhereACoreIsSpareAndSaysWhyNothingBetter) {
    const auto host = Host::start(bare(Choice::best, 3));
    ASSERT_TRUE(host.has_value()) << host.error();
    EXPECT_EQ(names(**host), "threads inline");
    std::string text;
    for (const auto& finding : (*host)->findings())
        text += std::string{finding.backend} + (finding.used ? "+ " : "- ") + finding.text + "\n";
    EXPECT_NE(text.find("cryptodev- DPDK is not started"), std::string::npos) << text;
    EXPECT_NE(text.find("qatengine- /nowhere/qatengine.so"), std::string::npos) << text;
    EXPECT_NE(text.find("mb8- libcrypto_mb is not installed"), std::string::npos) << text;
    EXPECT_NE(text.find("threads+ 1 worker, 2 on what shards leave of theirs"), std::string::npos)
        << text;
}

TEST(OffloadHost, WhereShardsNeverSleepOrWorkersAreCountedThereAreNoHelpers) {
    auto options = bare(Choice::threads, 3);
    options.shards_sleep = false;
    EXPECT_EQ((*Host::start(options))->findings().front().text, "1 worker");
    options = bare(Choice::threads, 3);
    options.workers = 2;
    EXPECT_EQ((*Host::start(options))->findings().front().text, "2 workers");
}

TEST(OffloadHost, AutoWithoutASpareCoreSignsOnTheShards) {
    const auto host = Host::start(bare(Choice::best, 2));
    ASSERT_TRUE(host.has_value());
    EXPECT_EQ(names(**host), "inline");
}

TEST(OffloadHost, AutoPrefersTheLibraryAndADevice) {
    auto options = bare(Choice::best, 3);
    options.mb8_file = FAKE_CRYPTO_MB;
    EXPECT_EQ(names(**Host::start(options)), "mb8 inline");
    options.processors = 2;
    EXPECT_EQ(names(**Host::start(options)), "mb8 inline"); // on the shards
    options.processors = 4;
    options.open_cryptodev = [] {
        return offload::DeviceBackends{
            [](unsigned) { return offload::make_inline_backend(nullptr, "device"); }};
    };
    EXPECT_EQ(names(**Host::start(options)), "device threads inline");
}

TEST(OffloadHost, WhatIsAskedForAndCannotBeHadIsRefusedWithSettingAndReason) {
    for (const Choice choice : {Choice::mb8, Choice::cryptodev, Choice::qatengine}) {
        const auto host = Host::start(bare(choice, 4));
        ASSERT_FALSE(host.has_value());
        EXPECT_NE(
            host.error().find("[offload] backend = \"" + std::string{to_string(choice)} + "\""),
            std::string::npos)
            << host.error();
        EXPECT_NE(host.error().find("backend = \"auto\""), std::string::npos);
    }
}

TEST(OffloadHost, ThreadsByNameWorkAlsoWithoutASpareCore) {
    const auto host = Host::start(bare(Choice::threads, 1));
    ASSERT_TRUE(host.has_value());
    EXPECT_EQ(names(**host, 1), "threads inline");
}

// --- Keys

TEST(OffloadKey, LoadsFromPemAndSignsAsItsOriginal) {
    const auto key = PrivateKey::from_pem(to_pem(evp_key(2048)));
    ASSERT_TRUE(key.has_value()) << key.error().text;
    EXPECT_EQ((*key)->bits(), 2048U);
    Rig rig([] {
        Rig::Backends backends;
        backends.push_back(offload::make_inline_backend());
        return backends;
    }());
    Rig::Job job;
    rig.sign(*key, "x", job);
    ASSERT_TRUE(rig.turn_until([&] { return job.result.has_value(); }));
    EXPECT_TRUE(same(*job.result, reference(evp_key(2048), "x")));
}

TEST(OffloadKey, WhatIsNoUsableKeyIsRefused) {
    const auto error_of = [](std::string_view pem) {
        const auto key = PrivateKey::from_pem(pem);
        CHECK(!key.has_value() && !key.error().text.empty());
        return key.error().error;
    };
    EXPECT_EQ(error_of(""), KeyError::unreadable);
    EXPECT_EQ(error_of("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
              KeyError::unreadable);
    const EvpKey curve{EVP_EC_gen("P-256")};
    EXPECT_EQ(error_of(to_pem(*curve)), KeyError::not_rsa);
    EXPECT_EQ(error_of(to_pem(evp_key(1024))), KeyError::bad_size);
}

/// Memory of this process that core dumps leave out, as the kernel tells: bytes of "dd" mappings.
std::size_t bytes_out_of_dumps() {
    std::ifstream maps("/proc/self/smaps");
    std::size_t total = 0, size = 0;
    for (std::string line; std::getline(maps, line);) {
        if (std::sscanf(line.c_str(), "Size: %zu kB", &size) == 1) continue;
        if (line.starts_with("VmFlags:") && line.find(" dd") != std::string::npos) total += size;
    }
    return total;
}

TEST(OffloadKey, NumbersStayOutOfCoreDumps) {
    const std::size_t before = bytes_out_of_dumps();
    const offload::KeyRef key = engine_key(2048);
    EXPECT_GT(bytes_out_of_dumps(), before);
}

} // namespace
} // namespace tests
