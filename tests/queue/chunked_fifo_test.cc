#include "queue/chunked_fifo.h"

#include <gtest/gtest.h>

#include <memory>

namespace {

using Numbers = queue::ChunkedFifo<std::shared_ptr<int>>;

TEST(ChunkedFifo, KeepsTheOrderWhileItGrowsAndShrinks) {
    Numbers numbers;
    int next = 0, expected = 0;
    for (const int more : {1, 511, 512, 513, 3000, 2}) {
        for (int i = 0; i < more; ++i)
            numbers.push(std::make_shared<int>(next++));
        for (int i = 0; i < more / 2; ++i) {
            ASSERT_EQ(*numbers.front(), expected++);
            numbers.pop();
        }
        EXPECT_EQ(numbers.size(), static_cast<std::size_t>(next - expected));
    }
    while (!numbers.empty()) {
        ASSERT_EQ(*numbers.front(), expected++);
        numbers.pop();
    }
    EXPECT_EQ(expected, next);
}

TEST(ChunkedFifo, LetsGoOfWhatWasTaken) {
    Numbers numbers;
    const auto number = std::make_shared<int>(1);
    for (int i = 0; i < 1000; ++i)
        numbers.push(number);
    numbers.pop();
    EXPECT_EQ(number.use_count(), 1000);
    numbers.clear();
    EXPECT_EQ(number.use_count(), 1);
}

} // namespace
