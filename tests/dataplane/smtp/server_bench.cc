// What one message costs the SMTP room: a session fed from memory, everything below it as cheap as it can be.
//
// The spool is the real one on a disk that is ready at once, so its share is in the figure too; run it under perf
// to tell them apart. Allocations are counted over the whole process.
#include "dataplane/smtp/data_decoder.h"
#include "dataplane/smtp/server_session.h"
#include "queue/queue.h"

#include <algorithm>
#include <benchmark/benchmark.h>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

namespace {
std::uint64_t allocations = 0;
}
void* operator new(std::size_t bytes) {
    ++allocations;
    if (void* memory = std::malloc(bytes)) return memory;
    std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

namespace base = dataplane::base;
namespace smtp = dataplane::smtp;
using namespace std::chrono_literals;

/// A client that never waits: the same bytes again and again, and replies into the void.
class EndlessStream final : public base::Stream {
public:
    EndlessStream(base::Loop& loop, std::string hello, std::string message, std::uint64_t messages)
        : loop_(loop), hello_(std::move(hello)), message_(std::move(message)), messages_(messages) {
        info_.client.ip = base::IpAddress::v4({127, 0, 0, 1});
        now_ = hello_;
    }
    std::span<const std::byte> unread() const noexcept override { return base::as_bytes(now_); }
    void consume(std::size_t bytes) noexcept override { now_.remove_prefix(bytes); }
    base::Task<base::NetResult<>> fill(base::Deadline) override {
        if (!now_.empty()) co_return base::NetResult<>{};
        if (messages_ == 0) co_return std::unexpected(base::NetError::end_of_stream);
        --messages_;
        now_ = message_;
        co_await base::sleep_until(loop_, base::Deadline{loop_.now(), nullptr}); // a real one waits here
        co_return base::NetResult<>{};
    }
    base::Task<base::NetResult<>> write(std::span<const std::byte> bytes, base::Deadline) override {
        written_ += bytes.size();
        co_return base::NetResult<>{};
    }
    base::Task<base::NetResult<>> write(base::SlabChain, base::Deadline) override { co_return base::NetResult<>{}; }
    base::Task<base::NetResult<>> drain(base::Deadline) override { co_return base::NetResult<>{}; }
    base::Task<base::NetResult<>> shutdown_write(base::Deadline) override { co_return base::NetResult<>{}; }
    void close() noexcept override {}
    void abort() noexcept override {}
    const base::StreamInfo& info() const noexcept override { return info_; }

private:
    base::Loop& loop_;
    base::StreamInfo info_;
    std::string hello_, message_;
    std::string_view now_;
    std::uint64_t messages_;
    std::uint64_t written_ = 0;
};

class InstantDisk final : public queue::Disk {
public:
    explicit InstantDisk(std::size_t bytes) : bytes_(bytes) {}
    std::uint64_t size_bytes() const noexcept override { return bytes_.size(); }
    base::Task<std::expected<void, queue::DiskError>> write(std::uint64_t offset, std::span<const std::byte> bytes,
                                                            queue::Durable) override {
        std::memcpy(bytes_.data() + offset, bytes.data(), bytes.size());
        co_return std::expected<void, queue::DiskError>{};
    }
    base::Task<std::expected<void, queue::DiskError>> read(std::uint64_t offset, std::span<std::byte> bytes) override {
        std::memcpy(bytes.data(), bytes_.data() + offset, bytes.size());
        co_return std::expected<void, queue::DiskError>{};
    }
    base::Task<std::expected<void, queue::DiskError>> flush() override { co_return std::expected<void, queue::DiskError>{}; }

private:
    std::vector<std::byte> bytes_;
};

class Settle final : public queue::ReadySink {
public:
    void message_ready(queue::MessageRef message) override {
        for (auto& status : message->status) status.state = queue::RecipientState::delivered;
        queue->settle(std::move(message));
    }
    queue::MessageQueue* queue = nullptr;
};

class NoAuthenticator final : public dataplane::policy::Authenticator {
public:
    base::Task<dataplane::policy::AuthVerdict> verify(std::string, std::string, base::IpAddress, base::Deadline) override {
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

void accept_messages(benchmark::State& state) {
    std::string content = "From: a@b.example\r\nTo: c@d.example\r\nSubject: benchmark\r\n\r\n";
    while (content.size() < static_cast<std::size_t>(state.range(0))) content.append(74, 'x').append("\r\n");
    const std::string message = "MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + content + ".\r\n";

    base::RealClock clock;
    base::Loop loop{clock};
    InstantDisk disk{256U << 20};
    Settle sink;
    std::unique_ptr<queue::MessageQueue> spool;
    const auto open = [](base::Loop& on, queue::Disk& from, std::unique_ptr<queue::MessageQueue>& out) -> base::Task<void> {
        queue::RecoveryReport report;
        queue::QueueOptions options{.segment_bytes = 4U << 20};
        auto opened = co_await queue::MessageQueue::open(on, from, options, report);
        if (opened) out = std::move(*opened);
    };
    loop.spawn(open(loop, disk, spool), "open");
    while (spool == nullptr) loop.turn();
    sink.queue = spool.get();
    spool->set_sink(sink);

    auto policy = std::make_shared<dataplane::policy::Policy>();
    policy->hostname = "relay.example";
    policy->listeners.resize(1);
    policy->listeners[0].kind = dataplane::policy::ListenerKind::relay;
    policy->relay_networks = {*base::Network::parse("127.0.0.0/8")};
    policy->limits.messages_per_session_max = UINT32_MAX;
    dataplane::policy::PolicySlot slot{policy};
    NoAuthenticator authenticator;
    auto page = std::make_unique<control::schema::ShardStats>();
    dataplane::telemetry::Stats stats{*page};
    OneEvent events;
    smtp::ServerContext context{
        .loop = loop, .queue = *spool, .policy = slot, .authenticator = authenticator, .stats = stats, .events = events};

    constexpr std::uint64_t batch = 1000;
    constexpr unsigned sessions = 20;
    const auto run = [&](std::uint64_t messages) {
        for (unsigned i = 0; i < sessions; ++i) {
            auto stream = std::make_unique<EndlessStream>(loop, "EHLO bench.example\r\n", message, messages / sessions);
            loop.spawn(smtp::serve(context, std::move(stream), slot.current(), 0), "session");
        }
        const std::uint64_t target = stats.get(dataplane::telemetry::Counter::messages_received) + messages;
        while (stats.get(dataplane::telemetry::Counter::messages_received) < target) loop.turn();
    };
    run(batch); // warm up
    const std::uint64_t allocations_before = allocations;
    for (auto _ : state) run(batch);
    const auto messages = static_cast<double>(state.iterations() * batch);
    state.counters["messages"] = benchmark::Counter(messages, benchmark::Counter::kIsRate);
    state.counters["us_per_message"] = benchmark::Counter(messages / 1e6, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
    state.counters["allocations_per_message"] = static_cast<double>(allocations - allocations_before) / messages;
    loop.drop_tasks();
}
BENCHMARK(accept_messages)->Arg(1024)->Arg(4096)->Arg(32768)->Unit(benchmark::kMillisecond);

void decode_data(benchmark::State& state) {
    std::string content;
    while (content.size() < 1 << 20) content.append(static_cast<std::size_t>(state.range(0)), 'x').append("\r\n");
    std::vector<std::byte> output(content.size());
    smtp::DataDecoder decoder;
    for (auto _ : state) {
        decoder.reset(smtp::Framing::dotted, smtp::BareNewlines::refuse);
        benchmark::DoNotOptimize(decoder.decode(base::as_bytes(content), output));
    }
    state.SetBytesProcessed(static_cast<std::int64_t>(content.size()) * state.iterations());
}
BENCHMARK(decode_data)->Arg(30)->Arg(74)->Arg(900);

} // namespace

BENCHMARK_MAIN();
