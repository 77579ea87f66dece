#include "control/cli/net.h"

#include "control/cli/output.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <iomanip>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

namespace control::cli {
namespace {

constexpr std::size_t columns_max = 6; // of shards side by side: 100 characters
constexpr int label_width = 26, column_width = 12;

/// The numbers of one shard, or the sums of all.
struct Column {
    std::string title;
    Json values = Json::object();

    [[nodiscard]] std::uint64_t number(const std::string& key) const {
        return values.value(key, std::uint64_t{0});
    }
    void add(const Json& more) {
        for (const auto& [key, value] : more.items())
            values[key] = number(key) + (value.is_number() ? value.get<std::uint64_t>() : 0);
    }
};

struct Row {
    std::string label;
    std::function<std::string(const Column&)> cell;
    bool hide_zero = false;
};

Row count(std::string label, std::string key, bool hide_zero = false) {
    return {std::move(label),
            [key = std::move(key)](const Column& from) { return std::to_string(from.number(key)); },
            hide_zero};
}

Row level(std::string label, std::string free, std::string total) {
    return {std::move(label),
            [free = std::move(free), total = std::move(total)](const Column& from) {
                return std::to_string(from.number(free)) + "/" + std::to_string(from.number(total));
            }};
}

std::string mean_rtt(const Column& from) {
    const std::uint64_t samples = from.number("tcp_rtt_samples");
    if (samples == 0) return "-";
    char text[32];
    std::snprintf(text, sizeof text, "%.2f ms",
                  static_cast<double>(from.number("tcp_rtt_us_sum")) /
                      static_cast<double>(samples) / 1000);
    return text;
}

struct Group {
    std::string title;
    std::vector<Row> rows;
};

/// Each counter "LAYER_dropped_REASON" that is there, so that a new reason is shown as it is named.
Group drops(const Column& all) {
    Group group{"dropped", {}};
    for (const auto& [key, value] : all.values.items()) {
        constexpr std::string_view mark = "_dropped_";
        const std::size_t at = key.find(mark);
        if (at == std::string::npos) continue;
        std::string reason = key.substr(at + mark.size());
        std::replace(reason.begin(), reason.end(), '_', ' ');
        group.rows.push_back(count(key.substr(0, at) + ": " + reason, key, true));
    }
    return group;
}

std::vector<Group> groups(const Column& all) {
    return {
        {"connections",
         {count("open", "tcp_connections"), count("half open", "tcp_half_open"),
          count("time wait", "tcp_time_wait"), count("begun by peers", "tcp_opens_in"),
          count("begun by us", "tcp_opens_out"), count("resets received", "tcp_resets_in"),
          count("resets sent", "tcp_resets_out"), count("given up by timeout", "tcp_user_timeouts"),
          count("SYN cookies sent", "tcp_syn_cookies_sent"),
          count("SYN cookies accepted", "tcp_syn_cookies_accepted"),
          count("no source port", "tcp_ports_exhausted", true), Row{"RTT, mean", mean_rtt}}},
        {"retransmits",
         {count("fast", "tcp_retransmits_fast"), count("timeout", "tcp_retransmits_timeout"),
          count("probe", "tcp_retransmits_probe"), count("timeouts", "tcp_timeouts"),
          count("recoveries undone", "tcp_undone_recoveries"),
          count("timeouts undone", "tcp_undone_timeouts"),
          count("black holes", "tcp_black_holes", true)}},
        drops(all),
        {"port",
         {count("frames in", "port_frames_in"), count("frames out", "port_frames_out"),
          count("bytes in", "port_bytes_in"), count("bytes out", "port_bytes_out"),
          count("not sent: no buffers", "port_refused_no_buffers", true),
          count("not sent: ring full", "port_refused_ring_full", true),
          count("lost by the device", "port_receive_missed", true),
          count("damaged", "port_receive_errors", true),
          count("refused for good", "port_transmit_errors", true),
          count("payload copied", "port_payload_copied", true)}},
        {"between shards",
         {count("handed to others", "steering_forwarded", true),
          count("sent for others", "steering_sent", true),
          count("sent later", "steering_sent_later", true)}},
        {"pools: free/total",
         {level("frame buffers", "port_buffers_free", "port_buffers_total"),
          level("receive slabs", "tcp_receive_slabs_free", "tcp_receive_slabs_total"),
          level("send slabs", "tcp_send_slabs_free", "tcp_send_slabs_total"),
          count("slabs held by the device", "port_slabs_held")}}};
}

void print_columns(const std::vector<Column>& columns, const Column& all) {
    std::cout << std::string(label_width, ' ');
    for (const Column& column : columns)
        std::cout << std::setw(column_width) << column.title;
    std::cout << '\n';
    for (const Group& group : groups(all)) {
        std::cout << group.title << '\n';
        bool any = false;
        for (const Row& row : group.rows) {
            if (row.hide_zero && row.cell(all) == "0") continue;
            any = true;
            std::cout << "  " << std::left << std::setw(label_width - 2) << row.label << std::right;
            for (const Column& column : columns)
                std::cout << std::setw(column_width) << row.cell(column);
            std::cout << '\n';
        }
        if (!any) std::cout << "  nothing\n";
    }
}

} // namespace

int net_stats(const AdminClient& client, bool json) {
    const auto reply = client.get("/status/net");
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    std::vector<Column> columns;
    Column all{"all"};
    for (const Json& shard : reply->value("shards", Json::array())) {
        Column column{"shard " + text(shard, "shard")};
        column.add(shard.value("counters", Json::object()));
        column.add(shard.value("gauges", Json::object()));
        if (column.number("port_queues") == 0) continue;
        all.add(column.values);
        columns.push_back(std::move(column));
    }
    if (columns.empty()) {
        return complain(
            "no shard has a DPDK transport: all listeners and sources are on the kernel, "
            "which counts for itself (nstat, ss)");
    }
    if (columns.size() > 1) columns.push_back(all);
    for (std::size_t first = 0; first < columns.size(); first += columns_max) {
        const auto end = std::min(first + columns_max, columns.size());
        if (first != 0) std::cout << '\n';
        print_columns({columns.begin() + static_cast<std::ptrdiff_t>(first),
                       columns.begin() + static_cast<std::ptrdiff_t>(end)},
                      all);
    }
    return exit_ok;
}

int net_connections(const AdminClient& client, std::uint32_t limit, bool json) {
    const auto reply = client.post("/api/admin/net/connections", {{"limit", limit}});
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    for (const Json& each : reply->value("connections", Json::array())) {
        std::cout << text(each, "local") << (each.value("outgoing", false) ? " -> " : " <- ")
                  << text(each, "remote") << "  " << text(each, "state") << "  rtt "
                  << text(each, "rtt_us") << " us  cwnd " << text(each, "cwnd") << "  in flight "
                  << text(each, "in_flight") << "  unsent " << text(each, "unsent") << "  unread "
                  << text(each, "unread") << "  shard " << text(each, "shard") << '\n';
    }
    std::cout << text(*reply, "total") << " connection(s) in all\n";
    return exit_ok;
}

} // namespace control::cli
