#include "control/credentials.h"

#include "control/notation.h"
#include "control/password.h"

#include <algorithm>
#include <cmath>
#include <openssl/crypto.h>
#include <utility>

namespace control {
namespace {

std::string client_key(const base::IpAddress& client) {
    if (!client.is_v6()) return "c" + client.to_string();
    // One subscriber has a whole /64 to guess from.
    auto bytes = client.bytes();
    std::fill(bytes.begin() + 8, bytes.end(), 0);
    return "c" + base::IpAddress::v6(bytes).to_string();
}

std::string account_key(std::string_view account) {
    return "a" + lower(account.substr(0, 256)); // of any length: it comes from a stranger
}

} // namespace

double GuessLimits::leak(Counter& counter, Time now) const {
    const std::chrono::duration<double> passed = std::max(now - counter.touched, Time::duration{0});
    return std::max(0.0,
                    counter.level - passed / std::chrono::duration<double>(options_.forget_one));
}

GuessLimits::Counter& GuessLimits::touch(const std::string& key, Time now) {
    auto found = counters_.find(key);
    if (found == counters_.end()) {
        if (counters_.size() >= counters_max) {
            counters_.erase(order_.front());
            order_.pop_front();
        }
        found = counters_.emplace(key, Counter{0, now, order_.insert(order_.end(), key)}).first;
    } else {
        order_.splice(order_.end(), order_, found->second.place);
    }
    found->second.level = leak(found->second, now);
    found->second.touched = now;
    return found->second;
}

bool GuessLimits::allowed(const base::IpAddress& client, std::string_view account, Time now) {
    const auto below = [&](const std::string& key, std::uint32_t most) {
        const auto found = counters_.find(key);
        // Half a failure of grace: between the last one and now a little has leaked away already.
        return found == counters_.end() || leak(found->second, now) < most - 0.5;
    };
    return below(client_key(client), options_.client_level_max) &&
           below(account_key(account), options_.account_level_max);
}

std::chrono::milliseconds GuessLimits::failed(const base::IpAddress& client,
                                              std::string_view account, Time now) {
    const double by_client = ++touch(client_key(client), now).level;
    const double by_account = ++touch(account_key(account), now).level;
    const double doublings = std::clamp(std::floor(std::max(by_client, by_account)) - 1, 0.0, 20.0);
    const double delay_ms =
        static_cast<double>(options_.delay_first.count()) * std::exp2(doublings);
    return std::min(std::chrono::milliseconds{static_cast<std::int64_t>(delay_ms)},
                    options_.delay_max);
}

void GuessLimits::succeeded(std::string_view account) {
    const auto found = counters_.find(account_key(account));
    if (found == counters_.end()) return;
    order_.erase(found->second.place);
    counters_.erase(found);
}

CredentialChecker::CredentialChecker(AccountStore& accounts, unsigned workers, GuessOptions options,
                                     std::function<void(std::string_view)> log)
    : accounts_(accounts), log_(std::move(log)), limits_(options) {
    static_cast<void>(
        hash_of_nobody()); // now, so that the first unknown account is no slower than the second
    for (unsigned index = 0; index < std::max(1U, workers); ++index)
        workers_.emplace_back([this] { work(); });
}

CredentialChecker::~CredentialChecker() {
    {
        const std::lock_guard hold(lock_);
        stopping_ = true;
    }
    more_.notify_all();
    for (std::thread& worker : workers_)
        worker.join();
    for (Login& login : waiting_)
        login.answer({});
}

void CredentialChecker::check(Login login) {
    {
        std::unique_lock hold(lock_);
        if (!limits_.allowed(login.client, login.user, std::chrono::steady_clock::now())) {
            ++counters_.throttled;
            hold.unlock();
            log_("login_throttled user=" + in_quotes(login.user) +
                 " client=" + login.client.to_string());
            login.answer({LoginVerdict::throttled, 0, GuessOptions{}.delay_max});
            OPENSSL_cleanse(login.password.data(), login.password.size());
            return;
        }
        if (stopping_ || waiting_.size() >= questions_max) {
            ++counters_.unavailable;
            hold.unlock();
            login.answer({});
            OPENSSL_cleanse(login.password.data(), login.password.size());
            return;
        }
        waiting_.push_back(std::move(login));
    }
    more_.notify_one();
}

void CredentialChecker::work() {
    std::unique_lock hold(lock_);
    for (;;) {
        more_.wait(hold, [this] { return stopping_ || !waiting_.empty(); });
        if (stopping_) return;
        Login login = std::move(waiting_.front());
        waiting_.pop_front();
        hold.unlock();
        const LoginAnswer answer = judge(login);
        OPENSSL_cleanse(login.password.data(), login.password.size());
        login.answer(answer);
        hold.lock();
    }
}

LoginAnswer CredentialChecker::judge(const Login& login) {
    const auto credential = accounts_.credential(login.user);
    if (!credential) return settle(login, {}, credential.error().text);
    if (!*credential) {
        static_cast<void>(
            password_matches(hash_of_nobody(), login.password)); // as long as for a known one
        return settle(login, {LoginVerdict::rejected, 0, {}}, "no such account");
    }
    if (!password_matches((*credential)->hash, login.password)) {
        return settle(login, {LoginVerdict::rejected, 0, {}}, "wrong password");
    }
    if (!(*credential)->enabled)
        return settle(login, {LoginVerdict::rejected, 0, {}}, "account is disabled");
    return settle(login, {LoginVerdict::accepted, (*credential)->generation, {}}, "");
}

LoginAnswer CredentialChecker::settle(const Login& login, LoginAnswer answer,
                                      std::string_view why) {
    {
        const std::lock_guard hold(lock_);
        switch (answer.verdict) {
        case LoginVerdict::accepted:
            ++counters_.accepted;
            limits_.succeeded(login.user);
            break;
        case LoginVerdict::rejected:
            ++counters_.rejected;
            answer.delay =
                limits_.failed(login.client, login.user, std::chrono::steady_clock::now());
            break;
        case LoginVerdict::unavailable:
            ++counters_.unavailable;
            break;
        case LoginVerdict::throttled:
            break; // refused in check(), before anybody looked
        }
    }
    if (answer.verdict != LoginVerdict::accepted) {
        log_("login_refused user=" + in_quotes(login.user) + " client=" + login.client.to_string() +
             " reason=" + in_quotes(why) + " delay_ms=" + std::to_string(answer.delay.count()));
    }
    return answer;
}

LoginCounters CredentialChecker::counters() const {
    const std::lock_guard hold(lock_);
    return counters_;
}

} // namespace control
