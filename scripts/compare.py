"""compare.py: what scripts/compare does once everything is built."""
import argparse
import json
import os
import pathlib
import shutil
import smtplib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402
from postfix import Postfix  # noqa: E402

CONFIGS = ROOT / "scripts" / "compare.d"
CACHE = ROOT / "build" / "compare"
HARAKA = "Haraka@3.2.1"
HARAKA_BEFORE = "2026-06-01"
TICKS = os.sysconf("SC_CLK_TCK")

# So many messages that a run takes some seconds: slow systems get fewer, down to this.
MESSAGES = {"millrace": {4096: 150000, 32768: 30000}, "postfix": {4096: 5000, 32768: 4000},
            "haraka": {4096: 5000, 32768: 4000}}
HARAKA_TLS_MESSAGES = 2000  # it makes a handshake for each delivery


def say(text):
    print(text, file=sys.stderr, flush=True)


def filled(path, values):
    text = path.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def tree_cpu_seconds(roots):
    """User and system time of these processes and all below them, ended children included."""
    parents, times = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile: its time is with its parent
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        times[pid] = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    total = 0.0
    for pid, seconds in times.items():
        above = pid
        while above and above not in roots:
            above = parents.get(above, 0)
        if above:
            total += seconds
    return total


class MillraceSystem:
    name = "millrace"
    signs = True

    def __init__(self, folder, port, values, network=harness.Network()):
        self.folder, self.network = folder, network
        dkim = filled(CONFIGS / "millrace" / "dkim.toml", values) if values["DKIM_KEY"] else ""
        values = dict(values, PORT=port, ADMIN_PORT=harness.free_port(), RUN_DIR=harness.socket_folder(),
                      HOST=network.relay, PEER=network.peer, LISTENER=network.listener,
                      EGRESS="dpdk" if network.sections else "kernel",
                      TLS_SITE=values["TLS_LEVEL_OUT"])
        self.relay = harness.Relay(folder, text=filled(CONFIGS / "millrace" / "millrace.toml", values) + dkim,
                                   network=network)
        self.relay.start()

    def roots(self):
        return {self.relay.daemon.pid, self.relay.control.pid}

    def stop(self):
        self.relay.stop()


class MillraceDpdkSystem(MillraceSystem):
    """The relay wholly on our own TCP/IP, over memif. No packet of it passes through the kernel, so that its CPU time is
    all there is; source and sink are one process at the other end, as memif joins two."""
    name = "millrace-dpdk"
    signs = False  # its source and sink are one process, which cannot say what the signing costs the relay alone

    def __init__(self, folder, port, values):
        super().__init__(folder, port, values, harness.MemifNetwork())
        self.port, self.sink_port = port, values["SINK_PORT"]


class OpenDkim:
    """OpenDKIM as a milter, which signs for every author's domain."""

    def __init__(self, folder, values):
        harness.need_tool("opendkim", "opendkim")
        home = pathlib.Path(folder.path) / "opendkim"
        home.mkdir()
        self.port = harness.free_port()
        shutil.copy(values["DKIM_KEY"], home / "key.pem")
        (home / "key.pem").chmod(0o600)
        (home / "keys").write_text(f"all %:compare:{home}/key.pem\n")
        (home / "signing").write_text("* all\n")
        (home / "opendkim.conf").write_text(
            filled(CONFIGS / "postfix" / "opendkim.conf", {"HOME": home, "MILTER_PORT": self.port}))
        self.process = harness.Process("opendkim", ["opendkim", "-f", "-x", str(home / "opendkim.conf")], folder.path)
        harness.wait_until("OpenDKIM", lambda: self.process.must_run() and harness.port_answers(self.port), 30)


class PostfixSystem:
    name = "postfix"
    signs = True

    def __init__(self, folder, port, values):
        self.milter = OpenDkim(folder, values) if values["DKIM_KEY"] else None
        settings = {}
        for line in filled(CONFIGS / "postfix" / "main.cf", values).splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                settings[key.strip()] = value.strip()
        if self.milter is not None:
            settings.update(smtpd_milters=f"inet:127.0.0.1:{self.milter.port}", milter_default_action="tempfail")
        self.postfix = Postfix(folder, port, settings, smtp_max="50", smtpd_max="100").start()

    def roots(self):
        return {self.postfix.master_pid()} | ({self.milter.process.pid} if self.milter else set())

    def stop(self):
        self.postfix.stop()
        if self.milter is not None:
            self.milter.process.stop()


class HarakaSystem:
    name = "haraka"
    signs = False

    def __init__(self, folder, port, values):
        haraka = install_haraka()
        home = pathlib.Path(folder.path) / "haraka"
        done = subprocess.run(["node", str(haraka), "-i", str(home)], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise harness.HarnessError(f"haraka -i: {done.stderr.strip()}")
        values = dict(values, PORT=port, TLS_BOOL="true" if values["TLS_LEVEL"] == "may" else "false",
                      TLS_PLUGIN="tls" if values["TLS_LEVEL"] == "may" else "")
        for path in (CONFIGS / "haraka").rglob("*"):
            if path.is_file():
                target = home / path.relative_to(CONFIGS / "haraka")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(filled(path, values))
        (home / "queue").mkdir(exist_ok=True)
        self.process = harness.Process("haraka", ["node", str(haraka), "-c", str(home)], folder.path, cwd=home)
        harness.wait_until("Haraka", lambda: self.process.must_run() and harness.port_answers(port), 30)

    def roots(self):
        return {self.process.pid}

    def stop(self):
        self.process.stop(5)


def install_haraka():
    """The path of haraka's program, fetched by npm once."""
    home = CACHE / "haraka"
    program = home / "node_modules" / "Haraka" / "bin" / "haraka"
    if not program.exists():
        for tool, package in (("node", "nodejs"), ("npm", "npm")):
            if shutil.which(tool) is None:
                raise harness.Skipped(f"{tool} is not installed (Debian package {package})")
        say(f"installing {HARAKA}")
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"name": "compare", "private": true}\n')
        done = subprocess.run(["npm", "install", HARAKA, f"--before={HARAKA_BEFORE}", "--omit=optional",
                               "--no-audit", "--no-fund"], cwd=home, capture_output=True, text=True)
        if done.returncode != 0 or not program.exists():
            raise harness.HarnessError(f"npm install {HARAKA}: {done.stderr.strip()[-800:]}")
    return program


SYSTEMS = {system.name: system for system in (MillraceSystem, MillraceDpdkSystem, PostfixSystem, HarakaSystem)}


def certificate(folder):
    paths = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "2", "-subj", "/CN=compare.test.example", "-keyout", str(paths[1]), "-out",
                    str(paths[0])], check=True, capture_output=True)
    paths[1].chmod(0o644)
    return paths


def dkim_key(folder):
    path = folder / "dkim.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(path)],
                   check=True, capture_output=True)
    path.chmod(0o600)
    return path


# What a run is like: neither, TLS on both legs, or TLS in alone with every message signed.
MODES = {"off": {"tls": False, "tls_out": False, "dkim": False}, "on": {"tls": True, "tls_out": True, "dkim": False},
         "dkim": {"tls": True, "tls_out": False, "dkim": True}}


def message_count(name, size, mode, options):
    counts = MESSAGES["millrace" if name == "millrace-dpdk" else name]
    if options.messages:
        return options.messages
    if name == "haraka" and mode["tls"]:
        return HARAKA_TLS_MESSAGES
    if name == "millrace" and mode["dkim"]:
        return counts[4096] // 5  # a signature costs more than all the rest
    return counts.get(size) or max(1000, counts[4096] * 4096 // size)


def row_of(name, size, mode, options, source, end_to_end_per_s, cpu, sink, lost):
    """A row of the table, out of what source and sink have said."""
    return {
        "system": name, "size_bytes": size, "connections": options.connections, "tls": mode["tls"],
        "tls_out": mode["tls_out"], "dkim": mode["dkim"],
        "durable": True, "accept_per_s": round(source["accept_per_s"], 1),
        "end_to_end_per_s": round(end_to_end_per_s, 1),
        "cpu_s_per_1000": round(1000 * cpu / max(source["accepted"], 1), 4),
        "lost": lost, "duplicated": sink["duplicated"], "altered": sink["altered"],
        "messages": source["accepted"], "refused": source["rejected"] + source["unknown"],
        "accept_ms_p50": round(source["accept_ms_p50"], 3), "accept_ms_p99": round(source["accept_ms_p99"], 3),
    }


def expect_signed(folder, port, sink_port):
    """One message to a stock receiver in the sink's place: what does not sign is not measured."""
    sink = harness.StockSink(folder, port=sink_port)
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("sender@bench.example", ["to@bench.example"],
                        "From: sender@bench.example\r\nSubject: is it signed?\r\n\r\nyes\r\n")
    (_, content), = sink.wait_for(1, 60)
    sink.stop()
    if b"DKIM-Signature:" not in content:
        raise harness.HarnessError("the message came without a DKIM signature")


def measure_apart(folder, started_systems, name, size, mode, options):
    """Source and sink are processes of their own, on loopback."""
    cert, key = certificate(folder)
    port, sink_port = harness.free_port(), harness.free_port()
    system = SYSTEMS[name](folder, port, {
        "SINK_PORT": sink_port, "CERTIFICATE": cert, "KEY": key, "TLS_LEVEL": "may" if mode["tls"] else "none",
        "TLS_LEVEL_OUT": "may" if mode["tls_out"] else "none", "DKIM_KEY": dkim_key(folder) if mode["dkim"] else ""})
    started_systems.append(system)
    if mode["dkim"]:
        expect_signed(folder, port, sink_port)
    sink = harness.BenchSink(folder, *(["--starttls"] if mode["tls_out"] else []), port=sink_port)
    # A few messages first: connections, caches and processes are then as they are in the midst of work.
    warm_up = 200
    harness.bench_source(folder, port, "--messages", str(warm_up), "--connections", "10", "--run-id", "warm-up",
                         *(["--tls"] if mode["tls"] else []), name="warm-up", check=False)
    sink.wait_for(warm_up, 60)
    cpu_before = tree_cpu_seconds(system.roots())
    started = time.time()
    source = harness.bench_source(
        folder, port, "--messages", str(message_count(name, size, mode, options)), "--connections",
        str(options.connections), "--size", str(size), "--chunking", "--domains", "1", "--run-id", "compare",
        *(["--tls"] if mode["tls"] else []), check=False, limit_s=600)
    wanted = warm_up + source["accepted"]
    last, since = -1, time.monotonic()
    while True:  # until all is there, or nothing has come for 20 s
        got = sink.results()
        if got["unique"] >= wanted:
            break
        if got["unique"] != last:
            last, since = got["unique"], time.monotonic()
        if time.monotonic() - since > 20:
            break
        time.sleep(0.2)
    cpu = tree_cpu_seconds(system.roots()) - cpu_before
    system.stop()
    got = sink.stop()
    # The sink notes when the last message came; both processes read the same clock.
    took = max(got["last_arrival"] - started, 1e-9)
    return row_of(name, size, mode, options, source, source["accepted"] / took, cpu, got, wanted - got["unique"])


def measure_memif(folder, started_systems, name, size, mode, options):
    """Source and sink are one process, at the other end of a memif; no messages beforehand."""
    level = "may" if mode["tls"] else "none"
    system = SYSTEMS[name](folder, 2525, {"SINK_PORT": 2526, "TLS_LEVEL": level, "TLS_LEVEL_OUT": level, "DKIM_KEY": ""})
    started_systems.append(system)
    system.relay.relay = system.port
    cpu_before = tree_cpu_seconds(system.roots())
    got = harness.bench_load(
        folder, system.relay, system.network, system.sink_port, "--messages",
        str(message_count(name, size, mode, options)), "--connections", str(options.connections), "--size", str(size),
        "--domains", "1", *(["--tls"] if mode["tls"] else []), limit_s=600)
    cpu = tree_cpu_seconds(system.roots()) - cpu_before
    return row_of(name, size, mode, options, got, got["end_to_end_per_s"], cpu, got, got["accepted"] - got["delivered"])


def measure(name, size, mode_name, options):
    """One row of the table."""
    mode = MODES[mode_name]
    folder = harness.Folder(f"{name}-{size}-{mode_name}", CACHE / "runs")
    started_systems = []
    try:
        how = measure_memif if name == "millrace-dpdk" else measure_apart
        return how(folder, started_systems, name, size, mode, options)
    finally:
        for system in started_systems:
            system.stop()
        harness.end_all()
        if options.keep:
            say(f"kept {folder.path}")
        else:
            folder.remove()


COLUMNS = [("system", "system"), ("size_bytes", "bytes"), ("tls", "TLS in"), ("tls_out", "TLS out"), ("dkim", "DKIM"), ("messages", "messages"),
           ("accept_per_s", "accept/s"), ("end_to_end_per_s", "end-to-end/s"), ("cpu_s_per_1000", "CPU s/1000"),
           ("accept_ms_p50", "p50 ms"), ("accept_ms_p99", "p99 ms"), ("lost", "lost"), ("duplicated", "twice")]


def table(rows):
    cells = [[title for _, title in COLUMNS]]
    for row in rows:
        cells.append([{True: "on", False: "off"}.get(row[key], row[key]) if isinstance(row[key], bool)
                      else f"{row[key]:,.0f}" if key.endswith("per_s") else f"{row[key]:,}"
                      if isinstance(row[key], int) else str(row[key]) for key, _ in COLUMNS])
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                       for i, (text, width) in enumerate(zip(line, widths))) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="scripts/compare")
    parser.add_argument("--json", help="writes the rows")
    parser.add_argument("--systems", default="millrace,millrace-dpdk,postfix,haraka")
    parser.add_argument("--sizes", default="4096,32768")
    parser.add_argument("--tls", nargs="?", const="on", default="off,on,dkim",
                        help="off, on (both legs), dkim (TLS in, every message signed); default: all three")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--messages", type=int, default=0, help="for every run; default: by system and size")
    parser.add_argument("--keep", action="store_true", help="keeps the folders of the runs")
    options = parser.parse_args()

    names = [name for name in options.systems.split(",") if name]
    for name in names:
        if name not in SYSTEMS:
            sys.exit(f"compare: no system '{name}': choose from {', '.join(SYSTEMS)}")
    rows, failures = [], []
    modes = [word for word in options.tls.split(",") if word]
    for mode in modes:
        if mode not in MODES:
            sys.exit(f"compare: no --tls '{mode}': choose from {', '.join(MODES)}")
    for mode in modes:
        for size in (int(word) for word in options.sizes.split(",")):
            for name in names:
                if mode == "dkim" and not SYSTEMS[name].signs:
                    continue
                what = f"{name}, {size} bytes, TLS {'in, DKIM on' if mode == 'dkim' else mode}"
                say(f"== {what}")
                try:
                    row = measure(name, size, mode, options)
                except (harness.HarnessError, harness.Skipped) as error:
                    failures.append(f"{what}: {error}")
                    say(f"   {error}")
                    continue
                rows.append(row)
                say(f"   {row['accept_per_s']:,.0f} accepted/s, {row['end_to_end_per_s']:,.0f} end to end/s, "
                    f"{row['cpu_s_per_1000']} CPU s per 1000, lost {row['lost']}, twice {row['duplicated']}")
                if row["lost"] or row["altered"]:
                    failures.append(f"{what}: lost {row['lost']}, altered {row['altered']}")
                if options.json:
                    pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{options.connections} connections, every message durable before its 250, one run, "
          f"{os.cpu_count()} CPUs shared with source and sink:\n")
    print(table(rows))
    for what, bar, wanted in (("no TLS", 20, lambda row: not row["tls"]),
                              ("STARTTLS in, DKIM on", 10, lambda row: row["dkim"])):
        rate = {row["system"]: row["end_to_end_per_s"] for row in rows if row["size_bytes"] == 4096 and wanted(row)}
        if rate.get("millrace") and rate.get("postfix"):
            print(f"\nMillrace / Postfix at 4 KB, {what}, end to end: {rate['millrace'] / rate['postfix']:.1f} times "
                  f"(bar: {bar})")
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures or not rows else 0)


if __name__ == "__main__":
    main()
