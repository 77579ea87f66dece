#!/usr/bin/env python3
"""postfix_test.py: Postfix hands its mail to us, and takes ours."""
import smtplib
import subprocess

from harness import (BenchSink, Relay, StockSink, any_certificate, bench_source, body_of, expect, expect_equal,
                     free_port, null_sender, run_cases)
from postfix import Postfix

MESSAGE = (b"From: <a@customer.example>\r\nTo: <b@dest.example>\r\nSubject: through two\r\n\r\n"
           b"line one\r\n.a dot\r\n" + b"x" * 900 + b"\r\nlast line\r\n")


def postfix_as_client(folder):
    """relayhost = our port 25; a burst of messages and one with many recipients."""
    sink = StockSink(folder)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}").start()
    port = free_port()
    postfix = Postfix(folder, port, {"relayhost": f"[127.0.0.1]:{relay.relay}", "smtp_tls_security_level": "may"})
    postfix.start()
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            for number in range(40):
                client.sendmail("a@customer.example", [f"b{number}@dest.example"], MESSAGE)
            many = [f"m{number}@dest.example" for number in range(60)]
            expect_equal(client.sendmail("a@customer.example", many, MESSAGE), {}, "refused by Postfix")
        wanted = sorted(many + [f"b{number}@dest.example" for number in range(40)])
        sink.wait_for(41)
        relay.wait_empty()
        arrived = sink.messages()
        expect_equal(sorted(to for envelope, _ in arrived for to in envelope["to"]), wanted, "every recipient once")
        for _, content in arrived:
            expect_equal(body_of(content), body_of(MESSAGE), "the body")
            expect(b"ESMTPS" in content.split(b"\r\n\r\n")[0], "Postfix spoke TLS to us")
        expect_equal(postfix.queued(), 0, "left in Postfix's queue")
    finally:
        postfix.stop()


def postfix_as_destination(folder):
    """Our mail ends in Postfix, which hands it to a sink that checks it: STARTTLS, BDAT, many on one connection."""
    sink = BenchSink(folder)
    port = free_port()
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=postfix.test.example", "-keyout", str(key), "-out", str(certificate)],
                   check=True, capture_output=True)
    postfix = Postfix(folder, port, {
        "relayhost": f"[127.0.0.1]:{sink.port}",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": certificate,
        "smtpd_tls_key_file": key,
        "smtpd_tls_received_header": "yes",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_client_connection_count_limit": "100",
    })
    postfix.start()
    try:
        relay = Relay(folder, smart_host=f"127.0.0.1:{port}").start()
        results = bench_source(folder, relay.relay, "--messages", "500", "--connections", "10", "--recipients", "2",
                               "--size", "600-20000")
        expect_equal(results["accepted"], 500, "accepted by the relay")
        sink.wait_for(1000, 90)
        got = sink.stop()
        expect_equal((got["unique"], got["duplicated"], got["altered"]), (1000, 0, 0), "unique, duplicated, altered")
        expect(relay.stats()["tls_handshakes_out"] > 0, "we spoke TLS to Postfix")
    finally:
        postfix.stop()


def postfix_refusal_becomes_a_bounce(folder):
    """A recipient that Postfix refuses comes back to the sender as a DSN, through the route for the sender."""
    sink = StockSink(folder)
    port = free_port()
    postfix = Postfix(folder, port, {
        "relayhost": f"[127.0.0.1]:{sink.port}",
        "smtpd_recipient_restrictions":
            "check_recipient_access inline:{ {bad@dest.example = REJECT no such user} }, permit_mynetworks, reject",
    })
    postfix.start()
    try:
        relay = Relay(folder, config=(
            f'\n[[route]]\ndomains = ["dest.example"]\nkind = "smart_host"\nhosts = ["127.0.0.1:{port}"]\n'
            f'\n[[route]]\ndefault = true\nkind = "smart_host"\nhosts = ["127.0.0.1:{sink.port}"]\n')).start()
        with smtplib.SMTP("127.0.0.1", relay.relay, timeout=20) as client:
            client.starttls(context=any_certificate())
            client.sendmail("a@customer.example", ["bad@dest.example", "good@dest.example"], MESSAGE)
        arrived = sink.wait_for(2)
        relay.wait_empty()
        expect_equal(len(arrived), 2, "one delivery and one bounce")
        by_recipient = {envelope["to"][0]: (envelope, content) for envelope, content in arrived}
        expect("good@dest.example" in by_recipient, "the good recipient got it")
        envelope, content = by_recipient["a@customer.example"]
        expect(null_sender(envelope), "a DSN has the null sender")
        expect(b"multipart/report" in content and b"bad@dest.example" in content, "a report that names the recipient")
        expect(b"no such user" in content, "a report with the remote reply")
    finally:
        postfix.stop()


if __name__ == "__main__":
    run_cases([
        ("postfix_as_client", postfix_as_client),
        ("postfix_as_destination", postfix_as_destination),
        ("postfix_refusal_becomes_a_bounce", postfix_refusal_becomes_a_bounce),
    ])
