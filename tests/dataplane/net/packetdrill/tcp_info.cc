#include "tests/dataplane/net/packetdrill/tcp_info.h"

#include <cstring>
#include <linux/tcp.h>

namespace tests::packetdrill {

namespace {

std::uint8_t kernel_state(net::tcp::State state) {
    switch (state) { // include/net/tcp_states.h
    case net::tcp::State::established:
        return 1;
    case net::tcp::State::syn_sent:
        return 2;
    case net::tcp::State::syn_received:
        return 3;
    case net::tcp::State::fin_wait_1:
        return 4;
    case net::tcp::State::fin_wait_2:
        return 5;
    case net::tcp::State::time_wait:
        return 6;
    case net::tcp::State::closed:
        return 7;
    case net::tcp::State::close_wait:
        return 8;
    case net::tcp::State::last_ack:
        return 9;
    case net::tcp::State::closing:
        return 11;
    }
    return 7;
}

std::uint32_t microseconds(base::Duration time) {
    return static_cast<std::uint32_t>(time / std::chrono::microseconds{1});
}

} // namespace

TcpInfoBytes tcp_info_of(const SocketTable::Insight& insight) {
    static_assert(TCP_INFO == tcp_info_option && sizeof(tcp_info) <= sizeof(TcpInfoBytes));
    const net::tcp::Connection& connection = *insight.connection;
    const net::tcp::Sender& sender = connection.sender();
    const std::uint32_t mss = connection.mss();
    const auto segments = [mss](std::uint32_t bytes) { return (bytes + mss - 1) / mss; };
    tcp_info info{};
    info.tcpi_state = kernel_state(connection.state());
    if (sender.backoff_count() > 0) {
        info.tcpi_ca_state = TCP_CA_Loss;
    } else if (sender.in_recovery()) {
        info.tcpi_ca_state = TCP_CA_Recovery;
    } else if (sender.scoreboard().sacked_count() > 0) {
        info.tcpi_ca_state = TCP_CA_Disorder;
    }
    info.tcpi_retransmits = info.tcpi_backoff = static_cast<std::uint8_t>(sender.backoff_count());
    info.tcpi_rto = microseconds(sender.rto());
    info.tcpi_snd_mss = mss;
    info.tcpi_unacked = static_cast<std::uint32_t>(sender.scoreboard().size());
    info.tcpi_sacked = sender.scoreboard().sacked_count();
    info.tcpi_lost = segments(sender.scoreboard().lost_bytes());
    info.tcpi_rtt = microseconds(sender.smoothed_rtt());
    info.tcpi_snd_ssthresh =
        sender.ssthresh() == UINT32_MAX ? 0x7fff'ffffU : sender.ssthresh() / mss;
    info.tcpi_snd_cwnd = sender.cwnd() / mss;
    info.tcpi_reordering = 3;
    info.tcpi_bytes_acked = insight.bytes_acked;
    info.tcpi_notsent_bytes = static_cast<std::uint32_t>(connection.unsent_bytes());
    TcpInfoBytes bytes{};
    std::memcpy(bytes.data(), &info, sizeof info);
    return bytes;
}

} // namespace tests::packetdrill
