// The cryptodev backend on DPDK's software twin of a crypto card, without huge pages and without PCI.
#include "dataplane/net/port/eal.h"
#include "tests/tls_offload/engine/contract.h"
#include "tls_offload/engine/cryptodev.h"

#include <optional>
#include <unistd.h>

/// DPDK 22.11's crypto_openssl keeps the numbers of each RSA session that is freed: no leak of ours would
/// show among them.
extern "C" const char*
__asan_default_options() { // NOLINT: the name that AddressSanitizer looks for
    return "detect_leaks=0";
}

namespace tests {
namespace {

using dataplane::net::Eal;

/// DPDK starts once in a process's life.
struct Dpdk {
    Dpdk() {
        auto started = Eal::start({.huge_pages = false,
                                   .memory_mb = 128,
                                   .file_prefix = "offload-test-" + std::to_string(getpid())});
        if (!started) {
            why = started.error().text;
            return;
        }
        eal.emplace(std::move(*started));
        auto opened = offload::Cryptodev::open(
            {.device = "crypto_openssl", .shards = 2, .operations = 64, .keys_max = 4});
        if (opened) {
            device = std::move(*opened);
        } else {
            why = opened.error();
        }
    }
    ~Dpdk() { device.reset(); }
    std::optional<Eal> eal;
    std::unique_ptr<offload::Cryptodev> device;
    std::string why;
};
std::optional<Dpdk> dpdk;

Subject subject() {
    return {"crypto_openssl",
            []() -> std::expected<std::unique_ptr<offload::Backend>, std::string> {
                if (!dpdk->device) return std::unexpected(dpdk->why);
                static unsigned turn = 0;
                return dpdk->device->backend(++turn % 2);
            }};
}
INSTANTIATE_TEST_SUITE_P(Cryptodev, BackendContract, testing::Values(subject()),
                         testing::PrintToStringParamName());

TEST(Cryptodev, MoreKeysThanItRemembersTakeTurns) {
    if (!dpdk->device) GTEST_SKIP() << dpdk->why;
    Rig::Backends backends;
    backends.push_back(dpdk->device->backend(0));
    backends.push_back(offload::make_inline_backend());
    Rig rig(std::move(backends));
    for (unsigned round = 0; round < 2; ++round) {
        for (unsigned number = 0; number < 6; ++number) {
            Rig::Job job;
            rig.sign(engine_key(2048, number), "x", job);
            ASSERT_TRUE(rig.turn_until([&] { return job.result.has_value(); }));
            EXPECT_TRUE(same(*job.result, reference(evp_key(2048, number), "x")));
        }
    }
    EXPECT_EQ(rig.engine.report(0).done, 12U);
}

TEST(Cryptodev, DeviceThatIsNotThereIsRefusedWithItsReason) {
    if (!dpdk->eal) GTEST_SKIP() << dpdk->why;
    const auto absent = offload::Cryptodev::open({.device = "0000:ff:1f.7_qat_asym"});
    ASSERT_FALSE(absent.has_value());
    EXPECT_NE(absent.error().find("0000:ff:1f.7_qat_asym"), std::string::npos) << absent.error();
    const auto no_driver = offload::Cryptodev::open({.device = "crypto_nothing"});
    ASSERT_FALSE(no_driver.has_value());
    EXPECT_NE(no_driver.error().find("crypto_nothing"), std::string::npos) << no_driver.error();
}

} // namespace
} // namespace tests

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    tests::dpdk.emplace();
    const int result = RUN_ALL_TESTS();
    tests::dpdk.reset(); // while DPDK's own statics are still there
    return result;
}
