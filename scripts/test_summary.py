"""test_summary.py FOLDER [JSON]: counts test cases out of what scripts/test left in FOLDER.

Scope      meson's logs (PART.json, a line a test), GoogleTest's XML (PART/PROGRAM.xml, a case each), lines such as
           "12 passed, 0 failed, 1 skipped" that a program prints about its own cases, and notes.tsv.
           A program that failed without a failed case counts as one failed case: it crashed, leaked or hung.
"""
import json
import pathlib
import re
import sys
import xml.etree.ElementTree

OWN_COUNT = re.compile(r"(\d+) (?:\w+ )?passed, (\d+) failed(?:, (\d+) skipped)?")


class Count:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.failures = []

    def add(self, name, outcome, detail=""):
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "failed":
            self.failures.append({"case": name, "detail": detail[-2000:]})


def count_xml(path, count):
    """Counts the cases of one GoogleTest program; returns how many failed."""
    failed = 0
    for case in xml.etree.ElementTree.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        failure = case.find("failure")
        if failure is not None:
            failed += 1
            count.add(name, "failed", failure.get("message", ""))
        elif case.find("skipped") is not None or case.get("status") == "notrun":
            count.add(name, "skipped")
        else:
            count.add(name, "passed")
    return failed


def count_test(test, folder, count):
    ended_well = test["result"] in ("OK", "SKIP")
    # The program is the first word of the command unless it is a script's interpreter.
    program = pathlib.Path(test["command"][0]).name
    report = folder / f"{program}.xml"
    output = (test.get("stdout") or "") + (test.get("stderr") or "")
    name = test["name"]
    if report.exists():
        try:
            failed = count_xml(report, count)
        except xml.etree.ElementTree.ParseError:
            failed = 0
        if not ended_well and failed == 0:
            count.add(name, "failed", f"{test['result']}: {output}")
        return
    own = OWN_COUNT.findall(output)
    if own:
        passed, failed, skipped = (int(number or 0) for number in own[-1])
        count.passed += passed
        count.skipped += skipped
        for _ in range(failed):
            count.add(name, "failed", output)
        if not ended_well and failed == 0:
            count.add(name, "failed", f"{test['result']}: {output}")
        return
    count.add(name, {"OK": "passed", "SKIP": "skipped"}.get(test["result"], "failed"), output)


def main():
    folder = pathlib.Path(sys.argv[1])
    parts = {}
    for log in sorted(folder.glob("*.json")):
        count = parts.setdefault(log.stem, Count())
        for line in log.read_text().splitlines():
            if line.strip():
                count_test(json.loads(line), folder / log.stem, count)
    notes = folder / "notes.tsv"
    if notes.exists():
        for line in notes.read_text().splitlines():
            part, name, outcome = line.split("\t")
            parts.setdefault(part, Count()).add(name, outcome)

    total = Count()
    print()
    for name, count in parts.items():
        print(f"{name:14} {count.passed:6} passed {count.failed:4} failed {count.skipped:4} skipped")
        for kind in ("passed", "failed", "skipped"):
            setattr(total, kind, getattr(total, kind) + getattr(count, kind))
        for failure in count.failures:
            total.failures.append({"part": name, **failure})
    for failure in total.failures:
        print(f"FAILED {failure['part']}: {failure['case']}")
    if len(sys.argv) > 2:
        pathlib.Path(sys.argv[2]).write_text(json.dumps({
            "passed": total.passed, "failed": total.failed, "skipped": total.skipped,
            "parts": {name: {"passed": count.passed, "failed": count.failed, "skipped": count.skipped}
                      for name, count in parts.items()},
            "failures": total.failures}, indent=1) + "\n")
    print(f"{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    sys.exit(1 if total.failed or not total.passed + total.skipped else 0)


if __name__ == "__main__":
    main()
