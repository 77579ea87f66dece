#include "control/settings.h"

#include <algorithm>
#include <array>

namespace control {
namespace {

using enum SettingType;
using enum Effect;
constexpr Presence required = Presence::required;
constexpr Presence optional = Presence::optional;
constexpr double kib = 1024, mib = kib * 1024, gib = mib * 1024, tib = gib * 1024;
constexpr double hour = 3600, day = 24 * hour;

// A setting's sentence says why one would change it. docs/configuration.md is made of these.
constexpr std::array all_settings{
    Setting{"server", "hostname", host_name, required, "\"relay.example.com\"", 0, 0, "", reload,
            "The name in the greeting, EHLO, Received and Message-ID. Receiving hosts compare it "
            "with the reverse DNS of the sending address."},
    Setting{"server", "shards", integer, optional, "1", 1, 64, "", start,
            "Threads that carry mail, each with its own queue and connections. One per core that "
            "is to do nothing else."},
    Setting{"server", "cpus", integer_list, optional, "[]", 0, 1023, "", start,
            "The core of each shard; empty leaves them to the kernel. Pin them when other work "
            "shares the machine."},
    Setting{"server", "state_dir", path, optional, "\"/var/lib/millrace\"", 0, 0, "", start,
            "Accounts, the policy snapshot and the made-up certificate live here."},
    Setting{"server", "run_dir", path, optional, "\"/run/millrace\"", 0, 0, "", start,
            "The control socket, the admin token and the statistics page live here; only the "
            "relay's user may enter it."},
    Setting{"server", "spool_dir", path, optional, "\"/var/spool/millrace\"", 0, 0, "", start,
            "Accepted mail lives here until it is delivered. Its device decides how fast mail is "
            "accepted: give it its own."},
    Setting{"server", "spool_size", size, optional, "\"1GiB\"", 64 * mib, 16 * tib, "", start,
            "Spool of each shard, preallocated. Full means 452 4.3.1 to clients: size it for the "
            "longest outage of the world outside."},
    Setting{"server", "segment_size", size, optional, "\"64MiB\"", mib, gib, "", start,
            "Unit in which spool is recycled, a whole number of MiB. Smaller ones come free "
            "sooner, larger ones write faster on rotating disks."},
    Setting{"server", "spool_key", text, optional, "\"\"", 0, 0, "", start,
            "Encrypts accepted mail on disk: a file with keys, or env:NAME. New segments are "
            "encrypted under its first key, all its keys open old ones; see operating.md."},
    Setting{
        "server", "scrub_rate", size, optional, "\"16MiB\"", 0, tib, "", start,
        "Bytes a second, at most, with which each shard reads its queued mail once a day to find "
        "rot in time. 0B leaves rot to be found on delivery."},
    Setting{"server", "commit", choice, optional, "\"auto\"", 0, 0, "auto|dsync|flush", start,
            "How accepted mail is made safe: each write by itself (dsync), or all writes that have "
            "landed by one flush of the device. auto measures both at start; see spool.md."},
    Setting{"server", "durability", choice, optional, "\"local\"", 0, 0,
            "local|mirror|mirror_alone", start,
            "mirror keeps mail on two devices and acknowledges it when both have it. mirror_alone "
            "lets one half start without the other, although it may be the older one."},
    Setting{"server", "mirror_dir", path, optional, "\"\"", 0, 0, "", start,
            "The second half of each spool, with durability = \"mirror\"; a folder on another "
            "device than spool_dir's."},
    Setting{"server", "mirror_copy_rate", size, optional, "\"100MiB\"", mib, tib, "", start,
            "Bytes a second with which a half that was left behind is given everything again. "
            "Higher ends the danger sooner, lower leaves the device to new mail."},
    Setting{"server", "memory", size, optional, "\"256MiB\"", 16 * mib, tib, "", start,
            "Message content that each shard keeps in memory for first attempts. Beyond it mail is "
            "read back from the spool."},
    Setting{"server", "event_log", path, optional, "\"\"", 0, 0, "", start,
            "Where events go, one JSON object a line; empty is events.jsonl in state_dir. Give it "
            "a disk that is not the spool's."},
    Setting{"server", "busy_poll", boolean, optional, "false", 0, 0, "", start,
            "Shards never sleep: lower latency for a whole core each. Only with pinned, otherwise "
            "idle cores."},
    Setting{"server", "egress_transport", choice, optional, "\"kernel\"", 0, 0, "kernel|dpdk",
            reload,
            "What carries deliveries when there is no [[source]]; each of those says its own. dpdk "
            "needs a [[port]]."},
    Setting{"server", "bare_newline", choice, optional, "\"reject\"", 0, 0, "reject|normalise",
            reload,
            "A bare CR or LF in a message is how mail is smuggled past filters. Normalise only for "
            "clients that cannot be mended."},

    Setting{"listener", "name", text, required, "\"submission\"", 0, 0, "", start,
            "Names the listener in logs and errors."},
    Setting{"listener", "address", address, required, "\"0.0.0.0:587\"", 0, 0, "", start,
            "Where it listens. Name one address to keep the others free."},
    Setting{"listener", "kind", choice, required, "\"submission\"", 0, 0,
            "submission|submissions|relay", start,
            "submission: STARTTLS, AUTH required (587). submissions: TLS from the first byte, AUTH "
            "required (465). relay: listed networks without AUTH, all others with (25)."},
    Setting{"listener", "proxy_protocol", boolean, optional, "false", 0, 0, "", start,
            "Each connection begins with a PROXY header, v1 or v2. Only behind a load balancer, "
            "whose address belongs into relay.proxy_networks."},
    Setting{"listener", "allow_plain_auth", boolean, optional, "false", 0, 0, "", start,
            "AUTH without TLS. Passwords then cross the wire in the clear: only for tests and "
            "trusted wires."},
    Setting{"listener", "connections_max", integer, optional, "10000", 1, 1'000'000, "", start,
            "Open connections, over all shards. Beyond it new ones get 421."},
    Setting{"listener", "transport", choice, optional, "\"kernel\"", 0, 0, "kernel|dpdk", start,
            "kernel: sockets of the operating system. dpdk: our own TCP/IP on a [[port]], whose "
            "address this must be, or 0.0.0.0 or [::] for all of them."},

    Setting{"relay", "networks", network_list, optional, "[]", 0, 0, "", reload,
            "Clients that may send without AUTH on relay listeners. Whoever is in here can send as "
            "anyone: list single hosts."},
    Setting{"relay", "proxy_networks", network_list, optional, "[]", 0, 0, "", reload,
            "Who may speak PROXY to listeners that ask for it; empty is anyone who reaches them, "
            "who can then claim any address."},

    Setting{"limits", "message_size", size, optional, "\"50MiB\"", 64 * kib, 2 * gib, "", reload,
            "Largest message, as announced with SIZE; 552 5.3.4 beyond. Receivers commonly stop at "
            "25 to 50 MiB. RFC 5321 §4.5.3.1.7 wants at least 64 KiB."},
    Setting{"limits", "recipients_max", integer, optional, "1000", 100, 1'000'000, "", reload,
            "Recipients of one message; 452 4.5.3 beyond, and the client sends the rest again. RFC "
            "5321 §4.5.3.1.8 wants at least 100."},
    Setting{"limits", "errors_max", integer, optional, "20", 1, 10'000, "", reload,
            "Refused commands in one session before 421. Lower it when guessers of addresses cost "
            "you."},
    Setting{"limits", "messages_per_session_max", integer, optional, "100000", 1, 1'000'000'000, "",
            reload,
            "Messages of one session before 421: makes long-lived clients reconnect, which spreads "
            "them over the shards."},
    Setting{
        "limits", "connections_per_client_max", integer, optional, "1000", 1, 1'000'000, "", reload,
        "Open connections of one client address on one shard. Keeps one client from taking all."},
    Setting{"limits", "auth_failures_max", integer, optional, "3", 1, 100, "", reload,
            "Failed AUTH in one session before 421."},
    Setting{"limits", "received_headers_max", integer, optional, "50", 10, 1000, "", reload,
            "Received headers after which a message is taken for a loop (554 5.4.6). RFC 5321 §6.3 "
            "suggests 100; real paths have fewer than 20."},

    Setting{"timeouts", "command", duration, optional, "\"5m\"", 1, day, "", reload,
            "Server: the client's next command. RFC 5321 §4.5.3.2.7 asks for 5 minutes; less frees "
            "slots sooner."},
    Setting{"timeouts", "data_block", duration, optional, "\"3m\"", 1, day, "", reload,
            "Server: the next piece of a message."},
    Setting{"timeouts", "tls_handshake", duration, optional, "\"30s\"", 1, hour, "", reload,
            "Both sides: a whole TLS handshake."},
    Setting{"timeouts", "session_max", duration, optional, "\"1h\"", 60, 7 * day, "", reload,
            "Server: a whole session, which ends between two messages with 421."},
    Setting{"timeouts", "connect", duration, optional, "\"60s\"", 1, hour, "", reload,
            "Client: a TCP connection to one address."},
    Setting{"timeouts", "greeting", duration, optional, "\"5m\"", 1, day, "", reload,
            "Client: the 220 (RFC 5321 §4.5.3.2.1)."},
    Setting{"timeouts", "helo", duration, optional, "\"5m\"", 1, day, "", reload,
            "Client: the reply to EHLO."},
    Setting{"timeouts", "mail", duration, optional, "\"5m\"", 1, day, "", reload,
            "Client: the reply to MAIL (§4.5.3.2.2)."},
    Setting{"timeouts", "rcpt", duration, optional, "\"5m\"", 1, day, "", reload,
            "Client: the reply to RCPT (§4.5.3.2.3)."},
    Setting{"timeouts", "data_init", duration, optional, "\"2m\"", 1, day, "", reload,
            "Client: the reply to DATA (§4.5.3.2.4)."},
    Setting{"timeouts", "data_send", duration, optional, "\"3m\"", 1, day, "", reload,
            "Client: room for the next block (§4.5.3.2.5)."},
    Setting{"timeouts", "data_done", duration, optional, "\"10m\"", 1, day, "", reload,
            "Client: the reply to the final dot (§4.5.3.2.6). Shorter ones deliver twice to slow "
            "receivers."},
    Setting{"timeouts", "idle", duration, optional, "\"60s\"", 1, hour, "", reload,
            "Client: the reply to RSET and QUIT."},

    Setting{"tls", "certificate", file, optional, "\"\"", 0, 0, "", reload,
            "PEM chain for STARTTLS and 465. Empty makes a self-signed pair in state_dir, which "
            "strict clients refuse."},
    Setting{"tls", "key", file, optional, "\"\"", 0, 0, "", reload,
            "PEM private key of that certificate, readable by the relay only."},
    Setting{
        "tls", "ocsp", path, optional, "\"\"", 0, 0, "", reload,
        "OCSP response in DER for that certificate, stapled while it is good. The file may come "
        "later."},
    Setting{"tls", "ocsp_command", path, optional, "\"\"", 0, 0, "", reload,
            "Run with the certificate's file and the OCSP file as arguments when there is no good "
            "response, or half its time is over; it writes the OCSP file."},
    Setting{
        "tls", "preset", choice, optional, "\"intermediate\"", 0, 0, "modern|intermediate", reload,
        "modern: TLS 1.3 only. intermediate: 1.2 as well, which older submission software needs. "
        "Both: AEAD suites with ephemeral keys only."},
    Setting{"tls", "ca_file", file, optional, "\"\"", 0, 0, "", reload,
            "Who is trusted where tls = \"verify\" or \"secure\"; empty is the system's store."},
    Setting{"tls", "crl_file", file, optional, "\"\"", 0, 0, "", reload,
            "Revocation lists in PEM that hosts' certificates are held against. Issuers that have "
            "none in it are not asked about; one whose list has run out is refused."},
    Setting{"tls", "client_certificates", choice, optional, "\"none\"", 0, 0,
            "none|request|require", reload,
            "Whether clients are asked for a certificate, which AUTH EXTERNAL needs. require: a "
            "client without one gets no TLS, on every listener."},
    Setting{
        "tls", "client_ca_file", file, optional, "\"\"", 0, 0, "", reload,
        "Whose client certificates verify. Empty: nobody's; an account can then only be known by "
        "a certificate's fingerprint."},
    Setting{"tls", "client_crl_file", file, optional, "\"\"", 0, 0, "", reload,
            "The same for client certificates."},
    Setting{"tls", "delivery_certificate", file, optional, "\"\"", 0, 0, "", reload,
            "PEM chain shown to mail hosts that ask for a certificate; empty shows none."},
    Setting{"tls", "delivery_key", file, optional, "\"\"", 0, 0, "", reload,
            "PEM private key of delivery_certificate."},
    Setting{
        "tls", "openssl_relief", choice, optional, "\"auto\"", 0, 0, "auto|on|off", start,
        "Keeps OpenSSL 3.0's slow key decoders out of handshakes, after a self-test. auto: where "
        "the library is of that line."},

    Setting{"certificate", "certificate", file, required, "\"/etc/millrace/b/fullchain.pem\"", 0, 0,
            "", reload, "PEM chain, the leaf first."},
    Setting{"certificate", "key", file, required, "\"/etc/millrace/b/privkey.pem\"", 0, 0, "",
            reload, "PEM private key of that certificate."},
    Setting{
        "certificate", "names", text_list, optional, "[]", 0, 0, "", reload,
        "The names it is shown for, \"*.example.com\" among them; [] is all that are in it. Two "
        "with the same name and keys of different kinds stand side by side: ECDSA is preferred."},
    Setting{"certificate", "ocsp", path, optional, "\"\"", 0, 0, "", reload,
            "OCSP response in DER, as tls.ocsp."},
    Setting{"certificate", "default", boolean, optional, "false", 0, 0, "", reload,
            "Also for clients that ask for no name, or for one that no certificate has, as "
            "tls.certificate is: an RSA one beside an ECDSA one."},

    Setting{"dns", "servers", server_list, optional, "[]", 0, 0, "", start,
            "Resolvers, \"IP\" or \"IP@PORT\"; empty is /etc/resolv.conf. A cache on this machine "
            "is worth most at high rates."},
    Setting{"dns", "resolver_threads", integer, optional, "1", 1, 64, "", start,
            "Threads that resolve. One answers about 10,000 cached questions a second."},
    Setting{"dns", "dnssec", boolean, optional, "false", 0, 0, "", start,
            "Validate answers. Bogus ones then defer the mail."},

    Setting{"source", "name", text, required, "\"ip-1\"", 0, 0, "", reload,
            "What accounts, routes and pools call it. The first one is the default."},
    Setting{"source", "address_v4", ip_v4, optional, "\"\"", 0, 0, "", reload,
            "Address to send from; empty leaves it to the transport. On dpdk it must be an address "
            "of a [[port]]."},
    Setting{"source", "address_v6", ip_v6, optional, "\"\"", 0, 0, "", reload,
            "The same for IPv6."},
    Setting{"source", "helo_name", host_name, optional, "\"\"", 0, 0, "", reload,
            "EHLO name of this source; empty is server.hostname. It should resolve to the address, "
            "and back."},
    Setting{"source", "transport", choice, optional, "\"kernel\"", 0, 0, "kernel|dpdk", reload,
            "kernel: sockets of the operating system. dpdk: our own TCP/IP on a [[port]]."},

    Setting{"pool", "name", text, required, "\"bulk\"", 0, 0, "", reload,
            "What accounts and routes call it; not the name of a source."},
    Setting{"pool.members", "source", text, required, "\"ip-1\"", 0, 0, "", reload,
            "The name of a [[source]]."},
    Setting{"pool.members", "weight", integer, optional, "1", 1, 1'000'000, "", reload,
            "Its share relative to the other members. A new address starts small."},

    Setting{"route", "domains", domain_list, optional, "[]", 0, 0, "", reload,
            "Recipient domains this is for. \".example.com\" is example.com and everything below "
            "it; the longest match wins."},
    Setting{"route", "default", boolean, optional, "false", 0, 0, "", reload,
            "This is the route of every other domain; without one that is MX."},
    Setting{"route", "kind", choice, optional, "\"mx\"", 0, 0, "mx|smart_host|discard", reload,
            "mx: as the DNS says. smart_host: to the hosts below. discard: accept and drop, for "
            "load tests and test domains."},
    Setting{"route", "hosts", host_list, optional, "[]", 0, 0, "", reload,
            "For smart_host, tried in order: \"host\", \"host:port\", \"[2001:db8::1]:port\", or "
            "\"mx:name\" for the MX hosts of a name."},
    Setting{"route", "port", integer, optional, "25", 1, 65535, "", reload,
            "Port of MX hosts, and of hosts without one."},
    Setting{"route", "source", text, optional, "\"\"", 0, 0, "", reload,
            "A [[source]] or [[pool]] for this mail when the account names none; empty is the "
            "first source."},

    Setting{"site", "connections_max", integer, optional, "20", 1, 100'000, "", reload,
            "Connections to the site per source, over all shards. Large providers publish theirs."},
    Setting{"site", "messages_per_connection_max", integer, optional, "100", 1, 1'000'000, "",
            reload,
            "Messages before a connection is closed. Some providers answer 421 beyond 20 or 50."},
    Setting{"site", "recipients_per_message_max", integer, optional, "100", 1, 10'000, "", reload,
            "Recipients in one transaction (RFC 5321 §4.5.3.1.8: hosts must take 100)."},
    Setting{"site", "message_rate", rate, optional, "\"0/s\"", 0, 1'000'000, "", reload,
            "Messages per time to the site, over all shards and sources; 0 is no limit. A whole "
            "number per second."},
    Setting{"site", "idle", duration, optional, "\"5s\"", 0, hour, "", reload,
            "How long an unused connection is kept for the next message."},
    Setting{"site", "tls", choice, optional, "\"may\"", 0, 0,
            "none|may|encrypt|verify|dane|dane-only|secure", reload,
            "none: never STARTTLS. may: when offered. encrypt: only encrypted. verify: only with a "
            "certificate that names the host. dane: as the host's TLSA records say, or may without "
            "any. dane-only: only so. secure: only with a certificate that names the recipient's "
            "domain. See [TLS](tls.md)."},
    Setting{"site", "pipelining", boolean, optional, "true", 0, 0, "", reload,
            "Use PIPELINING when offered; off for hosts that break on it."},
    Setting{"site", "chunking", boolean, optional, "true", 0, 0, "", reload,
            "Use CHUNKING (BDAT) when offered; off for hosts that break on it."},

    Setting{"retry", "first", duration, optional, "\"5m\"", 1, day, "", reload,
            "Wait after the first failed attempt."},
    Setting{"retry", "factor", real, optional, "2.0", 1, 100, "", reload,
            "Each wait is this many times the one before."},
    Setting{"retry", "interval_max", duration, optional, "\"4h\"", 1, 7 * day, "", reload,
            "No wait is longer."},
    Setting{"retry", "jitter", real, optional, "0.25", 0, 0.9, "", reload,
            "Each wait is moved by up to this share either way, so that what failed together does "
            "not return together."},
    Setting{
        "retry", "expiry", duration, optional, "\"5d\"", 60, 30 * day, "", reload,
        "After this a message is given up and its sender told (RFC 5321 §4.5.4.1: 4 to 5 days)."},
    Setting{"retry", "delay_notice", duration, optional, "\"4h\"", 0, 30 * day, "", reload,
            "After this senders that asked for it are told of the delay; \"0s\" is never."},
    Setting{
        "retry", "site_pause_first", duration, optional, "\"60s\"", 1, day, "", reload,
        "Pause of a whole site after its hosts could not be reached; doubles with each failure."},
    Setting{"retry", "site_pause_max", duration, optional, "\"1h\"", 1, 7 * day, "", reload,
            "No pause is longer."},

    Setting{"screen", "rules", file, optional, "\"\"", 0, 0, "", reload,
            "The rule file; empty screens nothing."},
    Setting{"screen", "score_reject", integer, optional, "0", 0, 1'000'000, "", reload,
            "Messages whose hits score this much are refused; 0 never refuses by score."},

    Setting{
        "dkim", "domains", domain_list, required, "[\"example.com\"]", 0, 0, "", reload,
        "Whose mail these keys sign: the domain of From, and d= of the signature. \".example.com\" "
        "signs for its subdomains, too; \"*\" is every domain for which `key` finds a file."},
    Setting{"dkim", "selector", text, required, "\"s2026\"", 0, 0, "", reload,
            "The key's name in DNS: selector._domainkey.domain. Change it with the key, and keep "
            "the old "
            "record until the mail that it signed has arrived."},
    Setting{"dkim", "key", path, required, "\"dkim/%d/%s.key\"", 0, 0, "", reload,
            "The file with the private key: %d is the domain, %s the selector. PEM (RSA of 2048 to "
            "4096 "
            "bits, Ed25519), or an Ed25519 key's base64."},
    Setting{"dkim", "scope", choice, optional, "\"author\"", 0, 0, "author|fallback|always", reload,
            "author: mail From `domains`. fallback: mail that no key of its author signs. always: "
            "all mail, "
            "in addition, as for an ESP's own signature."},
    Setting{"dkim", "tenant", text, optional, "\"\"", 0, 0, "", reload,
            "Only mail of this tenant's accounts; empty is anyone's. Without it one tenant's mail "
            "can be "
            "signed for another's domain."},
    Setting{"dkim", "algorithm", choice, optional, "\"any\"", 0, 0, "any|rsa-sha256|ed25519-sha256",
            reload,
            "What the key must be; any is what the file says. Two tables, one of each, sign with "
            "both."},
    Setting{"dkim", "canonicalization", choice, optional, "\"relaxed/relaxed\"", 0, 0,
            "relaxed/relaxed|relaxed/simple|simple/relaxed|simple/simple", reload,
            "Header and body. Simple ones do not survive hosts that fold lines or trim blanks."},
    Setting{"dkim", "headers", text_list, optional,
            "[\"From\", \"Reply-To\", \"Sender\", \"To\", \"Cc\", \"Subject\", \"Date\", "
            "\"Message-ID\", "
            "\"In-Reply-To\", \"References\", \"MIME-Version\", \"Content-Type\", "
            "\"Content-Transfer-Encoding\", \"List-Id\", \"List-Help\", \"List-Unsubscribe\", "
            "\"List-Unsubscribe-Post\", \"List-Subscribe\", \"List-Post\", \"List-Owner\", "
            "\"List-Archive\", \"Feedback-ID\"]",
            0, 0, "", reload,
            "The fields that are signed where they are there; From always is. RFC 8058 wants both "
            "List-Unsubscribe fields signed."},
    Setting{"dkim", "oversign", text_list, optional,
            "[\"From\", \"Reply-To\", \"To\", \"Cc\", \"Subject\", \"Date\", \"Message-ID\", "
            "\"MIME-Version\", \"Content-Type\", \"Content-Transfer-Encoding\"]",
            0, 0, "", reload,
            "Of these, also that there are no more: a second Subject added on the way breaks the "
            "signature. "
            "[] for none."},
    Setting{"dkim", "expire_after", duration, optional, "\"0s\"", 0, 365 * day, "", reload,
            "Life of a signature (x=), against mail that is sent again by others; \"0s\" is for "
            "ever. Longer "
            "than retry.expiry, or late mail arrives unsigned."},
    Setting{"dkim", "identity", text, optional, "\"\"", 0, 0, "", reload,
            "The signature's i=, such as \"@%d\"; empty leaves it out, which means the same."},
    Setting{
        "dkim", "on_failure", choice, optional, "\"defer\"", 0, 0, "defer|send_unsigned", reload,
        "What becomes of mail that could not be signed. defer: 451, and the client tries again. "
        "send_unsigned: it goes out as it is, and is counted."},

    Setting{"port", "name", text, required, "\"wan\"", 0, 0, "", start,
            "Names the port in logs and errors."},
    Setting{
        "port", "device", device, required, "\"0000:3b:00.0\"", 0, 0, "", start,
        "What DPDK drives: the PCI address of a NIC (scripts/nic-setup shows and binds them), or "
        "a virtual device such as \"net_af_packet0,iface=veth1\" or "
        "\"net_memif0,role=client,id=0,socket=/run/m.sock\"."},
    Setting{
        "port", "addresses", own_list, required, "[\"192.0.2.10/24\"]", 0, 0, "", start,
        "The port's own addresses, IPv4 and IPv6, each with the prefix of the network that is "
        "reached without a gateway; thousands are no burden. The kernel must not have them too."},
    Setting{"port", "vlan", integer, optional, "0", 0, 4094, "", start,
            "802.1Q tag of everything the port sends and takes; 0 is untagged."},
    Setting{"port", "mtu", integer, optional, "1500", 576, 9000, "", start,
            "Largest IP packet; at least 1280 with an IPv6 address (RFC 8200 §5). Above 1500 only "
            "when the whole network segment does it."},
    Setting{"port.routes", "to", network, required, "\"0.0.0.0/0\"", 0, 0, "", start,
            "The network that is reached this way; \"0.0.0.0/0\" and \"::/0\" are all else. The "
            "longest prefix wins."},
    Setting{"port.routes", "gateway", ip, required, "\"192.0.2.1\"", 0, 0, "", start,
            "The router: in a network of the port's addresses, or an IPv6 link-local address."},

    Setting{"dpdk", "hugepages", boolean, optional, "true", 0, 0, "", start,
            "Take memory from huge pages, which scripts/nic-setup reserves. false (--no-huge) does "
            "without, slower; that is for virtual devices and for trying things out."},
    Setting{"dpdk", "memory_mb", integer, optional, "1024", 64, 1'048'576, "", start,
            "Memory for DPDK in MiB, over all shards: frames on their way live in it. With huge "
            "pages at least as much of them must be free."},
    Setting{"dpdk", "busy_poll", boolean, optional, "true", 0, 0, "", start,
            "Shards with a port never sleep. false lets an idle shard sleep for idle_sleep_us at a "
            "time: for machines that have other work too."},
    Setting{"dpdk", "idle_sleep_us", integer, optional, "50", 0, 1000, "", start,
            "Without busy_poll: how long an idle shard sleeps before it looks at its port again, "
            "which a frame may then wait; 0 only yields the core."},
    Setting{
        "dpdk", "driver_args", text_list, optional, "[]", 0, 0, "", start,
        "More arguments for DPDK's EAL, one each, such as \"--log-level=pmd:debug\". What other "
        "settings say cannot be said here."},
    Setting{"dpdk", "file_prefix", text, optional, "\"millrace\"", 0, 0, "", start,
            "Name of DPDK's files. Give a second DPDK program on this machine another one."},

    Setting{"offload", "backend", choice, optional, "\"auto\"", 0, 0,
            "auto|inline|threads|mb8|cryptodev|qatengine", start,
            "What does RSA's private-key operations. auto takes the best there is: a crypto card, "
            "Intel's engine, "
            "libcrypto_mb, threads on spare cores, the shards themselves. Any other is had or "
            "start is refused."},
    Setting{"offload", "workers", integer, optional, "0", 0, 64, "", start,
            "Crypto threads, over all shards. 0: one for each core without a shard, two for each "
            "shard at most, and one of the lowest priority for each shard that is not busy_poll."},
    Setting{"offload", "cores", integer_list, optional, "[]", 0, 4095, "", start,
            "CPU numbers to pin these threads to; without any the kernel places them. Cores of "
            "shards are no "
            "good place."},
    Setting{
        "offload", "device", text, optional, "\"\"", 0, 0, "", start,
        "For cryptodev: the crypto device, as DPDK calls it, such as \"0000:3d:01.0_qat_asym\" or "
        "\"crypto_openssl\"; empty is the first that signs with RSA."},
    Setting{"offload", "engine", path, optional, "\"\"", 0, 0, "", start,
            "For qatengine: the engine's file; empty is where OpenSSL keeps its engines."},

    Setting{"tcp", "congestion", choice, optional, "\"cubic\"", 0, 0, "cubic|new_reno", start,
            "cubic: RFC 9438 with HyStart++. new_reno: RFC 6582, more timid on long, fast paths."},
    Setting{
        "tcp", "ecn", boolean, optional, "true", 0, 0, "", start,
        "Offer and take Explicit Congestion Notification (RFC 3168); off when a middlebox on the "
        "way breaks on it."},
    Setting{"tcp", "initial_window", integer, optional, "10", 1, 64, "", start,
            "Segments sent before the first acknowledgement; RFC 6928 says 10."},
    Setting{"tcp", "receive_buffer_max", size, optional, "\"512KiB\"", 16 * kib, 8 * mib, "", start,
            "Bytes of one connection that are received and not yet read: its largest window."},
    Setting{"tcp", "send_buffer_max", size, optional, "\"256KiB\"", 16 * kib, 64 * mib, "", start,
            "Bytes of one connection that are written and not yet acknowledged. Raise it for fast "
            "receivers far away: it divided by the round-trip time is the highest rate."},
    Setting{"tcp", "keepalive_idle", duration, optional, "\"2m\"", 10, day, "", start,
            "Silence after which the peer is asked whether it is still there (RFC 9293 §3.8.4)."},
    Setting{"tcp", "user_timeout", duration, optional, "\"5m\"", 10, day, "", start,
            "How long data may stay unacknowledged before the connection is given up (RFC 5482)."},
    Setting{"tcp", "time_wait", duration, optional, "\"60s\"", 1, 240, "", start,
            "How long a closed connection's ports rest: twice the longest life of a segment. RFC "
            "9293 §3.4.2 says 4 minutes, Linux 60 s."},
    Setting{"tcp", "connections_max", integer, optional, "1000000", 64, 16'000'000, "", start,
            "Connections of one shard on one port, both ways together. Beyond it new ones are "
            "refused."},

    Setting{"admin", "address", address, optional, "\"127.0.0.1:8000\"", 0, 0, "", start,
            "Where the control process serves /metrics, /status and the API. Loopback only: put a "
            "proxy that authenticates in front to go further."},
    Setting{"admin", "token_file", path, optional, "\"\"", 0, 0, "", start,
            "Where the API's bearer token is written at each start of the control process; empty "
            "is admin.token in run_dir."},

    Setting{"rule", "name", text, required, "\"lottery\"", 0, 0, "", reload,
            "Names the rule in events and replies' logs."},
    Setting{"rule", "pattern", text, required, "'won the lottery'", 0, 0, "", reload,
            "A Hyperscan expression (PCRE without back-references and look-around)."},
    Setting{"rule", "flags", text, optional, "\"\"", 0, 0, "", reload,
            "i: any case. s: dot matches newlines. m: ^ and $ match at lines. u: UTF-8. w: with u, "
            "\\w \\d \\s and case go by Unicode."},
    Setting{"rule", "where", choice, optional, "\"any\"", 0, 0, "header|body|any", reload,
            "What is searched."},
    Setting{"rule", "action", choice, required, "\"reject\"", 0, 0, "reject|defer|tag|score",
            reload,
            "reject: 550. defer: 451. tag: adds a header. score: adds to the message's score "
            "(screen.score_reject)."},
    Setting{"rule", "text", text, optional, "\"\"", 0, 0, "", reload,
            "For reject and defer: what the client is told."},
    Setting{"rule", "header", text, optional, "\"\"", 0, 0, "", reload,
            "For tag: the header's name."},
    Setting{"rule", "value", text, optional, "\"\"", 0, 0, "", reload,
            "For tag: the header's value."},
    Setting{"rule", "score", integer, optional, "0", -1'000'000, 1'000'000, "", reload,
            "For score: what a hit adds; may be negative."},
};

constexpr std::array all_tables{
    SettingTable{"server", "[server]", "The relay as a whole."},
    SettingTable{"listener", "[[listener]]",
                 "Where clients connect; one table each, at least one."},
    SettingTable{"relay", "[relay]", "Who may send without AUTH."},
    SettingTable{"limits", "[limits]", "What a client may do."},
    SettingTable{"timeouts", "[timeouts]", "How long each side waits for the other."},
    SettingTable{"tls", "[tls]",
                 "The relay's own certificate, and whom it trusts. See [TLS](tls.md)."},
    SettingTable{"certificate", "[[certificate]]",
                 "Further certificates, chosen by the name that the client asks for."},
    SettingTable{"dns", "[dns]", "How MX hosts are found."},
    SettingTable{"source", "[[source]]",
                 "An identity to send from. Without any there is one, called \"default\", whose "
                 "address the kernel chooses."},
    SettingTable{"pool", "[[pool]]", "A weighted choice of sources."},
    SettingTable{"pool.members", "members = [{ ... }]",
                 "The members of a [[pool]], each a table in its list `members`."},
    SettingTable{"route", "[[route]]",
                 "Where mail for some domains goes. `[route.shaping]` below it takes the settings "
                 "of a site and overrides them."},
    SettingTable{"site", "[site.default], [site.\"example.com\"]",
                 "How hard a receiver is pushed. A named site takes what it does not say from "
                 "`[site.default]`."},
    SettingTable{"retry", "[retry]", "When a failed attempt is repeated."},
    SettingTable{"screen", "[screen]", "Content screening before the 250."},
    SettingTable{
        "dkim", "[[dkim]]",
        "Who signs which mail. Each table is one key, or one for each of its domains; all that are "
        "for a message sign it. See [DKIM](dkim.md)."},
    SettingTable{"port", "[[port]]",
                 "A network port that Millrace drives itself, through DPDK and its own TCP/IP: for "
                 "listeners and sources with `transport = \"dpdk\"`. Each shard has a queue of "
                 "it. There may be several. See [On DPDK](operating.md#on-dpdk)."},
    SettingTable{"port.routes", "routes = [{ ... }]",
                 "What a [[port]] reaches through routers, each a table in its list `routes`."},
    SettingTable{"dpdk", "[dpdk]", "How DPDK is started. Needed for a [[port]] only."},
    SettingTable{"offload", "[offload]",
                 "Who does the private-key operations: DKIM's RSA signatures. See [Crypto "
                 "offload](offload.md)."},
    SettingTable{
        "tcp", "[tcp]",
        "Our own TCP, for all connections with `transport = \"dpdk\"`; the kernel's has its "
        "own settings (sysctl)."},
    SettingTable{"admin", "[admin]", "The control process's own door."},
    SettingTable{"rule", "[[rule]]",
                 "In the rule file that `screen.rules` names, one table a rule."},
};

} // namespace

std::span<const Setting> settings() noexcept {
    return all_settings;
}
std::span<const SettingTable> setting_tables() noexcept {
    return all_tables;
}

const Setting* find_setting(std::string_view table, std::string_view key) noexcept {
    const auto found =
        std::find_if(all_settings.begin(), all_settings.end(),
                     [&](const Setting& each) { return each.table == table && each.key == key; });
    return found == all_settings.end() ? nullptr : &*found;
}

} // namespace control
