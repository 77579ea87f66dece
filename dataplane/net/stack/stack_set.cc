#include "dataplane/net/stack/stack_set.h"

#include "dataplane/base/check.h"
#include "dataplane/net/stack/flow_key.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace dataplane::net::stack {

using base::IpAddress;
using base::Listener;
using base::NetError;
using base::NetResult;
using base::StreamPtr;
using base::Task;

/// A listener on each port. What one of them accepts waits here for whoever asks for any.
class StackSet::Everywhere final : public Listener {
public:
    Everywhere(base::Loop& loop, std::vector<std::unique_ptr<Listener>> parts)
        : loop_(loop), shared_(std::make_shared<Shared>()) {
        shared_->parts = std::move(parts);
        for (const std::unique_ptr<Listener>& part : shared_->parts)
            loop_.spawn(collect(&loop_, shared_, part.get()), "accept on all ports",
                        base::Room::net);
    }
    ~Everywhere() override { close(); }

    [[nodiscard]] Task<NetResult<StreamPtr>> accept(base::Deadline deadline) override {
        while (shared_->accepted.empty()) {
            if (shared_->closed) co_return std::unexpected(NetError::closed);
            const base::Wake why = co_await shared_->came.wait(loop_, deadline);
            if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
        }
        StreamPtr first = std::move(shared_->accepted.front());
        shared_->accepted.pop_front();
        shared_->taken.wake_all();
        co_return first;
    }
    void close() noexcept override {
        if (std::exchange(shared_->closed, true)) return;
        for (const std::unique_ptr<Listener>& part : shared_->parts)
            part->close();
        shared_->accepted.clear();
        shared_->came.wake_all();
        shared_->taken.wake_all();
    }
    [[nodiscard]] base::SocketAddress local() const noexcept override {
        return shared_->parts.front()->local();
    }

private:
    struct Shared { // with the tasks, which may end after the listener
        std::vector<std::unique_ptr<Listener>> parts;
        std::deque<StreamPtr> accepted; // one of each part at most
        base::WaitQueue came{"accept"};
        base::WaitQueue taken{"accept on all ports"};
        bool closed = false;
    };

    static Task<void> collect(base::Loop* loop, std::shared_ptr<Shared> shared, Listener* part) {
        while (!shared->closed) {
            auto stream = co_await part->accept(base::Deadline::never());
            if (!stream || shared->closed) break;
            shared->accepted.push_back(std::move(*stream));
            shared->came.wake_one();
            while (!shared->closed && shared->accepted.size() >= shared->parts.size())
                static_cast<void>(co_await shared->taken.wait(*loop, base::Deadline::never()));
        }
    }

    base::Loop& loop_;
    std::shared_ptr<Shared> shared_;
};

void StackSet::add(Stack& stack, const ip::LayerOptions& ip) {
    Member& member = members_.emplace_back(Member{&stack, {}, {}});
    for (const ip::LayerOptions::Address& address : ip.addresses) {
        member.addresses.push_back(address.ip);
        // Thousands of single addresses make no network.
        const base::Network network{address.ip, address.prefix_bits};
        if (network.prefix_bits == 0 || network.prefix_bits >= address.ip.bit_count()) continue;
        const auto same = [&](const base::Network& other) {
            return other.prefix_bits == network.prefix_bits && other.contains(network.base);
        };
        if (std::ranges::none_of(member.reached, same)) member.reached.push_back(network);
    }
    for (const ip::Route& route : ip.routes)
        member.reached.push_back(route.destination);
    std::ranges::sort(member.addresses);
}

Stack& StackSet::with_address(const IpAddress& own) const noexcept {
    CHECK(!members_.empty());
    const auto has = [&](const Member& member) {
        return std::ranges::binary_search(member.addresses, own);
    };
    const auto found = std::ranges::find_if(members_, has);
    return *(found != members_.end() ? *found : members_.front()).stack;
}

Stack& StackSet::towards(const IpAddress& remote) const noexcept {
    CHECK(!members_.empty());
    Stack* best = members_.front().stack;
    int best_bits = -1;
    for (const Member& member : members_) {
        for (const base::Network& network : member.reached) {
            const int bits = static_cast<int>(network.prefix_bits);
            if (bits <= best_bits || !network.contains(remote)) continue;
            best = member.stack;
            best_bits = bits;
        }
    }
    return *best;
}

NetResult<std::unique_ptr<Listener>> StackSet::listen(const base::SocketAddress& local,
                                                      const base::ListenOptions& options) {
    if (members_.size() == 1 || !is_unspecified(local.ip))
        return with_address(local.ip).listen(local, options);
    std::vector<std::unique_ptr<Listener>> parts;
    base::SocketAddress wanted = local;
    for (const Member& member : members_) {
        auto part = member.stack->listen(wanted, options);
        if (!part) return std::unexpected(part.error());
        wanted.port = (*part)->local().port; // port 0: the same for all
        parts.push_back(std::move(*part));
    }
    return std::make_unique<Everywhere>(loop_, std::move(parts));
}

Task<NetResult<StreamPtr>> StackSet::connect(base::SocketAddress remote,
                                             std::optional<IpAddress> source,
                                             base::Deadline deadline) {
    Stack& stack = source ? with_address(*source) : towards(remote.ip);
    return stack.connect(remote, source, deadline);
}

} // namespace dataplane::net::stack
