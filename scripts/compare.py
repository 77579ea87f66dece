"""compare.py: what scripts/compare does once everything is built."""
import argparse
import json
import os
import pathlib
import shutil
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

    def __init__(self, folder, port, values, network=harness.Network()):
        self.folder, self.network = folder, network
        values = dict(values, PORT=port, ADMIN_PORT=harness.free_port(), HOST=network.relay, PEER=network.peer,
                      LISTENER=network.listener,
                      EGRESS="dpdk" if network.sections else "kernel",
                      TLS_SITE="may" if values["TLS_LEVEL"] == "may" else "none")
        self.relay = harness.Relay(folder, text=filled(CONFIGS / "millrace" / "millrace.toml", values), network=network)
        self.relay.start()

    def roots(self):
        return {self.relay.daemon.pid, self.relay.control.pid}

    def stop(self):
        self.relay.stop()


class MillraceDpdkSystem(MillraceSystem):
    """The relay wholly on our own TCP/IP, over memif. No packet of it passes through the kernel, so that its CPU time is
    all there is; source and sink are one process at the other end, as memif joins two."""
    name = "millrace-dpdk"

    def __init__(self, folder, port, values):
        super().__init__(folder, port, values, harness.MemifNetwork(folder.path))
        self.port, self.sink_port = port, values["SINK_PORT"]


class PostfixSystem:
    name = "postfix"

    def __init__(self, folder, port, values):
        settings = {}
        for line in filled(CONFIGS / "postfix" / "main.cf", values).splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                settings[key.strip()] = value.strip()
        self.postfix = Postfix(folder, port, settings, smtp_max="50", smtpd_max="100").start()

    def roots(self):
        return {self.postfix.master_pid()}

    def stop(self):
        self.postfix.stop()


class HarakaSystem:
    name = "haraka"

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


def message_count(name, size, tls, options):
    counts = MESSAGES["millrace" if name == "millrace-dpdk" else name]
    if options.messages:
        return options.messages
    if name == "haraka" and tls:
        return HARAKA_TLS_MESSAGES
    return counts.get(size) or max(1000, counts[4096] * 4096 // size)


def row_of(name, size, tls, options, source, end_to_end_per_s, cpu, sink, lost):
    """A row of the table, out of what source and sink have said."""
    return {
        "system": name, "size_bytes": size, "connections": options.connections, "tls": tls, "dkim": False,
        "durable": True, "accept_per_s": round(source["accept_per_s"], 1),
        "end_to_end_per_s": round(end_to_end_per_s, 1),
        "cpu_s_per_1000": round(1000 * cpu / max(source["accepted"], 1), 4),
        "lost": lost, "duplicated": sink["duplicated"], "altered": sink["altered"],
        "messages": source["accepted"], "refused": source["rejected"] + source["unknown"],
        "accept_ms_p50": round(source["accept_ms_p50"], 3), "accept_ms_p99": round(source["accept_ms_p99"], 3),
    }


def measure_apart(folder, started_systems, name, size, tls, options):
    """Source and sink are processes of their own, on loopback."""
    sink = harness.BenchSink(folder, *(["--starttls"] if tls else []))
    cert, key = certificate(folder)
    port = harness.free_port()
    system = SYSTEMS[name](folder, port, {"SINK_PORT": sink.port, "CERTIFICATE": cert, "KEY": key,
                                          "TLS_LEVEL": "may" if tls else "none"})
    started_systems.append(system)
    # A few messages first: connections, caches and processes are then as they are in the midst of work.
    warm_up = 200
    harness.bench_source(folder, port, "--messages", str(warm_up), "--connections", "10", "--run-id", "warm-up",
                         *(["--tls"] if tls else []), name="warm-up", check=False)
    sink.wait_for(warm_up, 60)
    cpu_before = tree_cpu_seconds(system.roots())
    started = time.time()
    source = harness.bench_source(
        folder, port, "--messages", str(message_count(name, size, tls, options)), "--connections",
        str(options.connections), "--size", str(size), "--chunking", "--domains", "1", "--run-id", "compare",
        *(["--tls"] if tls else []), check=False, limit_s=600)
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
    return row_of(name, size, tls, options, source, source["accepted"] / took, cpu, got, wanted - got["unique"])


def measure_memif(folder, started_systems, name, size, tls, options):
    """Source and sink are one process, at the other end of a memif; no messages beforehand."""
    system = SYSTEMS[name](folder, 2525, {"SINK_PORT": 2526, "TLS_LEVEL": "may" if tls else "none"})
    started_systems.append(system)
    system.relay.relay = system.port
    cpu_before = tree_cpu_seconds(system.roots())
    got = harness.bench_load(
        folder, system.relay, system.network, system.sink_port, "--messages",
        str(message_count(name, size, tls, options)), "--connections", str(options.connections), "--size", str(size),
        "--domains", "1", *(["--tls"] if tls else []), limit_s=600)
    cpu = tree_cpu_seconds(system.roots()) - cpu_before
    return row_of(name, size, tls, options, got, got["end_to_end_per_s"], cpu, got, got["accepted"] - got["delivered"])


def measure(name, size, tls, options):
    """One row of the table."""
    folder = harness.Folder(f"{name}-{size}-{'tls' if tls else 'plain'}", CACHE / "runs")
    started_systems = []
    try:
        how = measure_memif if name == "millrace-dpdk" else measure_apart
        return how(folder, started_systems, name, size, tls, options)
    finally:
        for system in started_systems:
            system.stop()
        harness.end_all()
        if options.keep:
            say(f"kept {folder.path}")
        else:
            folder.remove()


COLUMNS = [("system", "system"), ("size_bytes", "bytes"), ("tls", "TLS"), ("messages", "messages"),
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
    parser.add_argument("--tls", nargs="?", const="on", default="off,on", help="off,on (default), off, or on")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--messages", type=int, default=0, help="for every run; default: by system and size")
    parser.add_argument("--keep", action="store_true", help="keeps the folders of the runs")
    options = parser.parse_args()

    names = [name for name in options.systems.split(",") if name]
    for name in names:
        if name not in SYSTEMS:
            sys.exit(f"compare: no system '{name}': choose from {', '.join(SYSTEMS)}")
    rows, failures = [], []
    for tls in (word == "on" for word in options.tls.split(",")):
        for size in (int(word) for word in options.sizes.split(",")):
            for name in names:
                say(f"== {name}, {size} bytes, TLS {'on' if tls else 'off'}")
                try:
                    row = measure(name, size, tls, options)
                except (harness.HarnessError, harness.Skipped) as error:
                    failures.append(f"{name}, {size} bytes, TLS {tls}: {error}")
                    say(f"   {error}")
                    continue
                rows.append(row)
                say(f"   {row['accept_per_s']:,.0f} accepted/s, {row['end_to_end_per_s']:,.0f} end to end/s, "
                    f"{row['cpu_s_per_1000']} CPU s per 1000, lost {row['lost']}, twice {row['duplicated']}")
                if row["lost"] or row["altered"]:
                    failures.append(f"{name}, {size} bytes, TLS {tls}: lost {row['lost']}, altered {row['altered']}")
                if options.json:
                    pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{options.connections} connections, every message durable before its 250, one run, "
          f"{os.cpu_count()} CPUs shared with source and sink:\n")
    print(table(rows))
    rate = {row["system"]: row["end_to_end_per_s"] for row in rows if row["size_bytes"] == 4096 and not row["tls"]}
    if rate.get("millrace") and rate.get("postfix"):
        print(f"\nMillrace / Postfix at 4 KB, no TLS, end to end: {rate['millrace'] / rate['postfix']:.1f} times "
              f"(bar: 20)")
    for failure in failures:
        print(f"FAILED: {failure}")
    sys.exit(1 if failures or not rows else 0)


if __name__ == "__main__":
    main()
