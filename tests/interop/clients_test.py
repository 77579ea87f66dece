#!/usr/bin/env python3
"""clients_test.py: swaks, smtplib and curl as clients, on every listener; who may relay and who may not."""
import pathlib
import smtplib
import subprocess

from harness import (Relay, StockSink, any_certificate, body_of, expect, expect_equal, need_tool, run_cases)

USER, PASSWORD = "app@customer.example", "Correct-Horse-42-battery"
MESSAGE = (b"From: <app@customer.example>\r\nTo: <someone@dest.example>\r\nSubject: interop\r\n"
           b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <interop@customer.example>\r\n\r\n"
           b"First line\r\n.dot first\r\n..two dots\r\n\r\nlast: caf\xc3\xa9\r\n")


def surroundings(folder):
    sink = StockSink(folder)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}").start()
    relay.add_account(USER, PASSWORD)
    return relay, sink


def check_one(sink, recipients, body=body_of(MESSAGE)):
    arrived = sink.wait_for(1)
    expect_equal(len(arrived), 1, "messages at the sink")
    envelope, content = arrived[0]
    expect_equal(envelope["to"], recipients, "recipients")
    expect_equal(body_of(content), body, "the body")
    expect(content.startswith(b"Received: "), "the relay adds Received on top")


def swaks_submission(folder):
    swaks = need_tool("swaks", "swaks")
    relay, sink = surroundings(folder)
    path = pathlib.Path(folder.path) / "message.eml"
    path.write_bytes(MESSAGE)
    done = subprocess.run(
        [swaks, "--server", "127.0.0.1", "--port", str(relay.submission), "--tls", "--auth", "PLAIN",
         "--auth-user", USER, "--auth-password", PASSWORD, "--from", USER, "--to", "someone@dest.example",
         "--data", f"@{path}", "--timeout", "20", "--helo", "swaks.test.example"],
        capture_output=True, text=True, timeout=60)
    expect_equal(done.returncode, 0, f"swaks ({done.stdout[-1500:]})")
    expect("TLS started" in done.stdout, "swaks spoke TLS")
    check_one(sink, ["someone@dest.example"], body_of(MESSAGE) + b"\r\n")  # swaks adds a line end of its own


def swaks_submissions_with_login(folder):
    swaks = need_tool("swaks", "swaks")
    relay, sink = surroundings(folder)
    path = pathlib.Path(folder.path) / "message.eml"
    path.write_bytes(MESSAGE)
    done = subprocess.run(
        [swaks, "--server", "127.0.0.1", "--port", str(relay.submissions), "--tls-on-connect", "--auth", "LOGIN",
         "--auth-user", USER, "--auth-password", PASSWORD, "--from", USER, "--to", "someone@dest.example",
         "--data", f"@{path}", "--timeout", "20", "--pipeline"],
        capture_output=True, text=True, timeout=60)
    expect_equal(done.returncode, 0, f"swaks ({done.stdout[-1500:]})")
    check_one(sink, ["someone@dest.example"], body_of(MESSAGE) + b"\r\n")  # swaks adds a line end of its own


def smtplib_many_recipients(folder):
    relay, sink = surroundings(folder)
    recipients = [f"r{i}@d{i % 3}.example" for i in range(30)]
    with smtplib.SMTP("127.0.0.1", relay.submission, timeout=20) as client:
        client.starttls(context=any_certificate())
        client.login(USER, PASSWORD)
        refused = client.sendmail(USER, recipients, MESSAGE, mail_options=["BODY=8BITMIME"])
    expect_equal(refused, {}, "refused recipients")
    arrived = sink.wait_for(1)
    relay.wait_empty(20)
    arrived = sink.messages()
    got = sorted(recipient for envelope, _ in arrived for recipient in envelope["to"])
    expect_equal(got, sorted(recipients), "every recipient once")
    for _, content in arrived:
        expect_equal(body_of(content), body_of(MESSAGE), "the body")


def smtplib_many_messages_on_one_connection(folder):
    relay, sink = surroundings(folder)
    with smtplib.SMTP_SSL("127.0.0.1", relay.submissions, timeout=20, context=any_certificate()) as client:
        client.login(USER, PASSWORD)
        for number in range(50):
            client.sendmail(USER, [f"r{number}@dest.example"], MESSAGE + b"number %d\r\n" % number)
    arrived = sink.wait_for(50)
    expect_equal(sorted(envelope["to"][0] for envelope, _ in arrived),
                 sorted(f"r{number}@dest.example" for number in range(50)), "recipients")


def curl_submission(folder):
    curl = need_tool("curl", "curl")
    relay, sink = surroundings(folder)
    path = pathlib.Path(folder.path) / "message.eml"
    path.write_bytes(MESSAGE)
    for port, scheme in ((relay.submission, "smtp"), (relay.submissions, "smtps")):
        before = sink.count()
        done = subprocess.run(
            [curl, "--silent", "--show-error", "--ssl-reqd", "--insecure", "--user", f"{USER}:{PASSWORD}",
             "--mail-from", USER, "--mail-rcpt", "someone@dest.example", "--upload-file", str(path),
             "--max-time", "30", f"{scheme}://127.0.0.1:{port}/client.test.example"],
            capture_output=True, text=True, timeout=60)
        expect_equal(done.returncode, 0, f"curl to {scheme} ({done.stderr})")
        arrived = sink.wait_for(before + 1)
        expect_equal(body_of(arrived[before][1]), body_of(MESSAGE), "the body")


def listed_network_relays_without_auth(folder):
    relay, sink = surroundings(folder)
    with smtplib.SMTP("127.0.0.1", relay.relay, timeout=20, source_address=("127.0.0.2", 0)) as client:
        client.sendmail("a@customer.example", ["someone@dest.example"], MESSAGE)
    check_one(sink, ["someone@dest.example"])


def nobody_else_relays(folder):
    """Every listener, from a listed and an unlisted address, with and without TLS, no or wrong AUTH."""
    relay, sink = surroundings(folder)
    tried = 0
    for port in (relay.submission, relay.submissions, relay.relay):
        for source in ("127.0.0.1", "127.0.0.9"):
            for tls in (False, True):
                for login in (None, ("nobody", PASSWORD), (USER, "wrong"), (USER, "")):
                    if port == relay.relay and source == "127.0.0.1":
                        continue  # allowed, whatever its AUTH: listed_network_relays_without_auth
                    if port == relay.submissions and not tls:
                        continue  # there is no plain text to speak
                    if login is not None and tls and source == "127.0.0.1":
                        continue  # the other address asks the same; failures are slow on purpose
                    tried += 1
                    refused = attempt(port, source, tls, login, implicit=port == relay.submissions)
                    expect(refused, f"port {port} from {source}, TLS {tls}, login {login}: mail was taken")
    expect(tried >= 15, "the table was walked")
    expect_equal(sink.count(), 0, "messages at the sink")


def attempt(port, source, tls, login, implicit):
    """Whether the relay refused a message offered this way."""
    made = smtplib.SMTP_SSL if implicit else smtplib.SMTP
    options = {"context": any_certificate()} if made is smtplib.SMTP_SSL else {}
    client = made("127.0.0.1", port, timeout=30, source_address=(source, 0), **options)
    try:
        if tls and made is smtplib.SMTP:
            client.starttls(context=any_certificate())
        client.ehlo()
        if login is not None:
            try:
                client.user, client.password = login
                client.auth("PLAIN", client.auth_plain)
                return False
            except smtplib.SMTPException:
                pass
        client.sendmail("a@customer.example", ["someone@dest.example"], MESSAGE)
        return False
    except smtplib.SMTPException:
        return True
    finally:
        client.close()


if __name__ == "__main__":
    run_cases([
        ("swaks_submission", swaks_submission),
        ("swaks_submissions_with_login", swaks_submissions_with_login),
        ("smtplib_many_recipients", smtplib_many_recipients),
        ("smtplib_many_messages_on_one_connection", smtplib_many_messages_on_one_connection),
        ("curl_submission", curl_submission),
        ("listed_network_relays_without_auth", listed_network_relays_without_auth),
        ("nobody_else_relays", nobody_else_relays),
    ])
