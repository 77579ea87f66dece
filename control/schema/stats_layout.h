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
// Of our own TCP/IP: without a port all of them stay 0. Names are LAYER_WHAT: `millracectl net` shows them by layer.
#define MILLRACE_NET_COUNTERS(X)                                                                                                                  \
    X(tcp_retransmits_fast, "millrace_tcp_retransmits", "cause=\"fast\"", "segments sent again because acknowledgements told of a loss")          \
    X(tcp_retransmits_timeout, "millrace_tcp_retransmits", "cause=\"timeout\"", "segments sent again after a retransmission timeout")             \
    X(tcp_retransmits_probe, "millrace_tcp_retransmits", "cause=\"probe\"", "tail loss probes")                                                   \
    X(tcp_timeouts, "millrace_tcp_timeouts", "", "retransmission timeouts")                                                                       \
    X(tcp_undone_recoveries, "millrace_tcp_spurious_undone", "kind=\"recovery\"", "loss recoveries found to be spurious")                         \
    X(tcp_undone_timeouts, "millrace_tcp_spurious_undone", "kind=\"timeout\"", "timeouts found to be spurious")                                   \
    X(tcp_resets_in, "millrace_tcp_resets", "direction=\"in\"", "RSTs that ended a connection")                                                   \
    X(tcp_resets_out, "millrace_tcp_resets", "direction=\"out\"", "RSTs sent")                                                                    \
    X(tcp_rtt_samples, "millrace_tcp_rtt_samples", "", "round-trip times measured")                                                               \
    X(tcp_rtt_us_sum, "millrace_tcp_rtt_microseconds_sum", "", "their sum")                                                                       \
    X(tcp_opens_in, "millrace_tcp_opens", "direction=\"in\"", "connections that peers began")                                                     \
    X(tcp_opens_out, "millrace_tcp_opens", "direction=\"out\"", "connections that we began")                                                      \
    X(tcp_segments_in, "millrace_tcp_segments", "direction=\"in\"", "segments received")                                                          \
    X(tcp_segments_out, "millrace_tcp_segments", "direction=\"out\"", "segments sent")                                                            \
    X(tcp_syn_cookies_sent, "millrace_tcp_syn_cookies", "result=\"sent\"", "SYN cookies sent")                                                    \
    X(tcp_syn_cookies_accepted, "millrace_tcp_syn_cookies", "result=\"accepted\"", "SYN cookies that came back right")                            \
    X(tcp_ports_exhausted, "millrace_tcp_ports_exhausted", "", "connections not begun for want of a source port")                                 \
    X(tcp_user_timeouts, "millrace_tcp_user_timeouts", "", "connections given up with data unacknowledged")                                       \
    X(tcp_black_holes, "millrace_tcp_black_holes", "", "paths found to swallow large packets")                                                    \
    X(tcp_dropped_out_of_window, "millrace_tcp_dropped", "reason=\"out_of_window\"", "segments outside of the window")                            \
    X(tcp_dropped_paws, "millrace_tcp_dropped", "reason=\"paws\"", "segments with an old timestamp")                                              \
    X(tcp_dropped_bad_ack, "millrace_tcp_dropped", "reason=\"bad_ack\"", "segments that acknowledge what was not sent")                           \
    X(tcp_dropped_out_of_order, "millrace_tcp_dropped", "reason=\"out_of_order\"", "data beyond too many holes")                                  \
    X(tcp_dropped_no_slabs, "millrace_tcp_dropped", "reason=\"no_slabs\"", "data for which no receive slab was free")                             \
    X(tcp_dropped_connections_full, "millrace_tcp_dropped", "reason=\"connections_full\"", "SYNs beyond tcp.connections_max or the listen queue") \
    X(tcp_closed_unread, "millrace_tcp_closed_unread", "", "connections closed with bytes unread, and so reset")                                     \
    X(tcp_orphans_reset, "millrace_tcp_orphans_reset", "", "closed connections reset because too many still had bytes to send")                      \
    X(tcp_segments_unknown, "millrace_tcp_dropped", "reason=\"unknown\"", "segments of no connection")                                               \
    X(tcp_resets_suppressed, "millrace_tcp_resets_suppressed", "", "RSTs to segments of no connection that the rate limit held back")                \
    X(tcp_answers_held, "millrace_tcp_answers", "result=\"held\"", "RSTs and ACKs of no connection that waited for their next hop")                  \
    X(tcp_answers_dropped, "millrace_tcp_answers", "result=\"dropped\"", "of those, given up: the next hop did not answer, or too many waited")      \
    X(ip_dropped_bad_checksum, "millrace_ip_dropped", "reason=\"bad_checksum\"", "packets with a wrong checksum")                                 \
    X(ip_dropped_bad_header, "millrace_ip_dropped", "reason=\"bad_header\"", "packets with a malformed header")                                   \
    X(ip_dropped_bad_source, "millrace_ip_dropped", "reason=\"bad_source\"", "packets from an address that can be no source")                     \
    X(ip_dropped_not_ours, "millrace_ip_dropped", "reason=\"not_ours\"", "frames for others")                                                     \
    X(ip_dropped_unknown_protocol, "millrace_ip_dropped", "reason=\"unknown_protocol\"", "packets of a protocol we do not speak")                 \
    X(ip_dropped_no_route, "millrace_ip_dropped", "reason=\"no_route\"", "packets not sent for want of a route")                                  \
    X(ip_dropped_neighbours_failed, "millrace_ip_dropped", "reason=\"neighbours_failed\"", "next hops that did not answer")                       \
    X(ip_dropped_neighbours_full, "millrace_ip_dropped", "reason=\"neighbours_full\"", "next hops beyond the table")                              \
    X(ip_dropped_fragments, "millrace_ip_dropped", "reason=\"fragments\"", "fragments that could not be put together")                            \
    X(ip_reassembled, "millrace_ip_reassembled", "", "packets put together from fragments")                                                       \
    X(ip_icmp_errors_in, "millrace_ip_icmp_errors", "result=\"taken\"", "ICMP errors that concerned a connection")                                \
    X(ip_icmp_errors_ignored, "millrace_ip_icmp_errors", "result=\"ignored\"", "ICMP errors that could not be true")                              \
    X(ip_path_mtu_lowered, "millrace_ip_path_mtu_lowered", "", "path MTUs lowered by ICMP")                                                       \
    X(port_frames_in, "millrace_port_frames", "direction=\"in\"", "frames received")                                                              \
    X(port_frames_out, "millrace_port_frames", "direction=\"out\"", "frames sent")                                                                \
    X(port_bytes_in, "millrace_port_bytes", "direction=\"in\"", "bytes of frames received")                                                       \
    X(port_bytes_out, "millrace_port_bytes", "direction=\"out\"", "bytes of frames sent")                                                         \
    X(port_refused_no_buffers, "millrace_port_refused", "reason=\"no_buffers\"", "frames that could not be sent for want of a buffer")            \
    X(port_refused_ring_full, "millrace_port_refused", "reason=\"ring_full\"", "frames that the device did not take")                             \
    X(port_receive_missed, "millrace_port_receive_lost", "reason=\"missed\"", "frames that the device dropped for want of a buffer")              \
    X(port_receive_errors, "millrace_port_receive_lost", "reason=\"error\"", "frames that the device found damaged")                              \
    X(port_payload_copied, "millrace_port_payload_copied", "", "large payloads that the device could not read in place")                          \
    X(port_transmit_errors, "millrace_port_transmit_errors", "", "frames that the driver refused for good, or that were longer than the MTU")     \
    X(steering_forwarded, "millrace_steering_frames", "direction=\"in\"", "received frames handed to another shard")                              \
    X(steering_sent, "millrace_steering_frames", "direction=\"out\"", "frames sent for other shards")                                             \
    X(steering_sent_later, "millrace_steering_sent_later", "", "times the port took no more of them at once")                                     \
    X(steering_dropped_full, "millrace_steering_dropped", "reason=\"full\"", "frames for another shard whose ring was full")                      \
    X(steering_dropped_long, "millrace_steering_dropped", "reason=\"long\"", "frames for another shard that are longer than its ring takes")

#define MILLRACE_NET_GAUGES(X)                                                                                                  \
    X(tcp_connections, "millrace_tcp_connections", "state=\"open\"", "connections open")                                        \
    X(tcp_half_open, "millrace_tcp_connections", "state=\"half_open\"", "connections whose handshake is not done")              \
    X(tcp_orphans, "millrace_tcp_connections", "state=\"orphan\"", "closed connections with bytes still to send or to be acknowledged")\
    X(tcp_time_wait, "millrace_tcp_connections", "state=\"time_wait\"", "closed connections whose ports rest")                  \
    X(tcp_receive_slabs_free, "millrace_tcp_slabs", "pool=\"receive\",state=\"free\"", "slabs for received data that are free") \
    X(tcp_receive_slabs_total, "millrace_tcp_slabs", "pool=\"receive\",state=\"total\"", "slabs for received data")             \
    X(tcp_send_slabs_free, "millrace_tcp_slabs", "pool=\"send\",state=\"free\"", "slabs for small writes that are free")        \
    X(tcp_send_slabs_total, "millrace_tcp_slabs", "pool=\"send\",state=\"total\"", "slabs for small writes")                    \
    X(port_queues, "millrace_port_queues", "", "port queues: one of each shard on DPDK")                                        \
    X(port_buffers_free, "millrace_port_buffers", "state=\"free\"", "frame buffers free")                                       \
    X(port_buffers_total, "millrace_port_buffers", "state=\"total\"", "frame buffers")                                          \
    X(port_slabs_held, "millrace_port_slabs_held", "", "references to message slabs that the device has not given back")

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
    X(rejected_signing, "smtp_server_rejections", "reason=\"dkim\"", "put off because it could not be signed")                      \
    X(dkim_signed, "millrace_dkim_messages", "result=\"signed\"", "messages signed")                                             \
    X(dkim_unsigned_no_key, "millrace_dkim_messages", "result=\"no_key\"", "messages without a signature: nobody's key is for them") \
    X(dkim_unsigned_no_author, "millrace_dkim_messages", "result=\"no_author\"", "the same: not exactly one From field")         \
    X(dkim_unsigned_malformed, "millrace_dkim_messages", "result=\"malformed\"", "the same: verifiers would not agree on the header") \
    X(dkim_unsigned_failed, "millrace_dkim_messages", "result=\"failed\"", "the same: no key signed, and on_failure sends it")    \
    X(dkim_signatures, "millrace_dkim_signatures", "result=\"made\"", "DKIM signatures made")                                     \
    X(dkim_failed, "millrace_dkim_signatures", "result=\"failed\"", "DKIM signatures that could not be made")                      \
    X(offload_submitted, "millrace_offload_requests", "result=\"submitted\"", "private-key operations asked for") \
    X(offload_completed, "millrace_offload_requests", "result=\"completed\"", "private-key operations done") \
    X(offload_failed, "millrace_offload_requests", "result=\"failed\"", "private-key operations that not even software could do") \
    X(offload_cancelled, "millrace_offload_requests", "result=\"cancelled\"", "private-key operations nobody waited for any more") \
    X(offload_refused, "millrace_offload_requests", "result=\"refused\"", "times too many waited already") \
    X(offload_fallbacks, "millrace_offload_fallbacks", "", "done by another backend than the first") \
    X(offload_verify_failures, "millrace_offload_verify_failures", "", "wrong signatures of an accelerator, caught") \
    X(offload_device_errors, "millrace_offload_device_errors", "", "operations that a backend failed") \
    X(offload_ring_full, "millrace_offload_ring_full", "", "times a backend took no more") \
    X(offload_lost, "millrace_offload_lost", "", "operations taken from a backend that did not answer") \
    X(offload_late, "millrace_offload_late", "", "completions that came too late") \
    X(offload_downs, "millrace_offload_downs", "", "times a backend went down") \
    X(offload_readmissions, "millrace_offload_readmissions", "", "times one came back after known-answer signatures") \
    X(offload_batches, "millrace_offload_batches", "", "hand-overs to a backend") \
    X(offload_batched, "millrace_offload_batched", "", "operations in them") \
    X(offload_wait_us, "millrace_offload_wait_us", "", "microseconds that operations took, summed") \
    X(tls_signed_apart, "millrace_tls_signatures", "made=\"offloaded\"", "RSA signatures of handshakes through the offload engine") \
    X(tls_signed_here, "millrace_tls_signatures", "made=\"on_the_shard\"", "RSA signatures that the shard made because too many waited") \
    X(tls_given_up, "millrace_tls_signatures", "made=\"given_up\"", "handshakes that ended while their signature was made") \
    X(tls_put_off, "millrace_tls_steps_put_off", "", "steps of handshakes that waited for the next turn") \
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
    X(room_loop_us, "millrace_room_cpu_microseconds", "room=\"loop\"", "CPU time of the shards' threads by the room they worked for: the loop itself, and what belongs to no other") \
    X(room_kernel_us, "millrace_room_cpu_microseconds", "room=\"kernel\"", "the same: the kernel's work for sockets and disk, in the calls that submit it, and sleeping") \
    X(room_net_us, "millrace_room_cpu_microseconds", "room=\"net\"", "the same: completions of sockets, and what a turn sends; all of our own TCP/IP") \
    X(room_tls_us, "millrace_room_cpu_microseconds", "room=\"tls\"", "the same: handshakes and records, and private-key operations, DKIM's too, that are made or handed over") \
    X(room_smtp_us, "millrace_room_cpu_microseconds", "room=\"smtp\"", "the same: sessions with clients") \
    X(room_message_us, "millrace_room_cpu_microseconds", "room=\"message\"", "the same: headers and DKIM, but for the private key") \
    X(room_screen_us, "millrace_room_cpu_microseconds", "room=\"screen\"", "the same: content screening") \
    X(room_delivery_us, "millrace_room_cpu_microseconds", "room=\"delivery\"", "the same: routing, sessions with receiving hosts, reports") \
    X(room_spool_us, "millrace_room_cpu_microseconds", "room=\"spool\"", "the same: the spool's records and the queue's schedule") \
    X(room_control_us, "millrace_room_cpu_microseconds", "room=\"control\"", "the same: housekeeping, statistics, operators' queue operations") \
    X(policy_swaps, "millrace_policy_swaps", "", "policy snapshots taken into use")                                              \
    X(spool_batches, "millrace_spool_batches", "", "spool writes")                                                               \
    X(spool_batch_bytes, "millrace_spool_bytes_written", "", "bytes written to the spool")                                       \
    X(spool_write_errors, "millrace_spool_write_errors", "", "spool writes that failed")                                         \
    X(spool_read_errors, "millrace_spool_read_errors", "", "spool reads that failed")                                            \
    X(spool_flushes, "millrace_spool_flushes", "", "flushes of the spool's device")                                              \
    X(spool_copied_bytes, "millrace_spool_mirror_copied_bytes", "", "bytes given again to a half of the mirror that was left behind") \
    X(spool_rescued_reads, "millrace_spool_mirror_rescued_reads", "", "reads that the mirror's other half answered")             \
    X(spool_mended, "millrace_spool_mirror_mended_records", "", "times that a record was taken from one half of the mirror because the other's was not whole") \
    X(spool_scrub_bytes, "millrace_spool_scrub_bytes", "", "bytes of queued mail that the scrub has read") \
    X(spool_scrub_passes, "millrace_spool_scrub_passes", "", "times that the scrub has read all of it") \
    X(spool_quarantined, "millrace_spool_quarantined", "result=\"kept\"", "damaged records copied to the quarantine folder") \
    X(spool_quarantine_lost, "millrace_spool_quarantined", "result=\"lost\"", "damaged records that could not be copied there, for want of space mostly") \
    X(spool_collected_bytes, "millrace_spool_collected_bytes", "", "bytes of mail copied out of segments that it outlived") \
    X(spool_checkpoints, "millrace_spool_checkpoints", "", "checkpoints of the queue written to the spool") \
    X(spool_checkpoint_bytes, "millrace_spool_checkpoint_bytes", "", "bytes written for them") \
    X(spool_damaged, "millrace_spool_damaged_records", "", "records whose checksum was wrong")                                   \
    MILLRACE_NET_COUNTERS(X)

#define MILLRACE_GAUGES(X)                                                                                   \
    X(open_in, "connection_count", "service=\"esmtp_listener\"", "open client connections")                  \
    X(open_out, "connection_count", "service=\"smtp_client\"", "open connections to MX hosts")               \
    X(queued_messages, "message_count", "", "messages in the queue")                                         \
    X(ready_messages, "ready_count", "", "messages waiting for a connection or being delivered")             \
    X(deferred_messages, "scheduled_count_total", "", "messages waiting for their next attempt")             \
    X(parked_messages, "millrace_parked_messages", "", "messages waiting for their site, without a timer of their own") \
    X(held_messages, "millrace_held_messages", "", "messages that are suspended") \
    X(ready_fresh_messages, "millrace_ready_messages", "share=\"fresh\"", "messages whose turn to be delivered has come") \
    X(ready_retry_messages, "millrace_ready_messages", "share=\"retry\"", "messages whose turn to be delivered has come") \
    X(paused_sites, "millrace_paused_sites", "", "sites that take nothing for now")                          \
    X(oldest_arrival, "millrace_oldest_arrival_seconds", "", "Unix time at which the oldest queued message came; 0: none") \
    X(sites, "millrace_sites", "", "sites known")                                                            \
    X(spool_flushing, "millrace_spool_commit_by_flush", "", "1: writes are made safe by a flush for all, 0: each by itself") \
    X(spool_mirror_state, "millrace_spool_mirror_state", "", "0: no mirror, 1: whole, 2: a half is given everything again, 3: one half only") \
    X(spool_single_copies, "millrace_spool_mirror_single_copies", "", "queued records that only one half of the mirror has whole, as the last scrub saw it") \
    X(segments_free, "millrace_spool_segments_free", "", "spool segments free")                              \
    X(segments_total, "millrace_spool_segments_total", "", "spool segments in the pool")                     \
    X(segments_bad, "millrace_spool_segments_bad", "", "of them given up, because a write was refused there") \
    X(segments_old_key, "millrace_spool_segments_old_key", "", "encrypted spool segments that still need an older key") \
    X(spool_level, "millrace_spool_level", "", "how full: 0 normal, 1 filling (452 to who has most queued), 2 nearly full (452), 3 full (421)") \
    X(spool_used_percent, "millrace_spool_used_percent", "", "of the pool, what collection would win back aside") \
    X(spool_seconds_to_full, "millrace_spool_seconds_to_full", "", "at the present growth; 0: it is not filling up") \
    X(spool_stuck, "millrace_spool_stuck", "", "1: a write has not come back for 10 seconds") \
    X(spool_read_only, "millrace_spool_read_only", "", "shards whose device refused too many writes: nothing is taken or delivered until the next start") \
    X(resident_bytes, "message_data_resident_bytes", "", "message content held in memory")                   \
    X(offload_in_flight, "millrace_offload_in_flight", "", "private-key operations waited for") \
    X(offload_state, "millrace_offload_state", "", "of the first backend: 0 up, 1 degraded, 2 down") \
    X(policy_version, "millrace_policy_version", "", "version of the policy in use")                         \
    MILLRACE_NET_GAUGES(X)
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
inline constexpr std::uint32_t stats_version = 2;
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
