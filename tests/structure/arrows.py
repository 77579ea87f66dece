#!/usr/bin/env python3
"""Checks that the includes follow the arrows of docs/architecture.md.

Every #include "..." of the product's own files is held against the table below, and library headers
that belong to one room (DPDK, OpenSSL, Hyperscan ...) are looked for elsewhere. Prints each breach as
file:line; exits 1 when there is one.  Usage: arrows.py [ROOT]
"""
import pathlib
import re
import sys

# room -> rooms whose headers it may include, itself aside. The longest matching folder decides.
ALLOWED = {
    "dataplane/base": [],
    "dataplane/telemetry": ["dataplane/base", "control/schema"],
    "dataplane/policy": ["dataplane/base", "dataplane/telemetry", "dataplane/message/dkim", "control/schema"],
    "dataplane/net/kernel": ["dataplane/base", "dataplane/net"],
    "dataplane/net/tcp": ["dataplane/base"],
    "dataplane/net/port": ["dataplane/base"],
    "dataplane/net/ip": ["dataplane/base", "dataplane/net/port", "dataplane/net/tcp"],
    "dataplane/net/stack": ["dataplane/base", "dataplane/net", "dataplane/net/port", "dataplane/net/tcp",
                            "dataplane/net/ip"],
    "dataplane/net": ["dataplane/base"],
    "dataplane/screen": ["dataplane/base"],
    "dataplane/message": ["dataplane/base"],
    "dataplane/message/dkim": ["dataplane/base"],
    "dataplane/smtp": ["dataplane/base", "dataplane/telemetry", "dataplane/policy", "dataplane/screen",
                       "dataplane/message", "dataplane/message/dkim", "queue", "tls_offload"],
    "dataplane/delivery": ["dataplane/base", "dataplane/telemetry", "dataplane/policy", "dataplane/message",
                           "dataplane/message/dkim",
                           "dataplane/smtp", "queue", "tls_offload"],
    "dataplane/loadgen": ["dataplane/loadgen/run", "dataplane/base", "dataplane/net", "dataplane/net/kernel", "dataplane/net/port",
                          "dataplane/net/ip", "dataplane/net/stack", "dataplane/message/dkim", "queue", "queue/disk",
                          "tls_offload", "tls_offload/engine"],
    # The program calls the run, the run uses the tool's parts: one room in two folders, for its size.
    "dataplane/loadgen/run": ["dataplane/loadgen", "dataplane/base", "tls_offload"],
    "dataplane/daemon": ["dataplane", "queue", "queue/disk", "tls_offload", "control/schema"],
    "tls_offload": ["dataplane/base", "tls_offload/engine"],
    "tls_offload/engine": ["dataplane/base"],
    "queue": ["dataplane/base", "queue/disk"],
    "queue/disk": ["dataplane/base"],
    "queue/tool": ["queue", "queue/disk", "dataplane/base"],
    "control/schema": [],
    "control/screen": ["control/schema", "dataplane/base"],
    "control/cli": ["control", "control/schema", "control/screen", "dataplane/base", "dataplane/message/dkim", "tls_offload"],
    "control": ["control/schema", "control/screen", "dataplane/base", "dataplane/message/dkim"],
}
ROOTS = ["dataplane", "tls_offload", "queue", "control"]
# library header pattern -> rooms (or single files) that may include it
LIBRARIES = {
    r"rte_.*": ["dataplane/net/port", "tls_offload/engine/cryptodev.cc"],
    r"openssl/.*": ["tls_offload", "control", "dataplane/policy", "dataplane/message/dkim",
                     "queue/cipher.cc", "queue/keyring.cc"],
    r"hs(/.*)?\.h": ["dataplane/screen", "control/screen"],
    r"unbound\.h": ["dataplane/delivery", "control/cli"],
    r"liburing.*": ["dataplane/base", "dataplane/net/kernel", "queue"],
    r"sqlite3\.h": ["control"],
    r"argon2\.h": ["control"],
}
HEAVY = r"(toml\+\+/|httplib\.h|nlohmann/|spdlog/|CLI/)"  # slow to compile: kept out of headers,
# but for those that only one or two .cc files of the same folder include.
HEAVY_PRIVATE = {"queue/tool/message_json.h", "control/config_section.h", "control/cli/admin_client.h"}


def room_of(path):
    best = None
    for room in ALLOWED:
        if (path == room or path.startswith(room + "/")) and (best is None or len(room) > len(best)):
            best = room
    return best


def permitted(room, target_room):
    if target_room == room or target_room in ALLOWED[room]:
        return True
    return any(target_room.startswith(granted + "/") for granted in ALLOWED[room] if room == "dataplane/daemon")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    breaches, files = [], 0
    for top in ROOTS:
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            files += 1
            name = str(path.relative_to(root))
            room = room_of(str(path.parent.relative_to(root)))
            if room is None:
                breaches.append(f"{name}:1: no room of docs/architecture.md; add it to tests/structure/arrows.py")
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                own = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                library = re.match(r"\s*#\s*include\s+<([^>]+)>", line)
                if own:
                    target = own.group(1)
                    if target.endswith("_generated.h") and "/" not in target:
                        breaches.append(f"{name}:{number}: include {target} by its path from the root")
                        continue
                    target_room = room_of(str(pathlib.PurePosixPath(target).parent))
                    if target_room is None or not permitted(room, target_room):
                        breaches.append(f"{name}:{number}: {room} may not include {target}")
                if library:
                    target = library.group(1)
                    if path.suffix == ".h" and name not in HEAVY_PRIVATE and re.match(HEAVY, target):
                        breaches.append(f"{name}:{number}: heavy header {target} belongs in a .cc file")
                    for pattern, rooms in LIBRARIES.items():
                        if re.fullmatch(pattern, target) and not any(
                                r in (room, name) or room.startswith(r + "/") for r in rooms):
                            breaches.append(f"{name}:{number}: {room} may not include <{target}>")
    print("\n".join(breaches) if breaches else f"{files} files, every arrow as drawn")
    return 1 if breaches or files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
