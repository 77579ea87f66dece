#!/usr/bin/env python3
"""tcp_linux_test.py: our TCP/IP stack against Linux's, over AF_PACKET, AF_XDP and TAP, in a network namespace.

The kernel's end is millrace-bench on kernel sockets where many connections are needed, and Python's sockets where the
content is looked at. What passes the kernel's interface is captured, and tshark's expert must find nothing wrong in
what we sent. Random content is drawn anew each time: a failing case names what it saw.
"""
import errno
import json
import os
import selectors
import socket
import threading
import time

from harness import HarnessError, binary, expect, expect_equal, run_cases, wait_until
from wire import (FAMILY, FAR, LINUX, OURS, PORT, PORTS, RESENT, RESET, WAITING, Capture, Wire, linux_client,
                  linux_server, need_namespaces, run)

MIB = 1 << 20
BULK_PERIOD = 32768  # net_cases.cc, NetClient
BULK = bytes((ord("C") + i % 251) % 256 for i in range(BULK_PERIOD))


# Linux's end in Python

def connect(version, server=None, port=PORT, limit_s=20.0, user_timeout_ms=None, receive_buffer=None):
    sock = socket.socket(FAMILY[version], socket.SOCK_STREAM)
    sock.settimeout(limit_s)
    if user_timeout_ms is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((server or OURS[version], port))
    return sock


class Listening:
    """Linux sockets listening on all the ports a client of ours goes round."""

    def __init__(self, version, address=None, ports=PORTS, receive_buffer=None):
        self.selector = selectors.DefaultSelector()
        self.sockets = []
        for port in ports:
            sock = socket.socket(FAMILY[version], socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((address or LINUX[version], port))
            sock.listen(512)
            self.sockets.append(sock)
            self.selector.register(sock, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.selector.close()
        for sock in self.sockets:
            sock.close()

    def accept(self, limit_s=20.0):
        ready = self.selector.select(limit_s)
        if not ready:
            raise HarnessError(f"no connection of ours within {limit_s:g} s")
        sock = ready[0][0].fileobj.accept()[0]
        sock.settimeout(20)
        return sock


def read_all(sock):
    """Until the peer's FIN."""
    pieces = []
    while piece := sock.recv(1 << 18):
        pieces.append(piece)
    return b"".join(pieces)


def read_exactly(sock, count):
    pieces = []
    while count > 0:
        piece = sock.recv(min(count, 1 << 18))
        expect(piece, "the connection ended early")
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def same_bytes(got, wanted, what):
    if got == wanted:
        return
    at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
    raise AssertionError(f"{what}: {len(got)} bytes of {len(wanted)}, the first wrong one at {at}")


def question(size):
    """E asks our server for an echo; the rest is random."""
    return b"E" + os.urandom(size - 1)


def echo_through(sock, size, pause_s=0.0, what="echo"):
    """Sends, says that this was all, and reads what comes back; with a pause before the reading."""
    content = question(size)
    failed = []

    def send():
        try:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            failed.append(error)
    sender = threading.Thread(target=send)
    sender.start()
    try:
        time.sleep(pause_s)
        got = read_all(sock)
    finally:
        sender.join(30)
    expect(not failed, f"{what}: sending: {failed}")
    same_bytes(got, content, what)


def read_bulk(sock, size):
    """Of our bulk client, whose payload stays in its slabs until it has left."""
    got = read_exactly(sock, size)
    same_bytes(got, (BULK * (size // BULK_PERIOD + 1))[:size], "bulk from us")


# Cases

def serves(device, version):
    """Our stack as the server: short connections, request and response, bulk both ways with its content."""
    def case(folder):
        with Wire(device) as wire:
            server = wire.our_server(folder, version)
            with Capture(folder) as capture:
                for _ in range(50):
                    with connect(version) as sock:
                        sock.sendall(b"A" * 600)
                        same_bytes(read_all(sock), b"A" * 600, "short")
                with connect(version) as sock:
                    for _ in range(200):
                        sock.sendall(b"B" * 600)
                        same_bytes(read_exactly(sock, 600), b"B" * 600, "request")
                with connect(version) as sock:
                    echo_through(sock, 4 * MIB)
            for kind in ("short", "request"):
                client = linux_client(folder, version, kind, "--connections", "16", "--time-ms", "400",
                                      name=f"linux-{kind}")
                results = client.end()
                expect_equal(results["failed"], 0, f"{kind}: failed")
                expect(results["exchanges"] > 100, f"{kind}: {results['exchanges']} exchanges")
            expect_equal(server.stop(), 0, "our server's status")
            capture.must_be_clean(*WAITING, frames_min=1000)
    return case


def opens(device, version):
    """Our stack as the client: short connections, request and response, bulk both ways with its content."""
    def case(folder):
        with Wire(device) as wire:
            server = linux_server(folder, version)
            for kind in ("short", "request"):
                client = wire.our_client(folder, version, kind, "--connections", "16", "--time-ms", "400",
                                         name=f"our-{kind}")
                results = client.end()
                expect_equal(results["failed"], 0, f"{kind}: failed")
                expect(results["exchanges"] > 100, f"{kind}: {results['exchanges']} exchanges")
        with Wire(device) as wire, Listening(version) as listening, Capture(folder) as capture:
            client = wire.our_client(folder, version, "bulk", "--connections", "1")
            with listening.accept() as sock:
                read_bulk(sock, 4 * MIB)
                client.stop()  # before our end closes: it would open anew
            client = wire.our_client(folder, version, "echo", "--connections", "1")
            for size in (600, 4 * MIB):
                with listening.accept() as sock:
                    echo_through(sock, size)
        capture.must_be_clean(*WAITING, *RESET, frames_min=1000)
    return case


def ten_thousand_at_our_server(folder):
    """10,000 connections that Linux opened; every one of them is there, and the next is answered as the first was."""
    with Wire("net_af_packet") as wire:
        server = wire.our_server(folder, 4)
        client = linux_client(folder, 4, "idle", "--connections", "10000", "--time-ms", "100")
        expect_equal(client_settled(client), 0, "failed")
        wait_until("10,000 at our server", lambda: server.tally()["open"] == 10000, 20, 0.2)
        with connect(4) as sock:
            echo_through(sock, MIB)
        client.kill()  # 10,000 resets at once
        with connect(4) as sock:
            echo_through(sock, MIB)


def ten_thousand_at_linux(folder):
    """10,000 connections that we opened."""
    with Wire("net_af_packet") as wire:
        server = linux_server(folder, 4)
        client = wire.our_client(folder, 4, "idle", "--connections", "10000", "--time-ms", "100")
        expect_equal(client_settled(client), 0, "failed")
        wait_until("10,000 at Linux", lambda: server.tally()["open"] == 10000, 20, 0.2)
        client.must_run()
        server.kill()
        server = linux_server(folder, 4)
        client.must_run()


def client_settled(client):
    """How many failed, with the client still holding the others."""
    return json.loads(client.wait_for("end", 60))["failed"]


def bad_line(version, *line, size=2 * MIB):
    """Loss, reordering and duplicates both ways: every byte arrives, whoever opened."""
    def case(folder):
        with Wire("net_af_packet") as wire:
            with Capture(folder) as capture:
                server = wire.our_server(folder, version, *line)
                for _ in range(10):
                    with connect(version) as sock:
                        echo_through(sock, 3000)
                with connect(version) as sock:
                    echo_through(sock, size)
                server.stop()
                with Listening(version) as listening:
                    client = wire.our_client(folder, version, "bulk", "--connections", "1", *line)
                    with listening.accept() as sock:
                        read_bulk(sock, size)
                        client.stop()
            capture.must_be_clean(*RESENT, *RESET)
    return case


def bulk_each_way(folder, version, wire):
    """Bulk both ways, whoever opened."""
    server = wire.our_server(folder, version)
    with connect(version) as sock:
        echo_through(sock, MIB)
    server.stop()
    with Listening(version) as listening:
        client = wire.our_client(folder, version, "bulk", "--connections", "1")
        with listening.accept() as sock:
            read_bulk(sock, MIB)
            client.stop()


def interface_mtu(folder):
    """Linux's interface carries 1400: its MSS says so and we keep to it."""
    for version in (4, 6):
        with Wire("net_af_packet") as wire:
            run("ip", "link", "set", "kernel0", "mtu", "1400")
            with Capture(folder, name=f"capture-{version}") as capture:
                bulk_each_way(folder, version, wire)
            expect(largest_packet(capture, version) <= 1400, "no packet of ours is longer than 1400")
            capture.must_be_clean(*RESET)


def route_mtu(folder):
    """Linux's route to us has an MTU of 1280."""
    for version in (4, 6):
        with Wire("net_af_packet") as wire:
            prefix = {4: "10.77.0.1/32", 6: "fd77::1/128"}[version]
            run("ip", f"-{version}", "route", "add", prefix, "dev", "kernel0", "mtu", "1280")
            with Capture(folder, name=f"capture-{version}") as capture:
                bulk_each_way(folder, version, wire)
            capture.must_be_clean(*RESET)


def largest_packet(capture, version):
    """IP bytes of the longest that we sent with TCP."""
    fields = {4: ("ip.src", "ip.len"), 6: ("ipv6.src", "ipv6.plen")}[version]
    ours = f"tcp && !icmp && !icmpv6 && {fields[0]} == {OURS[version]}"
    text = run(capture.tshark, "-n", "-r", str(capture.file), "-Y", ours, "-T", "fields", "-e", fields[1])
    return max(int(line) for line in text.split()) + (40 if version == 6 else 0)


def path_mtu_told(folder):
    """A router on the way says Packet Too Big: we go on with 1280, and lose nothing but the first."""
    for version in (4, 6):
        with Wire("net_af_packet") as wire:
            wire.add_far_host(1280)
            with Capture(folder, name=f"capture-{version}") as capture:
                with wire.at_far_host():
                    listening = Listening(version, FAR[version])
                with listening:
                    client = wire.our_client(folder, version, "bulk", "--connections", "1", server=FAR[version])
                    with listening.accept() as sock:
                        read_bulk(sock, MIB)
                        client.stop()
                server = wire.our_server(folder, version)
                with wire.at_far_host():
                    sock = connect(version)
                with sock:
                    echo_through(sock, MIB)
            expect(largest_packet(capture, version) > 1280, "we began with more than the path carries")
            capture.must_be_clean(*RESENT, *RESET)


def path_mtu_untold(folder):
    """A line on the way drops what is longer than 1400, without a word: found out by what never arrives."""
    for version in (4, 6):
        with Wire("net_af_packet") as wire:
            wire.add_far_host(1400, told=False)
            with Capture(folder, name=f"capture-{version}") as capture:
                with wire.at_far_host():
                    listening = Listening(version, FAR[version])
                with listening:
                    client = wire.our_client(folder, version, "bulk", "--connections", "1", server=FAR[version])
                    with listening.accept() as sock:
                        read_bulk(sock, MIB)
                        client.stop()
            expect(largest_packet(capture, version) > 1400, "we began with more than the path carries")
            capture.must_be_clean(*RESENT, *RESET)


def zero_window_at_our_server(folder):
    """A reader that pauses for 3 s, with small buffers: both ends tell the other to wait, and go on."""
    with Wire("net_af_packet") as wire:
        wire.our_server(folder, 4)
        with Capture(folder) as capture:
            with connect(4, receive_buffer=8192) as sock:
                echo_through(sock, 4 * MIB, pause_s=3.0)
        capture.must_be_clean(*WAITING, *RESENT)


def zero_window_at_our_client(folder):
    """The same where we opened, and the reader is Linux's server."""
    with Wire("net_af_packet") as wire, Listening(4, receive_buffer=8192) as listening, Capture(folder) as capture:
        wire.our_client(folder, 4, "bulk", "--connections", "1")
        with listening.accept() as sock:
            time.sleep(3.0)
            read_bulk(sock, 2 * MIB)
    capture.must_be_clean(*WAITING, *RESENT, *RESET)


def half_close_by_linux(folder):
    """Linux says that it has said all, before we answer: the answer comes whole, and then our end."""
    with Wire("net_af_packet") as wire:
        wire.our_server(folder, 4)
        with Capture(folder) as capture:
            for size in (1, 600, 100_000):
                with connect(4) as sock:
                    content = question(size)
                    sock.sendall(content)
                    sock.shutdown(socket.SHUT_WR)
                    time.sleep(0.1)
                    same_bytes(read_all(sock), content, "the answer after Linux's FIN")
            with connect(4) as sock:  # in the other half, much more comes than fits any buffer
                echo_through(sock, 8 * MIB, pause_s=0.5)
        capture.must_be_clean(*WAITING)


def half_close_by_us(folder):
    """We say that we have said all: what Linux sends afterwards, 2 MiB of it, still arrives."""
    with Wire("net_af_packet") as wire, Listening(4) as listening, Capture(folder) as capture:
        client = wire.our_client(folder, 4, "half_close", "--connections", "1", "--time-ms", "2000")
        for _ in range(2):
            with listening.accept() as sock:
                same_bytes(read_all(sock), b"E" * 600, "what we sent before our FIN")
                sock.sendall(os.urandom(MIB))
                time.sleep(0.2)
                sock.sendall(os.urandom(MIB))
        results = client.end()
        expect_equal((results["exchanges"], results["bytes"]), (2, 4 * MIB), "good ends and bytes that our client saw")
    capture.must_be_clean(*WAITING, *RESET)


def error_of(sock, limit_s):
    """What a connection whose peer is gone ends with, while something is sent on it now and then."""
    end = time.monotonic() + limit_s
    sock.settimeout(0.2)
    while time.monotonic() < end:
        try:
            sock.send(b"B")
            if not sock.recv(1000):
                return 0  # a FIN
        except TimeoutError as error:
            if error.errno == errno.ETIMEDOUT:
                return errno.ETIMEDOUT
        except OSError as error:
            return error.errno
    raise AssertionError(f"nothing within {limit_s:g} s")


def our_server_killed(folder):
    """kill -9: Linux's connections time out while nobody is there, or are reset by our next process, which serves."""
    with Wire("net_af_packet") as wire:
        server = wire.our_server(folder, 4)
        patient = [connect(4) for _ in range(20)]
        for sock in patient:
            sock.sendall(b"B" * 600)
            same_bytes(read_exactly(sock, 600), b"B" * 600, "request")
        hasty = connect(4, user_timeout_ms=2000)
        hasty.sendall(b"B" * 600)
        read_exactly(hasty, 600)
        server.kill()
        with hasty:
            expect(error_of(hasty, 15) in (errno.ETIMEDOUT, errno.EHOSTUNREACH), "timed out or unreachable")
        wire.our_server(folder, 4, name="our-next-server")
        for sock in patient:
            with sock:
                expect_equal(error_of(sock, 15), errno.ECONNRESET, "the end of a connection of the dead process")
        with connect(4) as sock:
            echo_through(sock, MIB)


def our_client_killed(folder):
    """kill -9: Linux finds out by keepalive, and takes our next process's connections."""
    with Wire("net_af_packet") as wire, Listening(4) as listening:
        client = wire.our_client(folder, 4, "echo", "--connections", "1")
        with listening.accept() as sock:
            sock.sendall(b"E" * 600)
            read_exactly(sock, 600)
            for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2)):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            client.kill()
            try:
                sock.settimeout(15)
                raise AssertionError(f"came from a dead client: {sock.recv(1)!r}")
            except OSError as error:
                expect(error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH), f"timed out or unreachable, not {error}")
        wire.our_client(folder, 4, "echo", "--connections", "1", name="our-next-client")
        with listening.accept() as sock:
            echo_through(sock, MIB)


def linux_client_killed(folder):
    """kill -9 in the midst of requests: our server is rid of them at once, and serves on."""
    with Wire("net_af_packet") as wire:
        server = wire.our_server(folder, 4)
        with Capture(folder) as capture:
            client = linux_client(folder, 4, "request", "--connections", "50")
            wait_until("requests", lambda: server.tally()["open"] == 50, 10)
            client.kill()
            wait_until("our server to be rid of them", lambda: server.tally()["open"] == 0, 5)
            with connect(4) as sock:
                echo_through(sock, MIB)
        capture.must_be_clean(*RESET)


def linux_server_killed(folder):
    """kill -9 in the midst of requests: our client notices, is refused, and goes on with the next server."""
    with Wire("net_af_packet") as wire:
        server = linux_server(folder, 4)
        with Capture(folder) as capture:
            wire.our_client(folder, 4, "request", "--connections", "50")
            wait_until("requests", lambda: server.tally()["open"] == 50, 10)
            server.kill()
            server = linux_server(folder, 4, name="linux-next-server")
            wait_until("our client to come back", lambda: server.tally()["open"] == 50, 10)
            before = server.tally()["exchanges"]
            wait_until("requests again", lambda: server.tally()["exchanges"] > before + 100, 10)
        capture.must_be_clean(*RESET)


def refused(folder):
    """A port without a listener: at once, either way round."""
    for version in (4, 6):
        with Wire("net_af_packet") as wire:
            with Capture(folder, name=f"capture-{version}") as capture:
                wire.our_server(folder, version, name=f"our-server-{version}")
                started = time.monotonic()
                try:
                    connect(version, port=PORT + 10).close()
                    raise AssertionError("connected to a closed port")
                except ConnectionRefusedError:
                    expect(time.monotonic() - started < 2, "at once")
                with connect(version) as sock:
                    echo_through(sock, 3000)
            with Wire("net_af_packet") as other:
                client = other.our_client(folder, version, "short", "--connections", "1", "--time-ms", "500",
                                          name=f"our-client-{version}")
                results = client.end()
                expect_equal(results["exchanges"], 0, "exchanges with nobody")
                expect(results["failed"] >= 20, f"refused {results['failed']} times in 1.5 s: at once each time")
            capture.must_be_clean(*RESET)


def same_bad_line_for_both(folder):
    """millrace-bench net: bulk_loss puts our stack and Linux's CUBIC on one line, which both see as it was ordered."""
    need_namespaces()
    results = folder / "rows.json"
    run(binary("millrace-bench"), "net", "--case", "bulk_loss", "--seconds", "1", "--repeats", "1", "--loss", "0.01",
        "--delay-ms", "5", "--json", str(results))
    rows = {row["stack"]: row for row in json.loads(results.read_text())}
    expect_equal(sorted(rows), ["kernel", "millrace"], "stacks")
    for stack, row in rows.items():
        expect(row["value"] > 0, f"{stack}: nothing arrived")
        expect_equal(row["congestion_control"], "cubic", f"{stack}: congestion control")
        expect(row["rtt_seen_ms"] >= 9.9, f"{stack}: saw a round trip of {row['rtt_seen_ms']} ms on a line of 10")
    expect(rows["millrace"]["tcp"]["retransmits_fast"] > 0, "our stack saw no loss")
    expect(rows["kernel"]["tcp"]["RetransSegs"] > 0, "Linux saw no loss")


LOSS = ("--loss", "0.01", "--delay-us", "1000")
DISORDER = ("--reorder", "0.02", "--duplicate", "0.02", "--delay-us", "1000")

if __name__ == "__main__":
    run_cases([
        *((f"serves_{device[4:]}_ipv{version}", serves(device, version))
          for device in ("net_af_packet", "net_af_xdp", "net_tap") for version in (4, 6)),
        *((f"opens_{device[4:]}_ipv{version}", opens(device, version))
          for device in ("net_af_packet", "net_af_xdp", "net_tap") for version in (4, 6)),
        ("ten_thousand_at_our_server", ten_thousand_at_our_server),
        ("ten_thousand_at_linux", ten_thousand_at_linux),
        ("loss_ipv4", bad_line(4, *LOSS)),
        ("loss_ipv6", bad_line(6, *LOSS)),
        ("reordering_and_duplicates", bad_line(4, *DISORDER)),
        ("loss_reordering_and_duplicates", bad_line(4, *LOSS, *DISORDER[:4])),
        ("same_bad_line_for_both", same_bad_line_for_both),
        ("interface_mtu", interface_mtu),
        ("route_mtu", route_mtu),
        ("path_mtu_told", path_mtu_told),
        ("path_mtu_untold", path_mtu_untold),
        ("zero_window_at_our_server", zero_window_at_our_server),
        ("zero_window_at_our_client", zero_window_at_our_client),
        ("half_close_by_linux", half_close_by_linux),
        ("half_close_by_us", half_close_by_us),
        ("our_server_killed", our_server_killed),
        ("our_client_killed", our_client_killed),
        ("linux_client_killed", linux_client_killed),
        ("linux_server_killed", linux_server_killed),
        ("refused", refused),
    ])
