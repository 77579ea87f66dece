#!/usr/bin/env python3
"""Holds docs/tcp-conformance.md against the tests: every case has a test that exists, or says why not.

A test says which cases it covers in the comment above it ("// T33", "// T1, T2"); a packetdrill script anywhere
in its comments. The page's table of cases is written from that by --write; without it, the two are compared, and
a case that has neither a test nor a reason in REASONS below is an error.  Usage: conformance.py [--write] [ROOT]
"""
import pathlib
import re
import sys

BEGIN, END = "<!-- cases: written by tests/structure/conformance.py --write -->", "<!-- end of cases -->"

# What each case is about, in a few words; the wording is ours, the numbers are those of the tests' comments.
CASES = {
    1: "SYN lost n times: retries, then timed out, nothing left behind",
    2: "SYN-ACK lost, then twice", 3: "simultaneous open", 4: "RST and wrong ACKs while the SYN is out",
    5: "odd options in SYN and SYN-ACK", 6: "no timestamp after timestamps were agreed", 7: "data in the SYN-ACK",
    8: "a handshake slower than the first timeout", 9: "many opens behind one unresolved neighbour; one that never answers",
    10: "a neighbour's answer at another shard", 11: "a neighbour's address changes", 12: "refresh before a neighbour expires",
    13: "a flood of ARP", 14: "no free source port", 15: "one port towards many destinations",
    16: "each chosen port hashes to its shard", 17: "ports cannot be guessed", 18: "a new SYN meets an old TIME_WAIT",
    19: "refusals, and ICMP errors real and forged", 20: "loss from 0 to 30 %, many buffer sizes", 21: "no stall over a gigabyte at 5 % loss",
    22: "a partial ACK restarts the timeout", 23: "backoff stays until a clean sample", 24: "stray ACKs do not touch the timer",
    25: "endless duplicate ACKs", 26: "recovery across the wrap of sequence numbers", 27: "a whole window lost",
    28: "an ACK in the middle of a segment", 29: "sent again while the first copy is still in the device",
    30: "SACK storms with tiny segments", 31: "one-byte segments out of order", 32: "SACK blocks that cannot be",
    33: "tail loss probe", 34: "reordering is learned", 35: "a timeout that was none is undone", 36: "proportional rate reduction",
    37: "CUBIC's curve, idle restart, application-limited", 38: "ACK division and optimistic ACKs",
    39: "retransmissions under incast", 40: "giving up at the user timeout", 41: "small peer MSS and window",
    42: "pipelined small writes leave together", 43: "zero window: probes, backoff, end", 44: "our window opens again",
    45: "the peer's zero-length probe", 46: "two zero windows do not chatter", 47: "the peer's window shrinks",
    48: "close with a zero window", 49: "FIN lost, FIN before its data", 50: "simultaneous close", 51: "LAST_ACK",
    52: "FIN_WAIT_2", 53: "half-close", 54: "TIME_WAIT answers, ignores, gives way", 55: "TIME_WAIT is bounded",
    56: "close with unread data", 57: "abort", 58: "nothing answers an RST", 59: "no leak over every ending",
    60: "challenge ACKs", 61: "bad checksums", 62: "lengths that lie", 63: "addresses that cannot be", 64: "arbitrary segments",
    65: "packet too big", 66: "a black hole", 67: "fragments that overlap or never end", 68: "no buffers",
    69: "a device that takes nothing", 70: "a million timers in one tick", 71: "the clock jumps", 72: "the steering ring is full",
}
# Cases without a test of their own, and why.
REASONS = {}

CASE = re.compile(r"\bT([1-9]\d?)\b")
TEST = re.compile(r"^(?:TEST|TEST_F|TEST_P)\((\w+),\s*(\w+)\)", re.M)


def covered(root):
    """{case: [test names]}, sorted."""
    found = {}
    for path in sorted((root / "tests" / "dataplane" / "net").rglob("*.cc")):
        above = []
        for line in path.read_text().splitlines():
            test = TEST.match(line)
            if test:
                for case in CASE.findall(" ".join(above)):
                    found.setdefault(int(case), []).append(f"{test[1]}.{test[2]}")
            above = above + [line] if line.startswith("//") else []
    for path in sorted((root / "tests" / "dataplane" / "net").rglob("*.pkt")):
        for case in CASE.findall(" ".join(line for line in path.read_text().splitlines() if "//" in line)):
            found.setdefault(int(case), []).append(path.name)
    return {case: list(dict.fromkeys(names)) for case, names in found.items()}


def table(root):
    tests = covered(root)
    lines, faults = ["| case | what | tests |", "|---|---|---|"], []
    for case, what in CASES.items():
        names = tests.get(case, [])
        if not names and case not in REASONS:
            faults.append(f"T{case} ({what}) has no test and no reason")
        shown = ", ".join(f"`{name}`" for name in names) or f"not tested: {REASONS.get(case, 'no reason given')}"
        lines.append(f"| T{case} | {what} | {shown} |")
    return "\n".join(lines), faults


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--write"]
    root = pathlib.Path(arguments[0] if arguments else ".").resolve()
    page = root / "docs" / "tcp-conformance.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made, faults = table(root)
    whole = f"{before}{BEGIN}\n{made}\n{END}{after}"
    if "--write" in sys.argv:
        page.write_text(whole)
    elif whole != text:
        faults.append(f"{page.relative_to(root)} and the tests differ: tests/structure/conformance.py --write")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
