#!/usr/bin/env python3
"""nic_setup_test.py: what scripts/nic-setup sees, says and would do, on machines made of files.

Nothing of this machine is touched: the script looks at another /sys and /proc, and every change is a dry run.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "interop"))
from harness import ROOT, expect, expect_equal, run_cases  # noqa: E402

SCRIPT = ROOT / "scripts" / "nic-setup"
ROUTES = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"


class Machine:
    """A /sys and /proc with what the script reads."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        self.sys, self.proc = self.root / "sys", self.root / "proc"
        self.write("proc/cmdline", "quiet isolcpus=2-3\n")
        self.write("proc/mounts", "proc /proc proc rw 0 0\n")
        self.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\n")
        self.write("proc/net/route", ROUTES)
        self.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n")
        self.write("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "3\n")
        self.write("sys/bus/pci/devices/.there", "")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def device(self, pci, driver, interface=None, kind="0x020000", node="1"):
        base = f"sys/bus/pci/devices/{pci}"
        self.write(f"{base}/class", kind + "\n")
        self.write(f"{base}/vendor", "0x8086\n")
        self.write(f"{base}/device", "0x1592\n")
        self.write(f"{base}/numa_node", node + "\n")
        (self.root / base / "driver").symlink_to(f"../../drivers/{driver}")
        if interface is not None:
            self.write(f"{base}/net/{interface}/mtu", "1500\n")
        return self

    def iommu(self):
        (self.sys / "kernel/iommu_groups/0").mkdir(parents=True)
        return self

    def default_route(self, interface):
        self.write("proc/net/route", ROUTES + f"{interface}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")
        return self

    def run(self, *arguments):
        """(status, standard output, standard error)"""
        before = self.contents()
        env = {**os.environ, "MILLRACE_SYSFS": str(self.sys), "MILLRACE_PROCFS": str(self.proc)}
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=30, env=env)
        expect_equal(self.contents(), before, f"the machine after nic-setup {' '.join(arguments)}")
        return done.returncode, done.stdout.replace(str(self.root), ""), done.stderr.replace(str(self.root), "")

    def contents(self):
        return {str(path): path.read_text() for path in self.root.rglob("*") if path.is_file()}


def status_shows_what_is_there(_folder):
    machine = Machine().device("0000:3b:00.0", "ice", "no-such-if0").device("0000:00:1f.0", "ahci", kind="0x010601").iommu()
    code, out, err = machine.run("status")
    expect_equal((code, err), (0, ""), "status")
    expect("2048kB: 8, 3 of them free" in out, f"huge pages: {out}")
    expect("IOMMU           on, 1 groups" in out, f"the IOMMU: {out}")
    expect("0000:3b:00.0  id 0x8086:0x1592  driver ice  NUMA node 1  interface no-such-if0" in out, f"the NIC: {out}")
    expect("0000:00:1f.0" not in out, "a disk controller is no NIC")
    code, out, _ = Machine().run("status")
    expect_equal(code, 0, "status without a NIC")
    expect("none on PCI" in out and "IOMMU           off" in out, f"what is not there: {out}")


def bind_prints_each_step_it_would_take(_folder):
    machine = Machine().device("0000:3b:00.0", "ice", "no-such-if0").iommu()
    code, out, err = machine.run("--dry-run", "bind", "3b:00.0")
    expect_equal(code, 0, f"status ({err})")
    device = "/sys/bus/pci/devices/0000:3b:00.0"
    expect_equal(out.splitlines(), [
        "modprobe vfio-pci", "ip link set dev no-such-if0 down", f"echo vfio-pci > {device}/driver_override",
        f"echo 0000:3b:00.0 > {device}/driver/unbind", "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe"], "the commands")
    expect("Moving 0000:3b:00.0 from ice to vfio-pci" in err, f"the explanation: {err}")
    code, out, _ = Machine().device("0000:3b:00.0", "vfio-pci").run("--dry-run", "unbind", "0000:3b:00.0")
    expect_equal(out.splitlines(), [
        f"echo '' > {device}/driver_override", f"echo 0000:3b:00.0 > {device}/driver/unbind",
        "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe"], "the commands of unbind")


def what_must_not_be_taken_is_refused(_folder):
    nic = "0000:3b:00.0"
    for machine, says in [
        (Machine().device(nic, "ice", "no-such-if0").iommu().default_route("no-such-if0"), "carries the default route"),
        (Machine().device(nic, "ice", "lo0"), "there is no IOMMU"),
        (Machine().device(nic, "mlx5_core", "no-such-if0").iommu(), "shares with the kernel"),
        (Machine().device(nic, "ahci", kind="0x010601").iommu(), "is no network controller"),
        (Machine(), f"there is no PCI device {nic}"),
    ]:
        code, _, err = machine.run("--dry-run", "bind", nic)
        expect_equal(code, 1, f"status where {says}")
        expect(says in err and "remedy: " in err, f"{says}: {err}")
    # A bond's default route is that of the NICs below it.
    machine = Machine().device(nic, "ice", "no-such-if0").iommu().default_route("bond7")
    machine.write("sys/class/net/no-such-if0/upper_bond7/mtu", "1500\n")
    code, _, err = machine.run("--dry-run", "bind", nic)
    expect_equal(code, 1, f"status with a bond ({err})")
    code, out, err = machine.run("--dry-run", "--force", "bind", nic)
    expect_equal(code, 0, f"status with --force ({err})")
    expect("--force was given" in err, f"it is said: {err}")
    code, out, _ = Machine().device(nic, "vfio-pci").iommu().run("--dry-run", "bind", nic)
    expect("already" in out, f"bound already: {out}")


def hugepages_are_reserved_as_asked(_folder):
    code, out, err = Machine().run("--dry-run", "hugepages", "512")
    expect_equal(code, 0, f"status ({err})")
    expect_equal(out.splitlines()[0], "echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "the command")
    expect("mount -t hugetlbfs" in out, f"it is mounted when it is not: {out}")
    code, out, _ = Machine().run("--dry-run", "hugepages", "4", "1G")
    expect("hugepages-1048576kB" in out, f"large ones: {out}")


def wrong_command_lines_are_status_2(_folder):
    for arguments in ([], ["frobnicate"], ["--frobnicate"], ["hugepages"], ["hugepages", "many"], ["hugepages", "1", "3M"],
                      ["bind"], ["bind", "eth0"], ["unbind", "3b:00"], ["bind", "3b:00.0", "e1000"], ["status", "x"]):
        code, out, err = Machine().device("0000:3b:00.0", "ice").run("--dry-run", *arguments)
        expect_equal((code, out), (2, ""), f"nic-setup {' '.join(arguments)} ({err})")
        expect("remedy: " in err, f"a remedy: {err}")
    code, out, _ = Machine().run("--help")
    expect_equal(code, 0, "--help")
    expect("bind PCI [DRIVER]" in out, f"the manual: {out}")


def advice_changes_nothing_and_names_the_settings(_folder):
    machine = Machine().device("0000:3b:00.0", "ice", "no-such-if0")
    machine.write("sys/devices/system/node/node1/cpulist", "8-15\n")
    code, out, err = machine.run("advice")
    expect_equal((code, err), (0, ""), "advice")
    for word in ("intel_iommu=on", "isolcpus=2-3 is set", "0000:3b:00.0 is on node 1: take shards from cores 8-15",
                 "smp_affinity_list", "Governor"):
        expect(word in out, f"{word}: {out}")


if __name__ == "__main__":
    run_cases([(case.__name__, case) for case in (
        status_shows_what_is_there,
        bind_prints_each_step_it_would_take,
        what_must_not_be_taken_is_refused,
        hugepages_are_reserved_as_asked,
        wrong_command_lines_are_status_2,
        advice_changes_nothing_and_names_the_settings,
    )])
