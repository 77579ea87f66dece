// time_wait.h: connections of which only TIME_WAIT is left: a record each, in the order they expire.
//
// Scope      RFC 9293 §3.10.7.4 in TIME-WAIT, 1337 (a reset does not end it), 6191 (a new SYN may), and the bound:
//            beyond it the oldest record goes, which is the one that matters least.
// Owns       The records: 48 bytes each, for IPv6 too, because our own address is a number in it. And the list of
//            those addresses, which is as long as the configuration made it. Who finds records by their key is the
//            stack's flow table.
// Threading  One shard. Memory grows in chunks up to the bound and is kept; no allocation otherwise.
// Failure    None.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/stack/flow_key.h"
#include "dataplane/net/tcp/connection.h"
#include "dataplane/net/tcp/segment.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace dataplane::net::stack {

/// What to do about a segment that belongs to a connection in TIME_WAIT.
enum class TimeWaitAnswer : std::uint8_t {
    nothing,
    acknowledge, // the peer has not heard our last ACK, or believes something we must contradict
    reopen,      // RFC 6191: a SYN of a new incarnation; the record may go
};

struct TimeWaitCounters {
    std::uint64_t added = 0, expired = 0, evicted = 0, reopened = 0, acknowledged = 0;
};

class TimeWait {
public:
    TimeWait(std::size_t records_max, base::Duration period, base::TimePoint start) noexcept;

    /// Remembers a connection and returns its number. The caller has made room: see oldest().
    [[nodiscard]] std::uint32_t add(const FlowKey& key, const tcp::TimeWaitRecord& record,
                                    base::TimePoint now);
    [[nodiscard]] bool full() const noexcept { return size_ >= records_max_; }
    /// The record that expires first; nullopt when there is none.
    [[nodiscard]] std::optional<std::uint32_t> oldest() const noexcept;
    /// Whether the oldest has expired; it is still there.
    [[nodiscard]] bool due(base::TimePoint now) const noexcept;
    [[nodiscard]] base::TimePoint deadline(base::TimePoint now) const noexcept; // max() when empty
    void remove(std::uint32_t number) noexcept;

    [[nodiscard]] FlowKey key(std::uint32_t number) const noexcept;
    /// Without ts_offset, which follows from the key and is not kept.
    [[nodiscard]] tcp::TimeWaitRecord record(std::uint32_t number) const noexcept;
    /// Looks at a segment of this connection. A retransmitted FIN starts the wait anew (RFC 9293).
    [[nodiscard]] TimeWaitAnswer on_segment(std::uint32_t number, const tcp::Segment& segment,
                                            base::TimePoint now) noexcept;

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    TimeWaitCounters counters;

private:
    static constexpr std::uint32_t none = ~std::uint32_t{0};
    static constexpr std::uint32_t chunk_records = 4096;

    struct Record {
        std::array<std::uint8_t, 16> remote; // an IPv4 address is the first four bytes
        std::uint32_t local : 30;            // index in locals_
        std::uint32_t v6 : 1;
        std::uint32_t timestamps : 1;
        std::uint16_t local_port;
        std::uint16_t remote_port;
        std::uint32_t snd_nxt;
        std::uint32_t rcv_nxt;
        std::uint32_t ts_recent;
        std::uint16_t window;
        std::uint16_t
            expires_at; // in ticks of tick_ since start_, which wrap after eight periods or more
        std::uint32_t next; // towards the newest; in a free record the next free one
        std::uint32_t prev;
    };
    static_assert(sizeof(Record) == 48, "a million of them are 48 MiB");
    struct HashLocal { // our own addresses: no stranger chooses them
        [[nodiscard]] std::size_t operator()(const base::IpAddress& ip) const noexcept {
            return static_cast<std::size_t>(flow_hash({ip, ip, 0, 0}, {}));
        }
    };

    [[nodiscard]] Record& at(std::uint32_t number) const noexcept;
    [[nodiscard]] std::uint32_t number_of_local(const base::IpAddress& ip);
    [[nodiscard]] std::uint16_t ticks_at(base::TimePoint time) const noexcept;
    void link_newest(std::uint32_t number) noexcept;
    void unlink(std::uint32_t number) noexcept;

    std::size_t records_max_;
    base::Duration period_;
    base::Duration tick_;
    base::TimePoint start_;
    std::vector<base::IpAddress> locals_;
    std::unordered_map<base::IpAddress, std::uint32_t, HashLocal> numbers_of_locals_;
    std::vector<std::unique_ptr<Record[]>> chunks_;
    std::uint32_t first_free_ = none;
    std::uint32_t oldest_ = none;
    std::uint32_t newest_ = none;
    std::size_t size_ = 0;
};

} // namespace dataplane::net::stack
