// tls_stream_fuzz.cc: whatever lies on the wire, a TLS stream gives its reader a beginning of what
// the other side wrote, or an error, in both roles.
//
// The first byte says what the rest is: bytes thrown at a handshake of either side; or changes made to
// what one of our own ends sends to the other, from the first byte of its handshake on. A change is
// four bytes: how many bytes on (two), what is done there, and with what.
#include "dataplane/base/check.h"
#include "tests/support/sim_net.h"
#include "tls_offload/self_signed.h"
#include "tls_offload/tls_stream.h"

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace {

namespace base = dataplane::base;
using namespace std::chrono_literals;
using base::Deadline;
using base::NetResult;
using base::StreamPtr;
using base::Task;
using TlsResult = std::expected<StreamPtr, tls_offload::TlsFailure>;

/// What is set up once; OpenSSL's contexts cost more than a whole handshake.
struct World {
    World() {
        std::string folder =
            (std::filesystem::temp_directory_path() / "millrace-fuzz-XXXXXX").string();
        CHECK(mkdtemp(folder.data()) != nullptr);
        CHECK(tls_offload::make_self_signed("mx.example.com", folder + "/c.pem", folder + "/k.pem",
                                            clock.wall_now()));
        auto made_server = tls_offload::ServerContext::create(
            library, {.certificate_file = folder + "/c.pem", .key_file = folder + "/k.pem"});
        auto made_client =
            tls_offload::ClientContext::create(library, {.ca_file = folder + "/c.pem"});
        CHECK(made_server && made_client);
        server.emplace(std::move(*made_server));
        client.emplace(std::move(*made_client));
        std::filesystem::remove_all(folder);
    }
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop, {.fragment = true}};
    tls_offload::TlsLibrary library{loop};
    std::optional<tls_offload::ServerContext> server;
    std::optional<tls_offload::ClientContext> client;
};

/// A wire on which bytes are changed, left out, said twice or made up.
class BadWire final : public base::Stream {
public:
    BadWire(StreamPtr inner, std::span<const std::uint8_t> changes)
        : inner_(std::move(inner)), changes_(changes) {
        next();
    }
    std::span<const std::byte> unread() const noexcept override { return inner_->unread(); }
    void consume(std::size_t bytes) noexcept override { inner_->consume(bytes); }
    Task<NetResult<>> fill(Deadline deadline) override { return inner_->fill(deadline); }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        sent_.clear();
        for (const std::byte byte : bytes) {
            if (left_ > 0) {
                --left_;
                sent_.push_back(byte);
                continue;
            }
            switch (what_ % 4) {
            case 0:
                sent_.push_back(byte ^ with_);
                break;
            case 1:
                break;
            case 2:
                sent_.insert(sent_.end(), 2, byte);
                break;
            case 3:
                sent_.push_back(with_);
                sent_.push_back(byte);
                break;
            }
            next();
        }
        return inner_->write(sent_, deadline);
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return inner_->write(std::move(slabs), deadline);
    }
    Task<NetResult<>> drain(Deadline deadline) override { return inner_->drain(deadline); }
    Task<NetResult<>> shutdown_write(Deadline deadline) override {
        return inner_->shutdown_write(deadline);
    }
    void close() noexcept override { inner_->close(); }
    void abort() noexcept override { inner_->abort(); }
    const base::StreamInfo& info() const noexcept override { return inner_->info(); }

private:
    void next() {
        left_ = std::size_t(-1);
        if (changes_.size() < 4) return;
        left_ = std::size_t{changes_[0]} << 8 | changes_[1];
        what_ = changes_[2];
        with_ = std::byte{changes_[3]};
        changes_ = changes_.subspan(4);
    }
    StreamPtr inner_;
    std::span<const std::uint8_t> changes_;
    std::vector<std::byte> sent_;
    std::size_t left_ = 0;
    std::uint8_t what_ = 0;
    std::byte with_{};
};

const std::string said(40'000, 'm'); // a few records

Task<void> read_all(base::Stream* stream, std::size_t* got, bool* ended, base::Loop* loop) {
    for (;;) {
        const auto filled = co_await stream->fill(Deadline::in(*loop, 5s));
        if (!filled) break;
        for (const std::byte byte : stream->unread())
            CHECK(byte == std::byte{'m'});
        *got += stream->unread().size();
        CHECK(*got <= said.size());
        stream->consume(stream->unread().size());
    }
    *ended = true;
}

Task<void> write_all(base::Stream* stream, bool* ended, base::Loop* loop) {
    const auto written = co_await stream->write(base::as_bytes(said), Deadline::in(*loop, 5s));
    if (written) static_cast<void>(co_await stream->shutdown_write(Deadline::in(*loop, 5s)));
    *ended = true;
}

Task<void> keep(Task<TlsResult> task, std::optional<TlsResult>* out) {
    out->emplace(co_await std::move(task));
}

Task<void> throw_at(base::Stream* stream, std::span<const std::byte> bytes, base::Loop* loop) {
    static_cast<void>(co_await stream->write(bytes, Deadline::in(*loop, 5s)));
    static_cast<void>(co_await stream->shutdown_write(Deadline::in(*loop, 5s)));
}

void garbage(World& world, bool as_server, std::span<const std::uint8_t> bytes) {
    auto pair = world.net.make_pair(*base::SocketAddress::parse("192.0.2.1:40000"),
                                    *base::SocketAddress::parse("192.0.2.25:25"));
    StreamPtr ours = std::move(as_server ? pair.server : pair.client);
    StreamPtr theirs = std::move(as_server ? pair.client : pair.server);
    const tls_offload::ClientOptions options{.server_name = "mx.example.com"};
    const Deadline deadline = Deadline::in(world.loop, 10s);
    std::optional<TlsResult> result;
    world.loop.spawn(keep(as_server
                              ? accept_tls(std::move(ours), *world.server, deadline)
                              : connect_tls(std::move(ours), *world.client, options, deadline),
                          &result),
                     "ours");
    world.loop.spawn(throw_at(theirs.get(), std::as_bytes(bytes), &world.loop), "theirs");
    CHECK(tests::run_until(world.loop, world.clock, [&] { return result.has_value(); }));
    CHECK(!result->has_value()); // nobody makes a handshake up
    CHECK(!result->error().text.empty());
}

void damage(World& world, bool towards_server, std::span<const std::uint8_t> changes) {
    auto pair = world.net.make_pair(*base::SocketAddress::parse("192.0.2.1:40000"),
                                    *base::SocketAddress::parse("192.0.2.25:25"));
    StreamPtr& bad = towards_server ? pair.client : pair.server;
    bad = std::make_unique<BadWire>(std::move(bad), changes);
    const tls_offload::ClientOptions options{.server_name = "mx.example.com"};
    const Deadline deadline = Deadline::in(world.loop, 10s);
    std::optional<TlsResult> client, server;
    world.loop.spawn(
        keep(connect_tls(std::move(pair.client), *world.client, options, deadline), &client),
        "client");
    world.loop.spawn(keep(accept_tls(std::move(pair.server), *world.server, deadline), &server),
                     "server");
    CHECK(tests::run_until(world.loop, world.clock, [&] { return client && server; }));
    std::optional<TlsResult>& from = towards_server ? client : server;
    std::optional<TlsResult>& to = towards_server ? server : client;
    if (!from->has_value() || !to->has_value()) return;
    std::size_t got = 0;
    bool read = false, written = false;
    world.loop.spawn(read_all((*to)->get(), &got, &read, &world.loop), "reader");
    world.loop.spawn(write_all((*from)->get(), &written, &world.loop), "writer");
    CHECK(tests::run_until(world.loop, world.clock, [&] { return read && written; }));
    if (changes.size() < 4) CHECK(got == said.size());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static World world;
    if (size == 0 || size > 65'536) return 0;
    const std::span<const std::uint8_t> rest{data + 1, size - 1};
    const bool server = (data[0] & 1) != 0;
    if ((data[0] & 2) != 0) {
        damage(world, server, rest);
    } else {
        garbage(world, server, rest);
    }
    tests::run_until(world.loop, world.clock, [] { return false; }, 20s); // closes flush, then end
    world.loop.drop_tasks();
    CHECK(world.library.lent_blocks() == 0);
    return 0;
}
