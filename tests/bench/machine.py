# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every benchmark needs of the machine: memory that was touched, a link of a given kind, processes and what they cost."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

MIB = 1 << 20
SHM = "/dev/shm"
V1, V2 = "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup"
STEP = 0.002
RSS_STEPS = 20  # between looks at the memory of a process that will end by itself; what the kernel says of an ended one has our own in it


class Failure(Exception):
    """What went wrong, in one sentence."""


def wait_for(condition, seconds, what):
    """Until the condition is true; its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise Failure(f"{what}: not in {seconds} s")
        time.sleep(STEP)
    return value


def warm_memory(size):
    """Touches and frees so much memory, at most half of what is free. A virtual machine that gives free pages back to its host is ten times
    slower at their first touch (0.23 instead of 2.5 GB/s here, of what was free for 20 s): the same copy takes 0.8 s or 3.2 s without it."""
    path = f"{SHM}/warm-{os.getpid()}"
    piece = b"\1" * MIB
    free = os.statvfs(SHM)
    size = min(size, free.f_bavail * free.f_frsize // 2)
    with open(path, "wb", buffering=0) as file:
        os.unlink(path)
        for _ in range(size // MIB):
            file.write(piece)


def run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout.strip()[-300:]}")
    return done.stdout


# -- the link --

CONGESTION = "cubic"  # a stock Debian's, whatever this machine's is
NEAR, FAR, NAME = "10.77.0.1", "10.77.0.2", "target"
KINDS = {"loopback": None, "1 Gbit/s": (125_000_000, 0), "50 ms": (0, 25), "1 Gbit/s, 50 ms": (125_000_000, 25)}


def set_congestion(prefix):
    """What cannot be had is said: ratios of one run hold all the same, but are not those of another machine."""
    path = "/proc/sys/net/ipv4/tcp_congestion_control"
    if subprocess.run([*prefix, "sh", "-c", f"echo {CONGESTION} > {path}"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        with open(path, encoding="ascii") as file:
            print(f"bench: this machine allows no {CONGESTION} here: congestion control is {file.read().strip()}", file=sys.stderr)


class Link:
    """Between the two ends: the loopback, or two network namespaces and a link of some rate and delay (25 ms in either direction make
    50). The receiving end is called `target`. The caller is in network and mount namespaces of its own (scripts/bench)."""

    def __init__(self, kind, work):
        self.prefix, self.processes, self.device = [], [], "lo"
        self.pid = os.getpid()
        self.kind, self.work = kind, work
        self.address = FAR if KINDS[kind] else "127.0.0.1"

    def __enter__(self):
        for name in ("net", "mnt"):
            if os.readlink(f"/proc/self/ns/{name}") == os.readlink(f"/proc/{os.getppid()}/ns/{name}"):
                raise Failure("run scripts/bench: this must not change the machine's own network and mounts")
        try:
            if KINDS[self.kind]:
                self._make(*KINDS[self.kind])
            for prefix in ([], self.prefix):
                run([*prefix, "ip", "link", "set", "lo", "up"])
                set_congestion(prefix)
            with open(f"{self.work}/hosts", "w", encoding="ascii") as file:
                file.write(f"127.0.0.1 localhost\n{self.address} {NAME}\n")
            run(["mount", "--bind", f"{self.work}/hosts", "/etc/hosts"])
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_):
        self._kill()
        run(["umount", "/etc/hosts"])

    def _kill(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def _make(self, rate, delay):
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self.processes.append(holder)
        self.pid = holder.pid
        own = os.readlink("/proc/self/ns/net")
        wait_for(lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own, 10, "a network namespace")
        self.prefix = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        carrier = subprocess.Popen([os.environ["XMOTION_LINK"], str(holder.pid), str(rate), str(delay)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        self.processes.append(carrier)
        if carrier.stdout.readline() != b"ready\n":
            raise Failure("no link between two network namespaces")
        self.device = "near"
        for prefix, device, here, there in (([], "near", NEAR, FAR), (self.prefix, "far", FAR, NEAR)):
            run([*prefix, "ip", "address", "add", here, "peer", there, "dev", device])
            run([*prefix, "ip", "link", "set", device, "mtu", "9000", "up"])

    def octets(self):
        """Carried so far, both ways, headers and acknowledgements included."""
        with open("/proc/net/dev", encoding="ascii") as file:
            fields = next(line for line in file if line.strip().startswith(self.device + ":")).split()
        return int(fields[9]) + (int(fields[1]) if self.device != "lo" else 0)

    def listens(self, port):
        """At the receiving end. Looks without connecting: some servers end with their first client."""
        with open(f"/proc/{self.pid}/net/tcp", encoding="ascii") as file:
            return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in file)

# -- processes --

class Group:
    """Processes of one end of a copy: started together, counted together, ended by pid. Their processor time is that of a control
    group, so that children nobody waited for count too."""

    def __init__(self, name, folder):
        base = V1 if os.path.isdir(V1) else V2
        self.path = f"{base}/xmotion-bench-{os.getpid()}-{name}"
        self.counter = "cpuacct.usage" if base == V1 else "cpu.stat"
        os.mkdir(self.path)
        self.log = f"{folder}/{name}.log"
        with open(self.log, "wb"):
            pass
        self.started = []
        self.rss = 0

    def start(self, command, **options):
        """`options` are Popen's. Output goes to the group's log."""
        procs = f"{self.path}/cgroup.procs"

        def enter():
            with open(procs, "w", encoding="ascii") as file:
                file.write(str(os.getpid()))

        with open(self.log, "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options}
            process = subprocess.Popen(command, preexec_fn=enter, **options)  # pylint: disable=subprocess-popen-preexec-fn
        self.started.append(process)
        return process

    def cpu(self):
        """Seconds of processor time so far."""
        with open(f"{self.path}/{self.counter}", encoding="ascii") as file:
            text = file.read()
        return int(text) / 1e9 if self.counter == "cpuacct.usage" else int(text.split()[1]) / 1e6

    def pids(self):
        with open(f"{self.path}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file]

    def note_rss(self):
        """Takes the peak resident memory, in octets, of what lives now; the largest process counts."""
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                    for line in file:
                        if line.startswith("VmHWM:"):
                            self.rss = max(self.rss, int(line.split()[1]) * 1024)
            except OSError:
                continue

    def finish(self, process, seconds=600):
        """Waits for the end of a process; its exit code must be 0. Its peak memory is noted."""
        end = time.monotonic() + seconds
        for turn in itertools.count():
            if process.poll() is not None:
                break
            if time.monotonic() > end:
                raise Failure(f"{process.args[0]} does not end: {self.tail()}")
            if turn % RSS_STEPS == 0:
                self.note_rss()
            time.sleep(STEP)
        if process.returncode:
            raise Failure(f"{' '.join(process.args[:3])}: exit code {process.returncode}: {self.tail()}")

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return file.read().strip()[-400:]

    def end(self):
        for _ in range(200):
            left = self.pids()
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            for process in self.started:
                process.poll()
            time.sleep(0.01)
        for process in self.started:
            process.wait()
        os.rmdir(self.path)


def choose(peers, only, why_not=lambda peer: None):
    """Those that are wanted and can be had, and {name: why} of those that cannot."""
    wanted = [p for p in peers if not only or any(o in p.name for o in only)]
    lacking = {p.name: why for p in wanted if (why := (f"no {m} here" if (m := missing(*p.programs)) else why_not(p)))}
    return [p for p in wanted if p.name not in lacking], lacking


def in_turn(peers, rounds):
    """(number of the round, peer): all peers in each round, each round begun by another one."""
    for number in range(rounds):
        for i in range(len(peers)):
            yield number + 1, peers[(number + i) % len(peers)]


def missing(*programs):
    """The first program that is not on this machine, or None."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return next((p for p in programs if not shutil.which(p, path=path)), None)
