"""relay_transports.py: what scripts/relay-transports does once everything is built."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "interop"))
import harness  # noqa: E402


class Memif(harness.DpdkNetwork):
    """A shared-memory interface between the relay and the load."""

    def __init__(self, folder):
        self.socket = pathlib.Path(folder) / "memif.sock"
        super().__init__(f"net_memif0,role=server,id=0,socket={self.socket},rsize=11", memory_mb=1024)


def run(folder, name, options):
    relay_folder = folder / name
    relay_folder.mkdir()
    kernel = name == "kernel"
    network = harness.Network() if kernel else Memif(relay_folder)
    port = harness.free_port() if kernel else 2525
    relay = harness.Relay(relay_folder, smart_host=f"{network.peer}:{port}", spool_size="1GiB", network=network,
                          cpus=[0], memory="1GiB", site_connections=options.connections)
    relay.start()
    results = relay_folder / "load.json"
    command = [harness.binary("millrace-bench"), "load", "--target", f"{relay.host}:{relay.relay}", "--listen",
               f"{network.peer}:{port}", "--messages", str(options.messages), "--connections",
               str(options.connections), "--size", str(options.size), "--cpu", "1", "--json", str(results)]
    if not kernel:
        command += ["--device", f"net_memif0,role=client,id=0,socket={network.socket},rsize=11", "--own-address",
                    f"{network.peer}/24"]
    print(f"relay on {name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    relay.stop()
    if not results.exists():
        raise harness.HarnessError(f"the load on {name} failed: {done.stderr.strip()}\n{relay.logs()}")
    row = json.loads(results.read_text())
    row["transport"] = name
    row["lost"] = options.messages - row["delivered"]
    return row


def main():
    parser = argparse.ArgumentParser(prog="scripts/relay-transports")
    parser.add_argument("--json")
    parser.add_argument("--messages", type=int, default=100000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--connections", type=int, default=50)
    options = parser.parse_args()
    folder = harness.Folder("relay-transports", ROOT / "build" / "relay-transports")
    try:
        rows = [run(folder.path, name, options) for name in ("kernel", "memif")]
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
    print(f"memif / kernel: {rows[1]['end_to_end_per_s'] / rows[0]['end_to_end_per_s']:.2f}")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if any(row["lost"] or row["duplicated"] or row["altered"] for row in rows) else 0)


if __name__ == "__main__":
    main()
