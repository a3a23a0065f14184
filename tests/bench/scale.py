# SPDX-License-Identifier: LGPL-2.1-or-later
"""scale: whether cost is linear. The same data on sparse disks of 1 to 64 GiB, and on 1 to 16 disks of one guest at once; and how long a
pass takes to look through the marks of a disk of 4 TiB."""

import os
import time

import disks
from machine import MIB, Link, run, warm_memory

DATA = 768 * MIB
EXTENT = MIB
SIZES = (1, 4, 16, 64)  # GiB
COUNTS = (1, 4, 16)
GUEST_MEMORY = 16 * MIB


def make_disk(path, size, data):
    """So much random data in extents spread evenly over the disk."""
    count = data // EXTENT
    with open(path, "wb") as file:
        file.truncate(size)
        for i in range(count):
            file.seek(size // count * i // 4096 * 4096)
            file.write(os.urandom(EXTENT))


class Guest(disks.Xmotion):
    """All disks of an idle embedded guest at once, its little memory too."""

    name = "xmotion, a guest's disks"

    def __init__(self, link, work, paths):
        super().__init__(link, work, paths[0], f"{work}/none")
        self.paths = paths
        self.guest = disks.Group("guest", work)

    def prepare(self):
        super().prepare()
        options = [word for path in self.paths for word in ("--disk", path)]
        self.start_guest(self.guest, "--memory", f"{GUEST_MEMORY // MIB}M", "--dirty-rate", "0", "--write-rate", "0", *options)

    def copy(self):
        result = self.send("proc:g", *self.where())
        if len(result["disks"]) != len(self.paths):
            raise disks.Failure(f"xmotion: {result}")

    def settle(self):
        made = [f"{self.sr}/{name}" for name in os.listdir(self.sr)]
        for path in self.paths:
            if not any(disks.same(path, other) for other in made):
                raise disks.Failure("a disk differs from its source")
        for path in made:
            os.unlink(path)

    def end(self):
        self.guest.end()
        super().end()


def measure(copy, data, check):
    try:
        copy.prepare()
        warm_memory(data + 256 * MIB)
        begin = time.monotonic()
        copy.copy()
        wall = time.monotonic() - begin
        copy.settle()
        check()
    finally:
        copy.end()
    return data / wall / 1e6


def of_sizes(link, work, rounds, say):
    source, target = f"{work}/scale.img", f"{work}/target.img"

    def check():
        if not disks.same(source, target):
            raise disks.Failure("the copy differs from its source")
        os.unlink(target)

    speeds = {size: [] for size in SIZES}
    for number in range(rounds):
        for size in SIZES:
            make_disk(source, size << 30, DATA)
            speeds[size].append(measure(disks.XmotionNamed(link, work, source, target), DATA, check))
            say(f"scale {number + 1}/{rounds} a disk of {size} GiB: {speeds[size][-1]:.0f} MB/s of its data")
    os.unlink(source)
    return speeds


def of_counts(link, work, rounds, say):
    speeds = {count: [] for count in COUNTS}
    for number in range(rounds):
        for count in COUNTS:
            paths = [f"{work}/vdi{i}.img" for i in range(count)]
            for path in paths:
                make_disk(path, (2 << 30) // count, DATA // count)
            speeds[count].append(measure(Guest(link, work, paths), DATA, lambda: None))
            for path in paths:
                os.unlink(path)
            say(f"scale {number + 1}/{rounds} {count} disks at once: {speeds[count][-1]:.0f} MB/s of their data")
    return speeds


class Workload:
    name, title = "scale", "scale: 768 MiB of data on larger disks, and on more of them"


WORKLOADS = (Workload(),)


def run_workload(_workload, work, _size, rounds, say, _only=None):
    with Link("loopback", work) as link:
        sizes, counts = of_sizes(link, work, rounds, say), of_counts(link, work, rounds, say)
    scan = float(run([os.environ["XMOTION_SCAN"]]))
    say(f"the marks of a disk of 4 TiB are looked through in {scan:.1f} ms")
    return [{"sizes": sizes, "counts": counts, "scan_ms": scan}], {}, {}
