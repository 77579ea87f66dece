#!/usr/bin/env python3
"""spool_tool_test.py: millrace-spool on the pools of real relays: a dead one's mail is looked at, saved, and delivered."""
import json
import subprocess
import time

from harness import (BenchSink, Process, Relay, bench_source, binary, expect, expect_equal, free_port,
                     run_cases, tail, wait_until)

COUNT = 300


def spool(*arguments, status=0):
    """Runs millrace-spool and returns what it printed."""
    done = subprocess.run([binary("millrace-spool"), *arguments], capture_output=True, text=True, timeout=120)
    expect_equal(done.returncode, status, f"millrace-spool {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def pool_of(relay):
    return str(relay.folder / "spool" / "shard-0.spool")


def dead_relay(folder, port, name="dead", **options):
    """A relay that was killed with COUNT messages queued, because nobody listens on `port`."""
    home = folder / name
    home.mkdir()
    relay = Relay(home, smart_host=f"127.0.0.1:{port}", spool_size="64MiB", segment_size="2MiB", message_size="8MiB",
                  **options).start()
    bench_source(folder, relay.relay, "--connections", "4", "--messages", str(COUNT), "--size", "600-20000",
                 "--run-id", name, "--ledger", str(folder / f"{name}.ledger"), name=f"source-{name}")
    wait_until("the queue to fill", lambda: relay.queued() == COUNT)
    return relay


def kill(relay):
    relay.daemon.kill()
    relay.control.kill()


def audit(folder, sink, name="dead"):
    done = subprocess.run([binary("millrace-bench"), "audit", "--source-ledger", str(folder / f"{name}.ledger"),
                           "--sink-ledger", str(sink.ledger)], capture_output=True, text=True, timeout=60)
    expect_equal(done.returncode, 0, f"the audit: {done.stdout}")
    for fact in ("duplicated 0", "unknown 0"):
        expect(fact in done.stdout, f"{fact}: {done.stdout}")


def a_running_relay_keeps_its_pool(folder):
    """The tool refuses what a relay has open, and only looks when it is told to."""
    relay = dead_relay(folder, free_port())
    text = spool("verify", pool_of(relay), status=2)
    expect("running relay" in text, text)
    text = spool("inspect", "--no-lock", pool_of(relay))
    expect("may not fit together" in text, text)
    kill(relay)
    text = spool("verify", pool_of(relay))
    expect(f"sound, {COUNT} queued messages" in text, text)


def a_dead_pool_is_exported(folder):
    """What is queued at a kill -9 comes out as files, envelopes beside them."""
    relay = dead_relay(folder, free_port())
    kill(relay)
    spool("export", pool_of(relay), "--to", str(folder / "out"))
    messages = sorted((folder / "out").glob("*.eml"))
    expect_equal(len(messages), COUNT, "exported messages")
    envelope = json.loads(messages[0].with_suffix(".json").read_text())
    expect_equal(envelope["recipients"][0]["state"], "pending", "the state of a recipient")
    expect(messages[0].read_bytes().startswith(b"Received:"), "what would have been sent")
    data = json.loads(spool("inspect", "--json", pool_of(relay)))
    expect_equal(data["queued"]["messages"], COUNT, "inspect's count")


def an_attached_pool_is_delivered_once(folder):
    """A dead relay's pool, attached on a node whose relay is running: all mail arrives once, the pool ends empty."""
    port = free_port()
    dead = dead_relay(folder, port)
    kill(dead)
    pool = pool_of(dead)
    sink = BenchSink(folder, "--delay", "200", port=port, ledger=True)  # so that there is a half way
    node = Relay(folder, smart_host=f"127.0.0.1:{port}", spool_size="64MiB", segment_size="2MiB",
                 message_size="8MiB", site_connections=5).start()
    adopter = Process("attach", [binary("millrace-spool"), "attach", pool, "--state-dir", str(node.folder / "state"),
                                 "--daemon", binary("millraced")], folder.path)
    # The pool belongs to the adopter now, and to nobody else.
    wait_until("deliveries", lambda: adopter.running() is False or sink.results()["unique"] > 10, 60)
    if adopter.running():
        text = spool("inspect", pool, status=2)
        expect("running relay" in text, text)
    # Stopped half way, it leaves the rest in the pool, and goes on with it the next time.
    status = adopter.stop(40)
    expect(status in (0, 2), f"stopped with status {status}: {tail(adopter.log)}")
    if status == 2:
        adopter = Process("attach-again", [binary("millraced"), "--attach", pool, "--state-dir",
                                           str(node.folder / "state")], folder.path)
        wait_until("the pool to be empty", lambda: not adopter.running(), 90)
        expect_equal(adopter.child.returncode, 0, f"the second adopter's status: {tail(adopter.log)}")
    sink.wait_for(COUNT, 30)
    time.sleep(1.0)  # for what should not come
    expect_equal(node.stats()["messages_received"], 0, "what the node's own relay has taken")
    expect_equal(node.queued(), 0, "what the node's own relay has queued")
    sink.stop()
    audit(folder, sink)
    data = json.loads(spool("inspect", "--json", pool))
    expect_equal((data["queued"]["messages"], data["superblock"]["clean"]), (0, True), "the pool in the end")
    spool("verify", pool)


def an_upgraded_pool_goes_on(folder):
    """A pool rewritten into a larger one is the relay's own: its mail arrives once."""
    port = free_port()
    relay = dead_relay(folder, port)
    relay.daemon.stop(30)
    spool("upgrade", pool_of(relay), "--pool-size", "128MiB", "--segment-size", "4MiB")
    sink = BenchSink(folder, port=port, ledger=True)
    relay.start_daemon()
    relay.wait_empty()
    sink.stop()
    audit(folder, sink)


def attach_refuses_what_it_cannot_have(folder):
    """A pool in use, a folder without a policy and a file that is no pool are refused in a sentence."""
    relay = dead_relay(folder, free_port())
    state = str(relay.folder / "state")
    text = spool("attach", pool_of(relay), "--state-dir", state, status=2)
    expect("running relay" in text, text)
    done = subprocess.run([binary("millraced"), "--attach", pool_of(relay), "--state-dir", state],
                          capture_output=True, text=True, timeout=60)
    expect_equal(done.returncode, 1, "millraced on a pool that is in use")
    expect("another process is using this spool" in done.stdout + done.stderr, done.stdout + done.stderr)
    text = spool("attach", pool_of(relay), "--state-dir", str(folder.path), status=2)
    expect("policy.snapshot" in text, text)


if __name__ == "__main__":
    run_cases([
        ("a_running_relay_keeps_its_pool", a_running_relay_keeps_its_pool),
        ("a_dead_pool_is_exported", a_dead_pool_is_exported),
        ("an_attached_pool_is_delivered_once", an_attached_pool_is_delivered_once),
        ("an_upgraded_pool_goes_on", an_upgraded_pool_goes_on),
        ("attach_refuses_what_it_cannot_have", attach_refuses_what_it_cannot_have),
    ])
