#include "tests/dataplane/net/packetdrill/profile.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <fcntl.h>
#include <linux/sockios.h>
#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace tests::packetdrill {

namespace {

struct Symbol {
    std::string_view name;
    std::int64_t value;
};
#define NAMED(symbol)                                                                              \
    Symbol {                                                                                       \
        #symbol, static_cast<std::int64_t>(symbol)                                                 \
    }
constexpr auto symbols = std::to_array<Symbol>({
    NAMED(AF_INET),
    NAMED(AF_INET6),
    NAMED(PF_INET),
    NAMED(PF_INET6),
    NAMED(SOCK_STREAM),
    NAMED(SOCK_DGRAM),
    NAMED(SOCK_NONBLOCK),
    NAMED(SOCK_CLOEXEC),
    NAMED(IPPROTO_IP),
    NAMED(IPPROTO_IPV6),
    NAMED(IPPROTO_TCP),
    NAMED(SOL_SOCKET),
    NAMED(SOL_IP),
    NAMED(SOL_IPV6),
    NAMED(SOL_TCP),
    NAMED(SO_ERROR),
    NAMED(SO_REUSEADDR),
    NAMED(SO_REUSEPORT),
    NAMED(SO_KEEPALIVE),
    NAMED(SO_LINGER),
    NAMED(SO_RCVBUF),
    NAMED(SO_SNDBUF),
    NAMED(SO_RCVLOWAT),
    NAMED(SO_RCVTIMEO),
    NAMED(SO_SNDTIMEO),
    NAMED(SO_TYPE),
    NAMED(SO_OOBINLINE),
    NAMED(SO_PRIORITY),
    NAMED(SO_MARK),
    NAMED(SO_MAX_PACING_RATE),
    NAMED(SO_ZEROCOPY),
    NAMED(SO_BUSY_POLL),
    NAMED(IP_TOS),
    NAMED(IP_TTL),
    NAMED(IP_MTU_DISCOVER),
    NAMED(IP_PMTUDISC_DONT),
    NAMED(IP_PMTUDISC_WANT),
    NAMED(IP_PMTUDISC_DO),
    NAMED(IP_PMTUDISC_PROBE),
    NAMED(IP_RECVERR),
    NAMED(IP_MTU),
    NAMED(IPV6_V6ONLY),
    NAMED(IPV6_TCLASS),
    NAMED(IPV6_UNICAST_HOPS),
    NAMED(TCP_NODELAY),
    NAMED(TCP_MAXSEG),
    NAMED(TCP_CORK),
    NAMED(TCP_KEEPIDLE),
    NAMED(TCP_KEEPINTVL),
    NAMED(TCP_KEEPCNT),
    NAMED(TCP_SYNCNT),
    NAMED(TCP_LINGER2),
    NAMED(TCP_DEFER_ACCEPT),
    NAMED(TCP_WINDOW_CLAMP),
    NAMED(TCP_INFO),
    NAMED(TCP_QUICKACK),
    NAMED(TCP_CONGESTION),
    NAMED(TCP_USER_TIMEOUT),
    NAMED(TCP_FASTOPEN),
    NAMED(TCP_TIMESTAMP),
    NAMED(TCP_NOTSENT_LOWAT),
    NAMED(F_GETFL),
    NAMED(F_SETFL),
    NAMED(F_GETFD),
    NAMED(F_SETFD),
    NAMED(FD_CLOEXEC),
    NAMED(O_RDONLY),
    NAMED(O_WRONLY),
    NAMED(O_RDWR),
    NAMED(O_NONBLOCK),
    NAMED(MSG_DONTWAIT),
    NAMED(MSG_PEEK),
    NAMED(MSG_WAITALL),
    NAMED(MSG_MORE),
    NAMED(MSG_NOSIGNAL),
    NAMED(MSG_OOB),
    NAMED(MSG_TRUNC),
    NAMED(MSG_FASTOPEN),
    NAMED(MSG_ERRQUEUE),
    NAMED(MSG_EOR),
    NAMED(MSG_ZEROCOPY),
    NAMED(SHUT_RD),
    NAMED(SHUT_WR),
    NAMED(SHUT_RDWR),
    NAMED(POLLIN),
    NAMED(POLLPRI),
    NAMED(POLLOUT),
    NAMED(POLLERR),
    NAMED(POLLHUP),
    NAMED(POLLNVAL),
    NAMED(POLLRDNORM),
    NAMED(POLLRDBAND),
    NAMED(POLLWRNORM),
    NAMED(POLLWRBAND),
    NAMED(POLLRDHUP),
    NAMED(SIOCINQ),
    NAMED(SIOCOUTQ),
    NAMED(FIONREAD),
    NAMED(EPOLLIN),
    NAMED(EPOLLOUT),
    NAMED(EPOLLET),
    NAMED(EPOLLERR),
    NAMED(EPOLLHUP),
    NAMED(EPOLLRDHUP),
    NAMED(EPOLL_CTL_ADD),
    NAMED(EPOLL_CTL_MOD),
    NAMED(EPOLL_CTL_DEL),
});
constexpr auto errors = std::to_array<Symbol>({
    NAMED(EPERM),        NAMED(EBADF),        NAMED(EINVAL),       NAMED(EAGAIN),
    NAMED(EACCES),       NAMED(EIO),          NAMED(EPIPE),        NAMED(ENOTSOCK),
    NAMED(EMSGSIZE),     NAMED(EOPNOTSUPP),   NAMED(EADDRINUSE),   NAMED(EADDRNOTAVAIL),
    NAMED(ENETUNREACH),  NAMED(ECONNABORTED), NAMED(ECONNRESET),   NAMED(ENOBUFS),
    NAMED(EISCONN),      NAMED(ENOTCONN),     NAMED(ETIMEDOUT),    NAMED(ECONNREFUSED),
    NAMED(EHOSTUNREACH), NAMED(EALREADY),     NAMED(EINPROGRESS),  NAMED(ENOPROTOOPT),
    NAMED(EPROTO),       NAMED(ECANCELED),    NAMED(EDESTADDRREQ), NAMED(EFAULT),
    NAMED(EINTR),        NAMED(ENOENT),       NAMED(EHOSTDOWN),
});
#undef NAMED

std::optional<std::int64_t> to_integer(std::string_view text) {
    std::int64_t value = 0;
    const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (status != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

/// "40ms", "1s", "250us".
std::optional<base::Duration> to_duration(std::string_view text) {
    const std::size_t digits = text.find_first_not_of("0123456789");
    if (digits == 0 || digits == std::string_view::npos) return std::nullopt;
    const auto count = to_integer(text.substr(0, digits));
    if (!count) return std::nullopt;
    const std::string_view unit = text.substr(digits);
    if (unit == "s") return std::chrono::seconds{*count};
    if (unit == "ms") return std::chrono::milliseconds{*count};
    if (unit == "us") return std::chrono::microseconds{*count};
    return std::nullopt;
}

/// Words of a shell line; quotes keep blanks together and are dropped.
std::vector<std::string> shell_words(std::string_view text) {
    std::vector<std::string> words;
    std::string word;
    char quote = '\0';
    for (const char c : text) {
        if (quote != '\0') {
            if (c == quote)
                quote = '\0';
            else
                word += c;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (c == ' ' || c == '\t' || c == '\n' || c == ';' || c == '&') {
            if (!word.empty()) words.push_back(std::move(word));
            word.clear();
        } else {
            word += c;
        }
    }
    if (!word.empty()) words.push_back(std::move(word));
    return words;
}

class Reader {
public:
    explicit Reader(Profile& profile) : profile_(profile), config_(profile.stack.tcp) {}

    void option(const std::string& name, const std::string& value) {
        const auto number = to_integer(value);
        if (name == "ip_version")
            profile_.ipv6 = value == "ipv6";
        else if (name == "mtu" && number)
            profile_.mtu = static_cast<std::uint16_t>(*number);
        else if (name == "tolerance_usecs" && number)
            profile_.tolerance = std::chrono::microseconds{*number};
        else if (name == "tolerance_percent")
            profile_.tolerance_percent = std::atof(value.c_str());
        else if (name == "tcp_ts_tick_usecs" && number)
            profile_.timestamp_tick = std::chrono::microseconds{*number};
        else
            note("--" + name + " is ignored");
    }

    void command(std::string_view text) {
        const std::vector<std::string> words = shell_words(text);
        bool ours = false;
        for (std::size_t i = 0; i < words.size(); ++i) {
            const std::string& word = words[i];
            if (word == "millrace") ours = true;
            if (word == "initcwnd" && i + 1 < words.size())
                set_unsigned(config_.initial_window_segments, words[i + 1]);
            const std::size_t equals = word.find('=');
            if (equals == std::string::npos) continue;
            std::string name = word.substr(0, equals);
            const std::string value = word.substr(equals + 1);
            if (ours) {
                own(name, value);
                continue;
            }
            std::ranges::replace(name, '/', '.');
            if (name.starts_with(".proc.sys.")) name.erase(0, 10);
            if (name.starts_with("net.")) sysctl(name, value);
        }
    }

    void socket_option(const Syscall& call) {
        if (call.arguments.size() < 4 || call.arguments[2].kind != Value::Kind::symbol) return;
        const std::string& name = call.arguments[2].text;
        const Value& given = call.arguments[3];
        if (name == "TCP_CONGESTION" && !given.items.empty()) congestion(given.items[0].text);
        if (name == "TCP_CONGESTION" && given.kind == Value::Kind::text) congestion(given.text);
        if (given.kind != Value::Kind::list || given.items.empty()) return;
        const std::int64_t value = given.items[0].number;
        if (name == "TCP_USER_TIMEOUT") config_.user_timeout = std::chrono::milliseconds{value};
        if (name == "TCP_KEEPIDLE") config_.keepalive_idle = std::chrono::seconds{value};
        if (name == "TCP_KEEPINTVL") config_.keepalive_interval = std::chrono::seconds{value};
        if (name == "TCP_KEEPCNT") config_.keepalive_probes = static_cast<unsigned>(value);
        if (name == "TCP_SYNCNT") config_.syn_retries = static_cast<unsigned>(value);
        if (name == "TCP_LINGER2") config_.fin_wait_2 = std::chrono::seconds{value};
        if (name == "SO_RCVBUF") config_.receive_bytes_max = static_cast<std::uint32_t>(value);
        if (name == "SO_SNDBUF") config_.send_bytes_max = static_cast<std::uint32_t>(value);
    }

private:
    void note(std::string text) { profile_.notes.push_back(std::move(text)); }

    template <class Number>
    void set_unsigned(Number& to, const std::string& value) {
        const auto number = to_integer(value);
        if (number && *number >= 0)
            to = static_cast<Number>(*number);
        else
            note("'" + value + "' is not a number");
    }
    void set_duration(base::Duration& to, const std::string& value) {
        if (const auto duration = to_duration(value))
            to = *duration;
        else
            note("'" + value + "' is not a time with its unit");
    }
    void congestion(std::string_view name) {
        if (name == "reno" || name == "new_reno")
            config_.congestion = net::tcp::CongestionKind::new_reno;
        else if (name == "cubic")
            config_.congestion = net::tcp::CongestionKind::cubic;
        else
            note("congestion control '" + std::string(name) + "' is not known");
    }
    /// The third of "4096 87380 6291456".
    static std::string third(const std::string& value) {
        const std::vector<std::string> words = shell_words(value);
        return words.size() == 3 ? words[2] : value;
    }

    void sysctl(const std::string& name, const std::string& value) {
        const std::string_view key = std::string_view(name).substr(name.rfind('.') + 1);
        const auto seconds = [&](base::Duration& to) { set_duration(to, value + "s"); };
        if (key == "tcp_timestamps")
            config_.timestamps = value != "0";
        else if (key == "tcp_sack")
            config_.sack = value != "0";
        else if (key == "tcp_ecn")
            config_.ecn = value != "0";
        else if (key == "tcp_congestion_control")
            congestion(value);
        else if (key == "tcp_rmem")
            set_unsigned(config_.receive_bytes_max, third(value));
        else if (key == "tcp_wmem")
            set_unsigned(config_.send_bytes_max, third(value));
        else if (key == "tcp_fin_timeout")
            seconds(config_.fin_wait_2);
        else if (key == "tcp_keepalive_time")
            seconds(config_.keepalive_idle);
        else if (key == "tcp_keepalive_intvl")
            seconds(config_.keepalive_interval);
        else if (key == "tcp_keepalive_probes")
            set_unsigned(config_.keepalive_probes, value);
        else if (key == "tcp_syn_retries")
            set_unsigned(config_.syn_retries, value);
        else if (key == "tcp_rto_min_us")
            set_duration(config_.rto_min, value + "us");
        else
            note("sysctl " + name + " is ignored");
    }

    void own(const std::string& name, const std::string& value) {
        const std::map<std::string_view, base::Duration*> durations{
            {"syn_rto", &config_.syn_rto},
            {"rto_min", &config_.rto_min},
            {"rto_max", &config_.rto_max},
            {"delayed_ack_min", &config_.delayed_ack_min},
            {"delayed_ack_max", &config_.delayed_ack_max},
            {"persist_max", &config_.persist_max},
            {"user_timeout", &config_.user_timeout},
            {"keepalive_idle", &config_.keepalive_idle},
            {"keepalive_interval", &config_.keepalive_interval},
            {"fin_wait_2", &config_.fin_wait_2},
            {"time_wait", &config_.time_wait}};
        if (const auto found = durations.find(name); found != durations.end())
            set_duration(*found->second, value);
        else if (name == "timestamps")
            config_.timestamps = value != "0";
        else if (name == "sack")
            config_.sack = value != "0";
        else if (name == "ecn")
            config_.ecn = value != "0";
        else if (name == "ecn_request")
            config_.ecn_request = value != "0";
        else if (name == "pacing")
            config_.pacing = value != "0";
        else if (name == "nagle")
            profile_.nagle = value != "0";
        else if (name == "linger_bytes_max")
            set_unsigned(profile_.stack.linger_bytes_max, value);
        else if (name == "congestion")
            congestion(value);
        else if (name == "window_scale")
            set_unsigned(config_.window_scale, value);
        else if (name == "initial_window_segments")
            set_unsigned(config_.initial_window_segments, value);
        else if (name == "receive_bytes_max")
            set_unsigned(config_.receive_bytes_max, value);
        else if (name == "receive_ranges_max")
            set_unsigned(config_.receive_ranges_max, value);
        else if (name == "send_bytes_max")
            set_unsigned(config_.send_bytes_max, value);
        else if (name == "keepalive_probes")
            set_unsigned(config_.keepalive_probes, value);
        else if (name == "syn_retries")
            set_unsigned(config_.syn_retries, value);
        else if (name == "challenge_acks_per_second")
            set_unsigned(config_.challenge_acks_per_second, value);
        else if (name == "half_open_max")
            set_unsigned(profile_.stack.half_open_max, value);
        else if (name == "time_wait_max")
            set_unsigned(profile_.stack.time_wait_max, value);
        else if (name == "mtu")
            set_unsigned(profile_.mtu, value);
        else
            note("our own setting '" + name + "' is not known");
    }

    Profile& profile_;
    net::tcp::Config& config_;
};

/// A stack for a handful of connections, with the same secret in every run.
Profile small_profile() {
    Profile profile;
    profile.stack.connections_max = 64;
    profile.stack.receive_slabs = 1024;
    profile.stack.send_slabs = 1024;
    profile.stack.secret = {0x0123456789abcdef, 0xfedcba9876543210};
    return profile;
}

} // namespace

Profile profile_of_settings(std::string_view settings) {
    Profile profile = small_profile();
    std::string words(settings);
    std::ranges::replace(words, ',', ' ');
    Reader{profile}.command(": millrace " + words);
    return profile;
}

Profile linux_profile(std::string_view settings) {
    return profile_of_settings(
        "pacing=0 ecn_request=0 delayed_ack_min=40ms nagle=1 keepalive_idle=0s "
        "linger_bytes_max=0 " +
        std::string(settings));
}

Profile profile_of(const Script& script) {
    Profile profile = small_profile();
    Reader reader{profile};
    for (const auto& [name, value] : script.options)
        reader.option(name, value);
    bool begun = false;
    for (const Event& event : script.events) {
        if (const auto* const call = std::get_if<Syscall>(&event.what)) {
            if (call->name == "setsockopt") reader.socket_option(*call);
        } else if (std::holds_alternative<Packet>(event.what)) {
            begun = true;
        } else if (const auto* const command = std::get_if<Command>(&event.what)) {
            if (!begun)
                reader.command(command->text);
            else
                profile.notes.push_back("a shell line after the first packet is ignored");
        }
    }
    return profile;
}

std::optional<std::int64_t> number_of_symbol(std::string_view symbol) {
    std::int64_t value = 0;
    while (!symbol.empty()) {
        const std::size_t bar = symbol.find('|');
        const std::string_view name = symbol.substr(0, bar);
        symbol = bar == std::string_view::npos ? std::string_view{} : symbol.substr(bar + 1);
        const auto found = std::ranges::find(symbols, name, &Symbol::name);
        if (found != symbols.end())
            value |= found->value;
        else if (const auto error = std::ranges::find(errors, name, &Symbol::name);
                 error != errors.end())
            value |= error->value;
        else if (const auto number = to_integer(name))
            value |= *number;
        else
            return std::nullopt;
    }
    return value;
}

std::string errno_name(int error) {
    const auto found = std::ranges::find(errors, error, &Symbol::value);
    return found == errors.end() ? std::to_string(error) : std::string(found->name);
}

base::IpAddress local_ip(bool ipv6) {
    return *base::IpAddress::parse(ipv6 ? "fd3d:fa7b:d17d::1" : "192.168.0.1");
}
base::IpAddress remote_ip(bool ipv6) {
    return *base::IpAddress::parse(ipv6 ? "2001:db8::1" : "192.0.2.1");
}

net::ip::LayerOptions layer_options(std::uint16_t mtu) {
    net::ip::LayerOptions options;
    options.mtu = mtu;
    options.addresses = {{local_ip(false), 16}, {local_ip(true), 48}};
    options.routes = {
        {*base::Network::parse("0.0.0.0/0"), *base::IpAddress::parse("192.168.255.254")},
        {*base::Network::parse("::/0"), *base::IpAddress::parse("fd3d:fa7b:d17d::ffff")}};
    return options;
}

} // namespace tests::packetdrill
