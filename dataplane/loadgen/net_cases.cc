#include "dataplane/loadgen/net_cases.h"

#include <algorithm>
#include <array>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t exchange_bytes = 600; // each way, as the published short-connection figures
constexpr auto wait_limit = 30s;
constexpr auto retry_gap = 10ms;
constexpr std::array<std::string_view, 6> names{"short", "request", "bulk",
                                                "idle",  "echo",    "half_close"};

/// Tells the server which case a connection is of.
constexpr std::byte first_byte(NetCase which) {
    return static_cast<std::byte>('A' + static_cast<int>(which));
}

struct Exchange {
    std::array<std::byte, exchange_bytes> bytes{};
    explicit Exchange(NetCase which) { bytes.fill(first_byte(which)); }
};

/// What both sides say. One for all connections: a copy in each would be measured as cache misses.
std::span<const std::byte> exchange_of(NetCase which) {
    static const Exchange request{NetCase::request};
    static const Exchange once{NetCase::short_connections};
    static const Exchange echo{NetCase::echo};
    switch (which) {
    case NetCase::short_connections:
        return once.bytes;
    case NetCase::echo:
        return echo.bytes;
    case NetCase::request:
    case NetCase::bulk:
    case NetCase::idle:
    case NetCase::half_close:
        break;
    }
    return request.bytes;
}

base::Deadline soon(const base::Loop& loop) {
    return base::Deadline::in(loop, wait_limit);
}

/// Reads away `count` bytes; false when the connection ended before.
base::Task<bool> read_away(base::Loop& loop, base::Stream& stream, std::size_t count) {
    while (count > 0) {
        auto filled = co_await stream.fill(soon(loop));
        if (!filled) co_return false;
        const std::size_t got = std::min(count, stream.unread().size());
        stream.consume(got);
        count -= got;
    }
    co_return true;
}

/// Sends back what comes until the peer has said all, then ends our side as well; false when it broke.
base::Task<bool> echo(base::Loop& loop, base::Stream& stream, NetTally& tally) {
    for (;;) {
        auto filled = co_await stream.fill(soon(loop));
        if (!filled && filled.error() != base::NetError::end_of_stream) co_return false;
        if (!filled) break;
        const std::size_t got = stream.unread().size();
        auto written = co_await stream.write(stream.unread(), soon(loop));
        if (!written) co_return false;
        tally.bytes += got;
        stream.consume(got);
    }
    auto ended = co_await stream.shutdown_write(soon(loop));
    co_return ended.has_value();
}

} // namespace

std::optional<NetCase> net_case(std::string_view name) noexcept {
    const auto found = std::ranges::find(names, name);
    if (found == names.end()) return std::nullopt;
    return static_cast<NetCase>(found - names.begin());
}

std::string_view to_string(NetCase which) noexcept {
    return names[static_cast<std::size_t>(which)];
}

// --- Server

base::NetResult<base::SocketAddress> NetServer::listen(const base::SocketAddress& local) {
    auto listener = transport_.listen(local, {.connections_max = 2'000'000});
    if (!listener) return std::unexpected(listener.error());
    listeners_.push_back(std::move(*listener));
    loop_.spawn(accept_all(*listeners_.back()), "bench accept");
    return listeners_.back()->local();
}

base::Task<void> NetServer::accept_all(base::Listener& listener) {
    for (;;) {
        auto accepted = co_await listener.accept(base::Deadline::never());
        if (accepted) {
            loop_.spawn(serve(std::move(*accepted)), "bench serve");
        } else if (accepted.error() == base::NetError::closed) {
            co_return;
        } else {
            ++tally_.failed;
            static_cast<void>(co_await base::sleep_for(loop_, retry_gap));
        }
    }
}

base::Task<void> NetServer::serve(base::StreamPtr stream) {
    auto first = co_await stream->fill(base::Deadline::never());
    const char kind = first ? static_cast<char>(stream->unread().front()) : ' ';
    ++tally_.open;
    bool whole = false;
    switch (kind) {
    case static_cast<char>(first_byte(NetCase::idle)):
        stream->consume(stream->unread().size());
        idle_.push_back(
            std::move(stream)); // no session waits on it: what it costs is the transport's
        co_return;
    case static_cast<char>(first_byte(NetCase::bulk)):
        co_await take_bulk(*stream);
        break;
    case static_cast<char>(first_byte(NetCase::request)):
        co_await answer(*stream, NetCase::request);
        break;
    case static_cast<char>(first_byte(NetCase::short_connections)):
        co_await answer(*stream, NetCase::short_connections);
        break;
    case static_cast<char>(first_byte(NetCase::echo)):
        whole = co_await echo(loop_, *stream, tally_);
        ++(whole ? tally_.exchanges : tally_.failed);
        break;
    default:
        ++tally_.failed;
    }
    --tally_.open;
    stream->close();
}

base::Task<void> NetServer::take_bulk(base::Stream& stream) {
    for (;;) {
        const std::size_t got = stream.unread().size();
        tally_.bytes += got;
        stream.consume(got);
        auto filled = co_await stream.fill(soon(loop_));
        if (!filled) co_return;
    }
}

base::Task<void> NetServer::answer(base::Stream& stream, NetCase which) {
    const std::span<const std::byte> reply = exchange_of(which);
    for (;;) {
        auto whole = co_await read_away(loop_, stream, exchange_bytes);
        if (!whole) co_return;
        tally_.bytes += exchange_bytes;
        auto written = co_await stream.write(reply, soon(loop_));
        if (!written) co_return;
        ++tally_.exchanges;
        if (which == NetCase::short_connections) co_return;
    }
}

// --- Client

NetClient::NetClient(base::Loop& loop, base::Transport& transport, base::SlabPool& pool,
                     NetClientOptions options)
    : loop_(loop), transport_(transport), options_(std::move(options)), bulk_bytes_(pool.take()) {
    // A period that fits no segment: a receiver that cares (tests/interop) sees what is out of place.
    for (std::size_t i = 0; i < bulk_bytes_.capacity(); ++i) {
        bulk_bytes_.data()[i] = static_cast<std::byte>(
            std::to_integer<std::size_t>(first_byte(NetCase::bulk)) + i % 251);
    }
}

void NetClient::start() {
    // Opening takes at most so many at a time; idle connections stay where they are then.
    constexpr std::size_t openers_max = 1000;
    if (options_.which == NetCase::idle) {
        for (std::size_t i = 0; i < std::min(options_.connections, openers_max); ++i)
            loop_.spawn(run_idle(), "bench idle");
        return;
    }
    const Use use = use_of(options_.which);
    for (std::size_t i = 0; i < options_.connections; ++i)
        loop_.spawn(run(use), "bench client");
}

NetClient::Use NetClient::use_of(NetCase which) noexcept {
    switch (which) {
    case NetCase::short_connections:
        return &NetClient::ask_once;
    case NetCase::request:
        return &NetClient::ask_on;
    case NetCase::bulk:
        return &NetClient::pour;
    case NetCase::half_close:
        return &NetClient::say_and_listen;
    case NetCase::echo:
    case NetCase::idle: // has a run of its own
        break;
    }
    return &NetClient::echo_all;
}

base::Task<base::StreamPtr> NetClient::open() {
    for (;;) {
        const std::size_t turn = next_++;
        const base::SocketAddress server = options_.servers[turn % options_.servers.size()];
        std::optional<base::IpAddress> source;
        if (!options_.sources.empty()) {
            source = options_.sources[turn / options_.servers.size() % options_.sources.size()];
        }
        auto stream = co_await transport_.connect(server, source, soon(loop_));
        if (stream) co_return std::move(*stream);
        ++tally_.failed;
        static_cast<void>(co_await base::sleep_for(loop_, retry_gap));
    }
}

base::Task<void> NetClient::run(Use use) {
    for (;;) {
        auto stream = co_await open();
        ++tally_.open;
        auto whole = co_await (this->*use)(*stream);
        ++(whole ? tally_.exchanges : tally_.failed);
        --tally_.open;
        stream->close();
    }
}

base::Task<bool> NetClient::ask_once(base::Stream& stream) {
    auto written = co_await stream.write(exchange_of(NetCase::short_connections), soon(loop_));
    if (!written) co_return false;
    auto whole = co_await read_away(loop_, stream, exchange_bytes);
    if (!whole) co_return false;
    tally_.bytes += exchange_bytes;
    // The server closes first, as SMTP servers do after QUIT.
    auto end = co_await stream.fill(soon(loop_));
    co_return !end && end.error() == base::NetError::end_of_stream;
}

base::Task<bool> NetClient::ask_on(base::Stream& stream) {
    const std::span<const std::byte> question = exchange_of(NetCase::request);
    for (;;) {
        auto written = co_await stream.write(question, soon(loop_));
        if (!written) co_return false;
        auto whole = co_await read_away(loop_, stream, exchange_bytes);
        if (!whole) co_return false;
        ++tally_.exchanges;
        tally_.bytes += exchange_bytes;
    }
}

base::Task<bool> NetClient::pour(base::Stream& stream) {
    constexpr std::size_t slabs_at_once = 4;
    for (;;) {
        base::SlabChain chain;
        for (std::size_t i = 0; i < slabs_at_once; ++i)
            chain.push({bulk_bytes_, 0, bulk_bytes_.capacity()});
        auto written = co_await stream.write(std::move(chain), soon(loop_));
        if (!written) co_return false;
        tally_.bytes += slabs_at_once * bulk_bytes_.capacity();
    }
}

base::Task<bool> NetClient::echo_all(base::Stream& stream) {
    return echo(loop_, stream, tally_);
}

base::Task<bool> NetClient::say_and_listen(base::Stream& stream) {
    // What our own server does with it suits.
    auto written = co_await stream.write(exchange_of(NetCase::echo), soon(loop_));
    if (!written) co_return false;
    auto ended = co_await stream.shutdown_write(soon(loop_));
    if (!ended) co_return false;
    for (;;) {
        auto filled = co_await stream.fill(soon(loop_));
        if (!filled) co_return filled.error() == base::NetError::end_of_stream;
        tally_.bytes += stream.unread().size();
        stream.consume(stream.unread().size());
    }
}

base::Task<void> NetClient::run_idle() {
    constexpr std::array<std::byte, 1> hello{first_byte(NetCase::idle)};
    std::vector<base::StreamPtr> kept;
    while (!settled()) {
        ++tally_.open; // before it is open, so that the openers together do not make too many
        auto stream = co_await open();
        auto written = co_await stream->write(hello, soon(loop_));
        if (!written) ++tally_.failed;
        kept.push_back(std::move(stream));
    }
    static_cast<void>(co_await base::sleep_for(loop_, std::chrono::hours{24}));
}

} // namespace dataplane::loadgen
