// link_authenticator_test.cc: what a shard remembers of a login, and when it forgets it.

#include "dataplane/policy/link_authenticator.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>

namespace dataplane::policy {
namespace {

using namespace std::chrono_literals;

struct Channel final : CredentialChannel {
    bool ask(CredentialQuestion&& question) override {
        if (full) return false;
        asked.push_back(std::move(question));
        return true;
    }
    std::vector<CredentialQuestion> asked;
    bool full = false;
};

PolicyPtr policy_with(std::uint64_t generation, bool enabled = true, bool there = true) {
    auto policy = std::make_shared<Policy>();
    if (there)
        policy->accounts["app"] = {.name = "app", .generation = generation, .enabled = enabled};
    return policy;
}

class Authenticating : public testing::Test {
protected:
    struct Try {
        std::optional<AuthVerdict> verdict;
        base::TimePoint ended{};
    };
    static base::Task<void> run(Authenticating* test, std::string user, std::string password,
                                base::IpAddress client, base::Deadline deadline, Try* out) {
        auto verdict = co_await test->authenticator_.verify(std::move(user), std::move(password),
                                                            client, deadline);
        out->verdict = verdict;
        out->ended = test->loop_.now();
    }
    Try& begin(std::string user, std::string password, std::string_view client = "192.0.2.1",
               base::Duration limit = 1h) {
        tries_.push_back(std::make_unique<Try>());
        loop_.spawn(run(this, std::move(user), std::move(password), *base::IpAddress::parse(client),
                        base::Deadline::in(loop_, limit), tries_.back().get()),
                    "try");
        settle();
        return *tries_.back();
    }
    void settle() {
        while (loop_.turn()) {
        }
    }
    void pass(base::Duration time) {
        const auto until = clock_.now() + time;
        while (clock_.now() < until) {
            clock_.advance_to(std::min(
                until, std::max(loop_.next_due(), clock_.now() + base::Duration{1'000'000})));
            settle();
        }
    }
    void answer(AuthVerdict verdict, std::uint64_t generation = 1,
                std::chrono::milliseconds delay = 0ms) {
        ASSERT_FALSE(channel_.asked.empty());
        const std::uint64_t id = channel_.asked.back().id;
        channel_.asked.pop_back();
        authenticator_.on_verdict({id, verdict, generation, delay});
        settle();
    }
    /// Whether a login is answered without a question.
    bool is_cached(const std::string& password = "right") {
        const std::size_t before = channel_.asked.size();
        Try& attempt = begin("app", password, "192.0.2.1", 10ms);
        const bool cached = channel_.asked.size() == before;
        if (cached) {
            EXPECT_EQ(attempt.verdict, AuthVerdict::accepted);
        }
        pass(20ms);
        channel_.asked.clear();
        return cached;
    }

    base::ManualClock clock_;
    base::Loop loop_{clock_};
    PolicySlot slot_{policy_with(1)};
    Channel channel_;
    LinkAuthenticator authenticator_{
        loop_, slot_, channel_, {.key = {1, 2}, .cache_time = 600s, .answer_limit = 10s}};
    std::vector<std::unique_ptr<Try>> tries_;
};

TEST_F(Authenticating, SuccessIsAskedOnceAndThenRemembered) {
    Try& first = begin("app", "right");
    EXPECT_FALSE(first.verdict);
    answer(AuthVerdict::accepted);
    EXPECT_EQ(first.verdict, AuthVerdict::accepted);
    EXPECT_TRUE(is_cached());
    EXPECT_FALSE(is_cached("wrong"));
    EXPECT_EQ(begin("APP", "right").verdict, AuthVerdict::accepted) << "names have no case";
    EXPECT_EQ(begin("app", "right", "198.51.100.1").verdict, AuthVerdict::accepted)
        << "from another client as well";
}

TEST_F(Authenticating, FailureIsNeverRemembered) {
    begin("app", "wrong");
    answer(AuthVerdict::rejected);
    EXPECT_FALSE(is_cached("wrong"));
}

TEST_F(Authenticating, SuccessExpires) {
    begin("app", "right");
    answer(AuthVerdict::accepted);
    pass(599s);
    EXPECT_TRUE(is_cached());
    pass(2s);
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, NewGenerationInThePolicyVoidsTheLogin) {
    begin("app", "right");
    answer(AuthVerdict::accepted, 1);
    slot_.replace(policy_with(2));
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, AnswerNewerThanThePolicyIsGood) {
    begin("app", "right");
    answer(AuthVerdict::accepted, 5); // the snapshot with generation 5 is still on its way
    EXPECT_TRUE(is_cached());
    slot_.replace(policy_with(5));
    EXPECT_TRUE(is_cached());
}

TEST_F(Authenticating, DisabledAccountIsVoid) {
    begin("app", "right");
    answer(AuthVerdict::accepted, 1);
    slot_.replace(policy_with(1, false));
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, RemovedAccountIsVoid) {
    begin("app", "right");
    answer(AuthVerdict::accepted, 1);
    slot_.replace(policy_with(1, true, false));
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, ChangeNoticeVoidsTheLoginAtOnce) {
    begin("app", "right");
    answer(AuthVerdict::accepted, 1);
    authenticator_.on_account_changed("other", 9);
    EXPECT_TRUE(is_cached());
    authenticator_.on_account_changed("app", 2);
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, AnswerThatCrossedWithAChangeIsNotRemembered) {
    Try& attempt = begin("app", "right");
    authenticator_.on_account_changed("app", 2);
    answer(AuthVerdict::accepted, 1); // judged before the change
    EXPECT_EQ(attempt.verdict, AuthVerdict::accepted);
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, SameQuestionAtTheSameTimeIsAskedOnce) {
    Try& a = begin("app", "right");
    Try& b = begin("app", "right");
    Try& elsewhere = begin("app", "right", "198.51.100.1");
    EXPECT_EQ(channel_.asked.size(), 2u)
        << "failures count per client, so each client asks for itself";
    answer(AuthVerdict::rejected);
    EXPECT_EQ(elsewhere.verdict, AuthVerdict::rejected);
    answer(AuthVerdict::accepted);
    EXPECT_EQ(a.verdict, AuthVerdict::accepted);
    EXPECT_EQ(b.verdict, AuthVerdict::accepted);
    EXPECT_EQ(authenticator_.counters().coalesced, 1u);
}

TEST_F(Authenticating, SilenceIsUnavailableAndLeavesNothingBehind) {
    Try& patient = begin("app", "right");
    Try& hasty = begin("app", "right", "192.0.2.1", 2s);
    pass(3s);
    EXPECT_EQ(hasty.verdict, AuthVerdict::unavailable);
    EXPECT_FALSE(patient.verdict);
    pass(8s);
    EXPECT_EQ(patient.verdict, AuthVerdict::unavailable);
    EXPECT_EQ(authenticator_.questions_pending(), 0u);
    answer(AuthVerdict::accepted); // too late: nobody waits, and nothing breaks
    EXPECT_FALSE(is_cached());
}

TEST_F(Authenticating, RefusalIsHeldBackAsLongAsControlSays) {
    Try& attempt = begin("app", "wrong");
    answer(AuthVerdict::rejected, 0, 4000ms);
    pass(3900ms);
    EXPECT_FALSE(attempt.verdict);
    pass(200ms);
    EXPECT_EQ(attempt.verdict, AuthVerdict::rejected);
    Try& throttled = begin("app", "wrong");
    answer(AuthVerdict::throttled, 0, 1'000'000ms);
    pass(11s);
    EXPECT_EQ(throttled.verdict, AuthVerdict::throttled) << "the delay has a bound of ours";
}

TEST_F(Authenticating, QuestionsAreBounded) {
    for (std::size_t i = 0; i < LinkAuthenticator::questions_max; ++i)
        begin("app", "p" + std::to_string(i));
    EXPECT_EQ(begin("app", "one more").verdict, AuthVerdict::unavailable);
    channel_.full = true;
    pass(11s);
    EXPECT_EQ(begin("app", "again").verdict, AuthVerdict::unavailable);
    EXPECT_EQ(authenticator_.questions_pending(), 0u);
}

TEST_F(Authenticating, CacheIsBoundedAndKeepsTheNewest) {
    for (std::size_t i = 0; i < 2 * LinkAuthenticator::cache_entries_max; ++i) {
        begin("app", "p" + std::to_string(i));
        answer(AuthVerdict::accepted);
        clock_.advance(1ms);
    }
    EXPECT_TRUE(is_cached("p" + std::to_string(2 * LinkAuthenticator::cache_entries_max - 1)));
    EXPECT_FALSE(is_cached("p0"));
}

} // namespace
} // namespace dataplane::policy
