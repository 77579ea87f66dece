"""signing_profile.py: what scripts/signing-profile does once everything is built."""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
KEYS = {"rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "ed25519": ["-algorithm", "ED25519"]}
# Of the relay's own code, by the first namespace that a symbol names.
ROOM = re.compile(r"\b(dataplane::message::dkim|dataplane::\w+|tls_offload::offload|tls_offload|queue)::")


def dkim_table(folder, kind):
    if kind == "none":
        return ""
    key = folder / "dkim.key"
    subprocess.run(["openssl", "genpkey", *KEYS[kind], "-out", str(key)], check=True, capture_output=True)
    key.chmod(0o600)
    return f'\n[[dkim]]\ndomains = ["bench.example"]\nselector = "s1"\nkey = "{key}"\n'


def shard_thread(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "shard-0":
            return task
    raise harness.HarnessError("millraced has no thread shard-0")


def cpu_seconds(task):
    fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def room_of(dso, symbol):
    if "kernel" in dso:
        return "kernel"
    if "libcrypto" in dso or "libssl" in dso:
        return "OpenSSL"
    if "jemalloc" in dso:
        return "jemalloc"
    found = ROOM.search(symbol)
    if found:
        return found.group(1).replace("dataplane::", "").replace("::", "/")
    if "millraced" in dso:
        return "elsewhere in millraced"
    return "not known" if dso == "[unknown]" else "libc and other libraries"


def shares(perf, data):
    """{room: share of the shard's samples}"""
    done = subprocess.run([perf, "script", "-i", str(data), "-F", "ip,sym,dso"], capture_output=True, text=True,
                          timeout=120)
    plain = subprocess.run(["c++filt"], input=done.stdout, capture_output=True, text=True, timeout=120).stdout
    counts = {}
    for line in plain.splitlines():
        found = re.match(r"\s*[0-9a-f]+ (.*) \(([^()]*)\)\s*$", line)
        if found:
            room = room_of(found.group(2), found.group(1))
            counts[room] = counts.get(room, 0) + 1
    total = max(sum(counts.values()), 1)
    return {room: count / total for room, count in counts.items()}


def measure(folder, kind, tls, options, perf):
    name = f"{kind}-{'tls' if tls else 'plain'}"
    home = folder.path / name
    home.mkdir()
    network, port = harness.Network(), harness.free_port()
    relay = harness.Relay(home, smart_host=f"{network.peer}:{port}", config=dkim_table(home, kind), spool_size="2GiB",
                          network=network, cpus=[0], memory="1GiB", site_connections=options.connections)
    relay.start()
    print(f"== DKIM {kind}, {'STARTTLS in' if tls else 'no TLS'}", file=sys.stderr, flush=True)
    arguments = ["--connections", str(options.connections), "--size", str(options.size), "--cpu", "1",
                 *(["--tls"] if tls else [])]
    harness.bench_load(home, relay, network, port, "--messages", "500", *arguments)  # keys, caches, connections
    task = shard_thread(relay.daemon.pid)
    before, signed = cpu_seconds(task), relay.stats().get("dkim_signed", 0)
    data = home / "perf.data"
    recorder = harness.Process("perf", [perf, "record", "-q", "-F", "1999", "-t", task.name, "-o", str(data)], home)
    row = harness.bench_load(home, relay, network, port, "--messages", str(options.messages), *arguments)
    spent = cpu_seconds(task) - before
    recorder.stop()
    harness.wait_until("the counters", lambda: kind == "none" or relay.stats()["dkim_signed"] - signed
                       >= options.messages, 10, 0.2)
    relay.stop()
    us = spent / max(row["accepted"], 1) * 1e6
    return {"dkim": kind, "tls_in": tls, "size_bytes": options.size, "connections": options.connections,
            "messages": options.messages, "accept_per_s": row["accept_per_s"],
            "end_to_end_per_s": row["end_to_end_per_s"], "accept_ms_p50": row["accept_ms_p50"],
            "accept_ms_p99": row["accept_ms_p99"], "lost": options.messages - row["delivered"],
            "duplicated": row["duplicated"], "altered": row["altered"], "shard_us": us,
            "rooms_us": {room: share * us for room, share in
                         sorted(shares(perf, data).items(), key=lambda item: -item[1])}}


def main():
    parser = argparse.ArgumentParser(prog="scripts/signing-profile")
    parser.add_argument("--json")
    parser.add_argument("--messages", type=int, default=30000)
    parser.add_argument("--size", type=int, default=10240)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--sign", default="rsa,ed25519,none")
    parser.add_argument("--tls", default="starttls", help="starttls, off")
    options = parser.parse_args()
    kinds = [kind for kind in options.sign.split(",") if kind]
    for kind in kinds:
        if kind not in KEYS and kind != "none":
            sys.exit(f"signing-profile: no --sign '{kind}': choose from rsa, ed25519, none")
    rows = []
    folder = harness.Folder("signing-profile", ROOT / "build" / "signing-profile")
    try:
        perf = harness.need_tool("perf", "linux-perf")
        for tls in options.tls.split(","):
            for kind in kinds:
                rows.append(measure(folder, kind, tls == "starttls", options, perf))
    except (harness.HarnessError, harness.Skipped) as error:
        print(f"FAILED: {error}")
        sys.exit(1)
    finally:
        harness.end_all()
        folder.remove()
    for row in rows:
        print(f"\nDKIM {row['dkim']}, {'STARTTLS in' if row['tls_in'] else 'no TLS'}, {row['size_bytes']} bytes, "
              f"{row['connections']} connections: {row['end_to_end_per_s']:,.0f} messages/s end to end, "
              f"p50 {row['accept_ms_p50']:.2f} ms, p99 {row['accept_ms_p99']:.2f} ms, lost {row['lost']}, "
              f"twice {row['duplicated']}, altered {row['altered']}")
        print(f"  {row['shard_us']:.1f} us of the shard's core for each message:")
        for room, us in row["rooms_us"].items():
            if us >= 0.05:
                print(f"  {us:8.1f}  {room}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if any(row["lost"] or row["duplicated"] or row["altered"] for row in rows) else 0)


if __name__ == "__main__":
    main()
