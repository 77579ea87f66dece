// Whose keys sign a message, and what loading them says.
#include "dataplane/message/dkim/key_set.h"
#include "tests/dataplane/message/dkim/fixtures.h"

#include <gtest/gtest.h>

namespace {

using namespace dataplane::message::dkim;
using tests::table;

class DkimKeySet : public testing::Test {
protected:
    std::string load(const std::vector<KeyTable>& tables) {
        auto loaded = load_key_set(tables, cache);
        if (!loaded) return loaded.error().front().text;
        keys = std::move(loaded->keys);
        warnings = std::move(loaded->warnings);
        return "";
    }
    /// "d/s d/s", in the order of signing.
    std::string chosen(std::string_view author, std::string_view tenant = "") const {
        Choice choice;
        keys->choose(author, tenant, choice);
        std::string text;
        for (const Identity* each : choice.view())
            text += (text.empty() ? "" : " ") + each->domain + "/" + each->selector;
        return text;
    }
    KeyTable with(KeyTable made, Scope scope, std::string tenant) const {
        made.scope = scope;
        made.tenant = std::move(tenant);
        return made;
    }

    tests::TempFolder folder;
    std::string key = folder.write("key", tests::rfc8463_seed);
    KeyCache cache;
    std::shared_ptr<const KeySet> keys;
    std::vector<std::string> warnings;
};

TEST_F(DkimKeySet, AuthorsDomainSignsAndNoOther) {
    ASSERT_EQ(load({table("a.example", "s", key), table("b.example", "s", key)}), "");
    EXPECT_EQ(chosen("a.example"), "a.example/s");
    EXPECT_EQ(chosen("b.example"), "b.example/s");
    EXPECT_EQ(chosen("sub.a.example"), "");
    EXPECT_EQ(chosen("xa.example"), "");
    EXPECT_EQ(chosen("example"), "");
    EXPECT_EQ(chosen(""), "");
}

TEST_F(DkimKeySet, ParentSignsForItsSubdomainsWhereItSaysSo) {
    ASSERT_EQ(load({table(".a.example", "s", key), table("news.a.example", "n", key)}), "");
    EXPECT_EQ(chosen("a.example"), "a.example/s");
    EXPECT_EQ(chosen("x.y.a.example"), "a.example/s");
    EXPECT_EQ(chosen("news.a.example"), "news.a.example/n"); // the nearest goes before
    EXPECT_EQ(chosen("x.news.a.example"), "a.example/s");
}

TEST_F(DkimKeySet, SeveralSignInTheOrderOfTheTables) {
    ASSERT_EQ(load({table("a.example", "rsa", key), table("a.example", "ed", key),
                    with(table("esp.example", "e", key), Scope::always, "")}),
              "");
    EXPECT_EQ(chosen("a.example"), "a.example/rsa a.example/ed esp.example/e");
    EXPECT_EQ(chosen("b.example"), "esp.example/e");
}

TEST_F(DkimKeySet, TenantsKeysAreForItsMailAlone) {
    ASSERT_EQ(load({with(table("a.example", "s", key), Scope::author, "acme"),
                    with(table("esp.example", "own", key), Scope::fallback, "acme"),
                    with(table("esp.example", "all", key), Scope::fallback, "")}),
              "");
    EXPECT_EQ(chosen("a.example", "acme"), "a.example/s");
    EXPECT_EQ(chosen("a.example", "other"), "esp.example/all");
    EXPECT_EQ(chosen("b.example", "acme"), "esp.example/own");
    EXPECT_EQ(chosen("b.example"), "esp.example/all");
}

TEST_F(DkimKeySet, OneKeySignsOnceHoweverOftenItIsNamed) {
    ASSERT_EQ(
        load({table("a.example", "s", key), with(table("a.example", "s", key), Scope::always, "")}),
        "");
    EXPECT_EQ(chosen("a.example"), "a.example/s");
}

TEST_F(DkimKeySet, NumberOfSignaturesIsBounded) {
    std::vector<KeyTable> tables;
    for (int i = 0; i < 20; ++i)
        tables.push_back(table("a.example", "s" + std::to_string(i), key));
    ASSERT_EQ(load(tables), "");
    Choice choice;
    keys->choose("a.example", "", choice);
    EXPECT_EQ(choice.view().size(), signatures_max);
}

TEST_F(DkimKeySet, StarFindsTheDomainsThatHaveAKey) {
    folder.write("all/a.example/s1.key", tests::rfc8463_seed);
    folder.write("all/b.example/s1.key", tests::rfc8463_seed);
    folder.write("all/c.example/s2.key", tests::rfc8463_seed); // of another selector
    folder.write("all/Not A Domain/s1.key", tests::rfc8463_seed);
    ASSERT_EQ(load({table("*", "s1", folder / "all/%d/%s.key")}), "");
    EXPECT_EQ(chosen("a.example"), "a.example/s1");
    EXPECT_EQ(chosen("b.example"), "b.example/s1");
    EXPECT_EQ(chosen("c.example"), "");
    EXPECT_EQ(keys->identities().size(), 2U);

    folder.write("flat/s1-a.example.pem", tests::rfc8463_seed);
    folder.write("flat/README", "no key");
    ASSERT_EQ(load({table("*", "s1", folder / "flat/%s-%d.pem")}), "");
    EXPECT_EQ(chosen("a.example"), "a.example/s1");
    EXPECT_EQ(keys->identities().size(), 1U);
}

TEST_F(DkimKeySet, BadFileIsNamedWithItsRemedyAndNothingIsLoaded) {
    ASSERT_EQ(load({table("a.example", "s", key)}), "");
    const std::string bad = folder.write("bad", "nonsense");
    const auto loaded =
        load_key_set(std::vector{table("a.example", "s", key), table("b.example", "s", bad),
                                 table("c.example", "s", folder / "missing")},
                     cache);
    ASSERT_FALSE(loaded.has_value());
    ASSERT_EQ(loaded.error().size(), 2U); // all of them, not the first
    EXPECT_EQ(loaded.error()[0].table, 1U);
    EXPECT_EQ(loaded.error()[0].text.find(bad + ": "), 0U);
    EXPECT_NE(loaded.error()[0].text.find("; make one with: millracectl dkim keygen"),
              std::string::npos);
    EXPECT_NE(loaded.error()[1].text.find("No such file"), std::string::npos);
    EXPECT_EQ(load({table("*", "s", folder / "nowhere/%d")}).find(folder / "nowhere"), 0U);
    EXPECT_NE(load({table("a.example", "s", folder / ".")}), "");
    EXPECT_EQ(chosen("a.example"), "a.example/s"); // what was loaded before is whole
}

TEST_F(DkimKeySet, AlgorithmOfTheFileMustBeTheOneSaid) {
    KeyTable rsa = table("a.example", "s", key);
    rsa.kind = KeyKind::rsa;
    EXPECT_NE(load({rsa}).find("is an Ed25519 key"), std::string::npos);
    rsa.kind = KeyKind::ed25519;
    EXPECT_EQ(load({rsa}), "");
}

TEST_F(DkimKeySet, FileThatOthersMayReadIsWarnedOf) {
    ASSERT_EQ(load({table("a.example", "s", key)}), "");
    EXPECT_TRUE(warnings.empty());
    std::filesystem::permissions(key, std::filesystem::perms{0640});
    ASSERT_EQ(load({table("a.example", "s", key), table("b.example", "s", key)}), "");
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_NE(warnings[0].find("chmod 600 " + key), std::string::npos);
}

TEST_F(DkimKeySet, ChangedFileIsReadAgainAndOthersAreNot) {
    const std::string other = folder.write("other", tests::rfc8463_seed);
    ASSERT_EQ(load({table("a.example", "s", key), table("b.example", "s", other)}), "");
    const auto before = keys;
    folder.write("key.new", tests::rsa_pem());
    std::filesystem::rename(folder / "key.new", key);
    ASSERT_EQ(load({table("a.example", "s", key), table("b.example", "s", other)}), "");
    EXPECT_NE(keys->identities()[0].key, before->identities()[0].key);
    EXPECT_EQ(keys->identities()[0].key->algorithm(), Algorithm::rsa_sha256);
    EXPECT_EQ(keys->identities()[1].key, before->identities()[1].key);
}

} // namespace
