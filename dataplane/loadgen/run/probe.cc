#include "dataplane/loadgen/run/probe.h"

#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <netinet/in.h>
#include <stdexcept>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

constexpr auto greeting_wait = std::chrono::seconds{10};
constexpr auto metrics_wait = std::chrono::seconds{1};
constexpr std::size_t metrics_bytes_max = std::size_t{4} << 20; // ours are 40 KB

/// A connected socket whose calls each end within a limit.
class Call {
public:
    Call(const base::SocketAddress& target, std::chrono::seconds limit)
        : descriptor_(
              ::socket(target.ip.is_v6() ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        if (descriptor_ < 0)
            throw std::runtime_error(std::string("socket: ") + std::strerror(errno));
        const timeval wait{.tv_sec = limit.count(), .tv_usec = 0};
        setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
        setsockopt(descriptor_, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
        sockaddr_in6 v6{.sin6_family = AF_INET6, .sin6_port = htons(target.port)};
        sockaddr_in v4{.sin_family = AF_INET, .sin_port = htons(target.port)};
        std::memcpy(&v6.sin6_addr, target.ip.bytes().data(), sizeof v6.sin6_addr);
        std::memcpy(&v4.sin_addr, target.ip.bytes().data(), sizeof v4.sin_addr);
        const auto* const address = target.ip.is_v6() ? reinterpret_cast<const sockaddr*>(&v6)
                                                      : reinterpret_cast<const sockaddr*>(&v4);
        if (::connect(descriptor_, address, target.ip.is_v6() ? sizeof v6 : sizeof v4) != 0) {
            error_ = errno;
            ::close(descriptor_);
            descriptor_ = -1;
        }
    }
    ~Call() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    [[nodiscard]] bool connected() const noexcept { return descriptor_ >= 0; }
    [[nodiscard]] std::string why() const { return std::strerror(error_); }
    void say(std::string_view text) const {
        static_cast<void>(::send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL));
    }
    /// What has come, or nothing at the end and when the limit is over.
    [[nodiscard]] std::string_view hear(std::span<char> into) const {
        const ssize_t got = ::recv(descriptor_, into.data(), into.size(), 0);
        return {into.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
    }

private:
    int descriptor_;
    int error_ = 0;
};

} // namespace

std::string greeting_of(const base::SocketAddress& target) {
    const Call call(target, greeting_wait);
    if (!call.connected()) {
        throw std::runtime_error("cannot connect to the relay at " + target.to_string() + ": " +
                                 call.why() + "; start it, or say --target HOST:PORT");
    }
    std::array<char, 512> text{};
    const std::string_view line = call.hear(text);
    if (line.empty()) return "no greeting within 10 s (TLS from the first byte, perhaps)";
    std::string kept;
    for (const char c : line.substr(0, line.find_first_of("\r\n"))) {
        if (c >= ' ' && c <= '~') kept += c;
    }
    call.say("QUIT\r\n");
    return kept;
}

std::string metrics_of(const base::SocketAddress& address) {
    const Call call(address, metrics_wait);
    if (!call.connected()) {
        throw std::runtime_error("cannot read http://" + address.to_string() +
                                 "/metrics: " + call.why() +
                                 "; say --relay-metrics HOST:PORT as the relay's [admin] address");
    }
    call.say("GET /metrics HTTP/1.0\r\nHost: " + address.to_string() + "\r\n\r\n");
    std::string answer;
    std::array<char, 16384> piece{};
    for (std::string_view more = call.hear(piece);
         !more.empty() && answer.size() < metrics_bytes_max; more = call.hear(piece))
        answer += more;
    const std::size_t head = answer.find("\r\n\r\n");
    const std::string_view line = std::string_view{answer}.substr(0, answer.find("\r\n"));
    if (head == std::string::npos || !line.starts_with("HTTP/1.") ||
        line.find(" 200") == std::string_view::npos) {
        throw std::runtime_error("http://" + address.to_string() +
                                 "/metrics does not answer with 200 OK; is it the relay's [admin] "
                                 "address?");
    }
    return answer.substr(head + 4);
}

std::vector<NamedValue> rooms_in(std::string_view metrics) {
    constexpr std::string_view begin = "millrace_room_cpu_microseconds{room=\"";
    constexpr std::string_view middle = "\"} ";
    std::vector<NamedValue> rooms;
    while (!metrics.empty()) {
        std::string_view line = metrics.substr(0, metrics.find('\n'));
        metrics.remove_prefix(std::min(metrics.size(), line.size() + 1));
        if (!line.starts_with(begin)) continue;
        line.remove_prefix(begin.size());
        const std::size_t end = line.find(middle);
        if (end == std::string_view::npos) continue;
        const std::string_view digits = line.substr(end + middle.size());
        std::uint64_t us = 0;
        if (std::from_chars(digits.data(), digits.data() + digits.size(), us).ec != std::errc{})
            continue;
        rooms.push_back({std::string(line.substr(0, end)), static_cast<double>(us) / 1e6});
    }
    return rooms;
}

} // namespace dataplane::loadgen
