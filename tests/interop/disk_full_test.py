#!/usr/bin/env python3
"""disk_full_test.py: a spool on a file system that is too small, or that others fill.

Needs root and loop devices: the file system is a file of 96 MiB. Without them the cases are skipped.
"""
import contextlib
import os
import subprocess

from harness import BenchSink, HarnessError, Relay, Skipped, expect, expect_equal, need_tool, run_cases
from spool_faults_test import audited, load, relay_log

FILE_SYSTEM_MIB = 96


@contextlib.contextmanager
def small_file_system(folder, at):
    """ext4 in a file, mounted at `at`; what was mounted goes with the block."""
    image = folder / "disk.img"
    with open(image, "wb") as file:
        file.truncate(FILE_SYSTEM_MIB << 20)
    subprocess.run([need_tool("mkfs.ext4", "e2fsprogs"), "-q", "-F", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(at)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Skipped(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        at.chmod(0o700)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)
        image.unlink()


def free_bytes(at):
    state = os.statvfs(at)
    return state.f_bavail * state.f_frsize


def fill(at):
    """Writes until nothing fits any more, blocks kept for root included."""
    with open(at / "somebody-elses", "wb", buffering=0) as file:
        for piece in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * piece)


def pool_that_does_not_fit_is_refused(folder):
    """The start says what does not fit, leaves nothing behind, and works once the size does."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", spool_size="128MiB", segment_size="8MiB", message_size="4MiB")
    spool = relay.folder / "spool"
    with small_file_system(folder, spool):
        before = free_bytes(spool)
        relay.start_control()
        try:
            relay.start_daemon()
        except HarnessError:
            pass
        else:
            raise AssertionError("128 MiB were made on a file system of 96")
        text = relay_log(relay)
        expect("a pool of 128 MiB does not fit" in text and "server.spool_size" in text,
               f"the log names the reason and the remedy:\n{text[-500:]}")
        expect(before - free_bytes(spool) < 1 << 20, f"nothing is left behind: {before - free_bytes(spool)} bytes")
        relay.control.stop(30)
        relay.config.write_text(relay.config.read_text().replace('"128MiB"', '"64MiB"'))
        (relay.folder / "state" / "policy.snapshot").unlink()  # else the daemon may take the old one
        relay.start()
        load(folder, relay, 2)
        relay.wait_empty(60)
        audited(folder, sink)
        relay.stop()


def full_file_system_stops_nothing(folder):
    """What a spool needs it has from its first start: others may fill the rest, and a kill changes nothing."""
    sink = BenchSink(folder, ledger=True)
    relay = Relay(folder, smart_host=f"127.0.0.1:{sink.port}", spool_size="64MiB", segment_size="4MiB", message_size="2MiB")
    spool = relay.folder / "spool"
    with small_file_system(folder, spool):
        relay.start()
        fill(spool)
        expect_equal(free_bytes(spool), 0, "bytes free")
        load(folder, relay, 3)
        relay.daemon.kill()
        relay.start_daemon()
        relay.wait_empty(60)
        audited(folder, sink)
        expect(relay.stats()["spool_write_errors"] == 0, "no write failed")
        relay.stop()


if __name__ == "__main__":
    run_cases([("pool_that_does_not_fit_is_refused", pool_that_does_not_fit_is_refused),
               ("full_file_system_stops_nothing", full_file_system_stops_nothing)])
