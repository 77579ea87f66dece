#include "dataplane/telemetry/event_log.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::telemetry {
namespace {

constexpr std::size_t ring_events = 4096;
constexpr std::size_t write_bytes = 256U << 10; // a write of this size is due at once
constexpr auto idle_sleep = std::chrono::milliseconds{5};

/// Bytes of the well-formed UTF-8 sequence at the front, or 0 (RFC 3629 §4).
std::size_t utf8_sequence(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(0);
    const std::size_t need = lead < 0x80                   ? 1
                             : lead >= 0xc2 && lead < 0xe0 ? 2
                             : (lead & 0xf0) == 0xe0       ? 3
                             : lead >= 0xf0 && lead < 0xf5 ? 4
                                                           : 0;
    if (need == 0 || text.size() < need) return 0;
    for (std::size_t i = 1; i < need; ++i) {
        if ((byte(i) & 0xc0) != 0x80) return 0;
    }
    if (need == 3 && ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f)))
        return 0;
    if (need == 4 && ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f)))
        return 0;
    return need;
}

void append_text(std::string_view text, std::string& out) {
    constexpr std::string_view hex = "0123456789abcdef";
    out += '"';
    while (!text.empty()) {
        const auto c = static_cast<unsigned char>(text.front());
        if (c == '"' || c == '\\') {
            out += '\\';
            out += static_cast<char>(c);
        } else if (c < 0x20 || c == 0x7f) {
            out += "\\u00";
            out += hex[c >> 4];
            out += hex[c & 15];
        } else if (c < 0x80) {
            out += static_cast<char>(c);
        } else if (const std::size_t bytes = utf8_sequence(text); bytes != 0) {
            out += text.substr(0, bytes);
            text.remove_prefix(bytes);
            continue;
        } else {
            out += "\\ufffd"; // what a peer sent may be anything
        }
        text.remove_prefix(1);
    }
    out += '"';
}

void append_number(std::uint64_t value, std::string& out) {
    std::array<char, 20> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    out.append(digits.data(), end);
}

void append_text_field(std::string_view name, std::string_view text, std::string& out) {
    if (text.empty()) return;
    out += ",\"";
    out += name;
    out += "\":";
    append_text(text, out);
}

void append_number_field(std::string_view name, std::uint64_t value, std::string& out) {
    out += ",\"";
    out += name;
    out += "\":";
    append_number(value, out);
}

void append_time_field(std::string_view name, base::WallTime time, std::string& out) {
    const std::int64_t ms = time.time_since_epoch().count();
    const auto seconds = static_cast<std::time_t>(ms / 1000);
    std::tm parts{};
    gmtime_r(&seconds, &parts);
    std::array<char, 64> text{};
    const int length =
        std::snprintf(text.data(), text.size(), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ",
                      parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                      parts.tm_min, parts.tm_sec, static_cast<int>(ms % 1000));
    append_text_field(name, {text.data(), static_cast<std::size_t>(length)}, out);
}

void append_id(std::uint64_t id, std::string& out) {
    std::array<char, 17> digits{};
    std::snprintf(digits.data(), digits.size(), "%016llx", static_cast<unsigned long long>(id));
    append_text_field("id", digits.data(), out);
}

void append_response(const Event& event, std::string& out) {
    out += ",\"response\":{\"code\":";
    append_number(event.code, out);
    if (event.enhanced[0] != 0) {
        out += ",\"enhanced_code\":{\"class\":";
        append_number(event.enhanced[0], out);
        append_number_field("subject", event.enhanced[1], out);
        append_number_field("detail", event.enhanced[2], out);
        out += '}';
    }
    out += ",\"content\":";
    append_text(event.get(EventText::response), out);
    append_text_field("command", event.get(EventText::command), out);
    out += '}';
}

} // namespace

void append_json(const Event& event, std::string_view node, std::string& out) {
    out += "{\"type\":";
    append_text(to_string(event.type), out);
    if (event.message_id != 0) append_id(event.message_id, out);
    out += ",\"sender\":"; // also when empty: the null reverse-path
    append_text(event.get(EventText::sender), out);
    append_text_field("recipient", event.get(EventText::recipient), out);
    append_text_field("queue", event.get(EventText::queue), out);
    append_text_field("site", event.get(EventText::site), out);
    append_number_field("size", event.size_bytes, out);
    append_response(event, out);
    if (event.peer.port != 0) {
        out += ",\"peer_address\":{\"name\":";
        append_text(event.get(EventText::peer_name), out);
        append_text_field("addr", event.peer.to_string(), out);
        out += '}';
    }
    append_number_field(
        "timestamp", static_cast<std::uint64_t>(event.time.time_since_epoch().count() / 1000), out);
    append_time_field("event_time", event.time, out);
    if (event.created.time_since_epoch().count() != 0) {
        append_number_field(
            "created", static_cast<std::uint64_t>(event.created.time_since_epoch().count() / 1000),
            out);
        append_time_field("created_time", event.created, out);
    }
    append_number_field("num_attempts", event.attempts, out);
    append_text_field("egress_pool", event.get(EventText::egress_pool), out);
    append_text_field("egress_source", event.get(EventText::egress_source), out);
    if (event.source.port != 0) {
        out += ",\"source_address\":{\"address\":";
        append_text(event.source.to_string(), out);
        out += '}';
    }
    append_text_field(event.inbound ? "reception_protocol" : "delivery_protocol", "ESMTP", out);
    append_text_field("tls_protocol_version", event.get(EventText::tls_version), out);
    append_text_field("tls_cipher", event.get(EventText::tls_cipher), out);
    append_text_field("tls_group", event.get(EventText::tls_group), out);
    append_text_field("tls_level", event.get(EventText::tls_level), out);
    append_text_field("tls_verify", event.get(EventText::tls_verify), out);
    if (!event.get(EventText::tls_version).empty())
        out += event.tls_resumed ? ",\"tls_resumed\":true" : ",\"tls_resumed\":false";
    append_text_field("session_id", event.get(EventText::session), out);
    append_text_field("dkim", event.get(EventText::dkim), out);
    const std::string_view account = event.get(EventText::account);
    const std::string_view rules = event.get(EventText::rules);
    if (!account.empty() || !rules.empty()) {
        out += ",\"meta\":{\"authn_id\":";
        append_text(account, out);
        append_text_field("rules", rules, out);
        out += '}';
    }
    append_text_field("nodeid", node, out);
    out += "}\n";
}

/// A shard's end of the log.
class EventLog::Ring final : public EventSink {
public:
    explicit Ring(Stats& stats) : stats_(stats), ring_(ring_events) {}
    Event* claim() noexcept override {
        Event* event = ring_.claim();
        if (event == nullptr) {
            stats_.add(Counter::events_dropped);
            return nullptr;
        }
        event->clear();
        return event;
    }
    void publish() noexcept override { ring_.publish(); }
    [[nodiscard]] base::SpscRing<Event>& ring() noexcept { return ring_; }

private:
    Stats& stats_;
    base::SpscRing<Event> ring_;
};

EventLog::EventLog(std::string path, std::string node)
    : path_(std::move(path)), node_(std::move(node)) {}

EventLog::~EventLog() {
    stop_.store(true, std::memory_order_release);
    if (thread_.joinable()) thread_.join();
    if (file_ >= 0) close(file_);
}

EventSink& EventLog::add_shard(Stats& stats) {
    rings_.push_back(std::make_unique<Ring>(stats));
    return *rings_.back();
}

int EventLog::open_file() const {
    return open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
}

void EventLog::start() {
    file_ = open_file();
    if (file_ < 0) throw std::system_error(errno, std::generic_category(), path_);
    thread_ = std::thread([this] { run(); });
}

void EventLog::write_out(std::string& buffer, std::uint64_t events) {
    std::string_view left = buffer;
    while (!left.empty()) {
        const ssize_t written = write(file_, left.data(), left.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) {
            lost_.fetch_add(events, std::memory_order_relaxed);
            break;
        }
        left.remove_prefix(static_cast<std::size_t>(written));
    }
    buffer.clear();
}

void EventLog::run() {
    std::string buffer;
    buffer.reserve(write_bytes + 4096);
    std::uint64_t buffered = 0;
    for (;;) {
        const bool stopping =
            stop_.load(std::memory_order_acquire); // before the last look at the rings
        if (reopen_.exchange(false, std::memory_order_relaxed)) {
            if (const int fresh = open_file(); fresh >= 0) {
                close(file_);
                file_ = fresh;
            }
        }
        bool any = false;
        for (const auto& ring : rings_) {
            while (const Event* event = ring->ring().front()) {
                any = true;
                append_json(*event, node_, buffer);
                ++buffered;
                ring->ring().release();
                if (buffer.size() < write_bytes) continue;
                write_out(buffer, buffered);
                buffered = 0;
            }
        }
        if (!buffer.empty()) {
            write_out(buffer, buffered);
            buffered = 0;
        }
        if (any) continue;
        if (stopping) return;
        std::this_thread::sleep_for(idle_sleep);
    }
}

} // namespace dataplane::telemetry
