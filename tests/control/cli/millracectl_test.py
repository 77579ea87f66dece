#!/usr/bin/env python3
"""millracectl_test.py: the operator's command line: help, refusals, and what each command does and prints.

Commands that change something run against a real millrace-control in a folder of its own; what takes a data plane
on DPDK (net, capture) runs against an admin API in the hands of the test.
"""
import base64
import contextlib
import http.server
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "interop"))
from harness import ROOT, Relay, binary, expect, expect_equal, run_cases, wait_until  # noqa: E402

PASSWORD = "four unrelated wet horses"
COMMANDS = [
    "", "check", "reload", "status", "stats", "queue", "queue list", "queue show", "queue count", "queue flush",
    "queue suspend", "queue resume", "queue top", "queue expire", "queue delete", "queue reroute", "queue orders", "trace", "net",
    "net connections", "capture", "offload", "cert", "cert check", "cert list", "cert reload", "dkim", "dkim check",
    "dkim dns", "dkim keygen", "account", "account add", "account certificates", "account list", "account passwd", "account disable", "account enable", "account remove", "config-doc",
]


def ctl(*arguments, text=None, config=None, env=None):
    """(status, standard output, standard error)"""
    command = [binary("millracectl")]
    if config is not None:
        command += ["--config", str(config)]
    done = subprocess.run([*command, *arguments], input=text if text is not None else "", capture_output=True,
                          text=True, timeout=60, env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def refused(status, *arguments, says, **more):
    """The command ends with `status`, prints nothing as a result, and says why in one sentence."""
    code, out, err = ctl(*arguments, **more)
    what = "millracectl " + " ".join(arguments)
    expect_equal(code, status, f"status of {what} ({err.strip()})")
    expect_equal(out, "", f"standard output of {what}")
    expect(says in err, f"{what} says {says!r}: {err.strip()!r}")


def every_command_explains_itself(_folder):
    listed = set()
    for command in COMMANDS:
        code, out, err = ctl(*command.split(), "--help")
        expect_equal(code, 0, f"status of '{command} --help' ({err.strip()})")
        expect("Usage:" in out, f"'{command} --help' shows the usage")
        below = out.split("Subcommands:")[1] if "Subcommands:" in out else ""
        listed |= {f"{command} {name}".strip() for name in re.findall(r"^  (\S+) ", below, re.M)}
    expect_equal(sorted(listed), sorted(set(COMMANDS) - {""}), "the commands that help lists, and those tested here")


def wrong_command_lines_are_status_2(_folder):
    for arguments, says in [
        ([], "subcommand"),
        (["frobnicate"], "subcommand"),
        (["queue"], "subcommand"),
        (["queue", "frobnicate"], "subcommand"),
        (["queue", "show"], "id"),
        (["queue", "list", "--limit", "0"], "--limit"),
        (["queue", "list", "--limit", "many"], "--limit"),
        (["queue", "flush"], "say which mail"),
        (["queue", "delete", "--domain", "a.example"], "--dsn or --no-dsn"),
        (["queue", "expire", "--older", "soon"], "--older"),
        (["queue", "count", "--by", "colour"], "--by"),
        (["queue", "reroute", "--domain", "a.example"], "--to"),
        (["queue", "list", "--domian", "a.example"], "--domian"),
        (["account"], "subcommand"),
        (["account", "add"], "name"),
        (["account", "remove"], "name"),
        (["account", "add", "a", "--messages-per-hour", "-1"], "--messages-per-hour"),
        (["check"], "file"),
        (["trace"], "id"),
        (["net", "frobnicate"], "frobnicate"),
        (["net", "connections", "--limit", "10001"], "--limit"),
        (["capture", "--port", "25"], "--out"),
        (["capture", "--out", "x"], "say what to capture"),
        (["capture", "--out", "x", "--port", "0"], "--port"),
        (["capture", "--out", "x", "--port", "65536"], "--port"),
        (["capture", "--out", "x", "--address", "host.example"], "expected an IP address"),
        (["capture", "--out", "x", "--connection", "192.0.2.1:25"], "expected IP:PORT,IP:PORT"),
        (["capture", "--out", "x", "--connection", "192.0.2.1:25,192.0.2.2:1", "--port", "25"], "say what to capture"),
        (["capture", "--out", "x", "--port", "25", "--seconds", "601"], "--seconds"),
        (["capture", "--out", "x", "--port", "25", "--bytes", "1KiB"], "expected a size from 4KiB"),
        (["capture", "--out", "x", "--port", "25", "--bytes", "lots"], "expected a size from 4KiB"),
        (["capture", "--out", "x", "--port", "25", "--bytes", "65MiB"], "to 64MiB"),
    ]:
        refused(2, *arguments, says=says)
    expect(not pathlib.Path("x").exists(), "a refused capture writes no file")


def nobody_to_ask_is_status_1_and_says_where(folder):
    relay = Relay(folder)
    for arguments in (["reload"], ["status"], ["stats"], ["queue", "list"], ["queue", "count"],
                      ["queue", "flush", "--everything"], ["trace", "0" * 16], ["net"], ["net", "connections"],
                      ["capture", "--port", "25", "--out", str(folder / "x")]):
        refused(1, *arguments, config=relay.config, says=f"millrace-control does not answer on 127.0.0.1:{relay.admin}")
    expect(not (folder / "x").exists(), "a capture that cannot begin writes no file")


def check_names_file_line_and_key(folder):
    good = ROOT / "docs/examples/millrace.toml"
    code, out, err = ctl("check", str(good))
    expect_equal(code, 0, f"status of check ({err})")
    expect(out.startswith("OK: "), f"check says OK: {out}")
    bad = folder / "bad.toml"
    bad.write_text(good.read_text() + "\n[port]\nname = 1\n[limits]\nerors_max = 1\n")
    line = bad.read_text().splitlines().index("erors_max = 1") + 1
    code, out, err = ctl("check", str(bad))
    expect_equal(code, 1, "status of check on a bad file")
    expect(f"{bad}:{line}: limits.erors_max: unknown key; did you mean errors_max?" in err, f"the error: {err}")
    expect("2 errors in " in err, f"the count: {err}")
    code, out, _ = ctl("check", str(bad), "--json")
    report = json.loads(out)
    expect_equal((code, report["ok"], len(report["errors"])), (1, False, 2), "the same in JSON")
    expect_equal(report["errors"][0]["line"], line - 3, "the line in JSON")
    refused(1, "check", str(folder / "none.toml"), says="no such file")


def the_page_is_compared(folder):
    page = ROOT / "docs/configuration.md"
    code, out, _ = ctl("config-doc")
    expect_equal((code, out), (0, page.read_text()), "config-doc and docs/configuration.md")
    expect_equal(ctl("config-doc", "--check", str(page))[0], 0, "status of config-doc --check")
    other = folder / "other.md"
    other.write_text(out + "x")
    refused(1, "config-doc", "--check", str(other), says="differs from the settings in the code")


def accounts_live_with_and_without_control(folder):
    relay = Relay(folder)
    add = ["account", "add", "app", "--tenant", "t", "--sender-domain", "a.example", "--messages-per-hour", "7"]
    code, out, err = ctl(*add, text=PASSWORD + "\n", config=relay.config)
    expect_equal((code, out), (0, "account app added\n"), f"add without control ({err})")
    expect("working on" in err, f"it says that it works on the database: {err}")
    relay.start_control()
    wait_until("the admin API", lambda: relay.control.must_run() and
               ctl("status", config=relay.config)[0] == 0, 20)
    refused(1, *add, text=PASSWORD + "\n", config=relay.config, says="app")
    refused(1, "account", "add", "weak", text="short\n", config=relay.config, says="password")
    code, out, err = ctl("account", "list", "--json", config=relay.config)
    listed = json.loads(out)
    expect_equal([account["name"] for account in listed], ["app"], "the accounts")
    expect_equal((listed[0]["tenant"], listed[0]["sender_domains"], listed[0]["messages_per_hour"]),
                 ("t", ["a.example"], 7), "what it may do")
    password = folder / "password"
    password.write_text("seven dry umbrellas sing\n")
    for arguments, done in [(["passwd", "app", "--password-file", str(password)], "account app has a new password\n"),
                            (["disable", "app"], "account app disabled\n"),
                            (["enable", "app"], "account app enabled\n"),
                            (["remove", "app"], "account app removed\n")]:
        code, out, err = ctl("account", *arguments, config=relay.config)
        expect_equal((code, out), (0, done), f"account {arguments[0]} ({err})")
    refused(1, "account", "remove", "app", config=relay.config, says="app")
    refused(1, "account", "add", "x", "--password-file", str(folder / "none"), config=relay.config, says="none")
    expect_equal(ctl("account", "list", config=relay.config)[1], "0 account(s)\n", "the end")


def a_running_control_is_watched_and_steered(folder):
    relay = Relay(folder)
    relay.start_control()
    wait_until("the admin API", lambda: relay.control.must_run() and
               ctl("status", config=relay.config)[0] == 0, 20)
    out = ctl("status", config=relay.config)[1]
    expect("relay.test.example" in out and "not connected" in out, f"status: {out}")
    expect_equal(json.loads(ctl("status", "--json", config=relay.config)[1])["data_plane"]["connected"], False, "JSON")
    refused(1, "stats", config=relay.config, says="no statistics page")
    refused(1, "net", config=relay.config, says="no statistics page")
    for arguments in (["queue", "list"], ["queue", "show", "0" * 16], ["net", "connections"],
                      ["capture", "--port", "25", "--out", str(folder / "x")]):
        refused(1, *arguments, config=relay.config, says="millraced is not connected")
    refused(1, "trace", "nonsense", config=relay.config, says="16 hex digits")
    expect_equal(ctl("reload", config=relay.config)[1], "policy version 2 is published\n", "reload")
    relay.config.write_text(relay.config.read_text() + "\n[frobnicate]\n")
    refused(1, "reload", config=relay.config, says="frobnicate: unknown table")
    token = relay.run_dir / "admin.token"
    other = folder / "token"
    other.write_text("0" * 64 + "\n")
    refused(1, "queue", "list", "--admin", f"127.0.0.1:{relay.admin}", "--token-file", str(other), says="can you read")
    code, out, err = ctl("account", "list", "--admin", f"127.0.0.1:{relay.admin}", "--token-file", str(token))
    expect_equal((code, out), (0, "0 account(s)\n"), f"place and token from the command line ({err})")


# --- what takes a data plane on DPDK


class Api:
    """An admin API in the hands of the test: answers by path; a list is answered one after the other."""

    def __init__(self, answers):
        self.asked = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, body):
                outer.asked.append((self.path, body))
                found = answers.get(self.path, {"error": "no such path"})
                if isinstance(found, list):
                    found = found.pop(0) if len(found) > 1 else found[0]
                text = json.dumps(found).encode()
                self.send_response(503 if "error" in found else 200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                self.answer(None)

            def do_POST(self):
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def place(self):
        return ["--admin", f"127.0.0.1:{self.server.server_port}", "--config", "/nonexistent"]

    def bodies(self, path):
        return [body for asked, body in self.asked if asked == path]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def packet(shard, time_ns, frame, outgoing=True):
    """An Enhanced Packet Block as a shard makes it."""
    padded = frame + bytes(-len(frame) % 4)
    total = 44 + len(padded)
    return struct.pack("<7I", 6, total, shard, time_ns >> 32, time_ns & 0xffffffff, len(frame), len(frame)) + padded + \
        struct.pack("<4I", 2 | 4 << 16, 2 if outgoing else 1, 0, total)


def read_pcapng(raw):
    """[(type, body)] of every block; both lengths of each must agree, and nothing may be left over."""
    blocks = []
    while raw:
        kind, total = struct.unpack_from("<II", raw)
        expect(12 <= total <= len(raw) and total % 4 == 0, f"a block of {total} bytes in {len(raw)}")
        expect_equal(struct.unpack_from("<I", raw, total - 4)[0], total, "the length behind a block")
        blocks.append((kind, raw[8:total - 4]))
        raw = raw[total:]
    return blocks


def encoded(*blocks):
    return base64.b64encode(b"".join(blocks)).decode()


def capture_writes_whole_pcapng_in_the_order_of_time(folder):
    reads = [
        {"running": 2, "frames": 3, "dropped": 0,
         "blocks": [encoded(packet(0, 1_000, b"first"), packet(0, 3_000, b"third!")), encoded(packet(1, 2_000, b"second"))]},
        {"running": 2, "frames": 3, "dropped": 0, "blocks": []},
        {"running": 0, "frames": 4, "dropped": 5, "blocks": [encoded(packet(1, 1 << 33, b"last", outgoing=False))]},
        {"running": 0, "frames": 4, "dropped": 5, "blocks": []},
    ]
    api = Api({"/api/admin/capture/start": {"shards": [0, 1]}, "/api/admin/capture/read": reads,
               "/api/admin/capture/stop": {"stopped": 2}})
    out = folder / "c.pcapng"
    code, text, err = ctl("capture", "--connection", "192.0.2.1:25,[2001:db8::1]:4000", "--out", str(out), "--seconds", "3",
                          "--bytes", "8KiB", *api.place())
    api.close()
    expect_equal((code, text), (0, ""), f"status of capture ({err})")
    expect("4 frame(s)" in err and "5 frame(s) more did not fit" in err, f"what it says: {err}")
    expect_equal(out.stat().st_mode & 0o777, 0o600, "the file's mode")
    start, = api.bodies("/api/admin/capture/start")
    expect_equal({key: start[key] for key in ("local", "remote", "bytes", "seconds")},
                 {"local": "192.0.2.1:25", "remote": "[2001:db8::1]:4000", "bytes": 8192, "seconds": 3}, "the request")
    ids = {body["id"] for path, body in api.asked}
    expect_equal(len(ids), 1, "one id for start, read and stop")
    expect_equal(len(api.bodies("/api/admin/capture/stop")), 1, "it is stopped once")
    blocks = read_pcapng(out.read_bytes())
    expect_equal([kind for kind, _ in blocks], [0x0a0d0d0a, 1, 1, 6, 6, 6, 6], "the blocks")
    expect_equal(blocks[0][1][:8], struct.pack("<IHH", 0x1a2b3c4d, 1, 0), "the section's magic and version")
    expect(b"\x09\x00\x01\x00\x09" in blocks[1][1], "times are in nanoseconds")
    frames = [body[20:20 + struct.unpack_from("<I", body, 12)[0]] for kind, body in blocks if kind == 6]
    expect_equal(frames, [b"first", b"second", b"third!", b"last"], "the frames")
    tshark = ["tshark", "-n", "-r", str(out)]
    with contextlib.suppress(FileNotFoundError):
        expect_equal(subprocess.run(tshark, capture_output=True, timeout=60).returncode, 0, "tshark opens it")


def capture_never_grows_beyond_its_bytes(folder):
    frames = {"running": 1, "frames": 9, "dropped": 0, "blocks": [encoded(*[packet(0, n, bytes(1000)) for n in range(9)])]}
    api = Api({"/api/admin/capture/start": {"shards": [0]}, "/api/admin/capture/read": frames,
               "/api/admin/capture/stop": {"stopped": 1}})
    out = folder / "c.pcapng"
    code, _, err = ctl("capture", "--address", "192.0.2.1", "--out", str(out), "--bytes", "4096", *api.place())
    api.close()
    expect_equal(code, 0, f"status ({err})")
    expect(out.stat().st_size <= 4096, f"size {out.stat().st_size}")
    expect_equal(len([1 for kind, _ in read_pcapng(out.read_bytes()) if kind == 6]), 3, "whole frames that fit")
    expect_equal(len(api.bodies("/api/admin/capture/stop")), 1, "the shards are told to stop")


def interrupted_capture_stops_the_shards_and_leaves_a_whole_file(folder):
    api = Api({"/api/admin/capture/start": {"shards": [0]},
               "/api/admin/capture/read": [{"running": 1, "blocks": [encoded(packet(0, 1, b"abc"))]},
                                           {"running": 1, "blocks": []}],
               "/api/admin/capture/stop": {"stopped": 1}})
    out = folder / "c.pcapng"
    child = subprocess.Popen([binary("millracectl"), "capture", "--port", "25", "--out", str(out), "--seconds", "60",
                              *api.place()], stderr=subprocess.PIPE, text=True)
    wait_until("the capture to run", lambda: len(api.bodies("/api/admin/capture/read")) >= 2, 20)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=20)
    api.close()
    expect_equal(child.returncode, 0, f"status ({err})")
    expect_equal(len(api.bodies("/api/admin/capture/stop")), 1, "the shards are told to stop")
    expect_equal([kind for kind, _ in read_pcapng(out.read_bytes())], [0x0a0d0d0a, 1, 6], "the blocks")


def capture_refused_by_a_shard_leaves_old_files_alone(folder):
    out = folder / "c.pcapng"
    out.write_text("of yesterday")
    api = Api({"/api/admin/capture/start": {"error": "this shard has no DPDK transport"}})
    refused(1, "capture", "--port", "25", "--out", str(out), *api.place(), says="this shard has no DPDK transport")
    api.close()
    expect_equal(out.read_text(), "of yesterday", "the file")
    # A shard that talks nonsense ends the capture, not the program.
    for nonsense in ("!!!!", encoded(b"x" * 40), encoded(packet(0, 1, b"abc"))[:-4], 7):
        api = Api({"/api/admin/capture/start": {"shards": [0]}, "/api/admin/capture/read": {"running": 1, "blocks": [nonsense]},
                   "/api/admin/capture/stop": {"stopped": 1}})
        code, _, err = ctl("capture", "--port", "25", "--out", str(out), *api.place())
        api.close()
        expect_equal(code, 1, f"status with {nonsense!r}")
        expect("no pcapng" in err, f"what it says: {err}")


def shard(number, **values):
    counters = {"tcp_rtt_samples": 0, "tcp_rtt_us_sum": 0, "tcp_retransmits_fast": 0, "tcp_dropped_paws": 0,
                "ip_dropped_bad_checksum": 0}
    gauges = {"port_queues": 1, "port_buffers_free": 0, "port_buffers_total": 0}
    for name, value in values.items():
        (gauges if name in gauges else counters)[name] = value
    return {"shard": number, "counters": counters, "gauges": gauges}


def net_prints_a_column_for_each_shard(_folder):
    shards = [shard(0, tcp_rtt_samples=2, tcp_rtt_us_sum=5000, tcp_retransmits_fast=3, ip_dropped_bad_checksum=4,
                    port_buffers_free=7, port_buffers_total=9), shard(1, tcp_retransmits_fast=10, port_buffers_total=9),
              shard(2, port_queues=0, tcp_retransmits_fast=1000)]
    api = Api({"/status/net": {"shards": shards},
               "/api/admin/net/connections": {"total": 8, "connections": [
                   {"shard": 1, "local": "192.0.2.1:25", "remote": "192.0.2.9:4000", "state": "established",
                    "outgoing": False, "rtt_us": 150, "cwnd": 14600, "in_flight": 0, "unsent": 0, "unread": 3}]}})
    code, out, err = ctl("net", *api.place())
    expect_equal(code, 0, f"status of net ({err})")
    rows = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    expect_equal(rows[""], ["shard", "0", "shard", "1", "all"], "the columns: a shard on the kernel has none")
    expect_equal(rows["fast"], ["3", "10", "13"], "fast retransmits")
    expect_equal(rows["RTT, mean"], ["2.50", "ms", "-", "2.50", "ms"], "the mean RTT")
    expect_equal(rows["ip: bad checksum"], ["4", "0", "4"], "a reason for drops")
    expect("tcp: paws" not in rows, "reasons that there were not are left out")
    expect_equal(rows["frame buffers"], ["7/9", "0/9", "7/18"], "pool levels")
    expect_equal(json.loads(ctl("net", "--json", *api.place())[1])["shards"], shards, "the same in JSON")
    code, out, err = ctl("net", "connections", "--limit", "5", *api.place())
    expect_equal(code, 0, f"status of net connections ({err})")
    expect("192.0.2.1:25 <- 192.0.2.9:4000  established  rtt 150 us" in out, f"a connection: {out}")
    expect("8 connection(s) in all" in out, f"the count: {out}")
    expect_equal(api.bodies("/api/admin/net/connections"), [{"limit": 5}], "the request")
    api.close()
    api = Api({"/status/net": {"shards": [shard(0, port_queues=0)]}})
    refused(1, "net", *api.place(), says="no shard has a DPDK transport")
    api.close()


if __name__ == "__main__":
    run_cases([(case.__name__, case) for case in (
        every_command_explains_itself,
        wrong_command_lines_are_status_2,
        nobody_to_ask_is_status_1_and_says_where,
        check_names_file_line_and_key,
        the_page_is_compared,
        accounts_live_with_and_without_control,
        a_running_control_is_watched_and_steered,
        capture_writes_whole_pcapng_in_the_order_of_time,
        capture_never_grows_beyond_its_bytes,
        interrupted_capture_stops_the_shards_and_leaves_a_whole_file,
        capture_refused_by_a_shard_leaves_old_files_alone,
        net_prints_a_column_for_each_shard,
    )])
