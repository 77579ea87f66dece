#include "tests/dataplane/smtp/server_harness.h"

#include "tls_offload/self_signed.h"
#include "tls_offload/tls_stream.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <gtest/gtest.h>

namespace tests {

using dataplane::policy::AuthVerdict;
using dataplane::policy::ListenerKind;

namespace {

/// "\r", "\n", "\0", "\xHH" and "\\" of a script's line.
std::string unescape(std::string_view text) {
    std::string bytes;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] != '\\' || i + 1 == text.size()) {
            bytes.push_back(text[i]);
            continue;
        }
        switch (text[++i]) {
        case 'r':
            bytes.push_back('\r');
            break;
        case 'n':
            bytes.push_back('\n');
            break;
        case '0':
            bytes.push_back('\0');
            break;
        case 'x':
            bytes.push_back(
                static_cast<char>(std::stoi(std::string{text.substr(i + 1, 2)}, nullptr, 16)));
            i += 2;
            break;
        default:
            bytes.push_back(text[i]);
        }
    }
    return bytes;
}

/// A key pair for the whole test run: making one takes longer than most tests.
struct Certificate {
    Certificate() {
        std::string pattern =
            (std::filesystem::temp_directory_path() / "millrace-smtp-XXXXXX").string();
        CHECK(mkdtemp(pattern.data()) != nullptr);
        folder = pattern;
        CHECK(tls_offload::make_self_signed("relay.example", file("cert.pem"), file("key.pem"),
                                            base::ManualClock{}.wall_now())
                  .has_value());
    }
    ~Certificate() {
        std::error_code ignored;
        std::filesystem::remove_all(folder, ignored);
    }
    [[nodiscard]] std::string file(const char* name) const { return (folder / name).string(); }
    std::filesystem::path folder;
};
const Certificate& certificate() {
    static const Certificate made;
    return made;
}

/// A small log: a world is built for every few replies.
queue::QueueOptions options_of_queue() {
    queue::QueueOptions options;
    options.resident_bytes_max = 4U << 20;
    options.segment_bytes = 1U << 20;
    return options;
}

} // namespace

std::string base64(std::string_view text) {
    constexpr std::string_view alphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (std::size_t i = 0; i < text.size(); i += 3) {
        unsigned bits = 0;
        for (std::size_t k = 0; k < 3; ++k)
            bits = bits << 8 | (i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0U);
        for (std::size_t k = 0; k < 4; ++k) {
            out.push_back(i + k > text.size() ? '=' : alphabet[bits >> (18 - 6 * k) & 63]);
        }
    }
    return out;
}

std::string auth_plain(std::string_view user, std::string_view password) {
    return "AUTH PLAIN " +
           base64(std::string(1, '\0') + std::string{user} + '\0' + std::string{password});
}

base::Task<AuthVerdict> TableAuthenticator::verify(std::string user, std::string password,
                                                   base::IpAddress, base::Deadline deadline) {
    ++asked;
    if (takes != base::Duration{}) {
        const auto wake =
            co_await base::sleep_until(loop_, base::Deadline::in(loop_, takes).sooner(deadline.at));
        static_cast<void>(wake);
        if (loop_.now() >= deadline.at) co_return AuthVerdict::unavailable;
    }
    if (always) co_return *always;
    const auto entry = passwords.find(user);
    co_return entry != passwords.end() && entry->second == password ? AuthVerdict::accepted
                                                                    : AuthVerdict::rejected;
}

std::string Stored::client_bytes() const {
    // The prelude begins with Received; its last field is the last one the relay is known to add.
    std::string_view rest = content;
    CHECK(rest.starts_with("Received: from "));
    const auto drop_field = [&rest] {
        do {
            rest.remove_prefix(rest.find("\r\n") + 2);
        } while (rest.starts_with(" ") || rest.starts_with("\t"));
    };
    drop_field();
    return std::string{rest};
}

ServerHarness::ServerHarness(HarnessOptions options)
    : net(loop, SimNetOptions{.pipe_bytes_max = options.pipe_bytes_max,
                              .fragment = options.fragment,
                              .seed = options.seed}),
      disk(loop, SimDiskOptions{.bytes = options.disk_bytes, .seed = options.seed}) {
    policy.hostname = "relay.example";
    const auto listener = [](ListenerKind kind, std::uint16_t port) {
        dataplane::policy::ListenerPolicy made;
        made.kind = kind;
        made.address.port = port;
        return made;
    };
    policy.listeners = {listener(ListenerKind::relay, 25), listener(ListenerKind::submission, 587),
                        listener(ListenerKind::submissions, 465)};
    policy.relay_networks = {*base::Network::parse("198.51.100.0/24"),
                             *base::Network::parse("2001:db8:1::/48")};
    dataplane::policy::AccountPolicy alice;
    alice.name = "alice";
    alice.tenant = "acme";
    alice.source = "pool-a";
    policy.accounts["alice"] = alice;
    authenticator.passwords["alice"] = "wonderland";

    queue::RecoveryReport report;
    auto opened =
        run(loop, clock, queue::MessageQueue::open(loop, disk, options_of_queue(), report));
    CHECK(opened.has_value());
    queue_ = std::move(*opened);
    queue_->set_sink(*this);
    own_tasks_ = loop.spawned_count();
    slot_ = std::make_unique<dataplane::policy::PolicySlot>(
        std::make_shared<const dataplane::policy::Policy>(policy));
    if (options.tls) {
        tls_library_.emplace(loop);
        auto server = tls_offload::ServerContext::create(
            *tls_library_,
            {.certificate_file = certificate().file("cert.pem"),
             .key_file = certificate().file("key.pem"),
             .client_auth = options.client_certificate ? tls_offload::ClientAuth::request
                                                       : tls_offload::ClientAuth::none,
             .client_ca_file = options.client_certificate && options.trusts_clients
                                   ? certificate().file("cert.pem")
                                   : ""});
        CHECK(server.has_value());
        tls_server_.emplace(std::move(*server));
        auto client = tls_offload::ClientContext::create(
            *tls_library_,
            {.ca_file = certificate().file("cert.pem"),
             .certificate_file = options.client_certificate ? certificate().file("cert.pem") : "",
             .key_file = options.client_certificate ? certificate().file("key.pem") : ""});
        CHECK(client.has_value());
        tls_client_.emplace(std::move(*client));
    }
    context.emplace(dataplane::smtp::ServerContext{.loop = loop,
                                                   .queue = *queue_,
                                                   .policy = *slot_,
                                                   .authenticator = authenticator,
                                                   .stats = stats_,
                                                   .events = events,
                                                   .tls = tls_server_ ? &*tls_server_ : nullptr,
                                                   .shutdown = &shutdown});
}

ServerHarness::~ServerHarness() {
    loop.drop_tasks();
}

std::string ServerHarness::certificate_fingerprint() {
    tls_offload::CertificateFiles files;
    files.certificate_file = certificate().file("cert.pem");
    files.key_file = certificate().file("key.pem");
    const auto loaded = tls_offload::load_certificate(files, {});
    CHECK(loaded.has_value());
    return loaded->info.fingerprint;
}

void ServerHarness::publish_policy() {
    slot_->replace(std::make_shared<const dataplane::policy::Policy>(policy));
}

void ServerHarness::message_ready(queue::MessageRef message) {
    loop.spawn(keep(std::move(message)), "keep");
}

base::Task<void> ServerHarness::keep(queue::MessageRef message) {
    const queue::Envelope& envelope = message->envelope;
    Stored copy{.sender = std::string{envelope.sender()},
                .envid = std::string{envelope.envid()},
                .account = std::string{envelope.account()},
                .tenant = std::string{envelope.tenant()},
                .source = std::string{envelope.source()},
                .body = envelope.body,
                .dsn_return = envelope.dsn_return,
                .smtputf8 = envelope.smtputf8,
                .client_tls = envelope.client_tls,
                .lifetime = envelope.expiry - envelope.arrival};
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        copy.recipients.emplace_back(envelope.recipient(i).address);
        copy.orcpts.emplace_back(envelope.recipient(i).orcpt);
        copy.notifies.push_back(envelope.recipient(i).notify);
    }
    queue::ContentReader reader{*queue_, message};
    while (true) {
        const auto piece = co_await reader.next(base::Deadline::never());
        CHECK(piece.has_value());
        if (piece->empty()) break;
        for (const base::SlabView& view : piece->views())
            copy.content += base::as_text(view.bytes());
    }
    if (keep_messages) {
        queue_->defer(std::move(message), loop.wall_now() + std::chrono::hours{24}, "kept");
    } else {
        for (auto& status : message->status)
            status.state = queue::RecipientState::delivered;
        queue_->settle(std::move(message));
    }
    stored.push_back(std::move(copy));
}

ServerHarness::Client::Client(ServerHarness& world, base::StreamPtr stream)
    : world_(world), stream_(std::move(stream)),
      reader_(std::make_unique<base::LineReader>(*stream_, 4096)) {}

void ServerHarness::Client::send(std::string_view bytes) {
    const auto written = run(world_.loop, world_.clock,
                             stream_->write(base::as_bytes(bytes), base::Deadline::never()));
    static_cast<void>(written); // a connection that the server has closed shows in reply()
}

std::string ServerHarness::Client::reply() {
    std::string text;
    while (true) {
        const auto line =
            run(world_.loop, world_.clock,
                reader_->read_line(base::Deadline::in(world_.loop, std::chrono::minutes{50})));
        if (!line) return "<" + std::string{to_string(line.error())} + ">";
        EXPECT_EQ(line->end, base::LineEnd::crlf);
        if (!text.empty()) text += '|';
        text += line->text;
        if (line->text.size() < 4 || line->text[3] != '-') return text;
    }
}

std::string ServerHarness::Client::ask(std::string_view line) {
    send(std::string{line} + "\r\n");
    return reply();
}

bool ServerHarness::Client::start_tls() {
    reader_->release();
    tls_offload::ClientOptions options{.server_name = "relay.example",
                                       .level = tls_offload::TlsLevel::encrypt};
    auto secured =
        run(world_.loop, world_.clock,
            tls_offload::connect_tls(std::move(stream_), *world_.tls_client_, options,
                                     base::Deadline::in(world_.loop, std::chrono::seconds{20})));
    if (!secured) return false;
    stream_ = std::move(*secured);
    reader_ = std::make_unique<base::LineReader>(*stream_, 4096);
    return true;
}

ServerHarness::Client ServerHarness::dial(ListenerKind kind, std::string_view client) {
    const auto listener = std::find_if(policy.listeners.begin(), policy.listeners.end(),
                                       [kind](const auto& l) { return l.kind == kind; });
    auto pair = net.make_pair({*base::IpAddress::parse(client), 40'000},
                              {*base::IpAddress::parse("192.0.2.25"), listener->address.port});
    loop.spawn(
        dataplane::smtp::serve(*context, std::move(pair.server), slot_->current(),
                               static_cast<std::size_t>(listener - policy.listeners.begin())),
        "smtp server");
    return Client{*this, std::move(pair.client)};
}

ServerHarness::Client ServerHarness::connect(ListenerKind kind, std::string_view client) {
    Client made = dial(kind, client);
    if (kind == ListenerKind::submissions) {
        EXPECT_TRUE(made.start_tls());
    }
    EXPECT_EQ(made.reply(), "220 relay.example ESMTP");
    return made;
}

void ServerHarness::pass(base::Duration time) {
    const base::TimePoint until = clock.now() + time;
    run_until(loop, clock, [] { return false; }, time);
    clock.advance_to(until);
    loop.turn();
}

// A script is read line by line, blanks in front ignored:
//   C: text   sends text and CRLF; escapes as in unescape()
//   c: text   sends text alone
//   S: text   reads a reply, which must begin so
//   +: text   the last reply must contain this
//   -: text   the last reply must not contain this
//   A: u p    sends AUTH PLAIN for user u and password p
//   T:        makes a TLS handshake
//   W: n      lets n seconds pass
//   Q: n      n messages are in the queue by now
//   E:        the connection must be at its end
void ServerHarness::play(Client& client, std::string_view script) {
    std::string last;
    unsigned number = 0;
    while (!script.empty()) {
        const std::size_t end = std::min(script.find('\n'), script.size());
        std::string_view line = script.substr(0, end);
        script.remove_prefix(std::min(end + 1, script.size()));
        ++number;
        line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
        if (line.empty()) continue;
        ASSERT_GE(line.size(), 2U) << "script line " << number;
        const std::string text = unescape(line.substr(std::min<std::size_t>(3, line.size())));
        SCOPED_TRACE("script line " + std::to_string(number) + ": " + std::string{line});
        switch (line[0]) {
        case 'C':
            client.send(text + "\r\n");
            break;
        case 'c':
            client.send(text);
            break;
        case 'S':
            last = client.reply();
            ASSERT_TRUE(last.starts_with(text)) << "got: " << last;
            break;
        case '+':
            ASSERT_NE(last.find(text), std::string::npos) << "got: " << last;
            break;
        case '-':
            ASSERT_EQ(last.find(text), std::string::npos) << "got: " << last;
            break;
        case 'A':
            client.send(
                auth_plain(text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)) +
                "\r\n");
            break;
        case 'T':
            ASSERT_TRUE(client.start_tls());
            break;
        case 'W':
            pass(std::chrono::seconds{std::stoi(text)});
            break;
        case 'Q':
            pass(std::chrono::seconds{1});
            ASSERT_EQ(stored.size(), static_cast<std::size_t>(std::stoi(text)));
            break;
        case 'E':
            ASSERT_EQ(client.reply(), "<connection closed by peer>");
            break;
        default:
            FAIL() << "unknown script line";
        }
    }
}

} // namespace tests
