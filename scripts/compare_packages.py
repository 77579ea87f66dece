"""compare_packages.py: mail servers of Debian packages that cannot be installed beside each other.

Scope      The packages are fetched and unpacked into the cache, nothing is installed. A program of them runs in a mount
           namespace of its own, in which /usr and /etc have what was unpacked on top, and the accounts it wants exist.
Owns       build/compare/packages/; the namespaces end with their processes.
Failure    Skipped, with the reason, where the packages cannot be had or no such namespace may be made.
"""
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

import harness
from postfix import let_through

NOBODYS_UIDS = range(64000, 64100)  # Debian gives these to packages one by one; what is taken is left out


def unpacked(cache, packages):
    """A folder with the packages' files, fetched once."""
    folder = cache / "packages" / packages[0]
    if folder.exists():
        return folder
    for tool, package in (("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        harness.need_tool(tool, package)
    fetched = cache / "packages" / (packages[0] + ".fetched")
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir(parents=True)
    done = subprocess.run(["apt-get", "-q", "download", *packages], cwd=fetched, capture_output=True, text=True)
    if done.returncode != 0:
        raise harness.Skipped(f"apt-get download {' '.join(packages)}: {done.stderr.strip()[-400:]}; "
                              "apt-get update may help")
    fresh = cache / "packages" / (packages[0] + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for package in sorted(fetched.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(package), str(fresh)], check=True, capture_output=True)
    shutil.rmtree(fetched)
    fresh.rename(folder)
    return folder


class Guest:
    """What a packaged mail server finds: its accounts, its settings below /etc, its folders on the disk of the run."""

    def __init__(self, home, files, accounts):
        """accounts: names of users, each with a group of that name."""
        if os.getuid() != 0:
            raise harness.Skipped("mount namespaces, and accounts of its own, want root")
        harness.need_tool("unshare", "util-linux")
        self.home, self.files = home, files
        (home / "etc").mkdir(parents=True)
        let_through(home)
        self.ids = {}
        taken = {int(line.split(":")[2]) for name in ("/etc/passwd", "/etc/group")
                 for line in pathlib.Path(name).read_text().splitlines() if line.count(":") >= 3}
        free = (number for number in NOBODYS_UIDS if number not in taken)
        users, groups = pathlib.Path("/etc/passwd").read_text(), pathlib.Path("/etc/group").read_text()
        for account in accounts:
            number = self.ids[account] = next(free)
            users += f"{account}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"
            groups += f"{account}:x:{number}:\n"
        (home / "etc" / "passwd").write_text(users)
        (home / "etc" / "group").write_text(groups)
        self.mounts = ["mount -t tmpfs tmpfs /run"]

    def folder(self, name, owner=None, mode=0o755):
        path = self.home / name
        path.mkdir(parents=True)
        path.chmod(mode)
        if owner is not None:
            os.chown(path, self.ids[owner], self.ids[owner])
        return path

    def lend(self, path, name, owner=None):
        """A copy of a key in one of the run's folders, as its owner may read it."""
        copy = self.home / name / pathlib.Path(path).name
        shutil.copy(path, copy)
        copy.chmod(0o600)
        if owner is not None:
            os.chown(copy, self.ids[owner], self.ids[owner])
        return copy

    def mount(self, folder, place):
        """Puts a folder of the run where the program expects it; `place` is below a folder that every machine has."""
        parent = shlex.quote(str(pathlib.Path(place).parent))
        self.mounts += [f"mount -t tmpfs tmpfs {parent}", f"mkdir {shlex.quote(place)}",
                        f"mount --bind {shlex.quote(str(folder))} {shlex.quote(place)}"]

    def start(self, name, command, folder):
        # The binds come first: they name places that the overlays could hide.
        lines = list(self.mounts)
        for place, layers in (("/usr", [self.files / "usr"]), ("/etc", [self.home / "etc", self.files / "etc"])):
            lower = ":".join([*(str(layer) for layer in layers if layer.exists()), place])
            lines.append(f"mount -t overlay overlay -o ro,lowerdir={shlex.quote(lower)} {place}")
        prepare = " && ".join(lines)
        enter = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-c"]
        tried = subprocess.run([*enter, prepare], capture_output=True, text=True, timeout=30)
        if tried.returncode != 0:
            raise harness.Skipped(f"no mount namespace for {name}: {tried.stderr.strip()}")
        return GuestProcess(name, [*enter, f"{prepare} && exec {shlex.join(command)}"], folder)


class GuestProcess(harness.Process):
    """unshare, whose child is the first process of a namespace: when that is killed, the kernel ends all others in it."""

    def stop(self, limit_s=10.0):
        for child in pathlib.Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        return super().stop(limit_s)
