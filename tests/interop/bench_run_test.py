#!/usr/bin/env python3
"""bench_run_test.py: millrace-bench run, report and diff against the real relay: the 20-second profile, and its report;
a run on our own TCP/IP, one that is interrupted, and scripts/compare, which measures with it.

The report is read as XML, every plot is looked at for what it draws, and where Chromium is installed it opens it and
must have nothing to complain of.
"""
import json
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as xml

from harness import ROOT, HarnessError, MemifNetwork, Relay, Skipped, binary, expect, free_port, run_cases

BENCH_SECONDS = 120


def bench(*arguments, limit=BENCH_SECONDS):
    return subprocess.run([binary("millrace-bench"), *map(str, arguments)], capture_output=True, text=True, timeout=limit)


def the_shipped_profiles_are_right(_folder):
    """--list names them, --check accepts each, --show prints what --check accepts as a file too."""
    names = [line.split()[0] for line in bench("run", "--list").stdout.splitlines()]
    expect({"transactional", "newsletter", "mixed", "large", "hostile", "ci"} <= set(names), f"shipped: {names}")
    for name in names:
        done = bench("run", name, "--check")
        expect(done.returncode == 0, f"{name}: {done.stderr}")


def a_mistake_is_named_with_its_line(folder):
    path = folder / "wrong.toml"
    path.write_text(bench("run", "ci", "--show").stdout.replace("connections = 20", "conections = 20"))
    line = 1 + path.read_text().splitlines().index("conections = 20")
    done = bench("run", path)
    expect(done.returncode == 2, f"status {done.returncode}")
    expect(f"{path}:{line}: source 1.conections: no such key" in done.stderr, done.stderr)
    done = bench("run", "ci", "--target", f"127.0.0.1:{free_port()}", "--listen", f"127.0.0.1:{free_port()}")
    expect(done.returncode == 1 and "cannot connect to the relay" in done.stderr, done.stderr)


def plots_are_drawn(path, count=7):
    """Well-formed, self-contained, and each plot has lines or bars with points in them: rate, latency and its histogram,
    backlog, CPU, the relay's memory, its threads and, where it was asked, its rooms."""
    text = path.read_text()
    tree = xml.fromstring(text)
    plots = tree.findall(".//svg")
    expect(len(plots) == count, f"{len(plots)} plots")
    for plot in plots:
        title = plot.get("aria-label")
        lines = [shape.get("d") for shape in plot.iter("path") if "line" in shape.get("class", "").split()]
        bars = [shape for shape in plot.iter("rect") if shape.get("class") == "bar"]
        points = max([len(re.findall("[ML]", line)) for line in lines] + [len(bars)])
        expect(points >= 3, f"'{title}' draws {points} points")
    expect(not re.search(r"https?://|src=|@import", text), "the report loads something")


def rooms_make_up_the_shards(figures):
    """The relay divides its shards' CPU time among its rooms: the sum must be what the kernel says of those threads, but for the
    tenth of a second that the relay's figures may be old at both ends, and every room that this run makes work has a part."""
    rooms, seconds = figures["relay_rooms"]["cpu_s"], figures["seconds"]
    shards = sum(spent for name, spent in figures["relay"]["cpu_s_by_thread"].items() if name.startswith("shard"))
    expect(abs(sum(rooms.values()) - shards) < 0.1 * shards + 0.02 * seconds, f"rooms {rooms}, shards {shards}")
    for room in ("smtp", "spool", "delivery", "kernel", "net", "message"):
        expect(rooms[room] > 0.005 * shards, f"{room}: {rooms}")
    lines = figures["relay_rooms"]["cores"]
    expect({len(line) for line in lines.values()} == {len(figures["samples"])}, "a point for each sample")


def chromium_opens(path, folder):
    """Headless, offline: no console message, and the plots are laid out in the page."""
    program = shutil.which("chromium")
    if program is None:
        print("  chromium is not installed: the report was only parsed", flush=True)
        return
    picture = folder / "report.png"
    done = subprocess.run([program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                           f"--user-data-dir={folder / 'chromium'}", "--enable-logging=stderr", "--v=0",
                           "--window-size=1400,2600", f"--screenshot={picture}", path.resolve().as_uri()],
                          capture_output=True, text=True, timeout=120)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    expect(not complaints, f"the console says {complaints}")
    expect(picture.exists() and picture.stat().st_size > 20_000, f"no picture: {done.stderr[-500:]}")


def the_20_second_profile_measures_the_relay(folder):
    port = free_port()
    relay = Relay(folder, smart_host=f"127.0.0.1:{port}").start()
    result, report = folder / "ci.json", folder / "ci.html"
    arguments = ["run", "ci", "--target", f"127.0.0.1:{relay.relay}", "--listen", f"127.0.0.1:{port}",
                 "--relay-pid", relay.daemon.pid, "--relay-metrics", f"127.0.0.1:{relay.admin}", "--spool",
                 relay.folder / "spool", "--json", result, "--report", report]
    done = bench(*arguments)
    print("  " + done.stdout.strip().replace("\n", "\n  "), flush=True)
    # 3: measured, but not to be trusted: a busy machine is no fault of the relay's or of the tool's.
    expect(done.returncode in (0, 3), f"status {done.returncode}: {done.stderr[-2000:]}")
    figures = json.loads(result.read_text())
    expect((figures["doubts"] == []) == (done.returncode == 0), figures["doubts"])
    expect(figures["due"] >= 300 * 13 and figures["accepted"] > 0.5 * figures["due"], f"accepted {figures['accepted']}")
    audit = figures["audit"]
    for fault in ("lost", "duplicated", "altered", "unexplained"):
        expect(audit[fault]["count"] == 0, f"{fault}: {audit[fault]}")
    expect(audit["arrived"] + audit["refused"] == audit["promised"] > figures["accepted"], f"audit {audit}")
    expect(figures["relay"]["cpu_s"] > 0 and figures["relay"]["memory_max_mb"] > 5, f"{figures['relay']}")
    expect(any(name.startswith("shard") for name in figures["relay"]["cpu_s_by_thread"]), "CPU of the shards")
    rooms_make_up_the_shards(figures)
    expect("ESMTP" in figures["relay_greeting"], figures["relay_greeting"])
    expect(sum(1 for sample in figures["samples"] if sample["measured"]) in range(10, 17), "seconds that were measured")
    microsoft = next(one for one in figures["providers"] if one["name"] == "microsoft")
    expect(microsoft["taken"] > 0, f"{microsoft}")

    plots_are_drawn(report, 8)
    again = folder / "again.html"
    expect(bench("report", result, again).returncode == 0 and again.read_text() == report.read_text(),
           "the report of the JSON is the same")
    chromium_opens(report, folder)

    same = bench("diff", result, result)
    expect(same.returncode == 0 and "WORSE" not in same.stdout and "noise" in same.stdout, same.stdout)
    worse = json.loads(result.read_text())
    for sample in worse["samples"]:
        sample["accepted_per_s"] *= 0.5
    worse["accepted"] //= 2
    worse["audit"]["lost"]["count"] = 3
    expect(audit["misdelivered"]["count"] == 0 and figures["setup"] and figures["relays"][0]["accepted"] > 0, "what is new")
    expect(any("STARTTLS" in value or "no TLS" in value for value in figures["setup"].values()), f"{figures['setup']}")
    expect("OpenSSL" in figures["machine"] and "DPDK" in figures["machine"], f"{figures['machine']}")
    (folder / "worse.json").write_text(json.dumps(worse))
    told = bench("diff", result, folder / "worse.json")
    expect(told.returncode == 1 and re.search(r"lost .*WORSE", told.stdout), told.stdout)
    expect(re.search(r"accepted/s .*WORSE", told.stdout), told.stdout)
    relay.stop()


def a_profile_runs_on_our_own_tcp_ip(folder):
    """transport = "dpdk": relay and bench are the two ends of a memif, without huge pages, and no kernel socket is in between."""
    network = MemifNetwork(memory_mb=256)
    relay = Relay(folder, smart_host=f"{network.peer}:2526", network=network, memory="128MiB")
    try:
        relay.start()
    except HarnessError:
        refusals = re.findall("DPDK (?:may not start|finds too little memory|does not start).*", relay.logs())
        if refusals:
            raise Skipped(refusals[0])
        raise
    profile = folder / "memif.toml"
    profile.write_text(f"""
duration = "3s"
warm_up = "1s"
drain = "20s"
transport = "dpdk"
{network.bench_section}
[message]
size = "2KB-6KB"
recipients = "1-2"
[[source]]
target = "{network.relay}:{relay.relay}"
connections = 10
messages_per_connection = 5
chunking = true
rate = 100
[[sink]]
listen = "{network.peer}:2526"
""")
    result, report = folder / "memif.json", folder / "memif.html"
    done = bench("run", profile, "--relay-pid", relay.daemon.pid, "--json", result, "--report", report)
    expect(done.returncode in (0, 3), f"status {done.returncode}: {done.stdout} {done.stderr[-2000:]}")
    figures = json.loads(result.read_text())
    expect(figures["due"] >= 290 and figures["accepted"] > 0.5 * figures["due"], f"accepted {figures['accepted']}")
    audit = figures["audit"]
    expect(audit["arrived"] == audit["promised"] > figures["accepted"], f"audit {audit}")
    for fault in ("lost", "duplicated", "altered", "unexplained"):
        expect(audit[fault]["count"] == 0, f"{fault}: {audit[fault]}")
    expect(figures["connections"] > 10, f"{figures['connections']} connections")
    expect("our own TCP/IP on net_memif0" in figures["machine"]["transport of the bench"], f"{figures['machine']}")
    expect(0 < figures["settled_s"] < 23 and figures["settled"] > 0, f"settled {figures['settled_s']}")
    plots_are_drawn(report)
    relay.stop()


def every_client_resumes_when_it_comes_again(folder):
    """Where all connections may resume, all do but each client's first: the source keeps the tickets of each client, and the relay
    takes them and counts as many. That resumption_percent is a share of the connections is source_sink_test.cc's."""
    port, clients = free_port(), 24
    relay = Relay(folder, smart_host=f"127.0.0.1:{port}").start()
    profile = folder / "resume.toml"
    profile.write_text(f"""
duration = "3s"
warm_up = "2s"
drain = "30s"
[message]
size = "1KB"
[[source]]
target = "127.0.0.1:{relay.relay}"
connections = {clients}
messages_per_connection = 1
tls = "starttls"
[[sink]]
listen = "127.0.0.1:{port}"
""")
    result = folder / "resume.json"
    done = bench("run", profile, "--json", result, "--quiet")
    expect(done.returncode in (0, 3), f"status {done.returncode}: {done.stdout} {done.stderr[-2000:]}")
    figures = json.loads(result.read_text())
    made, resumed = figures["tls_connections"], figures["tls_resumed"]
    print(f"  {resumed} of {made} resumed", flush=True)
    expect(made >= 2 * clients, f"{made} connections with TLS")
    # A ticket is used once: one that a broken connection had is gone.
    expect(resumed >= made - clients - figures["connections_broken"], f"{resumed} of {made} resumed")
    relay.stop()


def several_sources_and_relays_add_up(folder):
    """Two [[source]] of two threads, one with two relays, two sink threads; then two results as one."""
    port = free_port()
    relays = []
    for number in (1, 2):
        (folder / f"r{number}").mkdir()
        relays.append(Relay(folder / f"r{number}", smart_host=f"127.0.0.1:{port}", spool_size="128MiB",
                            segment_size="16MiB", memory="96MiB").start())
    one, two = (f"127.0.0.1:{relay.relay}" for relay in relays)
    profile = folder / "several.toml"
    profile.write_text(f"""
duration = "3s"
warm_up = "1s"
drain = "30s"
[message]
size = "2KB"
recipients = "1-2"
[[source]]
target = ["{one}", "{two}"]
connections = 3
threads = 2
rate = 60
[[source]]
target = "{two}"
connections = 2
threads = 2
rate = 40
[[sink]]
listen = "127.0.0.1:{port}"
threads = 2
""")
    results = []
    for number in (1, 2):
        results.append(folder / f"several{number}.json")
        done = bench("run", profile, "--quiet", "--json", results[-1])
        expect(done.returncode in (0, 3), f"status {done.returncode}: {done.stdout} {done.stderr[-2000:]}")
    figures = [json.loads(result.read_text()) for result in results]
    for got in figures:
        audit = got["audit"]
        for fault in ("lost", "duplicated", "altered", "misdelivered", "unexplained"):
            expect(audit[fault]["count"] == 0, f"{fault}: {audit[fault]}")
        expect(audit["arrived"] == audit["promised"] > got["accepted"] > 0, f"{audit}")
        by_relay = {relay["name"]: relay["accepted"] for relay in got["relays"]}
        expect(set(by_relay) == {one, two} and min(by_relay.values()) > 0, f"{by_relay}")
        expect(sum(by_relay.values()) == got["accepted"], f"{by_relay} of {got['accepted']}")
        expect(any("no spool was told" in what for what in got["unchecked"]), f"{got['unchecked']}")
    total = folder / "sum.json"
    done = bench("add", *results, "-o", total, "--report", folder / "sum.html")
    expect(done.returncode == 3 and "their rates do not add" in done.stdout, f"{done.returncode} {done.stdout} {done.stderr}")
    added = json.loads(total.read_text())
    for key in ("accepted", "sent", "recipients", "bytes"):
        expect(added[key] == sum(got[key] for got in figures), f"{key}: {added[key]}")
    buckets = {}
    for got in figures:
        for index, count in got["latency_ns"]["buckets"]:
            buckets[index] = buckets.get(index, 0) + count
    expect(dict(map(tuple, added["latency_ns"]["buckets"])) == buckets, "the histograms add bucket by bucket")
    xml.fromstring((folder / "sum.html").read_text())
    for relay in relays:
        relay.stop()


def the_search_ends_with_a_run_at_the_knee(folder):
    """--find-capacity from end to end, with bounds that everything keeps to up to a ceiling of 40/s."""
    port = free_port()
    relay = Relay(folder, smart_host=f"127.0.0.1:{port}").start()
    profile, result = folder / "search.toml", folder / "search.json"
    profile.write_text(f"""
duration = "2s"
warm_up = "1s"
drain = "30s"
[message]
size = "2KB"
recipients = "1-3"
[[source]]
target = "127.0.0.1:{relay.relay}"
connections = 4
[[sink]]
listen = "127.0.0.1:{port}"
[capacity]
trial = "1500ms"
repeats = 1
rate_first = 20
rate_max = 40
p99_max = "20s"
backlog_max_s = 1000
accepted_share_min = 0.5
""")
    done = bench("run", profile, "--find-capacity", "--json", result)
    expect(done.returncode in (0, 3), f"status {done.returncode}: {done.stdout} {done.stderr[-2000:]}")
    got = json.loads(result.read_text())
    capacity = got["capacity"]
    expect(capacity["knee_per_s"] == 40 and capacity["half_width_95"] is None, f"{capacity}")
    expect([trial["rate_per_s"] for trial in capacity["trials"]] == [20, 40], f"{capacity['trials']}")
    expect(capacity["full_run"] == "" and "knee lies above" in capacity["caveat"], f"{capacity}")
    expect("1.50 s a trial" in capacity["bounds"], capacity["bounds"])
    expect(got["rate_per_s"] == 40 and got["due"] >= 78 and got["audit"]["lost"]["count"] == 0, f"{got['due']} {got['audit']}")
    relay.stop()


def a_limit_that_cannot_hold_is_said(folder):
    done = bench("run", "newsletter", "--check")
    expect("provider yahoo: messages_per_connection_max without effect" in done.stdout, done.stdout)


def an_interrupted_run_has_a_result(folder):
    """The first Ctrl-C ends the measuring: what was accepted is still waited for, and the result says that it is a part."""
    port = free_port()
    relay = Relay(folder, smart_host=f"127.0.0.1:{port}").start()
    result, report = folder / "part.json", folder / "part.html"
    command = [binary("millrace-bench"), "run", "ci", "--target", f"127.0.0.1:{relay.relay}", "--listen",
               f"127.0.0.1:{port}", "--warm-up", "1", "--seconds", "60", "--json", result, "--report", report]
    run = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        seen = ""
        while seen.count("measuring") < 4:  # its own seconds, however slow the machine is
            line = run.stderr.readline()
            expect(line, f"it ended by itself: {seen}")
            seen += line
        run.send_signal(signal.SIGINT)
        out, rest = run.communicate(timeout=BENCH_SECONDS)
    finally:
        run.kill()
    expect(run.returncode == 3, f"status {run.returncode}: {out} {rest[-1000:]}")
    expect("interrupted: waiting" in rest and "NOT TO BE TRUSTED: it was interrupted" in out, f"{rest} {out}")
    figures = json.loads(result.read_text())
    expect(2 < figures["seconds"] < 50, f"{figures['seconds']} s were measured")
    expect(figures["accepted"] > 0 and "it was interrupted" in figures["doubts"], f"{figures['doubts']}")
    audit = figures["audit"]
    expect(audit["arrived"] + audit["refused"] == audit["promised"] and audit["lost"]["count"] == 0, f"audit {audit}")
    expect("it was interrupted" in report.read_text(), "the report says so")
    relay.stop()


def the_comparison_is_a_table_and_a_page(folder):
    """scripts/compare with one system and a few seconds: what it says, and that its page is drawn."""
    page, rows = folder / "compare.html", folder / "compare.json"
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "compare.py"), "--systems", "millrace", "--sizes", "4096",
                           "--tls", "off", "--seconds", "2", "--connections", "10", "--json", str(rows), "--html", str(page)],
                          capture_output=True, text=True, timeout=BENCH_SECONDS)
    expect(done.returncode == 0, f"status {done.returncode}: {done.stdout} {done.stderr[-2000:]}")
    row, = json.loads(rows.read_text())
    expect(row["messages"] > 0 and row["lost"] == row["altered"] == row["duplicated"] == 0, f"{row}")
    expect(row["accept_per_s"] > 0 and row["end_to_end_per_s"] > 0 and row["accept_ms_p99"] > 0, f"{row}")
    expect(row["cpu_s_per_1000"] > 0 and row["memory_mb_max"] > 5, f"{row}")
    expect(re.search(r"^millrace +4,096 ", done.stdout, re.M), done.stdout)
    text = page.read_text()
    plots = xml.fromstring(text).findall(".//svg")
    expect(len(plots) == 4 and all(plot.find("rect") is not None for plot in plots), f"{len(plots)} plots")
    expect(not re.search(r"https?://|src=|@import|@[A-Z]+@", text), "the page loads something, or is not filled in")
    chromium_opens(page, folder)


if __name__ == "__main__":
    run_cases([("the_shipped_profiles_are_right", the_shipped_profiles_are_right),
               ("a_mistake_is_named_with_its_line", a_mistake_is_named_with_its_line),
               ("the_20_second_profile_measures_the_relay", the_20_second_profile_measures_the_relay),
               ("a_profile_runs_on_our_own_tcp_ip", a_profile_runs_on_our_own_tcp_ip),
               ("every_client_resumes_when_it_comes_again", every_client_resumes_when_it_comes_again),
               ("several_sources_and_relays_add_up", several_sources_and_relays_add_up),
               ("the_search_ends_with_a_run_at_the_knee", the_search_ends_with_a_run_at_the_knee),
               ("a_limit_that_cannot_hold_is_said", a_limit_that_cannot_hold_is_said),
               ("an_interrupted_run_has_a_result", an_interrupted_run_has_a_result),
               ("the_comparison_is_a_table_and_a_page", the_comparison_is_a_table_and_a_page)])
