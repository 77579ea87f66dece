// tls_fixture.h: two ends of a simulated network that can speak TLS to each other.
#pragma once

#include "tests/support/sim_net.h"
#include "tls_offload/context_state.h"
#include "tls_offload/self_signed.h"
#include "tls_offload/tls_context.h"
#include "tls_offload/tls_stream.h"

#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>
#include <optional>
#include <string>

namespace tests {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::StreamPtr;
using base::Task;
using namespace std::chrono_literals;
using TlsResult = std::expected<StreamPtr, tls_offload::TlsFailure>;

class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "millrace-tls-XXXXXX").string();
        CHECK(mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    [[nodiscard]] std::string file(const std::string& name) const {
        return (path_ / name).string();
    }

private:
    std::filesystem::path path_;
};

/// Stores what a task gives, for tasks that run beside the test.
template <class T>
Task<void> store(Task<T> task, std::optional<T>* out) {
    auto value = co_await std::move(task);
    out->emplace(std::move(value));
}

class TlsFixture : public ::testing::Test {
protected:
    void SetUp() override {
        ASSERT_TRUE(tls_offload::make_self_signed("mx.example.com", folder.file("cert.pem"),
                                                  folder.file("key.pem"), clock.wall_now()));
    }
    tls_offload::ServerContext
    make_server(tls_offload::TlsPolicy policy = tls_offload::TlsPolicy::intermediate) {
        auto made = tls_offload::ServerContext::create(server_library,
                                                       {.certificate_file = folder.file("cert.pem"),
                                                        .key_file = folder.file("key.pem"),
                                                        .policy = policy});
        CHECK(made.has_value());
        return std::move(*made);
    }
    /// A server that speaks TLS 1.2 only, as old peers do.
    tls_offload::ServerContext make_tls12_server() {
        auto server = make_server();
        for (const auto& context : server.state()->set->contexts())
            CHECK(SSL_CTX_set_max_proto_version(context.get(), TLS1_2_VERSION) == 1);
        return server;
    }
    tls_offload::ClientContext make_client(tls_offload::ClientContextOptions options = {}) {
        if (options.ca_file.empty() && options.ca_dir.empty())
            options.ca_file = folder.file("cert.pem");
        auto made = tls_offload::ClientContext::create(client_library, options);
        CHECK(made.has_value());
        return std::move(*made);
    }
    SimNet::Pair make_pair() {
        return net.make_pair(*base::SocketAddress::parse("192.0.2.1:40000"),
                             *base::SocketAddress::parse("192.0.2.25:25"));
    }
    struct Ends {
        std::optional<TlsResult> client, server;
    };
    /// Runs both handshakes to their end.
    Ends shake(SimNet::Pair pair, tls_offload::ClientContext& client,
               tls_offload::ServerContext& server,
               const tls_offload::ClientOptions& options = {.server_name = "mx.example.com"}) {
        Ends ends;
        const Deadline deadline = Deadline::in(loop, 30s);
        loop.spawn(
            store(connect_tls(std::move(pair.client), client, options, deadline), &ends.client),
            "client");
        loop.spawn(store(accept_tls(std::move(pair.server), server, deadline), &ends.server),
                   "server");
        CHECK(run_until(loop, clock, [&] { return ends.client && ends.server; }));
        return ends;
    }
    void write(base::Stream& stream, std::string_view text) {
        ASSERT_TRUE(run(loop, clock, stream.write(base::as_bytes(text), Deadline::in(loop, 10s))));
    }
    /// Reads up to `bytes`; shorter at the end or after an error, which goes to `last_error`.
    std::string read(base::Stream& stream, std::size_t bytes) {
        std::string text;
        last_error.reset();
        while (text.size() < bytes) {
            const auto filled = run(loop, clock, stream.fill(Deadline::in(loop, 10s)));
            if (!filled) {
                last_error = filled.error();
                break;
            }
            const auto piece = base::as_text(stream.unread()).substr(0, bytes - text.size());
            text += piece;
            stream.consume(piece.size());
        }
        return text;
    }

    TemporaryFolder folder;
    base::ManualClock clock;
    base::Loop loop{clock};
    SimNet net{loop};
    tls_offload::TlsLibrary server_library{loop};
    tls_offload::TlsLibrary client_library{loop};
    std::optional<NetError> last_error;
};

} // namespace tests
