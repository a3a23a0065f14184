# SPDX-License-Identifier: LGPL-2.1-or-later
"""W3: a running guest's memory alone moves: 1 GiB, an eighth of it zeroes, half of the rest compressible, rewritten page after page at a
given rate. xmotion's embedded guest, and QEMU's migration of a bare guest that does the same (qemu-guest.c), under emulation."""

import os
import time

import disks
from machine import MIB, Failure, Group, Link, choose, in_turn, wait_for, warm_memory

PATIENCE = 60.0


class Move:
    """`move` returns seconds in all and the pause in ms."""

    name = "?"
    programs = ()
    pages_sent = None  # octets, where it is said
    deltas = 0         # pages

    def __init__(self, link, work, memory, workload):
        self.link, self.work, self.memory, self.workload = link, work, memory, workload
        self.rate, self.downtime = workload.rate, workload.downtime
        self.server, self.client, self.guest = (Group(name, work) for name in ("server", "client", "guest"))
        self.port = disks.free_port()

    def cpu(self):
        return self.server.cpu() + self.client.cpu() + self.guest.cpu()

    def end(self):
        for group in (self.guest, self.client, self.server):
            group.end()


class Xmotion(Move):
    name = "xmotion"
    options = ()

    def prepare(self):
        self.hosts = disks.Xmotion.__new__(disks.Xmotion)
        self.hosts.link, self.hosts.work, self.hosts.port = self.link, self.work, self.port
        self.hosts.server, self.hosts.client = self.server, self.client
        self.hosts.target = f"{self.work}/none"
        self.hosts.prepare()
        self.hosts.start_guest(self.guest, "--memory", f"{self.memory // MIB}M", "--dirty-rate", f"{self.rate}M",
                               *self.workload.guest)
        time.sleep(0.5)

    def move(self):
        result = self.hosts.send("proc:g", "--downtime", f"{self.downtime}ms", *self.workload.send, *self.options)
        self.rounds = result["memory"]["rounds"]
        self.pages_sent = result["memory"]["sent_pages"] * 4096
        self.deltas = result["memory"]["delta_pages"]
        return result["total_ms"] / 1000, result["downtime_ms"]

    def check(self):
        self.hosts.run("b", "guest", "verify", "g")


class XmotionWhole(Xmotion):
    name = "xmotion, no deltas"
    options = ("--delta-cache", "0")


class Qemu(Move):
    name = "QEMU, one connection"
    programs = ("qemu-system-x86_64",)
    channels, compression = 0, None
    source = target = None

    def command(self, end, *more):
        return ["qemu-system-x86_64", "-M", "pc", "-m", str(self.memory // MIB), "-accel", "tcg", "-nodefaults", "-display", "none", "-kernel",
                os.environ["XMOTION_QEMU_GUEST"], "-append", str(self.rate), "-qmp", f"unix:{self.work}/{end}.qmp,server=on,wait=off",
                "-debugcon", f"file:{self.work}/{end}.debug", "-object",
                f"tls-creds-x509,id=tls,dir={self.work}/{disks.TLS},endpoint={'client' if end == 'source' else 'server'}", *more]

    def prepare(self):
        for name in os.listdir(self.work):
            if name.endswith((".qmp", ".debug")):
                os.unlink(f"{self.work}/{name}")
        self.guest.start(self.command("source"))
        self.server.start(self.command("target", "-incoming", "defer"))
        self.source, self.target = (disks.Monitor(f"{self.work}/{end}.qmp") for end in ("source", "target"))
        wait_for(self._filled, 60, "QEMU's guest has filled its memory")
        parameters = {"tls_creds": "tls", "downtime_limit": self.downtime, "max_bandwidth": 1 << 40}
        capabilities = [{"capability": "events", "state": True}]
        if self.channels:
            parameters["multifd_channels"] = self.channels
            capabilities.append({"capability": "multifd", "state": True})
        if self.compression:
            parameters["multifd_compression"] = self.compression
        for monitor in (self.source, self.target):
            monitor.command("migrate-set-capabilities", capabilities=capabilities)
        self.source.command("migrate-set-parameters", tls_hostname=disks.NAME, **parameters)
        self.target.command("migrate-set-parameters", **{k: v for k, v in parameters.items() if k != "downtime_limit"})
        self.target.command("migrate-incoming", uri=f"tcp:{disks.NAME}:{self.port}")
        time.sleep(0.5)

    def _filled(self):
        with open(f"{self.work}/source.debug", encoding="ascii") as file:
            return "R" in file.read()

    def move(self):
        begin = time.time()
        self.source.command("migrate", uri=f"tcp:{disks.NAME}:{self.port}")
        stop = self.source.wait_event(lambda e: e["event"] == "STOP", PATIENCE)
        resume = self.target.wait_event(lambda e: e["event"] == "RESUME", PATIENCE)
        if not stop or not resume:
            raise Failure(f"{self.name}: {self.source.command('query-migrate')}")
        wait_for(lambda: self.source.command("query-migrate").get("status") == "completed", 10, "QEMU has migrated")
        self.rounds = self.source.command("query-migrate")["ram"]["dirty-sync-count"]
        return disks.at(resume) - begin, (disks.at(resume) - disks.at(stop)) * 1e3

    def check(self):
        if self.target.command("query-status")["status"] != "running":
            raise Failure("QEMU's guest does not run at the target")

    def end(self):
        for monitor in (self.source, self.target):
            if monitor:
                monitor.close()
        super().end()


class Multifd2(Qemu):
    name = "QEMU, multifd 2"
    channels = 2


class Multifd4(Qemu):
    name = "QEMU, multifd 4"
    channels = 4


class MultifdZstd(Multifd2):
    name = "QEMU, multifd 2, zstd"
    compression = "zstd"


PEERS = (Xmotion, Qemu, Multifd2, Multifd4, MultifdZstd)


class Workload:
    def __init__(self, name, rate, downtime):
        self.name, self.rate, self.downtime = name, rate, downtime
        self.title = f"W3: memory of 1 GiB, {rate} MB/s dirtied, downtime {downtime} ms"
        self.kind, self.guest, self.send, self.peers = "loopback", (), (), PEERS


class Parts(Workload):
    """The same pages are dirtied over and over, in part: what differences to the page last sent are for."""

    def __init__(self, name, rate, downtime, hot):
        super().__init__(name, rate, downtime)
        self.title = f"W3: memory of 1 GiB, of which {hot} MiB are dirtied in part, {rate} MB/s, downtime {downtime} ms, link of 1 Gbit/s"
        self.kind, self.peers = "1 Gbit/s", (Xmotion, XmotionWhole)
        self.guest, self.send = ("--dirty-set", f"{hot}M", "--dirty-part", "256"), ("--timeout", f"{PATIENCE / 3}s", "--on-timeout", "stop")


WORKLOADS = (Workload("w3", 50, 300), Workload("w3-50ms", 50, 50), Workload("w3-200", 200, 300), Parts("w3-parts", 400, 100, 64))
MEMORY = 1024 * MIB


def run_once(peer, link, work, workload):
    move = peer(link, work, MEMORY, workload)
    try:
        warm_memory(2 * MEMORY + 512 * MIB)
        move.prepare()
        warm_memory(MEMORY + 256 * MIB)
        octets, cpu = link.octets(), move.cpu()
        wall, pause = move.move()
        octets, cpu = link.octets() - octets, move.cpu() - cpu
        move.check()
    finally:
        move.end()
    return {"peer": peer.name, "wall": wall, "pause_ms": pause, "cpu": cpu, "wire": octets, "rounds": move.rounds,
            "pages_sent": move.pages_sent, "deltas": move.deltas}


def no_guest(peer):
    built = os.path.exists(os.environ.get("XMOTION_QEMU_GUEST", ""))
    return None if built or issubclass(peer, Xmotion) else "its guest was not built"


def run_workload(workload, work, _size, rounds, say, only=None):
    peers, left_out = choose(workload.peers, only, no_guest)
    runs = []
    with Link(workload.kind, work) as link:
        for number, peer in in_turn(peers, rounds):
            runs.append(run_once(peer, link, work, workload))
            say(f"{workload.name} {number}/{rounds} {describe(runs[-1])}")
    return runs, left_out, {}


def describe(result):
    return (f"{result['peer']}: {result['wall']:.2f} s, pause {result['pause_ms']:.0f} ms, {result['cpu']:.2f} CPU s, "
            f"{result['wire'] / MIB:.0f} MiB on the wire, {result['rounds']} rounds, {result['deltas']} deltas")
