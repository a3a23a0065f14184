#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A week's worth of small moves: embedded guests move to and fro under random faults of the matrix, and after each move all of
what the matrix asserts is looked at; a guest's heartbeat is followed through its whole life.

  scripts/soak [--moves N] [--for TIME] [--seed S] [--jobs N] [--calm PERCENT]

Ends after N moves (2000) or TIME (30m, 90s). A violation is printed with what makes it happen again, and its logs are kept."""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback

from catalogue import FAULTS
from cell import GUEST, Cell, Rig, keep_logs
from faults import MOVED, Fault
from host import Failure, enter_namespaces
from matrix import TOP, check_build, end_on_sigterm, program, sweep
from states import STATES

CALM = Fault("none", "nothing happens", {group: MOVED for group in ("early", "before", "edge", "after", "end")}, holds=False)
# The guest must live, and a person must not be needed.
LEFT_OUT = ("guest-", "nbdkit-", "torn-", "garbage-", "sr-full", "clock-")
LIFE = 80  # moves of one guest, about
GIVE_UP = 10  # violations
SECONDS = {"s": 1, "m": 60, "h": 3600}


def cells():
    return [(s, f) for f in FAULTS for s in STATES
            if not f.name.startswith(LEFT_OUT) and not f.slow and not f.not_applicable(s)]


class Soak:
    """One pair of hosts and a guest between them."""

    def __init__(self, number, options, folder):
        self.options = options
        self.random = random.Random(f"{options.seed}/{number}")
        self.rig = Rig(f"{folder}/{number}", options.program, enter_namespaces(), options.seed * 1000 + number)
        self.cells = [(s, f) for s, f in cells() if not f.cannot(self.rig)]
        self.keep = f"{options.keep}/{number}"
        self.count = 0  # of the guest's heartbeats
        self.left = 0  # moves of this guest
        self.reusable = False  # what the last move left at its source is marked as an old copy

    def new_guest(self):
        self.rig.clear()
        self.rig.log_to(self.keep)
        self.rig.fresh_guest(self.random.choice(["1M", "4M", "16M"]), self.random.choice(["256K", "1M", "4M"]))
        self.reusable = False
        self.count, self.left = 0, self.random.randint(1, 2 * LIFE)

    def choose(self):
        if self.random.randrange(100) < self.options.calm:
            return STATES[-1], CALM
        return self.random.choice(self.cells)

    def move(self):
        """(what, failure or None, where the guest is now)."""
        if self.left <= 0:
            self.new_guest()
        self.left -= 1
        state, fault = self.choose()
        reuse = self.random.randrange(2) == 0 and self.reusable and "--reuse" in self.rig.options
        what = f"{state.name}:{fault.name}{' --reuse' if reuse else ''} {self.rig.near.name} to {self.rig.far.name}"
        cell = Cell(self.rig, state, fault, self.keep, reuse=reuse, heartbeats=self.count)
        shutil.rmtree(self.keep, ignore_errors=True)
        try:
            place = cell.run()
        except Failure as e:
            return what, str(e), None
        except Exception:
            return what, traceback.format_exc(limit=4), None
        self.count = cell.watch.count
        if place == "target":
            self.rig.at = 1 - self.rig.at
            # Recovery lets a guest go without marking its disks.
            self.reusable = cell.code() == 0
        self.tidy()
        return what, None, place

    def tidy(self):
        """Old disks are removed where they are not to be reused; receivers with a fault in them end."""
        for host in self.rig.hosts:
            if host.receiver_fault:
                host.receiver_kill()
        if not self.reusable:
            self.rig.far.remove_volumes()

    def fail(self, number):
        """Keeps what tells about it; the next move has a new guest."""
        to = f"{self.keep}-violation-{number}"
        shutil.rmtree(to, ignore_errors=True)
        os.makedirs(self.keep, exist_ok=True)
        keep_logs(self.rig, self.keep)
        shutil.move(self.keep, to)
        self.left = 0
        return to


def worker(number, count, options, folder, channel):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    soak, failures = None, 0
    end = time.monotonic() + options.seconds
    try:
        soak = Soak(number, options, folder)
        for i in range(count):
            if time.monotonic() > end or failures >= GIVE_UP:
                break
            what, failure, place = soak.move()
            if failure:
                failures += 1
                failure += f" (logs: {soak.fail(i)})"
            channel.put((number, i, what, failure, place))
    except Exception:
        channel.put((number, 0, "the soak itself", traceback.format_exc(), None))
    finally:
        if soak:
            soak.rig.finish()
        channel.put(None)


def collect(channel, options):
    """(moves, moved, stayed, violations)."""
    running, moves, places, violations = options.jobs, 0, {"target": 0, "source": 0}, 0
    begun = time.monotonic()
    while running:
        message = channel.get()
        if message is None:
            running -= 1
            continue
        number, i, what, failure, place = message
        moves += 1
        if failure:
            violations += 1
            print(f"VIOLATION job {number} move {i} ({what}): {failure}", flush=True)
        else:
            places[place] += 1
        if moves % 50 == 0:
            print(f"{moves} moves, {time.monotonic() - begun:.0f} s, {violations} violations", flush=True)
    return moves, places["target"], places["source"], violations


def seconds_of(text):
    if not text[:-1].isdigit() or text[-1] not in SECONDS:
        raise argparse.ArgumentTypeError(f"\"{text}\": expected a time like 90s, 30m or 2h")
    return int(text[:-1]) * SECONDS[text[-1]]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=2000)
    parser.add_argument("--for", type=seconds_of, default=7 * 24 * 3600, dest="seconds", metavar="TIME")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--calm", type=int, default=30, metavar="PERCENT", help="moves without a fault")
    parser.add_argument("--keep", default=f"{TOP}/build/logs/soak")
    return parser.parse_args()


def main():
    options = parse()
    options.program = program()
    check_build(options.program)
    options.jobs = max(1, min(options.jobs, options.moves))
    shutil.rmtree(options.keep, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="xms.", dir="/tmp")
    channel = multiprocessing.Queue()
    begun = time.monotonic()
    print(f"seed {options.seed}, {options.jobs} jobs, {len(cells())} cells to choose from", flush=True)
    shares = [options.moves // options.jobs + (i < options.moves % options.jobs) for i in range(options.jobs)]
    workers = [multiprocessing.Process(target=worker, args=(i, shares[i], options, folder, channel))
               for i in range(options.jobs)]
    end_on_sigterm()
    try:
        for process in workers:
            process.start()
        moves, moved, stayed, violations = collect(channel, options)
        for process in workers:
            process.join(20)
    finally:
        sweep(folder, [process for process in workers if process.pid])
    print(f"soak: {moves} moves under random faults in {time.monotonic() - begun:.0f} s: {moved} moved, {stayed} stayed, "
          f"{violations} violations (seed {options.seed})")
    print(f"{moves - violations} passed, {violations} failed, 0 skipped")
    return violations > 0 or moves == 0


if __name__ == "__main__":
    sys.exit(main())
