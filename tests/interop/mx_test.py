#!/usr/bin/env python3
"""mx_test.py: routing by MX through a real name server (NSD) with a small zone on loopback."""
import pathlib
import smtplib
import subprocess

from harness import (Process, Relay, StockSink, expect, expect_equal, free_port, need_tool, null_sender,
                     run_cases, wait_until)

MESSAGE = (b"From: <a@customer.example>\r\nTo: <b@dest.example>\r\nSubject: by MX\r\n\r\nhello\r\n")

# 127.0.0.21 has a sink; nobody listens on 127.0.0.20 and 127.0.0.29.
ZONE = """\
$ORIGIN example.
$TTL 60
@         IN SOA  ns hostmaster 1 3600 600 86400 60
@         IN NS   ns
ns        IN A    127.0.0.1
good      IN MX   10 mx-good
mx-good   IN A    127.0.0.21
fallback  IN MX   10 mx-dead
fallback  IN MX   20 mx-good
mx-dead   IN A    127.0.0.20
twoaddr   IN MX   10 mx-two
mx-two    IN A    127.0.0.29
mx-two    IN A    127.0.0.21
implicit  IN A    127.0.0.21
nullmx    IN MX   0  .
nullmx    IN A    127.0.0.21
dangling  IN MX   10 nowhere
customer  IN MX   10 mx-good
cname     IN CNAME good
"""


def start_nsd(folder):
    nsd = need_tool("nsd", "nsd")
    port = free_port()
    (folder / "example.zone").write_text(ZONE)
    config = folder / "nsd.conf"
    config.write_text(
        f'server:\n  ip-address: 127.0.0.1@{port}\n  username: ""\n  zonesdir: "{folder.path}"\n'
        f'  database: ""\n  pidfile: "{folder.path}/nsd.pid"\n  xfrdfile: "{folder.path}/xfrd.state"\n'
        f'  zonelistfile: "{folder.path}/zone.list"\n  xfrdir: "{folder.path}"\n  server-count: 1\n'
        f'remote-control:\n  control-enable: no\nzone:\n  name: example\n  zonefile: example.zone\n')
    process = Process("nsd", [nsd, "-d", "-c", str(config)], folder.path)
    wait_until("NSD", lambda: process.must_run() and "nsd started" in pathlib.Path(process.log).read_text(), 20)
    return port


def surroundings(folder):
    """A relay that resolves through NSD, and a sink on 127.0.0.21, the port all MX hosts share here."""
    dns = start_nsd(folder)
    sink = StockSink(folder, host="127.0.0.21")
    relay = Relay(folder, config=(f'\n[dns]\nservers = ["127.0.0.1@{dns}"]\n'
                                  f'\n[[route]]\ndefault = true\nkind = "mx"\nport = {sink.port}\n')).start()
    return relay, sink


def submit(relay, recipient):
    with smtplib.SMTP("127.0.0.1", relay.relay, timeout=20) as client:
        client.sendmail("a@customer.example", [recipient], MESSAGE)


def mail_follows_the_mx(folder):
    """Plain MX, preference fallback, second address, implicit MX, a CNAME's target: all end at the sink."""
    relay, sink = surroundings(folder)
    domains = ["good", "fallback", "twoaddr", "implicit", "cname"]
    for domain in domains:
        submit(relay, f"b@{domain}.example")
    arrived = sink.wait_for(len(domains), 40)
    relay.wait_empty(20)
    got = sorted(to for envelope, _ in arrived for to in envelope["to"])
    expect_equal(got, sorted(f"b@{domain}.example" for domain in domains), "recipients at the sink")


def domains_that_take_no_mail_bounce(folder):
    """A null MX (RFC 7505) and a domain that does not exist: a DSN to the sender, and no delivery to the A record."""
    relay, sink = surroundings(folder)
    for domain in ("nullmx", "nosuchdomain"):
        submit(relay, f"b@{domain}.example")
    arrived = sink.wait_for(2, 40)
    relay.wait_empty(20)
    for envelope, content in arrived:
        expect_equal(envelope["to"], ["a@customer.example"], "the DSN's recipient")
        expect(null_sender(envelope), "the DSN's sender")
        expect(b"message/delivery-status" in content, "a delivery report")
    statuses = b"".join(content for _, content in arrived)
    expect(b"5.1.10" in statuses, "the null MX's status is 5.1.10 (RFC 7505 section 4.2)")


if __name__ == "__main__":
    run_cases([
        ("mail_follows_the_mx", mail_follows_the_mx),
        ("domains_that_take_no_mail_bounce", domains_that_take_no_mail_bounce),
    ])
