// stats_layout.h: the statistics page that shards write and control reads, in shared memory.
//
// Scope      The page's layout and the list of counters: name, Prometheus name, labels, help. A reader checks
//            magic, version and layout_hash before it believes a byte.
// Owns       Nothing: the page is a file that both sides map.
// Threading  Each ShardStats is written by its shard alone, with relaxed stores, and read by anyone.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace control::schema {

// X(enumerator, Prometheus name, labels, help). Names that dashboards for KumoMTA already use are kept.
// clang-format off
#define MILLRACE_COUNTERS(X)                                                                                                     \
    X(connections_in, "total_connection_count", "service=\"esmtp_listener\"", "connections accepted")                            \
    X(connections_out, "total_connection_count", "service=\"smtp_client\"", "connections opened to MX hosts")                    \
    X(connections_denied, "total_connections_denied", "service=\"esmtp_listener\"", "connections refused at a limit")            \
    X(messages_received, "total_messages_received", "service=\"esmtp_listener\"", "messages acknowledged with 250")              \
    X(bytes_received, "millrace_bytes_received", "", "content bytes of acknowledged messages")                                   \
    X(recipients_received, "millrace_recipients_received", "", "recipients of acknowledged messages")                            \
    X(messages_delivered, "total_messages_delivered", "service=\"smtp_client\"", "recipients delivered")                         \
    X(messages_bounced, "total_messages_fail", "service=\"smtp_client\"", "recipients failed for good")                          \
    X(messages_deferred, "total_messages_transfail", "service=\"smtp_client\"", "recipient attempts that failed for now")        \
    X(messages_expired, "millrace_messages_expired", "", "recipients given up at their expiry")                                  \
    X(bytes_delivered, "millrace_bytes_delivered", "", "content bytes handed to MX hosts")                                       \
    X(dsn_sent, "millrace_dsn_generated", "", "delivery status notifications queued")                                            \
    X(rejected_policy, "smtp_server_rejections", "reason=\"policy\"", "refused by policy: not authenticated, not allowed")       \
    X(rejected_syntax, "smtp_server_rejections", "reason=\"syntax\"", "refused for syntax or sequence")                          \
    X(rejected_size, "smtp_server_rejections", "reason=\"size\"", "refused for size")                                            \
    X(rejected_recipients, "smtp_server_rejections", "reason=\"recipients\"", "refused for too many recipients")                 \
    X(rejected_content, "smtp_server_rejections", "reason=\"content\"", "refused by a screening rule")                           \
    X(rejected_smuggling, "smtp_server_rejections", "reason=\"bare_newline\"", "refused for a bare CR or LF")                    \
    X(rejected_spool, "smtp_server_rejections", "reason=\"spool\"", "refused because the spool could not take it")               \
    X(auth_accepted, "millrace_auth", "result=\"accepted\"", "successful AUTH")                                                  \
    X(auth_rejected, "millrace_auth", "result=\"rejected\"", "failed AUTH")                                                      \
    X(auth_unavailable, "millrace_auth", "result=\"unavailable\"", "AUTH without an answer from control")                        \
    X(auth_cached, "millrace_auth_cached", "", "AUTH answered from the shard's cache")                                           \
    X(tls_handshakes_in, "millrace_tls_handshakes", "direction=\"in\"", "server handshakes completed")                           \
    X(tls_resumed_in, "millrace_tls_resumed", "direction=\"in\"", "server handshakes resumed")                                   \
    X(tls_failed_in, "millrace_tls_failed", "direction=\"in\"", "server handshakes failed")                                      \
    X(tls_handshakes_out, "millrace_tls_handshakes", "direction=\"out\"", "client handshakes completed")                         \
    X(tls_resumed_out, "millrace_tls_resumed", "direction=\"out\"", "client handshakes resumed")                                 \
    X(tls_failed_out, "millrace_tls_failed", "direction=\"out\"", "client handshakes failed")                                    \
    X(screen_hits, "millrace_screen_hits", "", "screening rules hit")                                                            \
    X(events_dropped, "millrace_events_dropped", "", "events lost because the log writer was behind")                            \
    X(dns_queries, "dns_mx_resolve_in_process", "", "MX resolutions started")                                                    \
    X(dns_failures, "dns_mx_resolve_status_fail", "", "MX resolutions failed")                                                   \
    X(loop_turns, "millrace_loop_turns", "", "turns of the shard's loop")                                                        \
    X(loop_slow_turns, "millrace_loop_slow_turns", "", "turns over 1 ms")                                                        \
    X(policy_swaps, "millrace_policy_swaps", "", "policy snapshots taken into use")                                              \
    X(spool_batches, "millrace_spool_batches", "", "spool writes")                                                               \
    X(spool_batch_bytes, "millrace_spool_bytes_written", "", "bytes written to the spool")                                       \
    X(spool_write_errors, "millrace_spool_write_errors", "", "spool writes that failed")                                         \
    X(spool_read_errors, "millrace_spool_read_errors", "", "spool reads that failed")                                            \
    X(spool_damaged, "millrace_spool_damaged_records", "", "records whose checksum was wrong")

#define MILLRACE_GAUGES(X)                                                                                   \
    X(open_in, "connection_count", "service=\"esmtp_listener\"", "open client connections")                  \
    X(open_out, "connection_count", "service=\"smtp_client\"", "open connections to MX hosts")               \
    X(queued_messages, "message_count", "", "messages in the queue")                                         \
    X(ready_messages, "ready_count", "", "messages waiting for a connection or being delivered")             \
    X(deferred_messages, "scheduled_count_total", "", "messages waiting for their next attempt")             \
    X(sites, "millrace_sites", "", "sites known")                                                            \
    X(segments_free, "millrace_spool_segments_free", "", "spool segments free")                              \
    X(segments_total, "millrace_spool_segments_total", "", "spool segments in the pool")                     \
    X(resident_bytes, "message_data_resident_bytes", "", "message content held in memory")                   \
    X(policy_version, "millrace_policy_version", "", "version of the policy in use")
// clang-format on

enum class Counter : std::size_t {
#define X(name, prometheus, labels, help) name,
    MILLRACE_COUNTERS(X)
#undef X
        count
};
enum class Gauge : std::size_t {
#define X(name, prometheus, labels, help) name,
    MILLRACE_GAUGES(X)
#undef X
        count
};
enum class Latency : std::size_t {
    accept,   // from the end of the content to the 250 handed to the stream
    delivery, // from the 250 to the final reply of the receiving host
    count
};

/// Power-of-two buckets in microseconds: bucket i holds values below 2^i.
inline constexpr std::size_t latency_buckets = 32;

struct ShardStats {
    std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Counter::count)> counters;
    std::array<std::atomic<std::uint64_t>, static_cast<std::size_t>(Gauge::count)> gauges;
    struct Histogram {
        std::array<std::atomic<std::uint64_t>, latency_buckets> buckets;
        std::atomic<std::uint64_t> sum_us;
    };
    std::array<Histogram, static_cast<std::size_t>(Latency::count)> latencies;
};

inline constexpr std::uint32_t stats_magic = 0x4d525354; // "MRST"
inline constexpr std::uint32_t stats_version = 1;
inline constexpr std::size_t stats_shards_max = 64;

struct StatsPage {
    std::atomic<std::uint32_t> magic; // written last
    std::uint32_t version;
    std::uint64_t page_bytes; // sizeof(StatsPage): another build's layout is refused
    std::uint32_t shard_count;
    std::uint32_t process_id;
    std::uint64_t started_ms; // wall clock, ms since 1970
    alignas(64) std::array<ShardStats, stats_shards_max> shards;
};

} // namespace control::schema
