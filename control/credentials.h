// credentials.h: whether a login is right, and when somebody has guessed too often.
//
// Scope      GuessLimits counts failures per client network and per account and says how long the
//            next refusal takes; CredentialChecker hashes on worker threads. The shards cache what
//            succeeded (dataplane/policy/link_authenticator.h), so this sees each client's first
//            login, and all guesses.
// Owns       The worker threads, the queue of questions (questions_max), the counters
//            (counters_max).
// Threading  GuessLimits: one thread at a time. CredentialChecker: check() from any thread; answers
//            come on its workers.
// Failure    A full queue answers `unavailable` at once. A database that fails answers
//            `unavailable`.
#pragma once

#include "control/accounts.h"
#include "dataplane/base/address.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

namespace control {

namespace base = dataplane::base;

/// Failures leak away, one per `forget_one`; at `level_max` further tries are refused unseen.
struct GuessOptions {
    std::chrono::seconds forget_one{30};
    std::uint32_t client_level_max = 20; // of one IPv4 address or IPv6 /64
    std::uint32_t account_level_max =
        100; // over all clients: high, because anybody can fill it from outside
    std::chrono::milliseconds delay_first{500};
    std::chrono::milliseconds delay_max{8000};
};

class GuessLimits {
public:
    using Time = std::chrono::steady_clock::time_point;
    static constexpr std::size_t counters_max =
        100'000; // beyond it the longest untouched is forgotten

    explicit GuessLimits(GuessOptions options = {}) : options_(options) {}

    /// Whether this try may be looked at. A refused one costs nothing and is not counted.
    [[nodiscard]] bool allowed(const base::IpAddress& client, std::string_view account, Time now);
    /// Counts a failure. Returns how long the refusal is to be held back: it doubles with each
    /// failure.
    [[nodiscard]] std::chrono::milliseconds failed(const base::IpAddress& client,
                                                   std::string_view account, Time now);
    /// Forgives the account; not the client, which may own one good account and guess others.
    void succeeded(std::string_view account);
    [[nodiscard]] std::size_t counter_count() const noexcept { return counters_.size(); }

private:
    struct Counter {
        double level = 0;
        Time touched{};
        std::list<std::string>::iterator place; // in order_
    };
    double leak(Counter& counter, Time now) const;
    Counter& touch(const std::string& key, Time now);

    GuessOptions options_;
    std::unordered_map<std::string, Counter> counters_;
    std::list<std::string> order_; // longest untouched first
};

enum class LoginVerdict : std::uint8_t { accepted, rejected, unavailable, throttled };

struct LoginAnswer {
    LoginVerdict verdict = LoginVerdict::unavailable;
    std::uint64_t generation = 0;
    std::chrono::milliseconds delay{0};
};

struct Login {
    std::string user, password;
    base::IpAddress client;
    std::function<void(const LoginAnswer&)> answer; // called once, on a worker or in check()
};

struct LoginCounters {
    std::uint64_t accepted = 0, rejected = 0, throttled = 0, unavailable = 0;
};

class CredentialChecker {
public:
    static constexpr std::size_t questions_max =
        256; // some 3 s of hashing on two workers: then clients retry

    /// `accounts` outlives it. `log` is called from any thread with one line per refusal.
    CredentialChecker(AccountStore& accounts, unsigned workers, GuessOptions options,
                      std::function<void(std::string_view)> log);
    ~CredentialChecker(); // answers what waits with `unavailable`
    CredentialChecker(const CredentialChecker&) = delete;
    CredentialChecker& operator=(const CredentialChecker&) = delete;

    void check(Login login);
    [[nodiscard]] LoginCounters counters() const;

private:
    void work();
    [[nodiscard]] LoginAnswer judge(const Login& login);
    [[nodiscard]] LoginAnswer settle(const Login& login, LoginAnswer answer, std::string_view why);

    AccountStore& accounts_;
    std::function<void(std::string_view)> log_;
    mutable std::mutex lock_; // everything below but the threads
    std::condition_variable more_;
    std::deque<Login> waiting_;
    GuessLimits limits_;
    LoginCounters counters_;
    bool stopping_ = false;
    std::vector<std::thread> workers_;
};

} // namespace control
