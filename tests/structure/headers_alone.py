#!/usr/bin/env python3
"""Compiles every header of the product by itself, so that none leans on what came before it.

Usage: headers_alone.py ROOT BUILD_DIR   (BUILD_DIR holds the generated schema headers)
"""
import concurrent.futures
import os
import pathlib
import subprocess
import sys


def compile_alone(root, build, header):
    command = [os.environ.get("CXX", "g++"), "-std=c++23", "-fsyntax-only", "-Wall", "-Wextra",
               "-Wno-missing-field-initializers", "-Wno-interference-size", "-march=x86-64-v2",
               "-I", str(root), "-I", str(build), "-include", str(header), "-x", "c++", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return header, result.returncode, result.stderr


def main():
    root, build = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
    headers = sorted(h for top in ("dataplane", "tls_offload", "queue", "control", "tests")
                     for h in (root / top).rglob("*.h"))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for header, code, errors in pool.map(lambda h: compile_alone(root, build, h), headers):
            if code != 0:
                failed += 1
                print(f"{header.relative_to(root)} does not compile alone:\n{errors}")
    print(f"{len(headers)} headers, {failed} of them not on their own feet")
    return 1 if failed or not headers else 0


if __name__ == "__main__":
    sys.exit(main())
