#!/usr/bin/env python3
"""tls_test.py: openssl(1) and Python's ssl as the peers of the relay's TLS, on both its sides."""
import json
import os
import pathlib
import re
import smtplib
import socket
import ssl
import subprocess
import threading
import time

from harness import (HarnessError, Relay, StockSink, expect, expect_equal, free_port, need_tool, run_cases, wait_until)

USER, PASSWORD = "app@customer.example", "Correct-Horse-42-battery"
MESSAGE = ("From: <app@customer.example>\r\nTo: <someone@dest.example>\r\nSubject: interop\r\n"
           "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <tls@customer.example>\r\n\r\nHello\r\n")


def openssl(*arguments, **options):
    done = subprocess.run([need_tool("openssl", "openssl"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, **options)
    return done.stdout + done.stderr


class Authority:
    """A root in the case's folder, and what it issues."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder.path)
        self.root = self.path / "root.pem"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                "-subj", "/CN=interop root", "-keyout", self.path / "root.key", "-out", self.root)

    def issue(self, stem, names, kind="ec"):
        """STEM.pem and STEM.key, each replaced by rename, the key first."""
        names = [names] if isinstance(names, str) else names
        chain, key = self.path / f"{stem}.pem", self.path / f"{stem}.key"
        how = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"]}[kind]
        openssl("req", "-newkey", *how, "-nodes", "-subj", f"/CN={names[0]}", "-keyout", f"{key}.new",
                "-out", f"{chain}.csr")
        extensions = self.path / f"{stem}.ext"
        extensions.write_text("subjectAltName=" + ",".join("DNS:" + name for name in names) + "\n")
        openssl("x509", "-req", "-in", f"{chain}.csr", "-CA", self.root, "-CAkey", self.path / "root.key", "-days",
                "20", "-CAcreateserial", "-extfile", extensions, "-out", f"{chain}.new")
        with open(f"{chain}.new", "a") as out:
            out.write(self.root.read_text())
        os.rename(f"{key}.new", key)
        os.rename(f"{chain}.new", chain)
        return str(chain), str(key)


def s_client(relay, *arguments):
    return openssl("s_client", "-connect", f"127.0.0.1:{relay.submission}", "-starttls", "smtp", *arguments,
                   input="QUIT\r\n")


def served_name(relay, *arguments):
    found = re.search(r"subject=.*?CN ?= ?([^\s,/]+)", s_client(relay, *arguments))
    return found.group(1) if found else "nothing"


def openssl_as_client(folder):
    authority = Authority(folder)
    first = authority.issue("first", "relay.example.com")
    rsa = authority.issue("rsa", "relay.example.com", "rsa")
    other = authority.issue("other", ["*.tenant.example", "tenant.example"])
    relay = Relay(folder, shards=2, smart_host="127.0.0.1:1", config=f'''
[tls]
certificate = "{first[0]}"
key = "{first[1]}"
[[certificate]]
certificate = "{rsa[0]}"
key = "{rsa[1]}"
default = true
[[certificate]]
certificate = "{other[0]}"
key = "{other[1]}"
''').start()
    trusted = ["-CAfile", str(authority.root), "-verify_return_error"]
    for version in ("-tls1_2", "-tls1_3"):
        text = s_client(relay, version, *trusted, "-servername", "relay.example.com", "-verify_hostname",
                        "relay.example.com")
        expect("Verify return code: 0 (ok)" in text, f"{version} verifies ({text[-600:]})")
        expect_equal(served_name(relay, version, "-servername", "a.tenant.example"), "*.tenant.example", "wildcard")
        expect_equal(served_name(relay, version, "-servername", "nobody.example"), "relay.example.com", "default")
        expect("Peer signature type: ECDSA" in text, "ECDSA comes first")
        # TLS 1.3 ties the hash to the curve, so SHA384 serves for the root's signature alone; 1.2 does not.
        only = (["-cipher", "ECDHE-RSA-AES128-GCM-SHA256"] if version == "-tls1_2" else
                ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256:ECDSA+SHA384"])
        text = s_client(relay, version, *trusted, *only, "-servername", "relay.example.com")
        expect("Peer signature type: RSA" in text, f"{version} has RSA for who has nothing else ({text[-400:]})")
    for version in ("-tls1", "-tls1_1"):
        expect("Cipher is (NONE)" in s_client(relay, version, "-cipher", "ALL:@SECLEVEL=0"), f"{version} is refused")
    expect("Cipher is (NONE)" in s_client(relay, "-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES128-SHA:AES128-GCM-SHA256"),
           "suites without forward secrecy or AEAD are refused")
    # Two shards: the sessions of either resume on whichever comes next.
    for version in ("-tls1_2", "-tls1_3"):
        session = str(pathlib.Path(folder.path) / "session")
        hello = "EHLO c.example\r\n" if version == "-tls1_3" else ""
        reused = 0
        command = [need_tool("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{relay.submission}",
                   "-starttls", "smtp", version]
        for attempt in range(8):
            arguments = ["-sess_in", session] if attempt else []
            # Tickets come after the handshake: QUIT ends the connection once they have been read.
            done = subprocess.run(command + arguments + ["-sess_out", session, "-ign_eof"], text=True, timeout=60,
                                  input=hello + "QUIT\r\n", capture_output=True)
            reused += "Reused, " in done.stdout
        expect_equal(reused, 7, f"{version} resumptions over two shards")
    relay.stop()


def python_as_client(folder):
    authority = Authority(folder)
    chain, key = authority.issue("site", "relay.example.com")
    sink = StockSink(folder)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", config=f'''
[tls]
certificate = "{chain}"
key = "{key}"
client_certificates = "request"
client_ca_file = "{authority.root}"
''').start()
    relay.add_account(USER, PASSWORD)
    user_chain, user_key = authority.issue("user", "robot.customer.example")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(authority.root))
        context.minimum_version = context.maximum_version = version
        context.load_cert_chain(user_chain, user_key)
        raw = socket.create_connection(("127.0.0.1", relay.submission), timeout=20)
        plain = raw.makefile("rwb", buffering=0)
        plain.readline()
        plain.write(b"STARTTLS\r\n")
        plain.readline()
        secured = context.wrap_socket(raw, server_hostname="relay.example.com")
        expect_equal(secured.version(), {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3"), "the version")
        lines = secured.makefile("rwb", buffering=0)

        def ask(text):
            lines.write(text.encode() + b"\r\n")
            while True:
                line = lines.readline().decode()
                if line[3:4] != "-":
                    return line

        ask("EHLO client.example")
        if version == ssl.TLSVersion.TLSv1_2:
            expect(ask("AUTH EXTERNAL =").startswith("535"), "a certificate that is no account's is refused")
            relay.ctl("account", "certificates", USER, "name:robot.customer.example")
            listed = json.loads(relay.ctl("--json", "account", "list"))
            expect("name:robot.customer.example" in json.dumps(listed), "the account shows its certificate")
        lines.write(b"QUIT\r\n")
        secured.close()

    def external():
        context = ssl.create_default_context(cafile=str(authority.root))
        context.load_cert_chain(user_chain, user_key)
        with smtplib.SMTP("127.0.0.1", relay.submission, timeout=20) as client:
            client._host = "relay.example.com"  # what smtplib checks the certificate for
            client.starttls(context=context)
            client.ehlo("client.example")
            expect("EXTERNAL" in client.esmtp_features["auth"], "EXTERNAL is offered")
            code, _ = client.docmd("AUTH", "EXTERNAL =")
            if code == 235:
                client.sendmail(USER, ["someone@dest.example"], MESSAGE)
            return code == 235
    wait_until("the account's certificate to log in", external, limit_s=20, every_s=0.5)
    expect_equal(len(sink.wait_for(1)), 1, "messages at the sink")
    relay.stop()


def renewal_without_restart(folder):
    authority = Authority(folder)
    chain, key = authority.issue("site", "one.example.com")
    relay = Relay(folder, shards=2, smart_host="127.0.0.1:1", config=f'''
[tls]
certificate = "{chain}"
key = "{key}"
''').start()
    expect_equal(served_name(relay), "one.example.com", "the first certificate")
    authority.issue("site", "two.example.com")

    def both(name):  # whichever shard answers
        return all(served_name(relay) == name for _ in range(4))
    wait_until("the renewed certificate", lambda: both("two.example.com"), limit_s=30, every_s=0.3)
    pathlib.Path(chain).write_text("not a certificate\n")
    try:
        relay.ctl("cert", "reload")
        raise AssertionError("cert reload took a bad file")
    except HarnessError as refusal:
        expect("site.pem" in str(refusal), f"cert reload names the file ({refusal})")
    expect(both("two.example.com"), "a bad file leaves the old certificate")
    authority.issue("site", "three.example.com")
    wait_until("the mended certificate", lambda: both("three.example.com"), limit_s=30, every_s=0.3)
    listed = json.loads(relay.ctl("--json", "cert", "list"))["certificates"]
    expect_equal(listed[0]["names"], ["three.example.com"], "cert list")
    expect("three.example.com" in relay.ctl("cert", "check", chain, key, "--name", "three.example.com"), "cert check")
    relay.stop()


class TlsSink(threading.Thread):
    """An MX host on Python's ssl: takes everything, remembers how it came."""

    def __init__(self, chain, key, version=None):
        super().__init__(daemon=True)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version is not None:
            self.context.minimum_version = self.context.maximum_version = version
        self.context.load_cert_chain(chain, key)
        self.listener = socket.create_server(("127.0.0.1", free_port()))
        self.port = self.listener.getsockname()[1]
        self.sessions, self.messages = [], []
        self.start()

    def run(self):
        while True:
            raw, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(raw,), daemon=True).start()

    def serve(self, raw):
        try:
            self.converse(raw)
        except OSError:
            self.sessions.append("failed")

    def converse(self, raw):
        lines = raw.makefile("rwb", buffering=0)
        lines.write(b"220 mx.dest.example\r\n")
        secured = None
        while line := lines.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                lines.write(b"250 mx\r\n" if secured else b"250-mx\r\n250 STARTTLS\r\n")
            elif verb == b"STAR":
                lines.write(b"220 go\r\n")
                secured = self.context.wrap_socket(raw, server_side=True)
                self.sessions.append((secured.version(), secured.session_reused))
                lines = secured.makefile("rwb", buffering=0)
            elif verb == b"DATA":
                lines.write(b"354 go\r\n")
                while (text := lines.readline()) != b".\r\n":
                    if not text:
                        return
                self.messages.append(secured is not None)
                lines.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                lines.write(b"221 bye\r\n")
                return
            else:
                lines.write(b"250 ok\r\n")


def python_as_mail_host(folder):
    authority = Authority(folder)
    chain, key = authority.issue("mx", "localhost")
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        sink = TlsSink(chain, key, version)
        # The harness's text ends in [site.default].
        relay = Relay(pathlib.Path(folder.path) / name, config=f'''tls = "verify"
idle = "1s"
[[route]]
default = true
kind = "smart_host"
hosts = ["localhost:{sink.port}"]
[tls]
ca_file = "{authority.root}"
''').start()
        relay.add_account(USER, PASSWORD)
        for round_number in range(3):
            with smtplib.SMTP("127.0.0.1", relay.submission, timeout=20) as client:
                client.starttls()
                client.login(USER, PASSWORD)
                client.sendmail(USER, ["someone@dest.example"], MESSAGE)
            wait_until("delivery", lambda: len(sink.messages) > round_number, limit_s=30)
            time.sleep(1.5)  # past the site's idle time: the next one shakes hands again
        expect_equal(sink.messages, [True] * 3, f"{name}: all under TLS")
        expect_equal([session[0] for session in sink.sessions], [name] * 3, "the version")
        expect_equal([session[1] for session in sink.sessions], [False, True, True], f"{name}: resumed")
        events = [json.loads(line) for line in (relay.folder / "state" / "events.jsonl").read_text().splitlines()]
        delivered = [event for event in events if event["type"] == "Delivery"]
        expect_equal([event["tls_verify"] for event in delivered], ["ca"] * 3, "tls_verify")
        expect_equal([event["tls_level"] for event in delivered], ["verify"] * 3, "tls_level")
        expect_equal([event["tls_resumed"] for event in delivered], [False, True, True], "tls_resumed")
        expect(all(event["tls_group"] for event in delivered), "tls_group")
        relay.stop()


if __name__ == "__main__":
    run_cases([(case.__name__, case) for case in (openssl_as_client, python_as_client, renewal_without_restart,
                                                python_as_mail_host)])
