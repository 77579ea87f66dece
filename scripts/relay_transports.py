"""relay_transports.py: what scripts/relay-transports does once everything is built."""
import argparse
import contextlib
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402
import wire  # noqa: E402


class Veth(harness.Network):
    """Kernel sockets over a cable between two namespaces: the relay's host is ours, the load's is the peer."""
    relay, peer = wire.OURS[4], wire.LINUX[4]


def run(folder, name, options, network, port, at_peer=contextlib.nullcontext):
    relay_folder = folder / name
    relay_folder.mkdir()
    network = network()
    relay = harness.Relay(relay_folder, smart_host=f"{network.peer}:{port}", spool_size="1GiB", network=network,
                          cpus=[0], memory="1GiB", site_connections=options.connections)
    relay.start()
    print(f"relay on {name}", file=sys.stderr, flush=True)
    with at_peer():
        row = harness.bench_load(relay_folder, relay, network, port, "--messages", str(options.messages),
                                 "--connections", str(options.connections), "--size", str(options.size), "--cpu", "1")
    relay.stop()
    row["transport"] = name
    row["lost"] = options.messages - row["delivered"]
    return row


def run_veth(folder, options):
    with wire.TwoHosts() as hosts:
        return run(folder, "veth", options, Veth, 2525, at_peer=hosts.at_peer)


RUNS = {
    "loopback": lambda folder, options: run(folder, "loopback", options, harness.Network, harness.free_port()),
    "veth": run_veth,
    "memif": lambda folder, options: run(folder, "memif", options, harness.MemifNetwork, 2525),
}


def main():
    parser = argparse.ArgumentParser(prog="scripts/relay-transports")
    parser.add_argument("--json")
    parser.add_argument("--messages", type=int, default=100000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--kernel-line", default="loopback,veth", help="what joins relay and load on kernel sockets")
    options = parser.parse_args()
    names = [name for name in options.kernel_line.split(",") if name] + ["memif"]
    for name in names:
        if name not in RUNS:
            sys.exit(f"relay-transports: no line '{name}': choose from loopback, veth")
    rows = []
    folder = harness.Folder("relay-transports", ROOT / "build" / "relay-transports")
    try:
        for name in names:
            try:
                rows.append(RUNS[name](folder.path, options))
            except harness.Skipped as reason:
                print(f"{name}: skipped: {reason}", file=sys.stderr)
    except harness.HarnessError as error:
        print(f"FAILED: {error}")
        sys.exit(1)
    finally:
        harness.end_all()
        folder.remove()
    print(f"{'transport':<10}{'end to end/s':>14}{'accept/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'lost':>6}{'twice':>7}{'altered':>9}")
    for row in rows:
        print(f"{row['transport']:<10}{row['end_to_end_per_s']:>14,.0f}{row['accept_per_s']:>12,.0f}"
              f"{row['accept_ms_p50']:>9.2f}{row['accept_ms_p99']:>9.2f}{row['lost']:>6}{row['duplicated']:>7}{row['altered']:>9}")
    ours = rows[-1]["end_to_end_per_s"]
    for row in rows[:-1]:
        print(f"memif / kernel sockets over {row['transport']}: {ours / row['end_to_end_per_s']:.2f}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if any(row["lost"] or row["duplicated"] or row["altered"] for row in rows) else 0)


if __name__ == "__main__":
    main()
