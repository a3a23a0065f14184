# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every benchmark needs of the machine: memory that was touched, a link of a given kind, processes and what they cost."""

import itertools
import os
import shutil
import signal
import subprocess
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
    """Touches and frees so much memory. A virtual machine that gives free pages back to its host is several times slower at their first
    touch: without this the same copy takes 0.8 s or 3.2 s."""
    path = f"{SHM}/warm-{os.getpid()}"
    piece = b"\1" * MIB
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

LINKS = {
    "loopback": None,
    "1 Gbit/s": ["rate", "1gbit"],
    "50 ms": ["delay", "25ms"],
    "1 Gbit/s, 50 ms": ["rate", "1gbit", "delay", "25ms"],
}


def make_link():
    """This network namespace has a loopback only, with the congestion control of a stock Debian."""
    run(["ip", "link", "set", "lo", "up"])
    with open("/proc/sys/net/ipv4/tcp_congestion_control", "w", encoding="ascii") as file:
        file.write("cubic")


def shape(link):
    """The loopback of this network namespace becomes that link, both ways; 25 ms in either direction are 50 ms."""
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], stderr=subprocess.DEVNULL, check=False)
    if LINKS[link]:
        run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "limit", "100000", *LINKS[link]])


def link_octets():
    """Sent over the loopback so far, headers and acknowledgements included."""
    with open("/proc/net/dev", encoding="ascii") as file:
        return int(next(line for line in file if line.strip().startswith("lo:")).split()[9])


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


def missing(*programs):
    """The first program that is not on this machine, or None."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return next((p for p in programs if not shutil.which(p, path=path)), None)
