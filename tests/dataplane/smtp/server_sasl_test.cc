#include "dataplane/smtp/sasl.h"

#include <gtest/gtest.h>
#include <string>

namespace dataplane::smtp {
namespace {

TEST(Base64, DecodesWhatAnEncoderWrites) {
    EXPECT_EQ(decode_base64(""), "");
    EXPECT_EQ(decode_base64("Zg=="), "f");
    EXPECT_EQ(decode_base64("Zm8="), "fo");
    EXPECT_EQ(decode_base64("Zm9v"), "foo");
    EXPECT_EQ(decode_base64("Zm9vYmFy"), "foobar");
    EXPECT_EQ(decode_base64("/+8="), "\xff\xef");
}

TEST(Base64, RefusesEverythingElse) {
    for (const char* text : {"Z", "Zg", "Zg=", "Zg===", "Zm9=", "Zh==", "Zm9v ", "Zm9v\n",
                             "====", "=", "Zg==Zg==", "Z-9v", "Zm9v="}) {
        EXPECT_EQ(decode_base64(text), std::nullopt) << text;
    }
}

TEST(Plain, SplitsAtTheNuls) {
    const std::string message{"\0user\0pass word", 15};
    const auto credentials = split_plain(message);
    ASSERT_TRUE(credentials.has_value());
    EXPECT_EQ(credentials->user, "user");
    EXPECT_EQ(credentials->password, "pass word");
}

TEST(Plain, RefusesToActForSomebodyElse) {
    EXPECT_TRUE(split_plain(std::string_view{"user\0user\0pw", 12}).has_value());
    EXPECT_FALSE(split_plain(std::string_view{"root\0user\0pw", 12}).has_value());
    EXPECT_FALSE(split_plain("no nul at all").has_value());
    EXPECT_FALSE(split_plain(std::string_view{"only\0one", 8}).has_value());
}

TEST(Plain, KnowsWhatNoAccountLooksLike) {
    EXPECT_TRUE(plausible("user", "password"));
    EXPECT_FALSE(plausible("", "password"));
    EXPECT_FALSE(plausible("user", ""));
    EXPECT_FALSE(plausible("us\ner", "password"));
    EXPECT_FALSE(plausible("us\xff"
                           "er",
                           "password"));
    EXPECT_FALSE(plausible("user", std::string_view{"pass\0word", 9}));
    EXPECT_FALSE(plausible(std::string(256, 'u'), "password"));
    EXPECT_FALSE(plausible("user", std::string(256, 'p')));
}

} // namespace
} // namespace dataplane::smtp
