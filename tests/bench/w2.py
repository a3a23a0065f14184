# SPDX-License-Identifier: LGPL-2.1-or-later
"""W2: a disk is copied while it is written to at random, 4 KiB at a time over its first GiB, sixteen at once. What the writer feels, and
when the copy is ready to be switched to."""

import json
import os
import signal
import time

import disks
import image
from machine import MIB, Failure, Link, missing, wait_for, warm_memory

BEFORE = 2.0  # seconds of the writer alone
PATIENCE = 20.0  # seconds to get ready
AFTER = 1.0  # seconds of the writer at a mirror that is ready
AREA = 1024 * MIB


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

    def stop(self):
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


class Live(disks.Copy):
    """Copies while a writer writes. `live` returns the times of day when the copy began and got ready (None: it did not)."""

    stop_ms = None

    def live(self, writer):
        raise NotImplementedError

    def compare(self):
        """Whether source and target can be compared afterwards."""
        return False

    def copy(self):
        raise NotImplementedError("see live")


class Xmotion(disks.Xmotion, Live):
    name = "xmotion"
    programs = ("nbdkit", "fio")
    options = ("--downtime", "10ms", "--timeout", f"{PATIENCE:.0f}s")

    def prepare(self):
        super().prepare()
        self.socket = f"{self.work}/source.sock"
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        self.disk = disks.Group("disk", self.work)
        self.disk.start(["nbdkit", "-f", "-U", self.socket, os.environ["XMOTION_PLUGIN"], f"file={self.source}"], env=self.environment("a"))
        wait_for(lambda: os.path.exists(self.socket), 10, "nbdkit listens")
        self.uri = f"nbd+unix:///?socket={self.socket}"

    def live(self, writer):
        begin = time.time()
        stop = f"{self.work}/stop"
        with open(stop, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\ndate +%s.%N > {self.work}/stopped\nkill -INT {writer.process.pid}\n"
                       f"while ! grep -q '^State:.*Z' /proc/{writer.process.pid}/status; do sleep 0.01; done\n")
        os.chmod(stop, 0o755)
        if os.path.exists(f"{self.work}/stopped"):
            os.unlink(f"{self.work}/stopped")
        events = f"{self.work}/events"
        with open(events, "w", encoding="utf-8") as out:
            process = self.client.start([self.program, "send", f"disk:{self.uri}", f"{disks.NAME}:{self.port}", "--json", *self.where(),
                                         "--stop-command", stop, *self.options], env=self.environment("a"), stdout=out)
            while process.poll() is None:
                time.sleep(0.01)
        with open(events, encoding="utf-8") as file:
            result = json.loads(file.readlines()[-1])
        if result["outcome"] != "moved":
            return begin, None
        parts = result["downtime_parts"]
        self.stop_ms = result["downtime_ms"] - parts["suspend_ms"]
        with open(f"{self.work}/stopped", encoding="ascii") as file:
            return begin, float(file.read())

    def compare(self):
        return True

    def end(self):
        self.disk.end()
        super().end()


class Mirror(disks.Mirror, Live):
    """QEMU's storage daemon exports the disk to the writer and mirrors it."""

    mode, granularity = "background", 65536
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
                             granularity=self.granularity)
        event = self.monitor.wait_event(disks.is_job("ready"), PATIENCE)
        ready = event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6 if event else None
        time.sleep(AFTER)
        writer.stop()
        if ready:
            stopped = time.monotonic()
            self.monitor.command("job-complete", id="copy")
            if self.monitor.wait_event(is_done, PATIENCE):
                self.stop_ms = (time.monotonic() - stopped) * 1e3
        return begin, ready

    def end(self):
        self.monitor.close()
        super().end()


def is_done(event):
    return event["event"] == "JOB_STATUS_CHANGE" and event["data"]["status"] in ("pending", "concluded", "null")


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
        self.peers = PEERS


WORKLOADS = (Workload("w2-20", 20), Workload("w2-100", 100))


def run_once(peer, link, work, source, target, rate):
    copy = peer(link, work, source, target)
    group = disks.Group("writer", work)
    try:
        copy.prepare()
        warm_memory(copy.size + 256 * MIB)
        cpu = copy.server.cpu() + copy.client.cpu()
        writer = Writer(group, work, copy.uri, rate)
        time.sleep(BEFORE)
        begin, ready = copy.live(writer)
        if writer.process.poll() is None:
            writer.stop()
        cpu = copy.server.cpu() + copy.client.cpu() - cpu
        copy.settle()
    finally:
        copy.end()
        group.end()
    if ready and copy.compare() and not disks.same(source, target):
        raise Failure(f"{peer.name}: the copy differs from its source")
    log = writer.read_log()
    end = ready or begin + PATIENCE
    return {"peer": peer.name, "ready": ready - begin if ready else None, "stop_ms": copy.stop_ms, "cpu": cpu,
            "before": between(log, begin - BEFORE + 0.5, begin), "during": between(log, begin, end)}


def run_workload(workload, work, size, rounds, say, only=None):
    base, source, target = (f"{work}/{name}" for name in ("base.img", "live.img", "target.img"))
    peers, left_out, runs = [], {}, []
    for peer in workload.peers:
        if only and not any(o in peer.name for o in only):
            continue
        if lacking := missing(*peer.programs):
            left_out[peer.name] = f"no {lacking} here"
        else:
            peers.append(peer)
    if not os.path.exists(base):
        image.make(base, max(size, AREA))
    link = Link("loopback", work)
    try:
        for number in range(rounds):
            for peer in peers:
                disks.run(["cp", "--sparse=always", base, source])
                runs.append(run_once(peer, link, work, source, target, workload.rate))
                for path in (source, target):
                    if os.path.exists(path):
                        os.unlink(path)
                say(f"{workload.name} {number + 1}/{rounds} {describe(runs[-1])}")
    finally:
        link.end()
    return runs, left_out, {}


def ms(value):
    return "-" if value is None else f"{value:.2f}"


def describe(result):
    ready = f"ready after {result['ready']:.1f} s" if result["ready"] else f"not ready in {PATIENCE:.0f} s"
    b, d = result["before"], result["during"]
    return (f"{result['peer']}: {ready}, the writer {b['rate']:.0f} then {d['rate']:.0f} MB/s, p50 {ms(b['p50'])} then {ms(d['p50'])} ms, "
            f"p99 {ms(b['p99'])} then {ms(d['p99'])} ms, max {ms(d['max'])}, stop {ms(result['stop_ms'])} ms")
