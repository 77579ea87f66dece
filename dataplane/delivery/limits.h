// limits.h: every bound of delivery in one place, with its reason.
//
// What the operator sets (connections, rates, timeouts, retries) is in policy.h.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::delivery {

// Messages in the hands of one shard's dispatcher; what comes beyond waits in the queue's schedule.
// About 2 KiB each without content, which the queue bounds by bytes.
inline constexpr std::size_t ready_messages_max = 65'536;
// Jobs one (site, source) may hold of them: a site that takes nothing leaves the others room. What comes
// beyond parks, and is called for as the lane gets through what it has.
inline constexpr std::size_t ready_jobs_per_lane_max = 4'096;
// While it has not been seen to take mail, and of retries while it recovers: for each connection.
inline constexpr std::size_t ready_jobs_unproven_max = 256;
inline constexpr std::size_t ready_jobs_per_connection = 8;
// Parked mail is called for at most this often: what was called for is read from disk meanwhile.
inline constexpr std::chrono::milliseconds feed_apart{5};
inline constexpr std::chrono::seconds feed_again{1};
// Jobs of a site that has failed which are parked in one turn.
inline constexpr std::size_t parked_per_turn_max = 256;
// Transactions in a row that ended without an answer before the site counts as failing.
inline constexpr std::uint32_t lost_in_a_row_max = 5;
// A message that waits for several things of which one is a full lane is looked at after so long.
inline constexpr std::chrono::seconds overflow_pause{15};

// Addresses tried for one connection before the site counts as failing. Large providers publish
// dozens; a walk through all of them would take an hour of connect timeouts.
inline constexpr std::size_t connect_candidates_max = 8;
inline constexpr std::size_t addresses_per_host_max = 16;
inline constexpr std::size_t tlsa_records_max = 32;   // of one host; more are not looked at
inline constexpr std::size_t tlsa_bytes_max = 16'384; // of one: a whole certificate may be in it
inline constexpr std::size_t mx_hosts_max = 64;       // ours: a hostile zone may list thousands
// An address that failed is tried after all others for so long.
inline constexpr std::chrono::seconds host_avoid{60};
// An address whose TLS is broken is spoken to in the clear for so long, where policy allows that.
inline constexpr std::chrono::hours plain_memory{1};
inline constexpr std::size_t host_notes_max = 32; // per site: what it remembers of addresses

// A message moved to another connection or host this often within one round; then it waits.
inline constexpr unsigned moves_max = 3;

// A site that refuses more connections while others work is not asked for more for so long.
inline constexpr std::chrono::seconds growth_pause{10};
// A lane that found its site's connections taken by other shards looks again after so long.
inline constexpr std::chrono::milliseconds slot_retry{50};
// What a connection may deliver while another shard waits for its slot.
inline constexpr std::uint32_t messages_while_contended_max = 50;

// Domains and sites a shard remembers. A domain is about 300 bytes.
inline constexpr std::size_t domains_max = 100'000;
inline constexpr std::chrono::seconds sweep_interval{60};
inline constexpr std::chrono::minutes site_idle_max{10};
// A domain that could not be resolved is asked for again after so long.
inline constexpr std::chrono::seconds failed_domain_memory{30};
inline constexpr std::chrono::minutes fixed_route_memory{60}; // smart hosts: no TTL to go by

// DNS answers: bounds on the TTL we honour. Zero TTLs would make each message a query; a day's
// would keep mail going to hosts that are gone.
inline constexpr std::chrono::seconds dns_ttl_min{30};
inline constexpr std::chrono::seconds dns_ttl_max{3600};
inline constexpr std::chrono::seconds dns_negative_ttl_min{15};
inline constexpr std::chrono::seconds dns_negative_ttl_max{300};
inline constexpr std::chrono::seconds dns_failure_ttl{10}; // SERVFAIL and timeouts
inline constexpr std::size_t dns_cache_entries_max = 65'536;
inline constexpr std::size_t dns_outstanding_max =
    4'096; // per shard; beyond it a query fails at once
inline constexpr std::chrono::seconds dns_timeout{30};

// RFC 3464 reports: what is returned of the message.
inline constexpr std::size_t dsn_headers_bytes_max = 64U << 10;
inline constexpr std::size_t dsn_full_bytes_max = 256U << 10; // larger: the headers only
inline constexpr std::size_t dsn_recipients_max = 1'000;      // named in one report
inline constexpr std::chrono::seconds dsn_commit_timeout{30};
inline constexpr std::chrono::seconds dsn_sign_timeout{5}; // then a report goes unsigned

// The table in which shards count connections together, 8 MiB. Only (site, source) pairs that have
// a connection or mail that waits for one are in it: with 65,000 of those, one bucket in a million
// is full.
inline constexpr std::size_t ledger_buckets = 16'384;
inline constexpr std::size_t ledger_bucket_slots = 16;

} // namespace dataplane::delivery
