// carrier.h: what carries the two ends of a test's TLS connection: the simulated network, the kernel's sockets, or
// our own TCP/IP over a simulated link.
//
// Scope      Both ends on one loop. A turn is a small step of time: some tens of microseconds.
// Threading  One thread.
#pragma once

#include "dataplane/base/check.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"
#include "tests/dataplane/net/stack/world.h"
#include "tests/support/sim_net.h"

#include <functional>
#include <memory>
#include <optional>

namespace tests {

class Carrier {
public:
    using Pair = SimNet::Pair;
    virtual ~Carrier() = default;
    [[nodiscard]] virtual base::Loop& loop() noexcept = 0;
    virtual void turn() = 0;
    [[nodiscard]] virtual Pair make_pair() = 0;

    bool run_until(const std::function<bool()>& done,
                   base::Duration limit = std::chrono::seconds{20}) {
        const base::TimePoint end = loop().now() + limit;
        while (!done()) {
            if (loop().now() > end) return false;
            turn();
        }
        return true;
    }

protected:
    /// One connection through a listener that stays.
    Pair connect_through(base::Listener& listener, base::Transport& from) {
        std::optional<base::NetResult<base::StreamPtr>> client, server;
        const auto deadline = base::Deadline::in(loop(), std::chrono::seconds{10});
        loop().spawn(keep(listener.accept(deadline), &server), "test: accept");
        loop().spawn(keep(from.connect(listener.local(), std::nullopt, deadline), &client),
                     "test: connect");
        CHECK(run_until([&] { return client && server; }));
        CHECK(client->has_value() && server->has_value());
        return {std::move(**client), std::move(**server)};
    }

private:
    static base::Task<void> keep(base::Task<base::NetResult<base::StreamPtr>> task,
                                 std::optional<base::NetResult<base::StreamPtr>>* out) {
        auto made = co_await std::move(task);
        out->emplace(std::move(made));
    }
};

class SimCarrier final : public Carrier {
public:
    ~SimCarrier() override { loop_.drop_tasks(); }
    base::Loop& loop() noexcept override { return loop_; }
    void turn() override {
        clock_.advance(std::chrono::microseconds{50});
        loop_.turn();
    }
    Pair make_pair() override {
        return net_.make_pair(*base::SocketAddress::parse("192.0.2.1:40000"),
                              *base::SocketAddress::parse("192.0.2.25:25"));
    }

private:
    base::ManualClock clock_;
    base::Loop loop_{clock_};
    SimNet net_{loop_};
};

class KernelCarrier final : public Carrier {
public:
    base::Loop& loop() noexcept override { return shard_.loop; }
    void
    turn() override { // for so long: with an engine to be polled a single turn is next to no time
        const base::TimePoint end = shard_.clock.now() + std::chrono::microseconds{50};
        do {
            shard_.ring.poll();
            if (!shard_.loop.turn()) shard_.ring.sleep_until(shard_.loop.now(), end);
        } while (shard_.clock.now() < end);
    }
    Pair make_pair() override {
        if (listener_ == nullptr) listener_ = shard_.listen();
        return connect_through(*listener_, shard_.transport);
    }

private:
    dataplane::net::kernel::Shard shard_;
    std::unique_ptr<base::Listener> listener_;
};

class StackCarrier final : public Carrier {
public:
    StackCarrier() : world_(options()) {}
    base::Loop& loop() noexcept override { return world_.loop; }
    void turn() override {
        world_.clock.advance(std::chrono::microseconds{50});
        world_.link.run_until(world_.clock.now());
        static_cast<void>(world_.client.poll());
        static_cast<void>(world_.server.poll());
        world_.loop.turn();
        world_.link.run_until(world_.clock.now());
    }
    Pair make_pair() override {
        if (listener_ == nullptr) listener_ = world_.listen();
        return connect_through(*listener_, world_.client);
    }

private:
    static dataplane::net::stack::WorldOptions options() {
        dataplane::net::stack::WorldOptions made;
        made.link.lines[0].delay = made.link.lines[1].delay = std::chrono::microseconds{100};
        return made;
    }
    dataplane::net::stack::World world_;
    std::unique_ptr<base::Listener> listener_;
};

enum class CarrierKind : std::uint8_t { sim, kernel, stack };
[[nodiscard]] inline std::unique_ptr<Carrier> make_carrier(CarrierKind kind) {
    switch (kind) {
    case CarrierKind::sim:
        return std::make_unique<SimCarrier>();
    case CarrierKind::kernel:
        return std::make_unique<KernelCarrier>();
    case CarrierKind::stack:
        return std::make_unique<StackCarrier>();
    }
    return nullptr;
}
[[nodiscard]] inline const char* to_string(CarrierKind kind) noexcept {
    return kind == CarrierKind::sim ? "Sim" : kind == CarrierKind::kernel ? "Kernel" : "Stack";
}

} // namespace tests
