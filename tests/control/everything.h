// everything.h: a configuration that says every setting, and a rule file.
#pragma once

#include <string_view>

namespace tests {

// Every setting has a value here that is not its default, so that a field left out cannot pass
// unseen. What cannot stand beside the others, and what came later, is in policy_keys_test.cc.
inline constexpr std::string_view everything = R"(
[server]
hostname = "Relay.Example.com"
shards = 2
cpus = [3, 1]
state_dir = "/tmp/s"
run_dir = "/tmp/r"
spool_dir = "/tmp/q"
spool_size = "256MiB"
segment_size = "16MiB"
memory = "32MiB"
event_log = "/tmp/e.jsonl"
busy_poll = false
bare_newline = "normalise"
[dpdk]
hugepages = false
memory_mb = 99
idle_sleep_us = 7
busy_poll = false
driver_args = ["--log-level=8"]
file_prefix = "mill"
[[port]]
name = "wan"
device = "net_tap0,iface=x"
addresses = ["192.0.2.1/24", "2001:db8::1/64", "192.0.2.3/32"]
vlan = 7
mtu = 1400
routes = [{ to = "0.0.0.0/0", gateway = "192.0.2.254" }, { to = "2001:db8:1::/48", gateway = "fe80::1" }]
[[port]]
name = "lan"
device = "3b:00.0"
addresses = ["198.51.100.1/31"]
[tcp]
congestion = "new_reno"
ecn = false
initial_window = 3
receive_buffer_max = "64KiB"
send_buffer_max = "32KiB"
keepalive_idle = "61s"
user_timeout = "62s"
time_wait = "63s"
connections_max = 64000
[offload]
backend = "threads"
workers = 3
cores = [5, 6]
[[listener]]
name = "l1"
address = "127.0.0.1:2525"
kind = "relay"
proxy_protocol = true
allow_plain_auth = true
connections_max = 17
[[listener]]
name = "l2"
address = "[2001:db8::1]:465"
kind = "submissions"
transport = "dpdk"
[relay]
networks = ["127.0.0.1", "2001:db8::/32"]
proxy_networks = ["10.0.0.0/8"]
[limits]
message_size = "1MiB"
recipients_max = 101
errors_max = 2
messages_per_session_max = 3
connections_per_client_max = 4
auth_failures_max = 5
received_headers_max = 16
[timeouts]
command = "11s"
data_block = "12s"
tls_handshake = "13s"
session_max = "74s"
connect = "15s"
greeting = "16s"
helo = "17s"
mail = "18s"
rcpt = "19s"
data_init = "20s"
data_send = "21s"
data_done = "22s"
idle = "23s"
[tls]
certificate = "CERT"
key = "CERT"
ca_file = "CERT"
crl_file = "CERT"
preset = "modern"
ocsp = "ocsp.der"
client_certificates = "request"
client_ca_file = "CERT"
client_crl_file = "CERT"
openssl_relief = "off"
[[certificate]]
certificate = "CERT"
key = "CERT"
names = ["*.MAIL.example"]
default = true
[dns]
servers = ["127.0.0.1@5353"]
resolver_threads = 2
dnssec = true
[[source]]
name = "s1"
address_v4 = "192.0.2.1"
address_v6 = "2001:db8::1"
helo_name = "out.example.com"
transport = "dpdk"
[[source]]
name = "s2"
[[pool]]
name = "p1"
members = [{ source = "s2", weight = 9 }, { source = "s1" }]
[[route]]
default = true
kind = "smart_host"
hosts = ["hub.example:26", "mx:b.example"]
port = 27
source = "p1"
[route.shaping]
connections_max = 1
messages_per_connection_max = 2
recipients_per_message_max = 3
message_rate = "240/min"
idle = "5m"
tls = "verify"
pipelining = false
chunking = false
[[route]]
domains = ["Drop.example", ".all.example"]
kind = "discard"
[site.default]
connections_max = 31
tls = "none"
[site."big.example"]
messages_per_connection_max = 32
[retry]
first = "41s"
factor = 3.5
interval_max = "42m"
jitter = 0.125
expiry = "43h"
delay_notice = "44m"
site_pause_first = "45s"
site_pause_max = "46m"
[screen]
rules = "RULES"
score_reject = 47
)";

inline constexpr std::string_view rules = R"(
[[rule]]
name = "r1"
pattern = 'bad'
where = "header"
action = "tag"
header = "X-Tag"
value = "yes"
[[rule]]
name = "r2"
pattern = 'worse'
where = "body"
action = "score"
score = -3
[[rule]]
name = "r3"
pattern = 'worst'
flags = "i"
action = "defer"
text = "later"
)";

} // namespace tests
