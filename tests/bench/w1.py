# SPDX-License-Identifier: LGPL-2.1-or-later
"""W1: a disk that nobody writes to, to a target that does not exist yet (W1c: to an old copy), over links of several kinds."""

import os
import time

import disks
import image
from machine import MIB, Failure, Link, choose, in_turn, run, warm_memory

COLD = (disks.Xmotion, disks.XmotionPlain, disks.Nbdcopy, disks.NbdcopyZero, disks.QemuImg, disks.Mirror, disks.Ssh, disks.RsyncCold)
SLOW = (disks.Xmotion, disks.NbdcopyZero, disks.ZstdSsh)
FAR = (disks.Xmotion, disks.NbdcopyZero, disks.NbdcopyFar)
OLD = (disks.XmotionReuse, disks.RsyncBlocks, disks.Nbdcopy)


class Workload:
    """`peers` copy the same image in turn, round by round, so that whatever else the machine does meets them all."""

    def __init__(self, name, title, peers, link="loopback", changed=0):
        self.name, self.title, self.peers, self.link, self.changed = name, title, peers, link, changed


WORKLOADS = (
    Workload("w1", "W1: cold copy, loopback", COLD),
    Workload("w1n", "W1: cold copy, 1 Gbit/s", SLOW, link="1 Gbit/s"),
    Workload("w1d", "W1: cold copy, 50 ms", FAR, link="50 ms"),
    Workload("w1nd", "W1: cold copy, 1 Gbit/s and 50 ms", FAR, link="1 Gbit/s, 50 ms"),
    Workload("w1c", "W1c: old copy, 2 % changed", OLD, changed=2),
)


def run_once(peer, link, work, source, target):
    """One copy: prepared, measured, compared. Returns what it cost."""
    copy = peer(link, work, source, target)
    try:
        copy.prepare()
        copy.server.note_rss()
        warm_memory(copy.size + 256 * MIB)
        cpu = copy.server.cpu() + copy.client.cpu()
        octets, begin = link.octets(), time.monotonic()
        copy.copy()
        wall = time.monotonic() - begin
        octets = link.octets() - octets
        cpu = copy.server.cpu() + copy.client.cpu() - cpu
        copy.server.note_rss()
        copy.settle()
    finally:
        copy.end()
    if not disks.same(source, target):
        raise Failure(f"{peer.name}: the copy differs from its source")
    return {"peer": peer.name, "wall": wall, "cpu": cpu, "rss_client": copy.client.rss, "rss_server": copy.server.rss,
            "wire": copy.wire if copy.wire is not None else octets, "target": disks.allocated(target)}


def run_workload(workload, work, size, rounds, say, only=None):
    """Every peer in every round. Returns the runs, what was left out and why, and octets of data and of what is changed."""
    source, target, old = (f"{work}/{name}" for name in ("source.img", "target.img", "old.img"))
    peers, left_out = choose(workload.peers, only)
    runs = []
    if not os.path.exists(source):
        image.make(source, size)
    facts = {"size": size, "data": disks.allocated(source) - size * image.SHARES[image.ZERO] // 100}
    if workload.changed:
        run(["cp", "--sparse=always", source, old])
        facts["changed"] = image.change(old, workload.changed, source)
    with Link(workload.link, work) as link:
        for number, peer in in_turn(peers, rounds):
            if workload.changed:
                run(["cp", "--sparse=always", old, target])
            runs.append(run_once(peer, link, work, source, target))
            os.unlink(target)
            say(f"{workload.name} {number}/{rounds} {describe(runs[-1])}")
    if workload.changed:
        os.unlink(old)
    return runs, left_out, facts


def describe(result):
    return f"{result['peer']}: {result['wall']:.2f} s, {result['cpu']:.2f} CPU s, {result['wire'] / MIB:.0f} MiB on the wire"
