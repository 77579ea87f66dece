"""harness.py: a relay with its surroundings, in a temporary folder, on free loopback ports.

Scope      Starts and stops millrace-control, millraced, sinks and helpers; waits until they are ready;
           runs test cases and counts them. The one place that knows our processes' command lines.
Owns       A folder each, and every process it started: all end with it, also on Ctrl-C and SIGTERM.
Failure    HarnessError with the ends of the logs. A failed run's folder is kept and named.
"""
import atexit
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIP = 77


class HarnessError(Exception):
    """Something outside the case at hand did not work."""


class Skipped(Exception):
    """What the case needs is not on this machine."""


def binary(name):
    """One of our programs, from MILLRACE_BUILD (a meson build folder) or build/."""
    build = pathlib.Path(os.environ.get("MILLRACE_BUILD", ROOT / "build"))
    places = {
        "millraced": "dataplane/daemon",
        "millrace-control": "control",
        "millracectl": "control/cli",
        "millrace-bench": "dataplane/loadgen",
        "spool_replay": "tests/queue",
        "millrace-spool": "queue/tool",
    }
    for path in (build / places[name] / name, build / "bin" / name, build / "control" / name):
        if path.is_file():
            return str(path)
    raise HarnessError(f"{name} is not in {build}\n  remedy: run scripts/build, or set MILLRACE_BUILD")


def need_tool(name, package):
    """The path of a program that a Debian package brings; Skipped when it is not there."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Skipped(f"{name} is not installed (Debian package {package})")
    return path


_ports_given = set()


def free_port(host="127.0.0.1"):
    """A port that nobody listens on now. Below the ephemeral range, so that no connection takes it meanwhile."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        if port in _ports_given:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _ports_given.add(port)
        return port
    raise HarnessError("no free port")


def wait_until(what, condition, limit_s=30.0, every_s=0.02):
    """Waits for a condition; `what` names it in the error. Returns the condition's value."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise HarnessError(f"{what}: not within {limit_s:g} s")
        time.sleep(every_s)


def port_answers(port, host="127.0.0.1"):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
        return True
    return False


def tail(path, lines=25):
    with contextlib.suppress(OSError):
        return "\n".join(pathlib.Path(path).read_text(errors="replace").splitlines()[-lines:])
    return ""


def any_certificate():
    """For clients that are to take our self-signed certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Process:
    """A child with its output in a log file. Ends with the harness."""
    alive = []

    def __init__(self, name, command, folder, **popen):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen)
        Process.alive.append(self)

    @property
    def pid(self):
        return self.child.pid

    def running(self):
        return self.child.poll() is None

    def must_run(self):
        if not self.running():
            raise HarnessError(f"{self.name} ended with status {self.child.returncode}:\n{tail(self.log)}")
        return True

    def stop(self, limit_s=10.0):
        """Asks, then kills. Returns the exit status."""
        if self.running():
            self.child.terminate()
            try:
                self.child.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
        status = self.child.wait()
        if self in Process.alive:
            Process.alive.remove(self)
        return status

    def kill(self):
        """As a power cut would, for this process."""
        self.child.kill()
        self.child.wait()
        if self in Process.alive:
            Process.alive.remove(self)

    def cpu_seconds(self):
        """User and system time of this process so far, from /proc/PID/stat."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end_all(*_):
    for process in list(reversed(Process.alive)):
        with contextlib.suppress(Exception):
            process.stop(3.0)


def _on_signal(number, _frame):
    raise SystemExit(128 + number)


atexit.register(end_all)
signal.signal(signal.SIGTERM, _on_signal)
signal.signal(signal.SIGINT, _on_signal)


class Folder:
    """A temporary folder, on the disk rather than a tmpfs: the spool wants O_DIRECT. Kept after a failure."""

    def __init__(self, name, parent=None):
        parent = pathlib.Path(parent or os.environ.get("MILLRACE_TEST_DIR") or ROOT / "build" / "interop")
        parent.mkdir(parents=True, exist_ok=True)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=name + ".", dir=parent))
        self.path.chmod(0o755)

    def __truediv__(self, name):
        return self.path / name

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)


def socket_folder():
    """A folder for sockets, which goes when this process ends: of a short name wherever the project's own folder is, since
    the kernel lets a socket's path have 107 bytes."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="millrace."))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


class Network:
    """Where the relay is and where its peers are: on loopback, over kernel sockets."""
    relay = "127.0.0.1"
    peer = "127.0.0.1"
    listener = ""   # further keys of each listener
    sections = ""   # further sections of the configuration
    bench = []      # further options of millrace-bench load, at the other end


class DpdkNetwork(Network):
    """The relay on its own TCP/IP stack, on a DPDK port whose other end is a kernel interface with peer's address."""
    relay = "10.77.0.1"
    peer = "10.77.0.2"
    listener = 'transport = "dpdk"'

    def __init__(self, device, memory_mb=1024):
        """device: as DPDK names it, "net_af_packet0,iface=veth1" for example."""
        self.device = device
        self.sections = f"""
[dpdk]
hugepages = false
memory_mb = {memory_mb}
busy_poll = false

[[port]]
name = "port0"
device = "{device}"
addresses = ["{self.relay}/24"]
"""


class MemifNetwork(DpdkNetwork):
    """A shared-memory interface between the relay and millrace-bench."""

    def __init__(self, memory_mb=1024):
        self.socket = socket_folder() / "memif.sock"
        self.bench = ["--device", f"net_memif0,role=client,id=0,socket={self.socket},rsize=11", "--own-address",
                      f"{self.peer}/24"]
        # The same as a profile of millrace-bench run says it.
        self.bench_section = f"""
[dpdk]
device = "{self.bench[1]}"
addresses = ["{self.peer}/24"]
memory_mb = 512
"""
        super().__init__(f"net_memif0,role=server,id=0,socket={self.socket},rsize=11", memory_mb)


CONFIG = """\
[server]
hostname = "relay.test.example"
egress_transport = "{egress}"
shards = {shards}
cpus = {cpus}
state_dir = "state"
run_dir = "{run_dir}"
spool_dir = "spool"
spool_size = "{spool_size}"
segment_size = "{segment_size}"
memory = "{memory}"

[[listener]]
name = "submission"
address = "{host}:{submission}"
kind = "submission"
{listener}

[[listener]]
name = "submissions"
address = "{host}:{submissions}"
kind = "submissions"
{listener}

[[listener]]
name = "relay"
address = "{host}:{relay}"
kind = "relay"
{listener}

[relay]
networks = ["127.0.0.1", "127.0.0.2", "10.77.0.2", "10.78.0.2"]

[limits]
connections_per_client_max = 10000
messages_per_session_max = 100000000
message_size = "{message_size}"

[admin]
address = "127.0.0.1:{admin}"

[retry]
first = "1s"
factor = 1.0
interval_max = "2s"
jitter = 0.1
site_pause_first = "1s"
site_pause_max = "2s"

[site.default]
connections_max = {site_connections}
messages_per_connection_max = {site_messages}
"""


class Relay:
    """millrace-control and millraced in one folder."""

    def __init__(self, folder, *, smart_host=None, config="", spool_size="512MiB", memory="256MiB", shards=1,
                 site_connections=20, site_messages=100000, text=None, network=Network(), cpus=(),
                 daemon_options=(), segment_size="64MiB", message_size="50MiB"):
        """smart_host: "HOST:PORT" for all mail; None: as `config`, further TOML, says. text: a whole file instead."""
        self.host = network.relay
        self.daemon_options = list(daemon_options)
        self.folder = pathlib.Path(getattr(folder, "path", folder)) / "relay"
        self.folder.mkdir(parents=True)
        for name in ("state", "spool"):
            (self.folder / name).mkdir(mode=0o700)
        self.run_dir = socket_folder()
        self.submission, self.submissions, self.relay, self.admin = (free_port() for _ in range(4))
        whole = text
        text = whole or CONFIG.format(run_dir=self.run_dir, submission=self.submission, submissions=self.submissions,
                             relay=self.relay, admin=self.admin, spool_size=spool_size, segment_size=segment_size,
                             message_size=message_size, memory=memory, shards=shards,
                             site_connections=site_connections, site_messages=site_messages, host=self.host,
                             listener=network.listener, egress="dpdk" if network.sections else "kernel",
                             cpus=list(cpus))
        text += network.sections
        if smart_host is not None:
            text += f'\n[[route]]\ndefault = true\nkind = "smart_host"\nhosts = ["{smart_host}"]\n'
        self.config = self.folder / "millrace.toml"
        self.config.write_text(text + config)
        if whole is not None:
            self.admin = int(whole.split("[admin]")[1].split('"')[1].rsplit(":", 1)[1])
        self.control = self.daemon = None

    # How our programs are called: here and nowhere else.

    def start_control(self):
        self.control = Process("control", [binary("millrace-control"), "--foreground", "--config", str(self.config)], self.folder)

    def start_daemon(self):
        """Returns once mail can come in."""
        log = self.folder / "millraced.log"
        offset = log.stat().st_size if log.exists() else 0
        self.daemon = Process("millraced", [binary("millraced"), "--state-dir", str(self.folder / "state"),
                                            *self.daemon_options], self.folder)

        def ready():
            self.daemon.must_run()
            if self.control is not None:
                self.control.must_run()
            with open(log, "rb") as text:
                text.seek(offset)
                return b"event=ready" in text.read()
        wait_until("millraced ready", ready, 60)

    def ctl(self, *arguments, text=None):
        """Runs millracectl and returns what it printed; HarnessError when it fails."""
        done = subprocess.run([binary("millracectl"), "--config", str(self.config), *arguments], input=text,
                              capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise HarnessError(f"millracectl {' '.join(arguments)}: status {done.returncode}: "
                               f"{done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def add_account(self, name, password):
        self.ctl("account", "add", name, text=password + "\n")

    # The rest.

    def start(self):
        self.start_control()
        self.start_daemon()
        return self

    def stop(self):
        for process in (self.daemon, self.control):
            if process is not None:
                process.stop(30)

    def stats(self):
        """{counter or gauge: value}, summed over shards, as millracectl stats shows them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/status", timeout=10) as answer:
            page = json.load(answer)["stats"]
        return {**page["counters"], **page["gauges"]} if page else {}

    def queued(self):
        return self.stats().get("queued_messages", 0)

    def wait_empty(self, limit_s=60.0):
        wait_until("the queue to drain", lambda: self.daemon.must_run() and self.queued() == 0, limit_s, 0.1)

    def logs(self):
        return "".join(f"--- {name}\n{tail(self.folder / name)}\n" for name in ("millraced.log", "control.log"))


class StockSink:
    """aiosmtpd, a stock receiver: each message as it came, in N.eml, with its envelope in N.json."""

    def __init__(self, folder, host="127.0.0.1", port=None):
        self.folder = pathlib.Path(getattr(folder, "path", folder)) / "stock-sink"
        self.folder.mkdir()
        self.port = port or free_port(host)
        if subprocess.run(["/usr/bin/python3", "-c", "import aiosmtpd"], capture_output=True).returncode != 0:
            raise Skipped("aiosmtpd is not installed (Debian package python3-aiosmtpd)")
        script = pathlib.Path(__file__).with_name("stock_sink.py")
        self.process = Process("stock-sink", ["/usr/bin/python3", str(script), host, str(self.port),
                                              str(self.folder)], self.folder)
        wait_until("stock sink", lambda: self.process.must_run() and port_answers(self.port, host))

    def count(self):
        return len(list(self.folder.glob("*.json")))

    def messages(self):
        """[(envelope, content)] in order of arrival."""
        found = []
        for path in sorted(self.folder.glob("*.json"), key=lambda path: int(path.stem)):
            found.append((json.loads(path.read_text()), path.with_suffix(".eml").read_bytes()))
        return found

    def wait_for(self, count, limit_s=60.0):
        wait_until(f"{count} messages at the stock sink", lambda: self.process.must_run() and self.count() >= count,
                   limit_s)
        return self.messages()

    def stop(self):
        self.process.stop()


class BenchSink:
    """millrace-bench sink."""

    def __init__(self, folder, *options, port=None, ledger=False, name="bench-sink", host="127.0.0.1"):
        self.folder = pathlib.Path(getattr(folder, "path", folder))
        self.port = port or free_port(host)
        self.json = self.folder / f"{name}.json"
        self.ledger = self.folder / f"{name}.ledger"
        command = [binary("millrace-bench"), "sink", "--listen", f"{host}:{self.port}", "--json", str(self.json)]
        if ledger:
            command += ["--ledger", str(self.ledger)]
        self.process = Process(name, command + list(options), self.folder)
        wait_until("bench sink", lambda: self.process.must_run() and port_answers(self.port, host))

    def results(self):
        """What has arrived up to now."""
        self.json.unlink(missing_ok=True)
        self.process.child.send_signal(signal.SIGUSR1)

        def read():
            with contextlib.suppress(OSError, ValueError):
                return json.loads(self.json.read_text())
        return wait_until("the bench sink's report", lambda: self.process.must_run() and read(), 10)

    def wait_for(self, unique, limit_s=60.0, progress=None):
        def arrived():
            results = self.results()
            if progress is not None:
                progress(results)
            return results if results["unique"] >= unique else None
        return wait_until(f"{unique} deliveries at the bench sink", arrived, limit_s, 0.1)

    def stop(self):
        self.process.stop()
        return json.loads(self.json.read_text())


def bench_source(folder, port, *options, name="bench-source", check=True, limit_s=300):
    """Runs millrace-bench source to its end and returns its results."""
    folder = pathlib.Path(getattr(folder, "path", folder))
    results = folder / f"{name}.json"
    results.unlink(missing_ok=True)
    command = [binary("millrace-bench"), "source", "--target", f"127.0.0.1:{port}", "--json", str(results), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    if check and done.returncode != 0:
        raise HarnessError(f"source failed: {done.stdout.strip()} {done.stderr.strip()}")
    return json.loads(results.read_text())


def bench_load(folder, relay, network, port, *options, limit_s=300):
    """Runs millrace-bench load, source and sink in one, as the relay's peer, and returns its results."""
    folder = pathlib.Path(getattr(folder, "path", folder))
    results = folder / "bench-load.json"
    results.unlink(missing_ok=True)
    done = subprocess.run([binary("millrace-bench"), "load", "--target", f"{relay.host}:{relay.relay}", "--listen",
                           f"{network.peer}:{port}", "--json", str(results), *network.bench, *options],
                          capture_output=True, text=True, timeout=limit_s)
    got = json.loads(results.read_text()) if results.exists() else {"accepted": 0}
    if got["accepted"] == 0:
        raise HarnessError(f"the load failed: {done.stderr.strip()}\n{relay.logs()}")
    return got


# Cases

def body_of(content):
    """What follows the header."""
    return content.split(b"\r\n\r\n", 1)[1] if b"\r\n\r\n" in content else b""


def expect(fact, text):
    if not fact:
        raise AssertionError(text)


def null_sender(envelope):
    """aiosmtpd gives MAIL FROM:<> as it was written."""
    return (envelope["from"] or "<>") == "<>"


def expect_equal(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def run_cases(cases):
    """Runs (name, function(Folder)) one after another and ends the process: 0, 1, or 77 when all were skipped.

    Arguments of the command line choose cases by name. The last line is "N passed, M failed, K skipped".
    """
    chosen = [case for case in cases if len(sys.argv) < 2 or case[0] in sys.argv[1:]]
    passed = failed = skipped = 0
    for name, function in chosen:
        folder = Folder(name)
        started = time.monotonic()
        print(f"case {name} ...", flush=True)
        keep = False
        try:
            function(folder)
            passed += 1
            print(f"  passed in {time.monotonic() - started:.1f} s", flush=True)
        except Skipped as reason:
            skipped += 1
            print(f"  skipped: {reason}", flush=True)
        except (AssertionError, HarnessError, OSError, subprocess.SubprocessError) as error:
            failed += 1
            keep = True
            print(f"  FAILED: {type(error).__name__}: {error}", flush=True)
        finally:
            end_all()
        if keep:
            for log in sorted(folder.path.rglob("*.log")):
                print(f"--- {log}\n{tail(log)}", flush=True)
            print(f"  kept: {folder.path}", flush=True)
        else:
            folder.remove()
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(1 if failed else SKIP if skipped and not passed else 0)
