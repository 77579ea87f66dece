"""postfix.py: a private Postfix in a folder, beside whatever the machine has.

Scope      Writes main.cf and master.cf, starts `master` for that configuration, stops it. Used by the interop
           tests and the comparison.
Failure    Skipped when Postfix is not installed or we are not root (master needs to be).
"""
import os
import pathlib
import shutil
import subprocess

from harness import HarnessError, Process, Skipped, need_tool, port_answers, socket_folder, tail, wait_until

MASTER = """\
{listen}      inet  n       -       n       -       {smtpd_max}       smtpd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsproxy  unix  -       -       n       -       0       tlsproxy
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       {smtp_max}       smtp
relay     unix  -       -       n       -       {smtp_max}       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""

MAIN = {
    "compatibility_level": "3.6",
    "myhostname": "postfix.test.example",
    "mydestination": "",
    "local_recipient_maps": "",
    "mynetworks": "127.0.0.0/8",
    "inet_protocols": "ipv4",
    "inet_interfaces": "127.0.0.1",
    "alias_maps": "",
    "alias_database": "",
    "maillog_file_prefixes": "/",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "biff": "no",
    "smtp_host_lookup": "native",
}


def let_through(folder):
    """For what runs as a user of its own: every folder above must let it pass."""
    for path in folder.parents:
        if path != pathlib.Path("/") and not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)


class Postfix:
    def __init__(self, folder, port, settings, smtpd_max="-", smtp_max="-"):
        """settings: further main.cf lines, by name. One with the value None is left out."""
        self.postfix = need_tool("postfix", "postfix")
        if os.getuid() != 0:
            raise Skipped("Postfix's master process must be started by root")
        self.port = port
        self.folder = pathlib.Path(getattr(folder, "path", folder)) / "postfix"
        self.folder.mkdir(parents=True)
        short = socket_folder()  # by which its sockets' paths are short, and its queue on the disk all the same
        short.chmod(0o711)
        (short / "postfix").symlink_to(self.folder)
        self.etc, self.queue, self.data = (short / "postfix" / name for name in ("etc", "spool", "data"))
        for path in (self.etc, self.queue, self.data):
            path.mkdir()
        let_through(self.folder)
        shutil.chown(self.data, "postfix", "postfix")
        self.log = self.folder / "postfix.log"
        main = dict(MAIN, queue_directory=str(self.queue), data_directory=str(self.data), maillog_file=str(self.log))
        main.update(settings)
        (self.etc / "main.cf").write_text("".join(f"{k} = {v}\n" for k, v in main.items() if v is not None))
        (self.etc / "master.cf").write_text(
            MASTER.format(listen=f"127.0.0.1:{port}", smtpd_max=smtpd_max, smtp_max=smtp_max))
        for name in ("dynamicmaps.cf", "dynamicmaps.cf.d", "postfix-files"):
            if os.path.exists(f"/etc/postfix/{name}"):
                (self.etc / name).symlink_to(f"/etc/postfix/{name}")

    def run(self, *arguments, check=True):
        done = subprocess.run([self.postfix, "-c", str(self.etc), *arguments], capture_output=True, text=True,
                              timeout=60)
        if check and done.returncode != 0:
            raise HarnessError(f"postfix {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}\n"
                               f"{tail(self.log)}")
        return done

    def start(self):
        self.run("start")
        Process.alive.append(self)  # so that it ends with the harness, whatever happens
        wait_until("Postfix", lambda: port_answers(self.port), 30)
        return self

    def stop(self, _limit_s=None):
        self.run("stop", check=False)
        if self in Process.alive:
            Process.alive.remove(self)

    def master_pid(self):
        return int((self.queue / "pid" / "master.pid").read_text())

    def queued(self):
        """Messages in the queue."""
        done = subprocess.run(["postqueue", "-c", str(self.etc), "-j"], capture_output=True, text=True, timeout=60)
        return len(done.stdout.splitlines())
