#include "dataplane/message/date.h"

#include <chrono>
#include <gtest/gtest.h>

namespace dataplane::message {
namespace {

base::WallTime at(std::int64_t seconds) {
    return base::WallTime{std::chrono::milliseconds{seconds * 1000 + 999}};
}

TEST(DateText, WritesKnownMoments) {
    EXPECT_EQ(DateText{at(0)}.view(), "Thu, 01 Jan 1970 00:00:00 +0000");
    EXPECT_EQ(DateText{at(951'827'696)}.view(), "Tue, 29 Feb 2000 12:34:56 +0000");
    EXPECT_EQ(DateText{at(1'767'225'600)}.view(), "Thu, 01 Jan 2026 00:00:00 +0000");
    EXPECT_EQ(DateText{at(4'102'444'799)}.view(), "Thu, 31 Dec 2099 23:59:59 +0000");
}

TEST(DateText, HasOneLengthOnEveryDayOfFourYears) {
    for (int day = 0; day < 4 * 365 + 1; ++day) {
        const DateText text{at(1'700'000'000 + day * 86'400LL)};
        ASSERT_EQ(text.view().size(), 31U);
        ASSERT_EQ(text.view().find_first_of("\r\n\t"), std::string_view::npos);
    }
}

} // namespace
} // namespace dataplane::message
