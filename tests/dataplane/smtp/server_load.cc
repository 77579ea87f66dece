#include "tests/dataplane/smtp/server_load.h"

#include "dataplane/telemetry/stats.h"

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace {
std::uint64_t allocations = 0;
}

// Kept out of line: GCC 12 otherwise takes the pair for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
    ++allocations;
    if (void* memory = std::malloc(bytes)) return memory;
    std::abort();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}

namespace tests {

std::uint64_t allocation_count() noexcept {
    return allocations;
}

namespace {

/// A client that never waits: the same bytes again and again, and replies into the void.
class EndlessStream final : public base::Stream {
public:
    EndlessStream(base::Loop& loop, const std::string& hello, const std::string& message)
        : loop_(loop), message_(message), now_(hello) {
        info_.client.ip = base::IpAddress::v4({127, 0, 0, 1});
    }
    std::span<const std::byte> unread() const noexcept override { return base::as_bytes(now_); }
    void consume(std::size_t bytes) noexcept override { now_.remove_prefix(bytes); }
    base::Task<base::NetResult<>> fill(base::Deadline) override {
        if (!now_.empty()) co_return base::NetResult<>{};
        now_ = message_;
        co_await base::sleep_until(loop_,
                                   base::Deadline{loop_.now(), nullptr}); // a real one waits here
        co_return base::NetResult<>{};
    }
    base::Task<base::NetResult<>> write(std::span<const std::byte>, base::Deadline) override {
        co_return base::NetResult<>{};
    }
    base::Task<base::NetResult<>> write(base::SlabChain, base::Deadline) override {
        co_return base::NetResult<>{};
    }
    base::Task<base::NetResult<>> drain(base::Deadline) override { co_return base::NetResult<>{}; }
    base::Task<base::NetResult<>> shutdown_write(base::Deadline) override {
        co_return base::NetResult<>{};
    }
    void close() noexcept override {}
    void abort() noexcept override {}
    const base::StreamInfo& info() const noexcept override { return info_; }

private:
    base::Loop& loop_;
    base::StreamInfo info_;
    const std::string& message_;
    std::string_view now_;
};

class InstantDisk final : public queue::Disk {
public:
    explicit InstantDisk(std::size_t bytes) : bytes_(bytes) {}
    std::uint64_t size_bytes() const noexcept override { return bytes_.size(); }
    base::Task<std::expected<void, queue::DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, queue::Durable) override {
        std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
        co_return std::expected<void, queue::DiskError>{};
    }
    base::Task<std::expected<void, queue::DiskError>> read(std::uint64_t offset,
                                                           std::span<std::byte> bytes) override {
        std::memcpy(bytes.data(), bytes_.data() + offset, bytes.size());
        co_return std::expected<void, queue::DiskError>{};
    }
    base::Task<std::expected<void, queue::DiskError>> flush() override {
        co_return std::expected<void, queue::DiskError>{};
    }

private:
    std::vector<std::byte> bytes_;
};

class Settle final : public queue::ReadySink {
public:
    void message_ready(queue::MessageRef message) override {
        for (auto& status : message->status)
            status.state = queue::RecipientState::delivered;
        queue->settle(std::move(message));
    }
    queue::MessageQueue* queue = nullptr;
};

class NoAuthenticator final : public dataplane::policy::Authenticator {
public:
    base::Task<dataplane::policy::AuthVerdict> verify(std::string, std::string, base::IpAddress,
                                                      base::Deadline) override {
        co_return dataplane::policy::AuthVerdict::rejected;
    }
};

class OneEvent final : public dataplane::telemetry::EventSink {
public:
    dataplane::telemetry::Event* claim() noexcept override { return &event_; }
    void publish() noexcept override {}

private:
    dataplane::telemetry::Event event_;
};

std::string message_of(std::size_t bytes) {
    std::string content = "From: a@b.example\r\nTo: c@d.example\r\nSubject: benchmark\r\n\r\n";
    while (content.size() < bytes)
        content.append(74, 'x').append("\r\n");
    return "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + content + ".\r\n";
}

std::shared_ptr<const dataplane::policy::Policy> open_policy() {
    auto policy = std::make_shared<dataplane::policy::Policy>();
    policy->hostname = "relay.example";
    policy->listeners.resize(1);
    policy->listeners[0].kind = dataplane::policy::ListenerKind::relay;
    policy->relay_networks = {*base::Network::parse("127.0.0.0/8")};
    policy->limits.messages_per_session_max = UINT32_MAX;
    policy->timeouts.session_max = std::chrono::hours{24 * 365};
    return policy;
}

} // namespace

struct ServerLoad::World {
    explicit World(std::size_t message_bytes) : message(message_of(message_bytes)) {
        loop.spawn(open(*this), "open");
        while (spool == nullptr)
            turn();
        sink.queue = spool.get();
        spool->set_sink(sink);
        context.emplace(dataplane::smtp::ServerContext{.loop = loop,
                                                       .queue = *spool,
                                                       .policy = slot,
                                                       .authenticator = authenticator,
                                                       .stats = stats,
                                                       .events = events});
    }
    static base::Task<void> open(World& world) {
        queue::RecoveryReport report;
        queue::QueueOptions options;
        options.segment_bytes = 4U << 20;
        auto opened = co_await queue::MessageQueue::open(world.loop, world.disk, options, report);
        CHECK(opened.has_value());
        world.spool = std::move(*opened);
    }
    void turn() {
        if (!loop.turn() && loop.next_due() != base::TimePoint::max())
            clock.advance_to(loop.next_due());
    }

    base::ManualClock clock; // jumps to the next timer, so that no time is spent waiting
    base::Loop loop{clock};
    InstantDisk disk{256U << 20};
    Settle sink;
    std::unique_ptr<queue::MessageQueue> spool;
    dataplane::policy::PolicySlot slot{open_policy()};
    NoAuthenticator authenticator;
    std::unique_ptr<control::schema::ShardStats> page =
        std::make_unique<control::schema::ShardStats>();
    dataplane::telemetry::Stats stats{*page};
    OneEvent events;
    std::optional<dataplane::smtp::ServerContext> context;
    const std::string hello = "EHLO bench.example\r\n";
    const std::string message;
};

ServerLoad::ServerLoad(std::size_t message_bytes)
    : world_(std::make_unique<World>(message_bytes)) {}
ServerLoad::~ServerLoad() {
    world_->loop.drop_tasks();
}

void ServerLoad::begin(unsigned sessions) {
    for (unsigned i = 0; i < sessions; ++i) {
        auto stream = std::make_unique<EndlessStream>(world_->loop, world_->hello, world_->message);
        world_->loop.spawn(
            dataplane::smtp::serve(*world_->context, std::move(stream), world_->slot.current(), 0),
            "session");
    }
}

void ServerLoad::run(std::uint64_t messages) {
    constexpr auto counter = dataplane::telemetry::Counter::messages_received;
    const std::uint64_t target = world_->stats.get(counter) + messages;
    while (world_->stats.get(counter) < target)
        world_->turn();
}

} // namespace tests
