"""demo.py: what scripts/demo does once everything is built."""
import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import smtplib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402

USER, PASSWORD = "app@customer.example", "Correct-Horse-42-battery"
O_DIRECT = os.O_DIRECT

ROUTES = """
[[route]]
domains = ["real.example"]
kind = "smart_host"
hosts = ["{peer}:{stock}"]

[[route]]
domains = [".bench.example"]
kind = "smart_host"
hosts = ["{peer}:{bench}"]

# Whatever else the relay might send, a bounce above all, would show up at the stock sink.
[[route]]
default = true
kind = "smart_host"
hosts = ["{peer}:{stock}"]
"""


def say(text):
    print(text, file=sys.stderr, flush=True)


def submit_real_mail(relay, messages):
    """Submits every message, and returns {recipient: sha256 of the body}."""
    wanted = {}
    last = time.monotonic()
    with smtplib.SMTP(relay.host, relay.submission, timeout=60) as client:
        client.starttls(context=harness.any_certificate())
        client.login(USER, PASSWORD)
        for number, path in enumerate(messages):
            content = path.read_bytes()
            count = (1, 1, 2, 1, 5, 1, 12)[number % 7]
            recipients = [f"m{number}-{each}@real.example" for each in range(count)]
            refused = client.sendmail(USER, recipients, content, mail_options=["BODY=8BITMIME"])
            if refused:
                raise harness.HarnessError(f"{path.name} was refused for {refused}")
            digest = hashlib.sha256(harness.body_of(content)).hexdigest()
            wanted.update((recipient, digest) for recipient in recipients)
            if time.monotonic() - last > 1:
                last = time.monotonic()
                say(f"  {number + 1} of {len(messages)} submitted")
    return wanted


def check_real_mail(sink, wanted, limit_s=60):
    """Waits for every recipient's copy; returns (lost, duplicated, altered) with names printed."""
    end = time.monotonic() + limit_s
    while True:
        arrived = {}
        for envelope, content in sink.messages():
            for recipient in envelope["to"]:
                arrived.setdefault(recipient, []).append(hashlib.sha256(harness.body_of(content)).hexdigest())
        if len(arrived) >= len(wanted) or time.monotonic() > end:
            break
        time.sleep(0.2)
    lost = [recipient for recipient in wanted if recipient not in arrived]
    twice = [recipient for recipient, digests in arrived.items() if len(digests) > 1]
    altered = [recipient for recipient, digests in arrived.items()
               if any(digest != wanted.get(recipient) for digest in digests)]
    for name, found in (("lost", lost), ("delivered twice", twice), ("altered or unexpected", altered)):
        if found:
            say(f"  {name}: {', '.join(found[:5])}")
    return len(lost), len(twice), len(altered)


def spool_is_direct(relay):
    """Whether the daemon holds its spool open with O_DIRECT: the kernel says so in fdinfo."""
    found = []
    base = pathlib.Path(f"/proc/{relay.daemon.pid}/fd")
    for link in base.iterdir():
        with contextlib.suppress(OSError):
            if link.resolve().suffix == ".spool":
                info = (base.parent / "fdinfo" / link.name).read_text()
                flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
                found.append(bool(int(flags, 8) & O_DIRECT))
    return bool(found) and all(found)


def generate_mail(folder, relay, sink, count):
    """Sends `count` messages at full speed; returns (source results, sink results, audit)."""
    password_file = folder / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    ledger, results = folder / "source.ledger", folder / "source.json"
    source = harness.Process("source", [
        harness.binary("millrace-bench"), "source", "--target", f"{relay.host}:{relay.submission}", "--tls",
        "--user", USER, "--password-file", str(password_file), "--connections", "50", "--messages", str(count),
        "--size", "4096", "--domains", "20", "--chunking", "--run-id", "demo", "--ledger", str(ledger),
        "--json", str(results)], folder.path)
    last = time.monotonic()
    shown = 0
    while True:
        relay.daemon.must_run()
        got = sink.results()
        if time.monotonic() - last >= 1:
            now = relay.stats()
            say(f"  accepted {now['messages_received']:,}  delivered {got['unique']:,} "
                f"({(got['unique'] - shown) / (time.monotonic() - last):,.0f}/s)  queued {now['queued_messages']:,}")
            last, shown = time.monotonic(), got["unique"]
        if not source.running():
            break
        time.sleep(0.05)
    source.stop()
    sent = json.loads(results.read_text())
    with contextlib.suppress(harness.HarnessError):  # what is missing then is counted as lost below
        sink.wait_for(sent["accepted"], 60)
    got = sink.stop()
    audit = folder / "audit.json"
    subprocess.run([harness.binary("millrace-bench"), "audit", "--source-ledger", str(ledger), "--sink-ledger",
                    str(sink.ledger), "--json", str(audit)], stdout=sys.stderr)
    return sent, got, json.loads(audit.read_text())


def start_relay(folder, network, sinks, shards):
    say("starting millrace-control and millraced")
    relay = harness.Relay(folder, config=ROUTES.format(peer=network.peer, **sinks), spool_size="1GiB", network=network,
                          shards=shards)
    relay.start()
    relay.add_account(USER, PASSWORD)
    return relay


def start_on_dpdk(folder, interface, sinks, shards):
    """On the first kind of port that works here: AF_XDP goes past the kernel's stack, AF_PACKET works everywhere."""
    for device in (f"net_af_xdp0,iface={interface}", f"net_af_packet0,iface={interface}"):
        attempt = folder / device.split(",")[0]
        attempt.mkdir()
        try:
            relay = start_relay(attempt, harness.DpdkNetwork(device), sinks, shards)
        except harness.HarnessError as error:
            say(f"  {device} does not start here: {error}")
            for process in list(harness.Process.alive):
                if process.name in ("millraced", "control"):
                    process.stop()
            continue
        for line in harness.tail(relay.folder / "millraced.log", 200).splitlines():
            if "event=port" in line:
                say("  " + line)
        return relay
    raise harness.HarnessError("no DPDK port starts here")


def demonstrate(folder, options):
    cache = pathlib.Path(subprocess.run([sys.executable, str(ROOT / "scripts" / "real-mail")], check=True,
                                        stdout=subprocess.PIPE, text=True).stdout.strip())
    messages = sorted(cache.glob("*.eml"))
    network = harness.DpdkNetwork if options.dpdk_interface else harness.Network
    stock = harness.StockSink(folder, network.peer)
    bench = harness.BenchSink(folder, "--starttls", ledger=True, host=network.peer)
    sinks = {"stock": stock.port, "bench": bench.port}
    if options.dpdk_interface:
        relay = start_on_dpdk(folder, options.dpdk_interface, sinks, options.shards)
    else:
        relay = start_relay(folder, harness.Network(), sinks, options.shards)

    say(f"submitting {len(messages)} real messages with smtplib (STARTTLS, AUTH)")
    wanted = submit_real_mail(relay, messages)
    real_lost, real_twice, real_altered = check_real_mail(stock, wanted)
    say(f"  {len(wanted)} deliveries of {len(messages)} messages: lost {real_lost}, twice {real_twice}, "
        f"altered {real_altered}")

    say(f"submitting {options.messages:,} generated messages with millrace-bench (STARTTLS, AUTH, 50 connections, 4 KB)")
    direct = spool_is_direct(relay)
    before = relay.stats()
    sent, got, audit = generate_mail(folder, relay, bench, options.messages)
    relay.wait_empty(30)
    after = relay.stats()
    batches = after["spool_batches"] - before["spool_batches"]
    received = after["messages_received"] - before["messages_received"]
    spooled = after["spool_batch_bytes"] - before["spool_batch_bytes"]
    content = after["bytes_received"] - before["bytes_received"]
    stray = stock.count() and len(stock.messages()) and sum(
        1 for envelope, _ in stock.messages() for to in envelope["to"] if to not in wanted)
    relay.stop()
    stock.stop()

    lost = real_lost + audit["lost"] + (options.messages - sent["accepted"])
    results = {
        "real_messages": len(messages),
        "accepted": len(messages) + sent["accepted"],
        "delivered": len(messages) - (1 if real_lost else 0) + audit["delivered"],
        "lost": lost,
        "duplicated": real_twice + audit["duplicated"],
        "altered": real_altered + audit["altered"],
        "accepted_per_s": round(sent["accept_per_s"], 1),
        "delivered_per_s": round(got["delivered_per_s"], 1),
        "accept_ms_p50": round(sent["accept_ms_p50"], 3),
        "accept_ms_p99": round(sent["accept_ms_p99"], 3),
        "accept_ms_p999": round(sent["accept_ms_p999"], 3),
    }
    durable = direct and batches > 0 and received >= sent["accepted"] and spooled >= content \
        and after["spool_write_errors"] == 0
    print(f"""
real messages      {len(messages)} ({len(wanted)} deliveries), each body compared by SHA-256
generated          {options.messages:,} of 4 KB over 50 TLS connections
accepted           {results['accepted']:,}   {results['accepted_per_s']:,.0f}/s
delivered          {results['delivered']:,}   {results['delivered_per_s']:,.0f}/s
accept latency ms  p50 {results['accept_ms_p50']}   p99 {results['accept_ms_p99']}   p99.9 {results['accept_ms_p999']}
durable            every 250 came after its spool write: {received:,} messages in {batches:,} O_DIRECT writes with
                   RWF_DSYNC, {received / max(batches, 1):.1f} a write; {spooled:,} bytes written for {content:,} of content
lost               {results['lost']}
duplicated         {results['duplicated']}
altered            {results['altered']}""")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    faults = []
    if results["lost"] or results["duplicated"] or results["altered"]:
        faults.append("mail was lost, delivered twice or altered")
    if not durable:
        faults.append(f"durability is not shown: spool O_DIRECT {direct}, {batches} writes, "
                      f"{after['spool_write_errors']} errors")
    if stray:
        faults.append(f"{stray} unexpected messages at the stock sink")
    return faults


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--json")
    parser.add_argument("--messages", type=int, default=50000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--dpdk-interface")  # set by scripts/demo --dpdk, which has made it
    options = parser.parse_args()
    started = time.monotonic()
    folder = harness.Folder("demo", ROOT / "build" / "demo")
    keep = options.keep
    try:
        faults = demonstrate(folder, options)
    except (harness.HarnessError, harness.Skipped, OSError, smtplib.SMTPException) as error:
        faults = [str(error)]
    except SystemExit:
        say("interrupted: cleaning up")
        harness.end_all()
        folder.remove()
        raise
    harness.end_all()
    for fault in faults:
        print(f"FAILED: {fault}")
    if faults:
        keep = True
        for log in sorted(folder.path.rglob("*.log")):
            say(f"--- {log}\n{harness.tail(log)}")
    if keep:
        say(f"kept {folder.path}")
    else:
        folder.remove()
    say(f"demo took {time.monotonic() - started:.0f} s")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
