#!/usr/bin/env python3
"""bench_run_test.py: millrace-bench run, report and diff against the real relay: the 20-second profile, and its report.

The report is read as XML, every plot is looked at for what it draws, and where Chromium is installed it opens it and
must have nothing to complain of.
"""
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml

from harness import Relay, binary, expect, free_port, run_cases

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


def plots_are_drawn(path):
    """Well-formed, self-contained, and each plot has lines or bars with points in them."""
    text = path.read_text()
    tree = xml.fromstring(text)
    plots = tree.findall(".//svg")
    expect(len(plots) == 6, f"{len(plots)} plots")
    for plot in plots:
        title = plot.get("aria-label")
        lines = [shape.get("d") for shape in plot.iter("path") if "line" in shape.get("class", "").split()]
        bars = [shape for shape in plot.iter("rect") if shape.get("class") == "bar"]
        points = max([len(re.findall("[ML]", line)) for line in lines] + [len(bars)])
        expect(points >= 3, f"'{title}' draws {points} points")
    expect(not re.search(r"https?://|src=|@import", text), "the report loads something")


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
                 "--relay-pid", relay.daemon.pid, "--spool", relay.folder / "spool", "--json", result, "--report", report]
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
    expect("ESMTP" in figures["relay_greeting"], figures["relay_greeting"])
    expect(sum(1 for sample in figures["samples"] if sample["measured"]) in range(10, 17), "seconds that were measured")
    microsoft = next(one for one in figures["providers"] if one["name"] == "microsoft")
    expect(microsoft["taken"] > 0, f"{microsoft}")

    plots_are_drawn(report)
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
    (folder / "worse.json").write_text(json.dumps(worse))
    told = bench("diff", result, folder / "worse.json")
    expect(told.returncode == 1 and re.search(r"lost .*WORSE", told.stdout), told.stdout)
    expect(re.search(r"accepted/s .*WORSE", told.stdout), told.stdout)
    relay.stop()


if __name__ == "__main__":
    run_cases([("the_shipped_profiles_are_right", the_shipped_profiles_are_right),
               ("a_mistake_is_named_with_its_line", a_mistake_is_named_with_its_line),
               ("the_20_second_profile_measures_the_relay", the_20_second_profile_measures_the_relay)])
