// policy.h: the compiled policy as the shards read it: plain values, looked up, never changed.
//
// Scope      Everything the operator decides: listeners, who may send what, where mail goes and how fast,
//            screening, retries. control compiles millrace.toml into a snapshot (control/schema/policy.fbs);
//            snapshot.h turns that into this. Defaults live in control's configuration pages.
// Owns       Its values. A Policy is shared by all shards through shared_ptr<const Policy>: it must
//            live as long as the slowest session that looked something up in it.
// Threading  Immutable after load.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/message/dkim/key_set.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dataplane::policy {

/// Heterogeneous look-up: find() by string_view without making a string.
struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
        return std::hash<std::string_view>{}(text);
    }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

enum class ListenerKind : std::uint8_t {
    submission,  // 587: STARTTLS, AUTH required
    submissions, // 465: implicit TLS, AUTH required
    relay,       // 25: for listed networks; others must AUTH
};

/// What carries a connection: sockets of the operating system, or our own TCP/IP on a port.
enum class TransportKind : std::uint8_t { kernel, dpdk };

struct ListenerPolicy {
    std::string name;
    base::SocketAddress address;
    ListenerKind kind = ListenerKind::submission;
    bool proxy_protocol = false;
    bool allow_plain_auth =
        false; // AUTH without TLS: only for tests and trusted wires; logged at start
    std::uint32_t connections_max = 10'000;
    TransportKind transport = TransportKind::kernel;
};

struct Timeouts {
    // Server side, RFC 5321 §4.5.3.2.7: at least 5 minutes between commands.
    std::chrono::seconds command{300};
    std::chrono::seconds data_block{180};
    std::chrono::seconds tls_handshake{30};
    std::chrono::seconds session_max{3600};
    // Client side, §4.5.3.2.1 to §4.5.3.2.6.
    std::chrono::seconds connect{60}, greeting{300}, helo{300}, mail{300}, rcpt{300},
        data_init{120};
    std::chrono::seconds data_send{180}, data_done{600}, idle{60};
};

struct Limits {
    std::uint64_t message_bytes_max = 50ULL << 20;
    std::uint32_t recipients_max = 1000; // per message: 452 4.5.3 beyond
    std::uint32_t errors_max = 20;       // per session: 421 beyond
    std::uint32_t messages_per_session_max = 100'000;
    std::uint32_t connections_per_client_max = 1000;
    std::uint32_t auth_failures_max = 3;     // per session: 421 beyond
    std::uint32_t received_headers_max = 50; // loop detection: 554 5.4.6
};

enum class BareNewline : std::uint8_t {
    reject,
    normalise
}; // what to do with a bare CR or LF in DATA

struct AccountPolicy {
    std::string name; // the AUTH identity
    std::uint64_t generation =
        0; // raised by every change of the account: cached logins of before are void
    bool enabled = true;
    std::string tenant;
    std::string source;                      // source or pool; empty: the route's, then the default
    std::vector<std::string> sender_domains; // empty: any MAIL FROM
    std::uint32_t messages_per_hour_max = 0; // 0: unlimited
    // Client certificates that are this account, for AUTH EXTERNAL: "sha256:" and a fingerprint, or
    // "name:" or "subject:" of one that verifies.
    std::vector<std::string> certificates;
};

struct SourcePolicy { // an egress identity
    std::string name;
    std::optional<base::IpAddress> address_v4, address_v6; // absent: the transport chooses
    std::string helo_name;                                 // empty: the host name
    TransportKind transport = TransportKind::kernel;
};

struct PoolPolicy { // weighted choice of sources
    std::string name;
    struct Member {
        std::uint32_t source_index;
        std::uint32_t weight;
    };
    std::vector<Member> members;
};

/// What the way to a host must be like. docs/tls.md has the rules.
enum class TlsLevel : std::uint8_t {
    none,      // in the clear
    may,       // encrypted if that works
    encrypt,   // encrypted, whoever it is
    verify,    // a trusted certificate for the host's name
    dane,      // what the host's zone says (RFC 7672); may, where it says nothing
    dane_only, // what the host's zone says, or not at all
    secure,    // a trusted certificate for the recipient's domain
};

[[nodiscard]] std::string_view to_string(TlsLevel level) noexcept; // as the configuration has it

/// Shaping of one site, provider or domain; sources share a site's limits unless named here.
struct SitePolicy {
    std::uint32_t connections_max = 20; // per site and source, over all shards
    std::uint32_t messages_per_connection_max = 100;
    std::uint32_t recipients_per_message_max = 100; // of one transaction
    std::uint32_t messages_per_second_max = 0;      // per site, over all shards; 0: unlimited
    std::chrono::seconds idle{5};                   // an unused connection is kept this long
    TlsLevel tls = TlsLevel::may;
    bool pipelining = true;
    bool chunking = true;
};

struct RoutePolicy {
    enum class Kind : std::uint8_t { mx, smart_host, discard };
    Kind kind = Kind::mx;
    struct Host {
        std::string name; // host name, or address literal
        std::uint16_t port = 25;
        bool mx_lookup = false; // look up MX of this name instead of its address
    };
    std::vector<Host> hosts;           // tried in order; empty for mx
    std::uint16_t port = 25;           // of MX hosts
    std::string source;                // source or pool; empty: default
    std::optional<SitePolicy> shaping; // overrides the site's
};

struct RetryPolicy {
    std::chrono::seconds first{300};
    double factor = 2.0;
    std::chrono::seconds interval_max{14'400};
    double jitter = 0.25; // +- this share
    std::chrono::seconds expiry{432'000};
    std::chrono::seconds delay_notice{14'400}; // 0: never
    std::chrono::seconds site_pause_first{60}; // after a site's connections fail
    std::chrono::seconds site_pause_max{3'600};
};

struct TlsPolicy {
    std::string certificate_file,
        key_file;          // PEM; empty: a self-signed pair is made in the state folder
    bool modern = false;   // TLS 1.3 only; otherwise 1.2 and 1.3
    std::string ca_file;   // for TlsLevel::verify and secure; empty: the system's
    std::string ocsp_file; // of the certificate above
    struct Certificate {
        std::string certificate_file, key_file, ocsp_file;
        std::vector<std::string> names; // empty: those in it
        bool is_default = false;        // serves unknown names, too
    };
    std::vector<Certificate> certificates; // further ones
    std::string ocsp_command;
    enum class ClientCertificates : std::uint8_t { none, request, require };
    ClientCertificates client_certificates = ClientCertificates::none;
    std::string client_ca_file;
    std::string crl_file, client_crl_file; // revocation lists for either side; empty: none
    std::string delivery_certificate_file, delivery_key_file; // shown to hosts that ask
};

struct ScreenRule {
    std::string name;
    enum class Action : std::uint8_t { reject, defer, tag, score };
    Action action = Action::reject;
    std::string text;          // of the reply
    std::string header, value; // for tag
    std::int32_t score = 0;
};

struct ScreenPolicy {
    std::string header_database,
        body_database;             // serialised Hyperscan streaming databases; empty: no rules
    std::vector<ScreenRule> rules; // index = Hyperscan's id
    std::int32_t score_reject = 0; // 0: scores never reject
};

/// How DPDK is started; only with a port.
struct DpdkPolicy {
    bool hugepages = true;          // false: --no-huge
    std::uint32_t memory_mb = 1024; // over all shards
    bool busy_poll = true;
    std::chrono::microseconds idle_sleep{50}; // of an idle shard without busy_poll; 0: only yields
    std::vector<std::string> driver_args;     // for the EAL, behind our own
    std::string file_prefix = "millrace";
    bool operator==(const DpdkPolicy&) const = default;
};

struct PortPolicy { // a network port that DPDK drives; each shard has a queue of it
    std::string name;
    std::string device; // "0000:3b:00.0", "net_af_packet0,iface=veth1"
    struct Address {
        base::IpAddress ip;
        unsigned prefix_bits = 0; // the network that is reached without a gateway
        bool operator==(const Address&) const = default;
    };
    std::vector<Address> addresses; // at least one; each on one port only
    struct Route {
        base::Network destination;
        base::IpAddress gateway;
        bool operator==(const Route&) const = default;
    };
    std::vector<Route> routes;
    std::optional<std::uint16_t> vlan; // 802.1Q; absent: untagged
    std::uint16_t mtu = 1500;          // of IP
    bool operator==(const PortPolicy&) const = default;

    [[nodiscard]] bool is_pci() const noexcept { return !device.starts_with("net_"); }
};

struct TcpPolicy { // of connections on dpdk
    enum class Congestion : std::uint8_t { cubic, new_reno };
    Congestion congestion = Congestion::cubic;
    bool ecn = true;
    std::uint32_t initial_window_segments = 10;
    std::uint32_t receive_bytes_max = 512U << 10; // of one connection
    std::uint32_t send_bytes_max = 256U << 10;
    std::chrono::seconds keepalive_idle{120};
    std::chrono::seconds user_timeout{300};
    std::chrono::seconds time_wait{60};
    std::uint32_t connections_max = 1'000'000; // of one shard
    bool operator==(const TcpPolicy&) const = default;
};

/// See tls_offload/relief.h.
enum class OpensslRelief : std::uint8_t { automatic, on, off };
enum class Commit : std::uint8_t { automatic, dsync, flush };
enum class Durability : std::uint8_t { local, mirror, mirror_alone };

/// Who does private-key operations: see tls_offload/engine/host.h, whose Choice this is.
struct OffloadPolicy {
    enum class Backend : std::uint8_t {
        automatic,
        inline_only,
        threads,
        mb8,
        cryptodev,
        qatengine
    };
    Backend backend = Backend::automatic;
    std::uint32_t workers = 0;
    std::vector<int> cores;
    std::string device, engine;
    bool operator==(const OffloadPolicy&) const = default;
};

/// What only a start can change; a reload that changes any of it says so and keeps the old value.
struct StartUp {
    unsigned shards = 1;
    std::vector<int> cpus; // one per shard; empty: not pinned
    std::string state_dir, run_dir, spool_dir, event_log;
    std::uint64_t spool_bytes_per_shard = 1ULL << 30;
    std::uint32_t spool_segment_bytes = 64U << 20;
    std::uint64_t scrub_bytes_per_s = 16ULL << 20; // 0: not at all
    std::string spool_key; // where the spool's keys are; empty: nothing is encrypted
    Commit commit = Commit::automatic;
    Durability durability = Durability::local;
    std::string mirror_dir; // empty without a mirror
    std::uint64_t mirror_copy_bytes_per_s = 100ULL << 20;
    std::uint64_t resident_bytes_per_shard = 256ULL << 20;
    std::vector<std::string> dns_servers; // "127.0.0.1@5353"; empty: /etc/resolv.conf
    unsigned resolver_threads = 1;
    bool dnssec = false;
    bool busy_poll = false;
    OpensslRelief openssl_relief = OpensslRelief::automatic;
    DpdkPolicy dpdk;
    std::vector<PortPolicy> ports; // empty: nothing is on dpdk
    TcpPolicy tcp;
    OffloadPolicy offload;
};

struct Policy {
    std::uint64_t version = 0;
    std::string hostname;
    StartUp start_up;
    std::vector<ListenerPolicy> listeners;
    std::vector<base::Network> relay_networks; // may send without AUTH on relay listeners
    std::vector<base::Network>
        proxy_networks; // may speak PROXY to listeners that ask for it; empty: any
    Timeouts timeouts;
    Limits limits;
    BareNewline bare_newline = BareNewline::reject;
    TlsPolicy tls;
    TextMap<AccountPolicy> accounts;
    TextMap<std::string> certificate_accounts; // account by AccountPolicy::certificates
    std::vector<SourcePolicy> sources;         // index 0 is the default
    TextMap<PoolPolicy> pools;
    TextMap<std::uint32_t> source_index; // by name
    RoutePolicy default_route;
    TextMap<RoutePolicy> routes; // by domain, lower case; ".example.com" also serves subdomains
    SitePolicy default_site;
    TextMap<SitePolicy> sites; // by site name or domain, lower case
    RetryPolicy retry;
    ScreenPolicy screen;
    std::vector<message::dkim::KeyTable> dkim; // in the order of the configuration

    [[nodiscard]] bool is_relay_client(const base::IpAddress& client) const noexcept;
    [[nodiscard]] const AccountPolicy* account(std::string_view name) const noexcept;
    /// The route of a recipient domain (any case): exact, then ".parent" entries, then the default.
    [[nodiscard]] const RoutePolicy& route(std::string_view domain) const;
    [[nodiscard]] const SitePolicy& site(std::string_view site_name, std::string_view domain) const;
};
using PolicyPtr = std::shared_ptr<const Policy>;

/// A shard's current policy. Sessions copy the pointer once per session or transaction.
class PolicySlot {
public:
    explicit PolicySlot(PolicyPtr first) noexcept : current_(std::move(first)) {}
    [[nodiscard]] const PolicyPtr& current() const noexcept { return current_; }
    void replace(PolicyPtr next) noexcept {
        current_ = std::move(next);
    } // on the shard's own thread

private:
    PolicyPtr current_;
};

} // namespace dataplane::policy
