"""compare.py: what scripts/compare does once everything is built."""
import argparse
import json
import os
import pathlib
import smtplib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402
from compare_account import Account  # noqa: E402
from compare_page import page  # noqa: E402
from compare_systems import CACHE, CONFIGS, SYSTEMS, filled, say  # noqa: E402

# What a run is like: neither, TLS on both legs, or TLS in alone with every message signed.
MODES = {"off": {"tls": False, "tls_out": False, "dkim": False}, "on": {"tls": True, "tls_out": True, "dkim": False},
         "dkim": {"tls": True, "tls_out": False, "dkim": True}}
DRAIN_S = 240  # as in load.toml


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


def bench_run(folder, system, values):
    """Runs the load and returns what millrace-bench has to say of it."""
    network = system.network
    dpdk = isinstance(network, harness.MemifNetwork)
    values = dict(values, HOST=network.relay, PEER=network.peer, TRANSPORT="dpdk" if dpdk else "kernel",
                  DPDK=network.bench_section if dpdk else "")
    profile, result = folder / "load.toml", folder / "load.json"
    profile.write_text(filled(CONFIGS / "load.toml", values))
    command = [harness.binary("millrace-bench"), "run", str(profile), "--json", str(result), "--quiet", "--spool", str(folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=int(values["SECONDS"]) + DRAIN_S + 120)
    if not result.exists():
        raise harness.HarnessError(f"millrace-bench run: status {done.returncode}: {done.stderr.strip()[-800:]}")
    return json.loads(result.read_text())


def row_of(system, size, mode, options, got, cpu, memory_mb):
    audit = got["audit"]
    return {
        "system": system.name, "title": system.title, "greeting": got["relay_greeting"], "size_bytes": size,
        "connections": options.connections, "tls": mode["tls"], "tls_out": mode["tls_out"], "dkim": mode["dkim"],
        "durable": system.durable, "accept_per_s": round(got["accepted_per_s"], 1),
        "end_to_end_per_s": round(got["settled_per_s"], 1),
        "cpu_s_per_1000": None if cpu is None else round(1000 * cpu / max(audit["promised"], 1), 4),
        "memory_mb_max": round(memory_mb, 1),
        "accept_ms_p50": round(got["accept_ms_p50"], 3), "accept_ms_p99": round(got["accept_ms_p99"], 3),
        "lost": audit["lost"]["count"], "duplicated": audit["duplicated"]["count"],
        "altered": audit["altered"]["count"], "misdelivered": audit["misdelivered"]["count"], "messages": audit["promised"], "failed": got["refused_transient"] +
        got["refused_permanent"] + got["unknown"], "seconds": got["seconds"], "settled_s": got["settled_s"],
        "doubts": got["doubts"], "machine": got["machine"],
    }


def measure(name, size, mode_name, options):
    """One row of the table."""
    mode, kind = MODES[mode_name], SYSTEMS[name]
    folder = harness.Folder(f"{name}-{size}-{mode_name}", CACHE / "runs")
    account = Account()
    system = None
    try:
        with kind.surroundings():
            cert, key = certificate(folder)
            port, sink_port = harness.free_port(), harness.free_port()
            level = {True: "may", False: "none"}
            values = {
                "PORT": port, "SINK_PORT": sink_port, "CERTIFICATE": cert, "KEY": key, "TLS_LEVEL": level[mode["tls"]],
                "TLS_LEVEL_OUT": level[mode["tls_out"]], "DKIM_KEY": dkim_key(folder) if mode["dkim"] else "",
                "SYSTEM": kind.title, "BYTES": size, "MODE": mode_name, "CONNECTIONS": options.connections,
                "SECONDS": options.seconds, "SIGNED": "true" if mode["dkim"] else "false", "SOURCE_TLS": "starttls" if mode["tls"] else "none",
                "SINK_TLS": "true" if mode["tls_out"] else "false"}
            try:
                with account:
                    system = kind(folder, values)
                account.roots = system.roots()
                if mode["dkim"]:
                    expect_signed(folder, port, sink_port)
                account.begin_to_watch()
                cpu_before = account.cpu_seconds()
                got = bench_run(folder, system, values)
                cpu = account.cpu_seconds() - cpu_before
            finally:
                if system is not None:
                    system.stop()
                account.close()
        if kind.forgets_children and not account.exact:
            cpu = None  # no control group here, and /proc has lost most of it
        return row_of(system, size, mode, options, got, cpu, account.memory_mb_max)
    finally:
        harness.end_all()
        if options.keep:
            say(f"kept {folder.path}")
        else:
            folder.remove()


COLUMNS = [("system", "system"), ("size_bytes", "bytes"), ("tls", "TLS in"), ("tls_out", "TLS out"), ("dkim", "DKIM"), ("durable", "durable"),
           ("messages", "messages"), ("accept_per_s", "accept/s"), ("end_to_end_per_s", "end-to-end/s"),
           ("cpu_s_per_1000", "CPU s/1000"), ("memory_mb_max", "MB at most"), ("accept_ms_p50", "p50 ms"),
           ("accept_ms_p99", "p99 ms"), ("lost", "lost"), ("duplicated", "twice")]


def cell(row, key):
    value = row[key]
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return ("yes" if value else "NO") if key == "durable" else "on" if value else "off"
    if key.endswith(("per_s", "mb_max")):
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def table(rows):
    cells = [[title for _, title in COLUMNS]] + [[cell(row, key) for key, _ in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = ["  ".join(text.ljust(width) if i == 0 else text.rjust(width)
                       for i, (text, width) in enumerate(zip(line, widths))) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def ratios(rows):
    """Lines that hold Millrace's rate against Postfix's and against their bars."""
    for what, bar, wanted in (("no TLS", 20, lambda row: not row["tls"]),
                              ("STARTTLS in, DKIM on", 10, lambda row: row["dkim"])):
        rate = {row["system"]: row["end_to_end_per_s"] for row in rows if row["size_bytes"] == 4096 and wanted(row)}
        if rate.get("millrace") and rate.get("postfix"):
            yield (f"Millrace / Postfix at 4 KB, {what}, end to end: {rate['millrace'] / rate['postfix']:.1f} times "
                   f"(bar: {bar})")


def chosen(parser, what, text, known):
    names = [word for word in text.split(",") if word]
    for name in names:
        if name not in known:
            parser.error(f"there is no {what} '{name}': choose from {', '.join(known)}")
    return names


def write_results(options, rows, remarks):
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    if options.html:
        command = " ".join(["scripts/compare", *sys.argv[1:]])
        pathlib.Path(options.html).write_text(page(rows, remarks, command))


def main():
    parser = argparse.ArgumentParser(prog="scripts/compare")
    parser.add_argument("--json", help="writes the rows")
    parser.add_argument("--html", help="writes one page with the table and its plots")
    parser.add_argument("--systems", default=",".join(name for name, system in SYSTEMS.items() if system.durable),
                        help="of " + ", ".join(SYSTEMS) + "; default: those that are durable")
    parser.add_argument("--sizes", default="4096,32768")
    parser.add_argument("--tls", nargs="?", const="on", default="off,on,dkim",
                        help="off, on (both legs), dkim (TLS in, every message signed); default: all three")
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=12, help="measured for every row, behind 4 of warming up")
    parser.add_argument("--keep", action="store_true", help="keeps the folders of the runs")
    options = parser.parse_args()

    names = chosen(parser, "system", options.systems, SYSTEMS)
    modes = chosen(parser, "--tls", options.tls, MODES)
    rows, failures, remarks = [], [], []
    for mode in modes:
        for size in (int(word) for word in options.sizes.split(",")):
            for name in names:
                if mode == "dkim" and not SYSTEMS[name].signs:
                    continue
                what = f"{name}, {size} bytes, TLS {'in, DKIM on' if mode == 'dkim' else mode}"
                say(f"== {what}")
                try:
                    row = measure(name, size, mode, options)
                except harness.Skipped as reason:
                    remarks.append(f"{what}: skipped: {reason}")
                    say(f"   skipped: {reason}")
                    continue
                except (harness.HarnessError, subprocess.TimeoutExpired) as error:
                    failures.append(f"{what}: {error}")
                    say(f"   {error}")
                    continue
                rows.append(row)
                say(f"   {row['accept_per_s']:,.0f} accepted/s, {row['end_to_end_per_s']:,.0f} end to end/s, "
                    f"{row['cpu_s_per_1000']} CPU s per 1000, {row['memory_mb_max']:,.0f} MB, lost {row['lost']}, "
                    f"twice {row['duplicated']}")
                remarks += [f"{what}: not to be trusted: {doubt}" for doubt in row["doubts"]]
                if row["settled_s"] == 0:
                    failures.append(f"{what}: not all had arrived {DRAIN_S} s after the last was accepted")
                elif row["lost"] or row["altered"] or row["misdelivered"]:
                    failures.append(f"{what}: lost {row['lost']}, altered {row['altered']}, misdelivered "
                                    f"{row['misdelivered']}")
                write_results(options, rows, failures + remarks)
    print(f"\n{options.connections} connections, one run of {options.seconds} s a row; durable: on disk before the 250; "
          f" {os.cpu_count()} CPUs shared with source and sink:\n")
    print(table(rows))
    for line in ratios(rows):
        print("\n" + line)
    for remark in remarks:
        print(f"note: {remark}")
    for failure in failures:
        print(f"FAILED: {failure}")
    write_results(options, rows, failures + remarks)
    sys.exit(1 if failures or not rows else 0)


if __name__ == "__main__":
    main()
