#include "tests/dataplane/net/packetdrill/live_stack.h"

#include <algorithm>
#include <cerrno>
#include <sys/time.h>

namespace tests::packetdrill {

namespace {

/// Where connections come from that nobody has bound. Not 192.168.0.1: that is packetdrill's gateway.
std::vector<net::ip::LayerOptions::Address> unbound_addresses() {
    return {{*base::IpAddress::parse("192.168.77.77"), 16},
            {*base::IpAddress::parse("fd3d:fa7b:d17d::7777"), 48}};
}

} // namespace

LiveStack::LiveStack(const Profile& profile)
    : port_(profile.mtu, [this](std::span<const std::byte> packet) { capture(packet); }),
      profile_(profile), addresses_(unbound_addresses()) {
    make_stack();
    sockets_.emplace(loop_, *stack_, profile.nagle);
    thread_ = std::thread([this] { work(); });
}

void LiveStack::make_stack() {
    net::ip::LayerOptions options = layer_options(profile_.mtu);
    options.addresses = addresses_;
    stack_.emplace(loop_, port_, options, profile_.stack);
    for (const net::ip::Route& route : options.routes)
        stack_->learn(route.gateway, RawPort::peer_mac);
}

bool LiveStack::adopt(const base::IpAddress& ip) {
    if (std::ranges::find(addresses_, ip, &net::ip::LayerOptions::Address::ip) != addresses_.end())
        return true;
    if (ip == base::IpAddress{} || ip == base::IpAddress::v6({})) return true; // any of them
    if (!sockets_->all_fresh() || stack_->connection_count() != 0) return false;
    addresses_.push_back({ip, ip.is_v6() ? 48U : 16U});
    stack_.reset();
    make_stack();
    sockets_->use(*stack_);
    return true;
}

LiveStack::~LiveStack() {
    {
        const std::lock_guard lock{mutex_};
        stopping_ = true;
        wanted_.notify_all();
    }
    thread_.join();
}

CallResult LiveStack::run(Attempt attempt, std::optional<base::Duration> limit) {
    Job job{std::move(attempt), {}, {}};
    if (limit) job.due = clock_.now() + *limit;
    std::unique_lock lock{mutex_};
    if (stopping_) return {-1, EINTR};
    jobs_.push_back(&job);
    wanted_now_ = true;
    wanted_.notify_all();
    finished_.wait(lock, [&] { return job.result.has_value(); });
    return *job.result;
}

void LiveStack::inject(Bytes packet) {
    const std::lock_guard lock{mutex_};
    injected_.push_back(std::move(packet));
    wanted_now_ = true;
    wanted_.notify_all();
}

std::optional<LiveStack::Packet> LiveStack::fetch(base::Duration limit) {
    std::unique_lock lock{mutex_};
    if (!sent_.wait_for(lock, limit, [&] { return !outgoing_.empty(); })) return std::nullopt;
    Packet packet = std::move(outgoing_.front());
    outgoing_.pop_front();
    return packet;
}

void LiveStack::capture(std::span<const std::byte> packet) {
    timeval time{};
    ::gettimeofday(&time, nullptr);
    outgoing_.push_back({{packet.begin(), packet.end()},
                         static_cast<long long>(time.tv_sec) * 1'000'000 + time.tv_usec});
    sent_.notify_all();
}

base::TimePoint LiveStack::next_due() {
    base::TimePoint due = std::min({loop_.next_due(), stack_->next_due(), sockets_->next_due()});
    for (const Job* const job : jobs_) {
        if (job->due) due = std::min(due, *job->due);
    }
    return due;
}

void LiveStack::work() {
    std::unique_lock lock{mutex_};
    while (!stopping_) {
        wanted_now_ = false;
        while (!injected_.empty()) {
            port_.inject(injected_.front());
            injected_.pop_front();
        }
        static_cast<void>(loop_.turn()); // first, so that the stack sees the time of now
        const std::size_t frames = stack_->poll();
        sockets_->poke();
        const bool more = loop_.turn();
        // An attempt may begin something that the next turn does.
        bool begun = false;
        for (Job*& job : jobs_) {
            job->result = job->attempt(*sockets_);
            begun = begun || job->result;
            if (job->result) job = nullptr;
        }
        std::erase(jobs_, nullptr);
        if (begun) finished_.notify_all();
        if (frames != 0 || more || begun || port_.has_incoming() || !loop_.idle()) continue;
        const base::TimePoint due = next_due();
        const base::Duration rest = std::clamp(due - clock_.now(), base::Duration{},
                                               base::Duration{std::chrono::seconds{1}});
        wanted_.wait_for(lock, rest, [&] { return wanted_now_ || stopping_; });
    }
    for (Job* const job : jobs_)
        job->result = CallResult{-1, EINTR};
    jobs_.clear();
    finished_.notify_all();
    sockets_.reset(); // here, where its coroutines were made
}

} // namespace tests::packetdrill
