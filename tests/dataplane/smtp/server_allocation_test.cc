// Goal: a warm session takes mail without calling malloc. Method: this binary counts operator new.
#include "dataplane/base/frame_pool.h"
#include "tests/dataplane/smtp/server_load.h"

#include <gtest/gtest.h>

namespace tests {
namespace {

TEST(ServerAllocation, AWarmSessionAllocatesNothingPerMessage) {
    if (!base::frames_are_pooled)
        GTEST_SKIP() << "AddressSanitizer builds do not pool coroutine frames";
    for (const std::size_t message_bytes : {500U, 4'000U, 100'000U}) {
        ServerLoad load{message_bytes};
        load.begin(10);
        load.run(2000);
        const std::uint64_t before = allocation_count();
        load.run(1000);
        // The spool's index grows now and then, and on this small pool checkpoints come often, with some
        // forty allocations each; a thousand messages must not show.
        EXPECT_LE(allocation_count() - before, 100U) << message_bytes << " bytes";
    }
}

} // namespace
} // namespace tests
