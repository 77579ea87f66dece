"""compare_systems.py: the systems that scripts/compare measures, each as a relay to one smart host.

Scope      A System is started by its constructor with the configuration in scripts/compare.d/, takes mail once that
           returns, and ends with stop(). Where it is, and what the load needs to reach it, is in its `network`.
Failure    harness.Skipped, with the reason, when this machine lacks what a system needs.
"""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

import compare_packages
import harness
import wire
from postfix import Postfix

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "scripts" / "compare.d"
CACHE = ROOT / "build" / "compare"
HARAKA = "Haraka@3.2.1"
HARAKA_BEFORE = "2026-06-01"


def say(text):
    print(text, file=sys.stderr, flush=True)


def filled(path, values):
    text = path.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


class System:
    signs = False  # whether it has a DKIM set-up here
    durable = True  # whether its 250 means that the message is on disk
    forgets_children = False  # whether it starts processes that nobody waits for
    network = harness.Network()

    @classmethod
    def surroundings(cls):
        """What is there before the system starts, and after it has ended."""
        return contextlib.nullcontext()

    def roots(self):
        """Its processes that others descend from."""
        return {self.process.pid}

    def stop(self):
        self.process.stop(5)


class Millrace(System):
    name = "millrace"
    title = "Millrace, kernel sockets"
    signs = True

    def __init__(self, folder, values, network=System.network):
        self.network = network
        dkim = filled(CONFIGS / "millrace" / "dkim.toml", values) if values["DKIM_KEY"] else ""
        values = dict(values, ADMIN_PORT=harness.free_port(), RUN_DIR=harness.socket_folder(), HOST=network.relay,
                      PEER=network.peer, LISTENER=network.listener, EGRESS="dpdk" if network.sections else "kernel",
                      TLS_SITE=values["TLS_LEVEL_OUT"])
        self.relay = harness.Relay(folder, text=filled(CONFIGS / "millrace" / "millrace.toml", values) + dkim,
                                   network=network)
        self.relay.start()

    def roots(self):
        return {self.relay.daemon.pid, self.relay.control.pid}

    def stop(self):
        self.relay.stop()


class MillraceVeth(Millrace):
    """On our own TCP/IP, past the kernel's by AF_XDP (else AF_PACKET); source and sink are on kernel sockets at the other
    end of a veth pair, MTU 1500, without offloads."""
    name = "millrace-veth"
    title = "Millrace, DPDK over veth"
    signs = False  # one message must be seen to be signed first, by a receiver on loopback

    def __init__(self, folder, values):
        faults = []
        for kind in ("net_af_xdp", "net_af_packet"):
            attempt = folder / kind
            attempt.mkdir()
            try:
                return super().__init__(attempt, values, harness.DpdkNetwork(f"{kind}0,iface=port0"))
            except harness.HarnessError as error:
                faults.append(f"{kind}: {error}")
                harness.end_all()
        raise harness.HarnessError("; ".join(faults))

    @classmethod
    def surroundings(cls):
        return wire.Wire("net_af_xdp")


class MillraceMemif(Millrace):
    """On our own TCP/IP at both ends: no packet passes through the kernel, so that its CPU time is all there is."""
    name = "millrace-memif"
    title = "Millrace, DPDK over memif"
    signs = False

    def __init__(self, folder, values):
        super().__init__(folder, values, harness.MemifNetwork())


class OpenDkim:
    """OpenDKIM as a milter, which signs for every author's domain."""

    def __init__(self, folder, values):
        harness.need_tool("opendkim", "opendkim")
        home = pathlib.Path(folder.path) / "opendkim"
        home.mkdir()
        self.port = harness.free_port()
        shutil.copy(values["DKIM_KEY"], home / "key.pem")
        (home / "key.pem").chmod(0o600)
        (home / "keys").write_text(f"all %:compare:{home}/key.pem\n")
        (home / "signing").write_text("* all\n")
        (home / "opendkim.conf").write_text(
            filled(CONFIGS / "postfix" / "opendkim.conf", {"HOME": home, "MILTER_PORT": self.port}))
        self.process = harness.Process("opendkim", ["opendkim", "-f", "-x", str(home / "opendkim.conf")], folder.path)
        harness.wait_until("OpenDKIM", lambda: self.process.must_run() and harness.port_answers(self.port), 30)


class PostfixSystem(System):
    name = "postfix"
    title = "Postfix"
    signs = True

    def __init__(self, folder, values):
        self.milter = OpenDkim(folder, values) if values["DKIM_KEY"] else None
        settings = {}
        for line in filled(CONFIGS / "postfix" / "main.cf", values).splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition("=")
                settings[key.strip()] = value.strip()
        if self.milter is not None:
            settings.update(smtpd_milters=f"inet:127.0.0.1:{self.milter.port}", milter_default_action="tempfail")
        self.postfix = Postfix(folder, values["PORT"], settings, smtp_max="50", smtpd_max="100").start()

    def roots(self):
        return {self.postfix.master_pid()} | ({self.milter.process.pid} if self.milter else set())

    def stop(self):
        self.postfix.stop()
        if self.milter is not None:
            self.milter.process.stop()


class Exim(System):
    name = "exim"
    title = "Exim"
    signs = True
    forgets_children = True  # a process that has delivered is waited for by nobody

    def __init__(self, folder, values):
        files = compare_packages.unpacked(CACHE, ["exim4-daemon-light", "exim4-base", "libidn12"])
        guest = compare_packages.Guest(folder / "exim", files, ["Debian-exim"])
        for name in ("spool", "log", "tls"):
            guest.folder(name, "Debian-exim")
        values = dict(values, HOME=guest.home, DKIM="", TLS_HOSTS="*" if values["TLS_LEVEL"] == "may" else "",
                      AVOID_TLS="" if values["TLS_LEVEL_OUT"] == "may" else "*")
        if values["DKIM_KEY"]:
            values["DKIM"] = filled(CONFIGS / "exim" / "dkim.conf",
                                    {"DKIM_KEY": guest.lend(values["DKIM_KEY"], "tls", "Debian-exim")})
        values["KEY"] = guest.lend(values["KEY"], "tls", "Debian-exim")
        (guest.home / "etc" / "exim4").mkdir()
        (guest.home / "etc" / "exim4" / "exim4.conf").write_text(filled(CONFIGS / "exim" / "exim4.conf", values))
        self.process = guest.start("exim", ["/usr/sbin/exim4", "-bdf", "-q10s"], folder.path)
        harness.wait_until("Exim", lambda: self.process.must_run() and harness.port_answers(values["PORT"]), 30)


class OpenSmtpd(System):
    name = "opensmtpd"
    title = "OpenSMTPD, synchronous spool"
    synchronous = True

    def __init__(self, folder, values):
        if values["TLS_LEVEL"] == "may":
            raise harness.Skipped("OpenSMTPD 6.8.0p2 with OpenSSL 3.0, as Debian 12 has them, fails each handshake that it is "
                                  "the server of (github.com/OpenSMTPD/OpenSMTPD, issues 1171 and 1239)")
        files = compare_packages.unpacked(CACHE, ["opensmtpd"])
        guest = compare_packages.Guest(folder / "opensmtpd", files, ["opensmtpd", "opensmtpq"])
        spool = guest.folder("spool", mode=0o711)
        if self.synchronous:
            done = subprocess.run(["chattr", "+S", str(spool)], capture_output=True, text=True)
            if done.returncode != 0:
                raise harness.Skipped(f"the file system does not write a folder synchronously, and OpenSMTPD syncs "
                                      f"nothing itself: {done.stderr.strip()}")
        guest.mount(spool, "/var/spool/smtpd")
        guest.folder("lib/empty")
        guest.mount(guest.home / "lib", "/var/lib/opensmtpd")
        (guest.home / "etc" / "smtpd.conf").write_text(filled(CONFIGS / "opensmtpd" / "smtpd.conf", values))
        self.process = guest.start("opensmtpd", ["/usr/sbin/smtpd", "-d"], folder.path)
        harness.wait_until("OpenSMTPD", lambda: self.process.must_run() and harness.port_answers(values["PORT"]), 30)


class OpenSmtpdUnsynced(OpenSmtpd):
    """As it is shipped: what it has answered with 250 a power cut may take."""
    name = "opensmtpd-unsynced"
    title = "OpenSMTPD as shipped"
    synchronous = durable = False


class Haraka(System):
    name = "haraka"
    title = "Haraka"

    def __init__(self, folder, values):
        haraka = install_haraka()
        home = pathlib.Path(folder.path) / "haraka"
        done = subprocess.run(["node", str(haraka), "-i", str(home)], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise harness.HarnessError(f"haraka -i: {done.stderr.strip()}")
        values = dict(values, TLS_BOOL="true" if values["TLS_LEVEL"] == "may" else "false",
                      TLS_PLUGIN="tls" if values["TLS_LEVEL"] == "may" else "")
        for path in (CONFIGS / "haraka").rglob("*"):
            if path.is_file():
                target = home / path.relative_to(CONFIGS / "haraka")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(filled(path, values))
        (home / "queue").mkdir(exist_ok=True)
        self.process = harness.Process("haraka", ["node", str(haraka), "-c", str(home)], folder.path, cwd=home)
        harness.wait_until("Haraka", lambda: self.process.must_run() and harness.port_answers(values["PORT"]), 30)


def install_haraka():
    """The path of haraka's program, fetched by npm once."""
    home = CACHE / "haraka"
    program = home / "node_modules" / "Haraka" / "bin" / "haraka"
    if not program.exists():
        for tool, package in (("node", "nodejs"), ("npm", "npm")):
            if shutil.which(tool) is None:
                raise harness.Skipped(f"{tool} is not installed (Debian package {package})")
        say(f"installing {HARAKA}")
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"name": "compare", "private": true}\n')
        done = subprocess.run(["npm", "install", HARAKA, f"--before={HARAKA_BEFORE}", "--omit=optional",
                               "--no-audit", "--no-fund"], cwd=home, capture_output=True, text=True)
        if done.returncode != 0 or not program.exists():
            raise harness.HarnessError(f"npm install {HARAKA}: {done.stderr.strip()[-800:]}")
    return program


SYSTEMS = {system.name: system for system in (Millrace, MillraceVeth, MillraceMemif, PostfixSystem, Exim, OpenSmtpd,
                                              OpenSmtpdUnsynced, Haraka)}
