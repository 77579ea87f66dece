#!/usr/bin/env python3
"""crypto_bench_test.py: millrace-bench crypto runs all its cases, and writes every row that it promises.

How long anything takes is nothing that a test could hold a busy machine to: the rows are looked at for being there,
for being numbers, and for agreeing with themselves.
"""
import json
import math
import shutil
import subprocess

from harness import binary, expect, run_cases

LIMIT_SECONDS = 110
ROWS = {("client_" + kind + version + key, "-")
        for kind in ("full", "resumed") for version in ("_tls13", "_tls12") for key in ("_rsa2048", "_p256")} | {
    ("tls_bulk_aes256gcm_16k_evp", "-"),
    ("dkim_rsa2048", "inline"),
    ("dkim_rsa2048", "threads"),
    ("dkim_rsa2048_shard", "threads"),
    ("dkim_rsa4096", "threads"),
    ("dkim_rsa4096_shard", "threads"),
    ("dkim_rsa4096_turn_max", "threads"),
    ("dkim_ed25519", "inline"),
    ("tls_rsa4096_turn_max", "threads"),
    ("tls_rsa4096_turn_max_wall", "threads"),
    ("two_shards_handshake", "-"),
}


def crypto(*arguments):
    return subprocess.run([binary("millrace-bench"), "crypto", *map(str, arguments)], capture_output=True, text=True,
                          timeout=LIMIT_SECONDS)


def every_row_is_there_and_a_number(folder):
    file = folder / "rows.json"
    done = crypto("--seconds", "0.05", "--json", file)
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}")
    rows = json.loads(file.read_text())
    wanted = set(ROWS)
    if shutil.which("openssl"):
        wanted.add(("tls_bulk_aes256gcm_16k", "-"))
    seen = [(row["case"], row["backend"]) for row in rows]
    expect(len(seen) == len(set(seen)), f"twice: {sorted(each for each in set(seen) if seen.count(each) > 1)}")
    expect(not wanted - set(seen), f"missing: {sorted(wanted - set(seen))}")
    more = set(seen) - wanted
    expect(all(backend.startswith("mb8") for _, backend in more), f"not expected: {sorted(more)}")
    expect(bool(more) or "left out: mb8: " in done.stdout, "no mb8 rows, and no reason")
    for row in rows:
        for key in ("ours_us", "stock_us", "ratio"):
            expect(isinstance(row[key], float) and math.isfinite(row[key]) and row[key] > 0, f"{key} of {row}")
        expect(math.isclose(row["ratio"], row["ours_us"] / row["stock_us"], rel_tol=1e-9), f"ratio of {row}")
        held = [row[key] <= row[goal] for key, goal in (("ratio", "ratio_max"), ("ours_us", "ours_us_max")) if goal in row]
        expect(row.get("met") == (all(held) if held else None), f"goal of {row}")
        expect(row["case"] in done.stdout, f"{row['case']} is not printed")


def one_case_has_its_rows_alone(folder):
    file = folder / "bulk.json"
    done = crypto("--case", "bulk", "--seconds", "0.05", "--json", file)
    expect(done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}")
    names = {row["case"] for row in json.loads(file.read_text())}
    expect("tls_bulk_aes256gcm_16k_evp" in names and all(name.startswith("tls_bulk_") for name in names), f"{names}")


def a_case_that_there_is_not_is_refused_with_the_choice(folder):
    done = crypto("--case", "bulks", "--json", folder / "none.json")
    expect(done.returncode != 0, "it went on")
    expect("'bulks'" in done.stderr and "choose from handshake, bulk, dkim" in done.stderr, done.stderr)
    expect(not (folder / "none.json").exists(), "rows of nothing")


if __name__ == "__main__":
    run_cases([("every_row_is_there_and_a_number", every_row_is_there_and_a_number),
               ("one_case_has_its_rows_alone", one_case_has_its_rows_alone),
               ("a_case_that_there_is_not_is_refused_with_the_choice", a_case_that_there_is_not_is_refused_with_the_choice)])
