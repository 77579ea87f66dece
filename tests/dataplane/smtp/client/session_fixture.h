// session_fixture.h: a client session, a scripted peer, and messages out of a real queue on a
// simulated disk.
#pragma once

#include "dataplane/smtp/client_session.h"
#include "queue/queue.h"
#include "tests/support/scripted_peer.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <functional>
#include <gtest/gtest.h>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

using namespace std::chrono_literals;
namespace smtp = dataplane::smtp;

struct Collector final : queue::ReadySink {
    void message_ready(queue::MessageRef message) override {
        messages.push_back(std::move(message));
    }
    std::vector<queue::MessageRef> messages;
};

class SessionFixture : public ::testing::Test {
protected:
    void SetUp() override {
        queue::RecoveryReport report;
        auto opened =
            run(loop, clock,
                queue::MessageQueue::open(loop, disk, {.segment_bytes = 1U << 20}, report));
        ASSERT_TRUE(opened.has_value());
        queue = std::move(*opened);
        queue->set_sink(sink);
        options.helo_name = "relay.example";
        options.host_name = "peer.example";
    }
    void TearDown() override {
        loop.drop_tasks();
        session.reset();
        messages.clear();
        sink.messages.clear();
    }

    queue::MessageRef message(std::string_view content,
                              std::vector<std::string> recipients = {"bob@peer.example"},
                              const std::function<void(queue::Envelope&)>& adjust = {}) {
        auto put = [](queue::MessageQueue* to, std::string text, std::vector<std::string> rcpts,
                      const std::function<void(queue::Envelope&)>* tune,
                      base::Loop* time) -> base::Task<queue::SpoolResult<queue::MessageRef>> {
            auto begun = to->begin(text.size());
            if (!begun) co_return std::unexpected(begun.error());
            queue::Draft draft = std::move(*begun);
            draft.envelope().set_sender("alice@sender.example");
            for (const std::string& rcpt : rcpts)
                draft.envelope().add_recipient(rcpt, "", queue::notify_absent);
            draft.envelope().arrival = time->wall_now();
            draft.envelope().expiry = time->wall_now() + 120h;
            if (*tune) (*tune)(draft.envelope());
            const auto appended =
                co_await draft.append(base::as_bytes(text), base::Deadline::never());
            if (!appended) co_return std::unexpected(appended.error());
            auto committed = co_await draft.commit("", base::Deadline::never());
            co_return committed;
        };
        auto committed =
            run(loop, clock, put(queue.get(), std::string{content}, recipients, &adjust, &loop));
        CHECK(committed.has_value());
        messages.push_back(*committed);
        return *committed;
    }

    bool open() {
        session = std::make_unique<smtp::ClientSession>(loop, options);
        auto stream =
            run(loop, clock, net.connect(peer.address(), std::nullopt, base::Deadline::never()));
        CHECK(stream.has_value());
        return run(loop, clock, session->open(std::move(*stream)), 24h);
    }

    std::vector<smtp::Outcome> transact(const queue::MessageRef& mail) {
        std::vector<std::uint32_t> all(mail->envelope.recipient_count());
        std::iota(all.begin(), all.end(), 0U);
        auto wrap = [](smtp::ClientSession* to, const queue::Message* what,
                       std::span<const std::uint32_t> who,
                       queue::ContentReader content) -> base::Task<int> {
            co_await to->transact(*what, who, std::move(content));
            co_return 0;
        };
        run(loop, clock, wrap(session.get(), mail.get(), all, queue::ContentReader{*queue, mail}),
            24h);
        return {session->results().begin(), session->results().end()};
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimDisk disk{loop, {.bytes = 16U << 20}};
    SimNet net{loop};
    ScriptedPeer peer{loop, net, *base::SocketAddress::parse("127.0.0.2:25")};
    Collector sink;
    std::unique_ptr<queue::MessageQueue> queue;
    std::vector<queue::MessageRef> messages;
    smtp::ClientOptions options;
    std::unique_ptr<smtp::ClientSession> session;
};

} // namespace tests
