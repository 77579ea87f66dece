#!/usr/bin/env python3
"""spool_faults_test.py: a real relay on devices that refuse: nothing acknowledged is lost, and mail goes on where it can."""
import pathlib
import subprocess

from harness import BenchSink, Process, Relay, binary, expect, expect_equal, run_cases, wait_until

RUN = "faults"


def load(folder, relay, seconds):
    source = Process("source", [
        binary("millrace-bench"), "source", "--target", f"127.0.0.1:{relay.relay}", "--connections", "10",
        "--recipients", "1", "--size", "600-12000", "--reconnect", "30", "--reply-limit", "20", "--run-id", RUN,
        "--ledger", str(folder / "source.ledger"), "--json", str(folder / "source.json"),
        "--seconds", str(seconds), "--rate", "1000"], folder.path)
    wait_until("the source to end", lambda: not source.running(), seconds + 60)


def audited(folder, sink):
    sink.stop()
    done = subprocess.run(
        [binary("millrace-bench"), "audit", "--source-ledger", str(folder / "source.ledger"), "--sink-ledger",
         str(sink.ledger)], capture_output=True, text=True, timeout=120)
    print("  audit: " + ", ".join(done.stdout.split("\n")).rstrip(", "), flush=True)
    expect(done.returncode == 0, "nothing acknowledged is lost:\n" + done.stdout)


def relay_log(relay):
    return (relay.folder / "millraced.log").read_text(errors="replace")


def with_server(relay, lines):
    relay.config.write_text(relay.config.read_text().replace("[server]\n", "[server]\n" + lines + "\n", 1))
    return relay


def refused_writes_lose_nothing(folder):
    """A refused and a short write here and there: clients are told, the mail of all others arrives."""
    sink = BenchSink(folder, ledger=True)
    # Small segments: each refusal takes one out of use.
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", segment_size="8MiB",
                  daemon_options=["--spool-faults", "write:io:50,write:short:200,write:io:400"])
    relay.start()
    load(folder, relay, 5)
    relay.wait_empty(60)
    audited(folder, sink)
    relay.stop()


def failed_flush_fails_its_batches_and_loses_nothing(folder):
    """Strategy B: a flush that fails is nobody's 250."""
    sink = BenchSink(folder, ledger=True)
    relay = with_server(Relay(folder, smart_host=f"127.0.0.1:{sink.port}",
                              daemon_options=["--spool-faults", "flush:io:100"]), 'commit = "flush"')
    relay.start()
    load(folder, relay, 4)
    expect("event=spool_commit" in relay_log(relay), "the log names the strategy")
    stats = relay.stats()
    expect(stats["spool_write_errors"] > 0, "writes failed with that flush")
    expect(stats["spool_read_only"] == 0, "one failed flush is one failure: mail goes on")
    relay.daemon.kill()
    relay.daemon_options = []
    relay.start_daemon()
    relay.wait_empty(60)
    audited(folder, sink)
    relay.stop()


def device_that_refuses_everything_suspends_deliveries(folder):
    """Nothing that is delivered could be written down: the shard says so, takes nothing and delivers nothing."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}",
                  daemon_options=["--spool-faults", "write:io:200+"])
    relay.start()
    load(folder, relay, 3)
    wait_until("the log to say it", lambda: "event=spool_read_only" in relay_log(relay), 20)
    expect_equal(relay_log(relay).count("event=spool_read_only"), 1, "lines that say it")
    wait_until("the gauge", lambda: relay.stats()["spool_read_only"] == 1, 20)
    wait_until("deliveries to have ended", lambda: relay.stats()["open_out"] == 0, 20)
    before = relay.stats()["messages_delivered"]
    expect("READ-ONLY on 1" in relay.ctl("status"), "millracectl status says it")
    expect_equal(relay.stats()["messages_delivered"], before, "messages delivered meanwhile")
    relay.daemon.kill()
    relay.daemon_options = []
    relay.start_daemon()
    relay.wait_empty(60)
    audited(folder, sink)
    relay.stop()


def mirror_goes_on_with_one_half(folder):
    """The second half refuses for good: an alarm, no lost mail; after a restart it is given everything again."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}",
                  daemon_options=["--mirror-faults", "write:io:100+"])
    with_server(relay, f'durability = "mirror"\nmirror_dir = "{relay.folder}/mirror"\nmirror_copy_rate = "1GiB"')
    relay.start()
    load(folder, relay, 4)
    expect("degraded: mirror_dir" in relay_log(relay), "the log has the alarm")
    relay.daemon.kill()
    relay.daemon_options = []
    relay.start_daemon()
    wait_until("the half to be filled again", lambda: "whole: mirror_dir" in relay_log(relay), 60)
    relay.wait_empty(60)
    audited(folder, sink)
    relay.stop()
    # A device is replaced after another size was configured: the new half is as large as the one that is there.
    for half in pathlib.Path(relay.folder, "mirror").glob("*.spool"):
        half.unlink()
    relay.config.write_text(relay.config.read_text().replace('"512MiB"', '"1GiB"', 1))
    pathlib.Path(relay.folder, "state", "policy.snapshot").unlink()
    before = relay_log(relay).count("whole: mirror_dir")
    relay.start()
    wait_until("the new half to be filled", lambda: relay_log(relay).count("whole: mirror_dir") > before, 60)
    relay.stop()


def mirror_goes_on_when_one_half_hangs(folder):
    """The second half stops answering: after its time it is left behind, queued mail goes out, and the end does not wait for it."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}",
                  daemon_options=["--mirror-faults", "write:hang:100+"])
    with_server(relay, f'durability = "mirror"\nmirror_dir = "{relay.folder}/mirror"\nmirror_copy_rate = "1GiB"')
    relay.start()
    load(folder, relay, 4)
    wait_until("the half to be left behind", lambda: "mirror_dir did not answer for 30 s" in relay_log(relay), 90)
    relay.wait_empty(60)
    audited(folder, sink)
    expect_equal(relay.daemon.stop(30), 0, "the daemon ends in good order")
    expect("event=spool_hung" in relay_log(relay), "the log says that a device was not waited for")
    relay.daemon_options = []
    relay.start_daemon()
    wait_until("the half to be filled again", lambda: "whole: mirror_dir" in relay_log(relay), 60)
    relay.stop()


if __name__ == "__main__":
    run_cases([("refused_writes_lose_nothing", refused_writes_lose_nothing),
               ("failed_flush_fails_its_batches_and_loses_nothing", failed_flush_fails_its_batches_and_loses_nothing),
               ("device_that_refuses_everything_suspends_deliveries",
                device_that_refuses_everything_suspends_deliveries),
               ("mirror_goes_on_with_one_half", mirror_goes_on_with_one_half),
               ("mirror_goes_on_when_one_half_hangs", mirror_goes_on_when_one_half_hangs)])
