"""wire.py: a network of our own, with Linux's TCP at one end and our stack at the other.

Scope      A network namespace without a name; in it the interface kernel0, which is the kernel's, and what our DPDK
           device attaches to: port0, kernel0's other end, or a TAP. A second host behind a router. Captures, and
           what tshark has to say of them. net-end, one end of `millrace-bench net`, as a process.
Owns       The namespace: the kernel ends it with the last process and socket in it, however this one ends.
Failure    HarnessError; Skipped without root or a tool.
"""
import collections
import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

from harness import HarnessError, Process, Skipped, binary, end_all, need_tool, wait_until

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)

PORT = 7400  # net-end takes this one and the next three
PORTS = range(PORT, PORT + 4)
PREFIX = {4: 24, 6: 64}
OURS = {4: "10.77.0.1", 6: "fd77::1"}
LINUX = {4: "10.77.0.2", 6: "fd77::2"}
FAR = {4: "10.77.0.3", 6: "fd77::3"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def in_brackets(address, port=PORT):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise HarnessError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def sysctl(name, value):
    pathlib.Path("/proc/sys/net", name).write_text(str(value))


def must(result, what):
    if result != 0:
        raise HarnessError(f"{what}: {os.strerror(ctypes.get_errno())}")


def enter(namespace):
    must(libc.setns(namespace, CLONE_NEWNET), "setns")


def need_namespaces():
    if os.geteuid() != 0:
        raise Skipped("network namespaces and raw ports want root")
    need_tool("ip", "iproute2")


class Wire:
    """with Wire() as wire: this process, and what it starts, is in the namespace."""

    def __init__(self, device="net_af_packet"):
        """device: net_af_packet, net_af_xdp, or net_tap, to which kernel0 itself is a TAP."""
        self.device = f"{device}0,iface={'kernel0' if device == 'net_tap' else 'port0'}"

    def __enter__(self):
        need_namespaces()
        need_tool("ethtool", "ethtool")
        with contextlib.ExitStack() as undo:
            home = os.open("/proc/self/ns/net", os.O_RDONLY)
            undo.callback(os.close, home)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise Skipped(f"no network namespace may be made here: {os.strerror(ctypes.get_errno())}")
            undo.callback(enter, home)
            self.here = os.open("/proc/self/ns/net", os.O_RDONLY)
            undo.callback(os.close, self.here)
            undo.callback(end_all)  # what was started in the namespace holds it open
            self.undo = undo
            self.make_ready()
            if self.device.startswith("net_tap"):
                run("ip", "tuntap", "add", "dev", "kernel0", "mode", "tap", "multi_queue")
                sysctl("ipv6/conf/kernel0/keep_addr_on_down", 1)  # our end takes it down when it ends
            else:
                run("ip", "link", "add", "kernel0", "type", "veth", "peer", "name", "port0")
                sysctl("ipv6/conf/port0/disable_ipv6", 1)  # the kernel must not talk on our port
                run("ip", "link", "set", "port0", "up", "promisc", "on")
                self.no_offloads("port0")
            self.bring_up("kernel0", LINUX)
            self.undo = undo.pop_all()
        return self

    def __exit__(self, *_):
        self.undo.close()

    @staticmethod
    def make_ready():
        """This process's namespace, before it has interfaces."""
        run("ip", "link", "set", "lo", "up")
        sysctl("ipv6/conf/default/dad_transmits", 0)  # else a second or two until a link-local address may be used

    @staticmethod
    def no_offloads(interface):
        """A veth hands checksums and segmentation over unfinished: a real wire does not."""
        run("ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off")

    def bring_up(self, interface, addresses):
        for version, address in addresses.items():
            nodad = ["nodad"] if version == 6 else []
            run("ip", "address", "add", f"{address}/{PREFIX[version]}", "dev", interface, *nodad)
        run("ip", "link", "set", interface, "up")
        self.no_offloads(interface)

    def add_far_host(self, mtu, told=True):
        """A second Linux host, FAR, with the first as its router: the line between those two carries `mtu`.

        told: the router knows, and says Packet Too Big; else what is too long just does not arrive.
        """
        must(libc.unshare(CLONE_NEWNET), "a network namespace")
        self.make_ready()
        self.far = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.undo.callback(os.close, self.far)
        enter(self.here)
        router, host = "02:00:00:00:00:01", "02:00:00:00:00:02"
        run("ip", "link", "add", "far0", "address", router, "mtu", str(mtu if told else 1500), "type", "veth",
            "peer", "name", "far1", "address", host)
        run("ip", "link", "set", "far1", "netns", f"/proc/{os.getpid()}/fd/{self.far}")
        run("ip", "link", "set", "far0", "up")
        self.no_offloads("far0")
        # The router answers for the far host's addresses, since ours takes the whole prefix to be on its link.
        for name in ("ipv4/conf/kernel0/proxy_arp", "ipv6/conf/kernel0/proxy_ndp"):
            sysctl(name, 1)
        for name in ("ipv4/neigh/kernel0/proxy_delay", "ipv6/neigh/kernel0/proxy_delay"):
            sysctl(name, 0)
        sysctl("ipv4/ip_forward", 1)
        sysctl("ipv4/conf/port0/forwarding", 0)  # what passes port0 is ours alone
        sysctl("ipv6/conf/all/forwarding", 1)
        run("ip", "route", "add", f"{FAR[4]}/32", "dev", "far0")
        run("ip", "-6", "route", "add", f"{FAR[6]}/128", "dev", "far0")
        run("ip", "-6", "neigh", "add", "proxy", FAR[6], "dev", "kernel0")
        for version in (4, 6):
            run("ip", "neigh", "add", FAR[version], "lladdr", host, "dev", "far0", "nud", "permanent")
        with self.at_far_host():
            run("ip", "link", "set", "far1", "mtu", str(mtu))
            self.bring_up("far1", FAR)
            for version in (4, 6):
                run("ip", "neigh", "add", OURS[version], "lladdr", router, "dev", "far1", "nud", "permanent")
            # It tells us 1460: only the router knows of the narrow line.
            run("ip", "route", "add", f"{OURS[4]}/32", "dev", "far1", "mtu", str(mtu), "advmss", "1460")
            run("ip", "-6", "route", "add", f"{OURS[6]}/128", "dev", "far1", "mtu", str(mtu), "advmss", "1440")

    @contextlib.contextmanager
    def at_far_host(self):
        """Sockets made within stay there."""
        enter(self.far)
        try:
            yield
        finally:
            enter(self.here)

    # Our end, and the kernel's as the same program

    def our_server(self, folder, version, *options, name="our-server"):
        end = self.our_end(folder, name, "--server", "--address", in_brackets(OURS[version]), *options)
        end.wait_for("ready")
        return end

    def our_client(self, folder, version, case, *options, server=None, name="our-client"):
        address = in_brackets(server or LINUX[version])
        return self.our_end(folder, name, "--address", address, "--case", case, *options)

    def our_end(self, folder, name, *options):
        own = []
        for version, address in OURS.items():
            own += ["--own-address", f"{address}/{PREFIX[version]}"]
        return NetEnd(folder, name, "--device", self.device, *own, "--memory-mb", "256", *options)


class TwoHosts:
    """with TwoHosts() as hosts: this process, and what it starts, is on one Linux host; a cable of MTU 1500 leads to
    another. The offloads are those Linux has by default; what arrives is worked off on the receiver's CPU, as by a
    NIC's interrupt, and not on the sender's, where veth would leave it."""

    def __init__(self, cpus=(0, 1)):
        self.cpus = cpus

    def __enter__(self):
        need_namespaces()
        with contextlib.ExitStack() as undo:
            home = os.open("/proc/self/ns/net", os.O_RDONLY)
            undo.callback(os.close, home)
            must(libc.unshare(CLONE_NEWNET), "a network namespace")
            undo.callback(enter, home)
            here = os.open("/proc/self/ns/net", os.O_RDONLY)
            undo.callback(os.close, here)
            must(libc.unshare(CLONE_NEWNET), "a network namespace")
            self.there = os.open("/proc/self/ns/net", os.O_RDONLY)
            undo.callback(os.close, self.there)
            undo.callback(end_all)
            self.here = here
            enter(here)
            run("ip", "link", "add", "here0", "type", "veth", "peer", "name", "there0", "netns",
                f"/proc/{os.getpid()}/fd/{self.there}")
            self.bring_up("here0", OURS[4], self.cpus[0])
            with self.at_peer():
                self.bring_up("there0", LINUX[4], self.cpus[1])
            self.undo = undo.pop_all()
        return self

    def __exit__(self, *_):
        self.undo.close()

    @staticmethod
    def bring_up(interface, address, cpu):
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", f"{address}/24", "dev", interface)
        run("ip", "link", "set", interface, "up")
        # /sys shows the interfaces of the namespace in which it was mounted: a mount of our own is needed.
        run("unshare", "--mount", "sh", "-c", f"mount -t sysfs sysfs /sys && for queue in /sys/class/net/{interface}"
            f"/queues/rx-*; do echo {1 << cpu:x} >$queue/rps_cpus || exit 1; done")

    @contextlib.contextmanager
    def at_peer(self):
        enter(self.there)
        try:
            yield
        finally:
            enter(self.here)


class NetEnd(Process):
    """One end of `millrace-bench net`. It speaks in lines: "ready", "begin", "end {json}"; "at {json}" at SIGUSR1."""

    def __init__(self, folder, name, *options):
        log = folder / f"{name}.log"
        self.earlier = log.stat().st_size if log.exists() else 0  # what one of the same name said
        super().__init__(name, [binary("millrace-bench"), "net-end", *options], folder.path)

    def lines(self, word):
        text = self.log.read_bytes()[self.earlier:].decode(errors="replace")
        found = [line for line in text.splitlines(keepends=True)
                 if re.match(rf"{word}\b", line) and line.endswith("\n")]
        return [line[len(word):].strip() for line in found]

    def wait_for(self, word, limit_s=30.0, count=1):
        return wait_until(f"'{word}' from {self.name}",
                          lambda: self.must_run() and self.lines(word)[count - 1:count], limit_s)[0]

    def end(self, limit_s=30.0):
        """A client's results, and ends it."""
        results = json.loads(self.wait_for("end", limit_s))
        self.stop()
        return results

    def tally(self):
        """A server's, now."""
        count = len(self.lines("at"))
        self.child.send_signal(signal.SIGUSR1)
        return json.loads(self.wait_for("at", 10, count + 1))


def linux_server(folder, version, name="linux-server"):
    end = NetEnd(folder, name, "--server", "--address", in_brackets(LINUX[version]))
    end.wait_for("ready")
    return end


def linux_client(folder, version, case, *options, name="linux-client"):
    return NetEnd(folder, name, "--address", in_brackets(OURS[version]), "--case", case, *options)


# Captures

# What tshark remarks on in any connection, and is no fault of it.
USUAL = ("Connection establish request (SYN)", "Connection establish acknowledge (SYN+ACK)", "Connection finish (FIN)",
         "This frame initiates the connection closing", "This frame undergoes the connection closing",
         "TCP window update",
         # An echo does not read on while Linux does not take its answer.
         "TCP Zero Window segment", "TCP window specified by the receiver is now completely full")
AGAIN = "This frame is a (suspected)"  # retransmission: plain, fast or spurious
D_SACK = "D-SACK Sequence"
RESENT = (AGAIN, D_SACK, "Duplicate ACK", "Previous segment(s) not captured",
          "ACKed segment that wasn't captured")
WAITING = ("TCP keep-alive", "TCP Zero Window Probe", "ACK to a TCP keep-alive", "ACK to a TCP Zero Window Probe")
RESET = ("Connection reset (RST)",)


class Capture:
    """with Capture(folder) as capture: all that passes kernel0. Afterwards must_be_clean()."""

    def __init__(self, folder, interface="kernel0", name="capture"):
        self.file = folder / f"{name}.pcapng"
        self.dumpcap = need_tool("dumpcap", "tshark")
        self.tshark = need_tool("tshark", "tshark")
        self.folder, self.interface, self.name = folder, interface, name

    def __enter__(self):
        self.process = Process(self.name, [self.dumpcap, "-q", "-i", self.interface, "-B", "64", "-w", str(self.file)],
                               self.folder.path)
        wait_until("the capture", lambda: self.process.must_run() and "File:" in self.process.log.read_text(), 20)
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        time.sleep(0.3)  # what the kernel has not handed over yet
        self.process.child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.child.wait(10)
        self.process.stop()

    def remarks(self):
        """{(sender, remark): how often} of tshark's expert; sender is an IP address."""
        told = subprocess.run(
            [self.tshark, "-n", "-r", str(self.file), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
             "-d", f"tcp.port=={PORTS[0]}-{PORTS[-1]},data", "-Y", "_ws.expert || _ws.malformed", "-T", "fields",
             "-E", "separator=/t", "-E", "aggregator=|", "-e", "ip.src", "-e", "ipv6.src", "-e", "_ws.expert.message"],
            capture_output=True, text=True, timeout=120)
        if told.returncode != 0:
            raise HarnessError(f"tshark: {told.stderr.strip()}")
        found = collections.Counter()
        for line in told.stdout.splitlines():
            ip4, ip6, texts = (line.split("\t") + ["", ""])[:3]
            sender = (ip4 or ip6).split("|")[0]
            for text in texts.split("|"):
                found[sender, text] += 1
        return found

    def must_be_clean(self, *expected, frames_min=10):
        """Of what we sent: nothing malformed, no bad checksum, no remark but the usual and what begins as `expected`.

        Where nothing is lost, a busy machine may still be late with an ACK, and a tail loss probe goes out: from us one
        segment in a hundred at most; and for each that Linux sends twice one D-SACK (RFC 2883 §4).
        """
        dropped = re.search(r"received/dropped on interface.*?: (\d+)/(\d+)", self.process.log.read_text())
        if dropped is None or int(dropped[1]) < frames_min:
            raise HarnessError(f"the capture is empty: {self.process.log.read_text()}")
        if int(dropped[2]) != 0:
            expected += RESENT  # what is not in the capture looks lost
        remarks = self.remarks()
        again = sum(count for (sender, text), count in remarks.items()
                    if sender not in OURS.values() and text.startswith(AGAIN))
        at_most = {AGAIN: max(2, int(dropped[1]) // 100), D_SACK: again}
        faults = [f"{count} x {text!r}" for (sender, text), count in sorted(remarks.items())
                  if sender in OURS.values() and not text.startswith(USUAL + expected)
                  and not any(text.startswith(begin) and count <= most for begin, most in at_most.items())]
        if faults:
            raise AssertionError(f"{self.name}: tshark on what we sent: {'; '.join(faults)}")
