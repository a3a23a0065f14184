# SPDX-License-Identifier: LGPL-2.1-or-later
"""W2: a disk is copied while it is written to at random, 4 KiB at a time over its first GiB, sixteen at once. What the writer feels, and
when the copy is ready to be switched to."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time

import disks
import image
from machine import MIB, Failure, Group, Link, choose, in_turn, run, wait_for, warm_memory

BEFORE = 2.0  # seconds of the writer alone
PATIENCE = 20.0  # seconds to get ready
SETTLE = 0.1  # seconds in which writes in flight end, for QEMU not counted
LATE = "written faster than they can be copied"  # what xmotion says then
AREA = 1024 * MIB
TRIES = 3  # of a run that says nothing
WARM = 3  # times the disk: what is touched first has been given back in part when the copy begins


class Disturbed(Failure):
    """A run that says nothing of the copy."""


class Writer:
    """fio, through the export of the source; every write's time of day and latency is logged."""

    def __init__(self, group, work, uri, rate):
        self.prefix = f"{work}/fio"
        self.group = group
        for name in os.listdir(work):
            if name.startswith("fio_"):
                os.unlink(f"{work}/{name}")
        self.process = group.start([
            "fio", "--name=writer", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", "--iodepth=16", f"--size={AREA}",
            "--time_based", "--runtime=120", f"--rate={rate}m", "--randrepeat=0", "--norandommap", f"--write_lat_log={self.prefix}",
            "--log_unix_epoch=1", "--disable_slat=1", "--disable_clat=1", f"--output={work}/fio.out"], cwd=work)

    def pause(self):
        """As a guest that is suspended: between two moments it writes no more. What is in flight at the server completes."""
        for pid in self.group.pids():
            os.kill(pid, signal.SIGSTOP)

    def finish(self):
        """It writes its log. Whatever it still writes to the disk is of no copy any more."""
        if self.process.poll() is not None:
            raise Failure(f"fio ended by itself: {self.group.tail()}")
        for pid in self.group.pids():
            os.kill(pid, signal.SIGCONT)
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def read_log(self):
        """[(second of the day at which it ended, latency in ms)]"""
        with open(f"{self.prefix}_lat.1.log", encoding="ascii") as file:
            fields = (line.split(",") for line in file)
            return [(int(f[0]) / 1000, int(f[1]) / 1e6) for f in fields]


def between(log, begin, end):
    """What the writer got in that time: MB/s, and latencies in ms."""
    latencies = sorted(l for t, l in log if begin <= t < end)
    if not latencies or end <= begin:
        return {"rate": 0.0, "p50": None, "p99": None, "max": None}
    return {"rate": len(latencies) * 4096 / (end - begin) / 1e6, "p50": latencies[len(latencies) // 2],
            "p99": latencies[len(latencies) * 99 // 100], "max": latencies[-1]}


# A copy while a writer writes has `live(writer)`: the times of day when it began and got ready (None: it did not, in time). Ready, it has
# paused the writer, switched, and set stop_ms to how long that took.

class Xmotion(disks.Xmotion):
    name = "xmotion"
    programs = ("nbdkit", "fio")
    options = ("--downtime", "10ms", "--timeout", f"{PATIENCE:.0f}s")
    stop_ms = None
    disk = None

    def prepare(self):
        super().prepare()
        self.socket = f"{self.work}/source.sock"
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.disk = Group("disk", self.work)
        self.disk.start(["nbdkit", "-f", "-U", self.socket, os.environ["XMOTION_PLUGIN"], f"file={self.source}"], env=self.environment("a"))
        wait_for(lambda: os.path.exists(self.socket), 10, "nbdkit listens")
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def live(self, writer):
        begin = time.time()
        # A shell's own commands: processes that it had to start would stand in the writer's silence.
        stop = f"while read -r pid; do kill -STOP $pid; done < {writer.group.path}/cgroup.procs; : > {self.work}/stopped"
        if os.path.exists(f"{self.work}/stopped"):
            os.unlink(f"{self.work}/stopped")
        events = f"{self.work}/events"
        with open(events, "w", encoding="utf-8") as out:
            process = self.client.start([self.program, "send", f"disk:{self.uri}", f"{disks.NAME}:{self.port}", "--json", *self.where(),
                                         "--stop-command", stop, *self.options], env=self.environment("a"), stdout=out)
            try:
                process.wait(3 * PATIENCE)
            except subprocess.TimeoutExpired:
                raise Failure(f"xmotion does not end: {self.client.tail()}") from None
        with open(events, encoding="utf-8") as file:
            result = json.loads((file.readlines() or ["{}"])[-1])
        if process.returncode and LATE in str(result.get("error")):
            return begin, None
        if process.returncode or not result["disks"][0]["verified"]:
            raise Failure(f"xmotion: exit code {process.returncode}: {result.get('error')} {self.client.tail()}")
        self.stop_ms = result["downtime_ms"]
        return begin, os.stat(f"{self.work}/stopped").st_mtime

    def end(self):
        if self.disk:
            self.disk.end()
        super().end()


class Mirror(disks.Mirror):
    """QEMU's storage daemon exports the disk to the writer and mirrors it."""

    mode, granularity = "background", 65536
    stop_ms = None
    monitor = None
    programs = ("qemu-storage-daemon", "nbdkit", "fio")

    def prepare(self):
        super().prepare()
        self.socket = f"{self.work}/source.sock"
        for path in (self.socket, f"{self.work}/qmp"):
            if os.path.exists(path):
                os.unlink(path)
        self.client.start([
            "qemu-storage-daemon", "--object", f"tls-creds-x509,id=tls,dir={self.work}/{disks.TLS},endpoint=client",
            "--blockdev", f"driver=file,node-name=source,filename={self.source},cache.direct=off",
            "--blockdev", f"driver=nbd,node-name=target,server.type=inet,server.host={disks.NAME},server.port={self.port},tls-creds=tls",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}", "--export", "type=nbd,id=e,node-name=source,name=d,writable=on",
            "--chardev", f"socket,id=c,path={self.work}/qmp,server=on,wait=off", "--monitor", "chardev=c"])
        self.monitor = disks.Monitor(f"{self.work}/qmp")
        self.uri = f"nbd+unix:///d?socket={self.socket}"

    def live(self, writer):
        begin = time.time()
        self.monitor.command("blockdev-mirror", job_id="copy", device="source", target="target", sync="full", copy_mode=self.mode,
                             auto_dismiss=False, granularity=self.granularity)
        event = self.monitor.wait_event(disks.is_job("ready"), PATIENCE)
        if not event:
            return begin, None
        writer.pause()
        time.sleep(SETTLE)  # what comes after the switch would be written to the target alone
        stopped = time.monotonic()
        self.monitor.command("job-complete", id="copy")
        if not self.monitor.wait_event(disks.is_job("concluded"), PATIENCE):
            raise Disturbed("the writer was halted in the middle of a request, for whose end QEMU's server waits")
        if error := self.monitor.command("query-jobs")[0].get("error"):
            raise Failure(f"{self.name}: the job fails: {error}")
        self.stop_ms = (time.monotonic() - stopped) * 1e3
        return begin, disks.at(event)

    def end(self):
        if self.monitor:
            self.monitor.close()
        super().end()


class MirrorBackground(Mirror):
    name = "QEMU mirror, background"


class MirrorFine(Mirror):
    name = "QEMU mirror, background, 4 KiB"
    granularity = 4096


class MirrorBlocking(Mirror):
    name = "QEMU mirror, write-blocking"
    mode = "write-blocking"


PEERS = (Xmotion, MirrorBackground, MirrorFine, MirrorBlocking)


class Workload:
    def __init__(self, name, rate):
        self.name, self.rate, self.title = name, rate, f"W2: live copy, {rate} MB/s of random writes"


WORKLOADS = (Workload("w2-20", 20), Workload("w2-100", 100))


def run_once(peer, link, work, source, target, rate):
    with contextlib.ExitStack() as ends:
        copy = peer(link, work, source, target)
        ends.callback(copy.end)
        group = Group("writer", work)
        ends.callback(group.end)
        copy.prepare()
        warm_memory(WARM * copy.size)
        writer = Writer(group, work, copy.uri, rate)
        time.sleep(BEFORE)
        begin, ready = copy.live(writer)
        if ready:
            copy.settle()
            if not disks.same(source, target):
                raise Failure(f"{peer.name}: the copy differs from its source")
        writer.finish()
    log = writer.read_log()
    before = between(log, begin - BEFORE + 0.5, begin)
    if before["rate"] < 0.95 * rate:
        raise Disturbed(f"the writer got {before['rate']:.0f} MB/s instead of {rate} when it was alone")
    return {"peer": peer.name, "ready": ready - begin if ready else None, "stop_ms": copy.stop_ms, "before": before,
            "during": between(log, begin, ready or begin + PATIENCE)}


def run_undisturbed(peer, link, work, paths, rate, say):
    base, source, target = paths
    for tries in itertools.count(1):
        run(["cp", "--sparse=always", base, source])
        try:
            return run_once(peer, link, work, source, target, rate)
        except Disturbed as e:
            if tries == TRIES:
                raise
            say(f"{peer.name}, once more: {e}")
        finally:
            for path in (source, target):
                if os.path.exists(path):
                    os.unlink(path)


def run_workload(workload, work, size, rounds, say, only=None):
    base, source, target = (f"{work}/{name}" for name in ("base.img", "live.img", "target.img"))
    peers, left_out = choose(PEERS, only)
    runs = []
    if not os.path.exists(base):
        image.make(base, max(size, AREA))
    with Link("loopback", work) as link:
        for number, peer in in_turn(peers, rounds):
            try:
                runs.append(run_undisturbed(peer, link, work, (base, source, target), workload.rate, say))
                say(f"{workload.name} {number}/{rounds} {describe(runs[-1])}")
            except Failure as e:
                if peer is Xmotion:
                    raise
                say(f"{workload.name} {number}/{rounds} {peer.name}: no figure of this round: {e}")
    return runs, left_out, {}


def ms(value):
    return "-" if value is None else f"{value:.2f}"


def describe(result):
    ready = f"ready after {result['ready']:.1f} s" if result["ready"] else f"not ready in {PATIENCE:.0f} s"
    b, d = result["before"], result["during"]
    return (f"{result['peer']}: {ready}, the writer {b['rate']:.0f} then {d['rate']:.0f} MB/s, p50 {ms(b['p50'])} then {ms(d['p50'])} ms, "
            f"p99 {ms(b['p99'])} then {ms(d['p99'])} ms, max {ms(d['max'])}, stop {ms(result['stop_ms'])} ms")
