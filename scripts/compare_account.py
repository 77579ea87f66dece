"""compare_account.py: what a system of several processes takes of the machine: CPU time and memory.

Scope      Processes that are started inside `with account:`, and all that these start. In a control group of their own
           (cgroup v2), where one may be made: then the time of children counts that nobody waits for. Else what /proc
           says of the processes below the given roots. Memory is the sum of their proportional shares (PSS), in which a
           page that several have counts once.
Owns       The control group, and a thread that looks at the memory once a second.
"""
import contextlib
import os
import pathlib
import signal
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
EVERY_S = 1.0


def own_group():
    """The folder of the control group that this process is in; None without cgroup v2."""
    with contextlib.suppress(OSError, StopIteration):
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        mounted = next(fields[1] for fields in mounts if fields[2] == "cgroup2")
        lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line[3:] for line in lines if line.startswith("0::"))
        return pathlib.Path(mounted) / path.lstrip("/")
    return None


def tree(roots):
    """{pid: CPU seconds} of these processes and all below them, ended children included that were waited for."""
    parents, times = {}, {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile: its time is with its parent
        parents[int(entry.name)] = int(fields[1])
        times[int(entry.name)] = sum(int(ticks) for ticks in fields[11:15]) / TICKS
    found = {}
    for pid, seconds in times.items():
        above = pid
        while above and above not in roots:
            above = parents.get(above, 0)
        if above:
            found[pid] = seconds
    return found


def shared_out_mb(pid):
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


class Account:
    def __init__(self):
        self.roots = set()  # for where there is no control group
        self.memory_mb_max = 0.0
        self.home = own_group()
        self.group = None
        self.exact = False  # whether the time of every process counts, whoever waits for it
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        if self.home is not None:
            group = self.home / f"millrace-compare-{os.getpid()}-{time.monotonic_ns()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                (group / "cgroup.procs").write_text(str(os.getpid()))
                (self.home / "cgroup.procs").write_text(str(os.getpid()))
                self.group, self.exact = group, True

    def __enter__(self):
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        return self

    def __exit__(self, *_):
        if self.group is not None:
            (self.home / "cgroup.procs").write_text(str(os.getpid()))

    def pids(self):
        if self.group is None:
            return list(tree(self.roots))
        return [int(word) for word in (self.group / "cgroup.procs").read_text().split() if int(word) != 0]

    def cpu_seconds(self):
        if self.group is None:
            return sum(tree(self.roots).values())
        for line in (self.group / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec"):
                return int(line.split()[1]) / 1e6
        return 0.0

    def begin_to_watch(self):
        self.watcher.start()

    def watch(self):
        while not self.done.is_set():
            self.memory_mb_max = max(self.memory_mb_max, sum(shared_out_mb(pid) for pid in self.pids()))
            self.done.wait(EVERY_S)

    def close(self):
        """Ends what is left of the system, too."""
        self.done.set()
        if self.watcher.ident is not None:
            self.watcher.join()
        if self.group is None:
            return
        for _ in range(100):
            left = self.pids()
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.group.rmdir()
                break
            time.sleep(0.05)
        self.group = None
