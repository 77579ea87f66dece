#!/usr/bin/env python3
"""kill9_test.py: SIGKILL at random moments under load; the ledgers tell whether anything was lost.

Environment  MILLRACE_KILLS  how often millraced is killed (default 30)
             MILLRACE_SEED   of the moments; printed, and a given one repeats them as far as a machine can
"""
import os
import random
import re
import subprocess
import time

from harness import (BenchSink, HarnessError, Process, Relay, binary, expect, expect_equal, run_cases, wait_until)

KILLS = int(os.environ.get("MILLRACE_KILLS", "30"))
SEED = int(os.environ.get("MILLRACE_SEED", str(random.SystemRandom().randrange(1 << 32))))
RUN = "kill9"
RECIPIENTS = 2


def start_source(folder, relay, *options):
    """A source that reconnects for as long as a restart takes, and keeps a ledger."""
    return Process("source", [
        binary("millrace-bench"), "source", "--target", f"127.0.0.1:{relay.relay}", "--connections", "20",
        "--recipients", str(RECIPIENTS), "--size", "600-12000", "--reconnect", "30", "--reply-limit", "20", "--run-id", RUN,
        "--ledger", str(folder / "source.ledger"), "--json", str(folder / "source.json"), *options], folder.path)


def audit(folder, sink):
    """Prints the audit and returns (passed, text)."""
    done = subprocess.run(
        [binary("millrace-bench"), "audit", "--source-ledger", str(folder / "source.ledger"), "--sink-ledger",
         str(sink.ledger)], capture_output=True, text=True, timeout=120)
    text = ", ".join(done.stdout.split("\n")).rstrip(", ")
    print(f"  audit: {text}", flush=True)
    return done.returncode == 0, done.stdout


def number_of(text, name):
    for line in text.splitlines():
        if line.startswith(name + " "):
            return int(line.split()[1])
    raise HarnessError(f"no '{name}' in the audit")


def ledger_lines(path):
    try:
        with open(path, "rb") as ledger:
            return sum(1 for _ in ledger)
    except OSError:
        return 0


def in_doubt(relay):
    """What the restarts said could be delivered twice: messages that may have been on their way."""
    log = (relay.folder / "millraced.log").read_text(errors="replace")
    found = [dict(re.findall(r"(\w+)=(\S+)", line)) for line in log.splitlines() if "event=spool_recovered" in line]
    at_once = [report for report in found if report.get("complete") == "yes"]
    # One that took longer says how many when it has found everything.
    later = re.findall(r"event=spool_recovered .*?(\d+) possible duplicates", log)
    begun = [report for report in found if "complete" in report]
    expect_equal(len(at_once) + len(later), len(begun), "restarts that named their bound")
    return sum(int(report["possible_duplicates"]) for report in at_once) + sum(map(int, later))


def millraced_killed_under_load(folder):
    """0 lost over KILLS restarts: what was answered with 250 arrives, whatever the moment."""
    print(f"  seed {SEED}, {KILLS} kills", flush=True)
    chance = random.Random(SEED)
    # A destination that refuses some and takes its time, so that kills find mail in every state.
    sink = BenchSink(folder, "--reply-4xx", "2", "--delay", "2", ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", spool_size="512MiB").start()
    source = start_source(folder, relay, "--seconds", str(KILLS * 10), "--rate", "2500")
    for number in range(KILLS):
        # Never less than a message between two kills: a run of kills in an idle relay would prove nothing.
        before = ledger_lines(folder / "source.ledger")
        wait_until("mail to flow again", lambda: source.must_run() and
                   ledger_lines(folder / "source.ledger") > before + 50, 60)
        time.sleep(chance.random() * 0.5)
        relay.daemon.must_run()
        relay.daemon.kill()
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.3)
        relay.start_daemon()
        if (number + 1) % 10 == 0:
            print(f"  {number + 1} kills, {ledger_lines(folder / 'source.ledger')} messages so far", flush=True)
    source.stop(40)
    relay.wait_empty(120)
    # A 250 that the sink sent and the dead relay never read makes the relay deliver again: SMTP's own duplicate.
    sink.stop()
    passed, text = audit(folder, sink)
    expect(passed, f"seed {SEED}: something was lost or altered:\n{text}")
    expect(number_of(text, "promised") > KILLS * 50, f"there was load: {text}")
    expect_equal(number_of(text, "unexplained"), 0, "deliveries of refused mail")
    twice, bound = number_of(text, "duplicated"), in_doubt(relay) * RECIPIENTS
    print(f"  delivered twice: {twice} copies, of {bound} that the restarts named", flush=True)
    expect(twice <= bound, f"{twice} copies were delivered twice, and the restarts had named {bound}")


def control_killed_under_load(folder):
    """SIGKILL of millrace-control: every message still gets its 250 and arrives, and it finds its shards again."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", spool_size="512MiB").start()
    user, password = "app@customer.example", "Correct-Horse-42-battery"
    relay.add_account(user, password)
    password_file = folder / "password"
    password_file.write_text(password + "\n")
    source = Process("source", [
        binary("millrace-bench"), "source", "--target", f"127.0.0.1:{relay.submission}", "--tls", "--user", user,
        "--password-file", str(password_file), "--connections", "20", "--seconds", "12", "--size", "4096",
        "--rate", "1500", "--reconnect", "0", "--run-id", RUN, "--ledger", str(folder / "source.ledger"),
        "--json", str(folder / "source.json")], folder.path)
    chance = random.Random(SEED)
    wait_until("load", lambda: source.must_run() and ledger_lines(folder / "source.ledger") > 500, 30)
    for _ in range(4):
        time.sleep(0.3 + chance.random())
        relay.control.kill()
        control, relay.control = relay.control, None
        time.sleep(chance.random())
        del control
        relay.daemon.must_run()
        relay.start_control()
    wait_until("control to answer again", lambda: answers(relay), 30)
    wait_until("the source to end", lambda: not source.running(), 60)
    expect_equal(source.child.returncode, 0, "the source's status: every message accepted, no connection broken")
    relay.wait_empty(60)
    sink.stop()
    passed, text = audit(folder, sink)
    expect(passed, text)
    expect_equal((number_of(text, "duplicated"), number_of(text, "unknown")), (0, 0), "duplicated, unknown")
    expect(relay.stats()["messages_received"] > 0,
           "the new control process reads the shards' counters")


def answers(relay):
    try:
        return bool(relay.stats())
    except OSError:
        return False


if __name__ == "__main__":
    run_cases([
        ("millraced_killed_under_load", millraced_killed_under_load),
        ("control_killed_under_load", control_killed_under_load),
    ])
