// accounts_test.cc: accounts, their hashes, and how guessing is slowed.

#include "control/accounts.h"
#include "control/credentials.h"
#include "control/password.h"
#include "tests/control/temp_folder.h"

#include <future>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>

namespace control {
namespace {

constexpr std::string_view good = "four unrelated wet horses";
constexpr std::string_view other = "seven dry umbrellas sing";

class Accounts : public testing::Test {
protected:
    Accounts() {
        auto opened = AccountStore::open(folder_.file("accounts.db"));
        if (!opened) throw std::runtime_error(opened.error().text);
        store_ = std::move(*opened);
    }
    Account add(const std::string& name) {
        Account account;
        account.name = name;
        auto added = store_->add(account, good);
        if (!added) throw std::runtime_error(added.error().text);
        return *added;
    }
    tests::TempFolder folder_;
    std::unique_ptr<AccountStore> store_;
};

TEST_F(Accounts, KeepEverythingButThePassword) {
    Account account{.name = "App1@Example.com",
                    .tenant = "t1",
                    .source = "ip-1",
                    .sender_domains = {"A.example", "b.example"},
                    .messages_per_hour_max = 500};
    ASSERT_TRUE(store_->add(account, good));
    const auto found = store_->find("app1@EXAMPLE.com");
    ASSERT_TRUE(found && *found);
    EXPECT_EQ((*found)->name, "app1@example.com");
    EXPECT_EQ((*found)->tenant, "t1");
    EXPECT_EQ((*found)->source, "ip-1");
    EXPECT_EQ((*found)->sender_domains, (std::vector<std::string>{"a.example", "b.example"}));
    EXPECT_EQ((*found)->messages_per_hour_max, 500u);
    EXPECT_TRUE((*found)->enabled);
    const auto credential = store_->credential("app1@example.com");
    ASSERT_TRUE(credential && *credential);
    EXPECT_TRUE((*credential)->hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    EXPECT_TRUE(password_matches((*credential)->hash, good));
    EXPECT_FALSE(password_matches((*credential)->hash, other));
    EXPECT_EQ(folder_.read("accounts.db").find(good), std::string::npos);
    EXPECT_EQ(folder_.read("accounts.db-wal").find(good), std::string::npos);
}

TEST_F(Accounts, DatabaseIsReadableByItsOwnerOnly) {
    add("app");
    for (const char* name : {"accounts.db", "accounts.db-wal"}) {
        struct stat status{};
        ASSERT_EQ(stat(folder_.file(name).c_str(), &status), 0) << name;
        EXPECT_EQ(status.st_mode & 0777, 0600) << name;
    }
}

TEST_F(Accounts, EveryChangeRaisesTheGenerationAlsoAcrossRemoval) {
    const std::uint64_t added = add("app").generation;
    const auto changed = store_->set_password("app", other);
    const auto disabled = store_->set_enabled("app", false);
    const auto removed = store_->remove("app");
    ASSERT_TRUE(changed && disabled && removed);
    EXPECT_GT(changed->generation, added);
    EXPECT_GT(disabled->generation, changed->generation);
    EXPECT_FALSE(disabled->enabled);
    EXPECT_GT(removed->generation, disabled->generation);
    EXPECT_GT(add("app").generation, removed->generation);
}

TEST_F(Accounts, OutliveTheProcess) {
    const std::uint64_t generation = add("app").generation;
    store_.reset();
    auto again = AccountStore::open(folder_.file("accounts.db"));
    ASSERT_TRUE(again);
    EXPECT_EQ((*(*again)->find("app"))->generation, generation);
}

TEST_F(Accounts, RefuseWhatIsWrong) {
    add("app");
    const auto error_of = [&](Account account, std::string_view password) {
        const auto result = store_->add(account, password);
        return result ? AccountError{255} : result.error().error;
    };
    EXPECT_EQ(error_of({.name = "APP"}, good), AccountError::exists);
    EXPECT_EQ(error_of({.name = "a b"}, good), AccountError::bad_value);
    EXPECT_EQ(error_of({.name = ""}, good), AccountError::bad_value);
    EXPECT_EQ(error_of({.name = "b", .sender_domains = {"not a domain"}}, good),
              AccountError::bad_value);
    EXPECT_EQ(error_of({.name = "b"}, "short"), AccountError::weak_password);
    EXPECT_EQ(store_->set_password("nobody", good).error().error, AccountError::unknown);
    EXPECT_EQ(store_->remove("nobody").error().error, AccountError::unknown);
    EXPECT_EQ(store_->list()->size(), 1u);
}

TEST(Passwords, WeakOnesAreRefusedWithTheReason) {
    for (const char* weak :
         {"short", "password1234", "Passw0rd!2024", "qwertyuiop123", "aaaaaaaaaaaaaa",
          "123456789012", "abcdefghijklm", "newsletter-2024", "passwordpassword", "elevenchars"}) {
        EXPECT_TRUE(password_weakness("newsletter", weak)) << weak;
    }
    for (const char* fine : {"four unrelated wet horses", "k7#Rz-91pQvLm2", "Tr1cky,but,fine"}) {
        EXPECT_FALSE(password_weakness("newsletter", fine)) << fine;
    }
}

TEST_F(Accounts, CertificatesAreKeptInOneFormAndBelongToOneAccount) {
    add("app");
    add("other");
    const std::string digits(64, 'a');
    std::string colons;
    for (int i = 0; i < 32; ++i)
        colons += i == 0 ? "AA" : ":AA";
    const auto before = store_->last_generation();
    const auto set =
        store_->set_certificates("app", {"SHA256:" + colons, "name:Robot@ESP.example",
                                         "subject:CN=robot,O=An ESP", "sha256:" + digits});
    ASSERT_TRUE(set.has_value()) << set.error().text;
    const std::vector<std::string> kept{"name:robot@esp.example", "sha256:" + digits,
                                        "subject:CN=robot,O=An ESP"};
    EXPECT_EQ(set->certificates, kept);
    EXPECT_GT(set->generation, *before);
    EXPECT_EQ((*store_->find("app"))->certificates, kept);

    const auto taken = store_->set_certificates("other", {"name:robot@esp.example"});
    ASSERT_FALSE(taken.has_value());
    EXPECT_EQ(taken.error().error, AccountError::exists);
    for (const char* bad : {"", "sha256:abc", "sha256:", "name:", "name:@x.example", "name:a b",
                            "md5:00", "robot", "subject:a\nb"}) {
        const auto refused = store_->set_certificates("other", {bad});
        ASSERT_FALSE(refused.has_value()) << bad;
        EXPECT_EQ(refused.error().error, AccountError::bad_value) << bad;
    }
    ASSERT_TRUE(store_->set_certificates("app", {}).has_value());
    EXPECT_TRUE(store_->set_certificates("other", {"name:robot@esp.example"}).has_value());
    EXPECT_FALSE(store_->set_certificates("nobody", {}).has_value());
}

TEST_F(Accounts, DatabaseOfTheFirstReleaseGainsCertificates) {
    store_.reset();
    const std::string path = folder_.file("old.db");
    sqlite3* old = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &old), SQLITE_OK);
    ASSERT_EQ(
        sqlite3_exec(
            old,
            "CREATE TABLE accounts (name TEXT PRIMARY KEY, hash TEXT NOT NULL, enabled INTEGER NOT "
            "NULL, generation INTEGER NOT NULL, tenant TEXT NOT NULL, source TEXT NOT NULL, "
            "sender_domains TEXT NOT NULL, messages_per_hour_max INTEGER NOT NULL, created_s "
            "INTEGER "
            "NOT NULL, changed_s INTEGER NOT NULL) STRICT;"
            "CREATE TABLE last_generation (value INTEGER NOT NULL) STRICT;"
            "INSERT INTO last_generation VALUES (3);"
            "INSERT INTO accounts VALUES ('app', 'h', 1, 3, 't', '', 'a.example', 0, 1, 1);"
            "PRAGMA user_version = 1;",
            nullptr, nullptr, nullptr),
        SQLITE_OK);
    sqlite3_close(old);
    auto opened = AccountStore::open(path);
    ASSERT_TRUE(opened.has_value()) << opened.error().text;
    const auto there = (*opened)->find("app");
    ASSERT_TRUE(there.has_value() && there->has_value());
    EXPECT_EQ((*there)->tenant, "t");
    EXPECT_TRUE((*there)->certificates.empty());
    EXPECT_TRUE((*opened)->set_certificates("app", {"name:a.example"}).has_value());
}

class Guessing : public testing::Test {
protected:
    static base::IpAddress ip(std::string_view text) { return *base::IpAddress::parse(text); }
    GuessLimits limits_{GuessOptions{
        .forget_one = std::chrono::seconds{30}, .client_level_max = 5, .account_level_max = 8}};
    GuessLimits::Time now_{std::chrono::hours{1}};
};

TEST_F(Guessing, EachFailureIsSlowerThanTheOneBeforeUpToABound) {
    EXPECT_EQ(limits_.failed(ip("192.0.2.1"), "a", now_), std::chrono::milliseconds{500});
    EXPECT_EQ(limits_.failed(ip("192.0.2.1"), "b", now_), std::chrono::milliseconds{1000});
    EXPECT_EQ(limits_.failed(ip("192.0.2.1"), "c", now_), std::chrono::milliseconds{2000});
    for (int i = 0; i < 20; ++i) {
        EXPECT_LE(limits_.failed(ip("192.0.2.1"), "d", now_), std::chrono::milliseconds{8000});
    }
}

TEST_F(Guessing, ClientOverItsLevelIsThrottledAndOthersAreNot) {
    for (int i = 0; i < 5; ++i)
        static_cast<void>(limits_.failed(ip("192.0.2.1"), "a" + std::to_string(i), now_));
    EXPECT_FALSE(limits_.allowed(ip("192.0.2.1"), "z", now_));
    EXPECT_TRUE(limits_.allowed(ip("192.0.2.2"), "z", now_));
    EXPECT_TRUE(limits_.allowed(ip("192.0.2.1"), "z", now_ + std::chrono::seconds{31}))
        << "one failure has leaked away";
}

TEST_F(Guessing, AccountIsGuardedAcrossClients) {
    for (int i = 0; i < 8; ++i)
        static_cast<void>(limits_.failed(ip("192.0.2." + std::to_string(i)), "Victim", now_));
    EXPECT_FALSE(limits_.allowed(ip("198.51.100.1"), "victim", now_));
    EXPECT_TRUE(limits_.allowed(ip("198.51.100.1"), "other", now_));
    limits_.succeeded("VICTIM");
    EXPECT_TRUE(limits_.allowed(ip("198.51.100.1"), "victim", now_));
}

TEST_F(Guessing, WholeIpv6SubnetIsOneClient) {
    for (int i = 0; i < 5; ++i)
        static_cast<void>(
            limits_.failed(ip("2001:db8::" + std::to_string(i)), "a" + std::to_string(i), now_));
    EXPECT_FALSE(limits_.allowed(ip("2001:db8::ffff"), "z", now_));
    EXPECT_TRUE(limits_.allowed(ip("2001:db8:0:1::1"), "z", now_));
}

TEST_F(Guessing, CountersAreBounded) {
    for (std::size_t i = 0; i < GuessLimits::counters_max + 10; ++i) {
        static_cast<void>(limits_.failed(ip("192.0.2.1"), "account" + std::to_string(i), now_));
    }
    EXPECT_EQ(limits_.counter_count(), GuessLimits::counters_max);
}

LoginAnswer login(CredentialChecker& checker, const std::string& user, std::string_view password) {
    std::promise<LoginAnswer> promise;
    checker.check({user, std::string{password}, *base::IpAddress::parse("192.0.2.7"),
                   [&](const LoginAnswer& answer) { promise.set_value(answer); }});
    return promise.get_future().get();
}

TEST_F(Accounts, LoginIsJudgedByPasswordAndState) {
    std::mutex lock;
    std::vector<std::string> lines;
    CredentialChecker checker(*store_, 2, GuessOptions{.client_level_max = 4},
                              [&](std::string_view line) {
                                  const std::lock_guard hold(lock);
                                  lines.emplace_back(line);
                              });
    const std::uint64_t generation = add("app").generation;
    const LoginAnswer accepted = login(checker, "APP", good);
    EXPECT_EQ(accepted.verdict, LoginVerdict::accepted);
    EXPECT_EQ(accepted.generation, generation);
    EXPECT_EQ(accepted.delay.count(), 0);

    const LoginAnswer wrong = login(checker, "app", other);
    EXPECT_EQ(wrong.verdict, LoginVerdict::rejected);
    EXPECT_EQ(wrong.delay, std::chrono::milliseconds{500});
    EXPECT_EQ(login(checker, "nobody", good).verdict, LoginVerdict::rejected);
    ASSERT_TRUE(store_->set_enabled("app", false));
    EXPECT_EQ(login(checker, "app", good).verdict, LoginVerdict::rejected);
    ASSERT_TRUE(store_->set_enabled("app", true));
    EXPECT_EQ(login(checker, "app", good).verdict, LoginVerdict::accepted);

    EXPECT_EQ(login(checker, "app", other).verdict, LoginVerdict::rejected);
    EXPECT_EQ(login(checker, "app", good).verdict, LoginVerdict::throttled)
        << "the client has failed four times";
    const LoginCounters counters = checker.counters();
    EXPECT_EQ(counters.accepted, 2u);
    EXPECT_EQ(counters.rejected, 4u);
    EXPECT_EQ(counters.throttled, 1u);
    const std::lock_guard hold(lock);
    ASSERT_EQ(lines.size(), 5u);
    EXPECT_EQ(lines[0],
              "login_refused user=\"app\" client=192.0.2.7 reason=\"wrong password\" delay_ms=500");
    for (const std::string& line : lines)
        EXPECT_EQ(line.find(other), std::string::npos) << "a password was logged";
}

} // namespace
} // namespace control
