#!/usr/bin/env python3
"""ports_test.py: one relay on two DPDK ports, each with a veth pair of its own to the kernel, in a network namespace."""
import collections
import contextlib
import json
import os
import smtplib

from harness import DpdkNetwork, Relay, Skipped, StockSink, end_all, expect_equal, run_cases
from wire import CLONE_NEWNET, enter, libc, must, need_namespaces, run

LINES = {"a": ("10.77.0.1", "10.77.0.2"), "b": ("10.78.0.1", "10.78.0.2")}  # ours, the kernel's
FAR = "192.0.2.9"  # the kernel's too, behind line b
MESSAGE = b"From: <a@customer.example>\r\nTo: <b@dest.example>\r\nSubject: two ports\r\n\r\nhello\r\n"


class TwoPorts(DpdkNetwork):
    """Listeners on all addresses; the second port reaches FAR through a route."""
    relay = "0.0.0.0"

    def __init__(self):
        super().__init__("")
        self.sections = "\n[dpdk]\nhugepages = false\nmemory_mb = 1024\nbusy_poll = false\n"
        for index, (name, (ours, kernels)) in enumerate(LINES.items()):
            self.sections += (f'\n[[port]]\nname = "{name}"\ndevice = "net_af_packet{index},iface=port-{name}"\n'
                              f'addresses = ["{ours}/24"]\n')
            if name == "b":
                self.sections += f'routes = [{{ to = "192.0.2.0/24", gateway = "{kernels}" }}]\n'


@contextlib.contextmanager
def two_lines():
    need_namespaces()
    with contextlib.ExitStack() as undo:
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        undo.callback(os.close, home)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise Skipped("no network namespace may be made here")
        undo.callback(enter, home)
        undo.callback(end_all)
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{FAR}/32", "dev", "lo")
        for name, (_, kernels) in LINES.items():
            run("ip", "link", "add", f"kernel-{name}", "type", "veth", "peer", "name", f"port-{name}")
            run("ethtool", "-K", f"kernel-{name}", "tx", "off")
            run("ip", "address", "add", f"{kernels}/24", "dev", f"kernel-{name}")
            for end in ("kernel", "port"):
                run("ip", "link", "set", f"{end}-{name}", "up")
        yield


def mail_comes_and_goes_on_both(folder, shards):
    with two_lines():
        hosts = {"a": LINES["a"][1], "b": LINES["b"][1], "far": FAR}
        sinks, routes = {}, ""
        for name, host in hosts.items():
            (folder / name).mkdir()
            sinks[name] = StockSink(folder / name, host)
            routes += (f'\n[[route]]\ndomains = ["{name}.example"]\nkind = "smart_host"\n'
                       f'hosts = ["{host}:{sinks[name].port}"]\n')
        relay = Relay(folder, network=TwoPorts(), config=routes, shards=shards).start()
        for ours, _ in LINES.values():
            for name in sinks:
                with smtplib.SMTP(ours, relay.relay, timeout=20) as client:
                    client.sendmail("a@customer.example", [f"b@{name}.example"], MESSAGE)
        for sink in sinks.values():
            sink.wait_for(2, 30)
        relay.wait_empty()
        stats = relay.stats()
        expect_equal(stats["port_queues"], 2 * shards, "queues counted")
        relay.stop()
        left_by = collections.defaultdict(set)
        for line in (relay.folder / "state" / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["type"] == "Delivery":
                left_by[event["queue"].split(".")[0]].add(event["source_address"]["address"].rsplit(":", 1)[0])
        expect_equal(dict(left_by), {"a": {LINES["a"][0]}, "b": {LINES["b"][0]}, "far": {LINES["b"][0]}},
                     "addresses that mail left from")


def main():
    run_cases([
        ("one_shard", lambda folder: mail_comes_and_goes_on_both(folder, 1)),
        ("two_shards", lambda folder: mail_comes_and_goes_on_both(folder, 2)),
    ])


if __name__ == "__main__":
    main()
