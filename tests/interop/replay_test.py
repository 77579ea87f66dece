#!/usr/bin/env python3
"""replay_test.py: the whole relay under load, its disk traffic written down, and crashes of that run made again.

A kill -9 does not test what a missing sync costs: the kernel still writes what it has. Here each image holds only what
had been made durable at that moment, and of the rest any sector or none.

Environment  MILLRACE_CRASH_IMAGES  how many (default 100)
             MILLRACE_SEED          of the moments and of what survives; printed
"""
import json
import os
import pathlib
import random
import subprocess
import time

from harness import BenchSink, Process, Relay, binary, expect, run_cases, wait_until

IMAGES = int(os.environ.get("MILLRACE_CRASH_IMAGES", "100"))
SEED = int(os.environ.get("MILLRACE_SEED", str(random.SystemRandom().randrange(1 << 32))))


def crashes_of_a_recorded_run(folder):
    """No promise broken in any image: every message answered with 250 and not yet done with is there, unaltered."""
    print(f"  seed {SEED}, {IMAGES} images", flush=True)
    journal = pathlib.Path(folder.path) / "journal"
    journal.mkdir()
    # Some mail waits for a retry, some is delivered at once, so that images find it in every state.
    sink = BenchSink(folder, "--reply-4xx", "10", "--delay", "2")
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", spool_size="64MiB", segment_size="1MiB", message_size="1MiB",
                  daemon_options=["--spool-journal", str(journal)]).start()
    source = Process("source", [
        binary("millrace-bench"), "source", "--target", f"127.0.0.1:{relay.relay}", "--connections", "20",
        "--size", "600-60000", "--messages", "3000", "--rate", "1000", "--json", str(folder / "source.json")], folder.path)
    wait_until("the source to end", lambda: not source.running(), 120)
    time.sleep(0.5)
    relay.stop()
    sink.stop()
    done = subprocess.run([binary("spool_replay"), str(journal / "shard-0.journal"),
                           "--images", str(IMAGES), "--seed", str(SEED)], capture_output=True, text=True,
                          timeout=max(300, IMAGES))
    print("  " + done.stdout.strip().replace("\n", "\n  "), flush=True)
    expect(done.returncode == 0, f"seed {SEED}: {done.stdout}{done.stderr}")
    figures = json.loads(done.stdout.splitlines()[-1])
    expect(figures["promises"] > IMAGES and figures["contents"] > IMAGES,
           f"the images held mail to look for: {figures}")


def a_wrong_command_line_is_refused(folder):
    def said(*words):
        return subprocess.run([binary("spool_replay"), *words], capture_output=True, text=True, timeout=60)
    told = said("--help")
    expect(told.returncode == 0 and "--images N" in told.stdout and not told.stderr, f"help: {told}")
    for words, why in ((("J", "--images", "ten"), "ten is no number"), (("J", "--images"), "needs a number"),
                       (("J", "--seed", "1x"), "1x is no number"), (("J", "--images", "0"), "nothing"),
                       (("--quick", "J"), "no option --quick"), (("J", "K"), "K is a second"), ((), "JOURNAL is missing")):
        refused = said(*words)
        expect(refused.returncode == 2 and why in refused.stderr and "--help" in refused.stderr, f"{words}: {refused}")


if __name__ == "__main__":
    run_cases([("a_wrong_command_line_is_refused", a_wrong_command_line_is_refused),
               ("crashes_of_a_recorded_run", crashes_of_a_recorded_run)])
