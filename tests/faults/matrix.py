#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The matrix: every state of a migration x every fault, each cell run on real processes, each asserting exactly one guest,
whole, no orphan process, file, volume, socket or journal, and an account of the sender that agrees with the truth.

  tests/faults/matrix.py [--cell STATE:FAULT ...] [--jobs N] [--list] [--keep DIR]

XMOTION_ROOT names the installed tree, of a build with -Dfault_points=true. Prints a table and "N passed, N failed, N skipped".
STATE or FAULT of --cell may be "*"; logs of cells that fail are kept in --keep, of a single cell always."""

import argparse
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from catalogue import BY_NAME as FAULT_OF, FAULTS
from cell import Cell, Rig, features, keep_logs
from host import Failure, enter_namespaces, processes_with
from states import BY_NAME as STATE_OF, STATES

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WAITERS = 10  # workers for cells that mostly wait


def program():
    return os.environ.get("XMOTION") or os.path.join(os.environ.get("XMOTION_ROOT", f"{TOP}/build/test/root"), "bin/xmotion")


# -- workers --

def run_cell(rig, state, fault, folder):
    """(outcome, text, seconds)."""
    begun = time.monotonic()
    cell = Cell(rig, state, fault, folder)
    os.makedirs(folder, exist_ok=True)
    try:
        place = cell.run()
        text, outcome = ", ".join([f"at {place}", f"exit code {cell.code()}", *cell.notes]), "ok"
    except Failure as e:
        text, outcome = str(e), "FAIL"
    except Exception:  # a bug of ours is a failure of the cell, not the end of the run
        text, outcome = traceback.format_exc(limit=4), "FAIL"
    if outcome == "FAIL":
        keep_logs(rig, folder)
    return outcome, text, time.monotonic() - begun


def run_twice(rig, state, fault, options):
    """With --again a cell that fails is run once more: told from one that fails always, not kept quiet."""
    folder = f"{options.keep}/{state.name}:{fault.name}"
    rig.clear()
    outcome, text, seconds = run_cell(rig, state, fault, folder)
    if outcome != "FAIL" or not options.again:
        return outcome, text, seconds
    os.rename(folder, f"{folder}.first")
    rig.clear()
    outcome, second, more = run_cell(rig, state, fault, folder)
    return outcome, second if outcome == "FAIL" else f"unsteady: at first {text}", seconds + more


def worker(number, queue, results, options, folder):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    namespaces = enter_namespaces()
    rig = None
    try:
        rig = Rig(f"{folder}/{number}", options.program, namespaces, options.seed * 1000 + number)
        while (pair := queue.get()) is not None:
            state, fault = STATE_OF[pair[0]], FAULT_OF[pair[1]]
            if why := fault.cannot(rig):
                results.put((*pair, "n.a.", why, 0.0))
                continue
            results.put((*pair, *run_twice(rig, state, fault, options)))
    except Exception:
        results.put(("", "", "broken", traceback.format_exc(), 0.0))
    finally:
        if rig:
            rig.finish()


class Pool:
    """Worker processes with one queue of cells."""

    def __init__(self, size, first, cells, results, options, folder):
        self.queue = multiprocessing.Queue()
        for pair in cells:
            self.queue.put(pair)
        size = min(size, len(cells))
        for _ in range(size):
            self.queue.put(None)
        self.workers = [multiprocessing.Process(target=worker, args=(first + i, self.queue, results, options, folder))
                        for i in range(size)]
        for process in self.workers:
            process.start()


# -- what to run --

def chosen_cells(wanted):
    cells = [(s.name, f.name) for f in FAULTS for s in STATES]
    if not wanted:
        return cells
    found = []
    for one in wanted:
        state, _, fault = one.partition(":")
        match = [c for c in cells if state in ("*", c[0]) and fault in ("*", "", c[1])]
        if not match:
            sys.exit(f"matrix.py: no cell {one}; --list shows them")
        found += [c for c in match if c not in found]
    return found


def split(cells, results):
    """Cells to run, fast and slow; those that make no sense go to the results at once."""
    fast, slow = [], []
    for state, fault in cells:
        why = FAULT_OF[fault].not_applicable(STATE_OF[state])
        if why:
            results[state, fault] = ("n.a.", why, 0.0)
        else:
            (slow if FAULT_OF[fault].slow else fast).append((state, fault))
    return fast, slow


def show(pair, outcome, text, seconds, verbose):
    if text.startswith("unsteady"):
        print(f"UNSTEADY {pair[0]}:{pair[1]} ({seconds:.1f} s) {text}", flush=True)
    elif outcome != "ok" or verbose:
        print(f"{outcome:5}{pair[0]}:{pair[1]} ({seconds:.1f} s) {text}", flush=True)


def collect(count, results, channel, pools, verbose):
    while count:
        try:
            state, fault, outcome, text, seconds = channel.get(timeout=5)
        except Exception:
            if not any(process.is_alive() for pool in pools for process in pool.workers):
                print("matrix.py: the workers are gone", flush=True)
                return
            continue
        count -= 1
        if outcome == "broken":
            print(f"a worker broke: {text}", flush=True)
            continue
        results[state, fault] = (outcome, text, seconds)
        show((state, fault), outcome, text, seconds, verbose)


# -- the table --

def print_table(results):
    names = [s.name for s in STATES if any(key[0] == s.name for key in results)]
    print("\n" + " " * 24 + " ".join(f"{n:>9}" for n in names))
    reasons = {}
    for fault in FAULTS:
        row = []
        for name in names:
            outcome, text, _ = results.get((name, fault.name), ("", "", 0))
            if outcome == "n.a.":
                outcome = f"n.a.{reasons.setdefault(text, len(reasons) + 1)}"
            row.append(f"{outcome:>9}")
        if any(cell.strip() for cell in row):
            print(f"{fault.name:24}" + " ".join(row))
    for text, number in reasons.items():
        print(f"  n.a.{number}: {text}")


def end_on_sigterm():
    """By way of "finally"."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def sweep(folder, workers):
    """Nothing of ours outlives us."""
    for process in workers:
        if process.is_alive():
            process.kill()
            process.join()
    for _ in range(20):
        left = processes_with(f"={folder}/")
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


def check_build(path):
    """Fault points must be there: a bad specification is refused only by a build that has them."""
    if not os.path.exists(path):
        sys.exit(f"matrix.py: {path} is missing: build it, or set XMOTION_ROOT")
    bad = subprocess.run([path, "guest", "list"], env=dict(os.environ, XMOTION_FAULT="none"), capture_output=True, check=False)
    if bad.returncode != 2:
        sys.exit(f"matrix.py: {path} has no fault points: build it with -Dfault_points=true")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cell", action="append", metavar="STATE:FAULT")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--waiters", type=int, default=WAITERS)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", default=f"{TOP}/build/logs/matrix")
    parser.add_argument("--again", action="store_true", help="run a cell that fails once more")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main():
    options = parse()
    options.program = program()
    if options.list:
        for state in STATES:
            print(f"state {state.name}: held at {state.passing or 'the link'}")
        for fault in FAULTS:
            print(f"fault {fault.name}: {fault.what}")
        return 0
    check_build(options.program)
    begun, results = time.monotonic(), {}
    cells = chosen_cells(options.cell)
    fast, slow = split(cells, results)
    folder = tempfile.mkdtemp(prefix="xmf.", dir="/tmp")
    shutil.rmtree(options.keep, ignore_errors=True)
    channel, pools = multiprocessing.Queue(), []
    end_on_sigterm()
    try:
        pools.append(Pool(options.jobs, 0, fast, channel, options, folder))
        pools.append(Pool(options.waiters, options.jobs, slow, channel, options, folder))
        collect(len(fast) + len(slow), results, channel, pools, options.verbose or len(cells) < 30)
        for process in itertools.chain(*(pool.workers for pool in pools)):
            process.join(20)
    finally:
        sweep(folder, [process for pool in pools for process in pool.workers])
    for (state, fault), (outcome, _, _) in results.items():
        if outcome == "ok" and len(cells) > 1:
            shutil.rmtree(f"{options.keep}/{state}:{fault}", ignore_errors=True)
    print_table(results)
    counts = {name: sum(r[0] == name for r in results.values()) for name in ("ok", "FAIL", "n.a.")}
    lost = len(cells) - sum(counts.values())
    print(f"\n{len(cells)} cells, {time.monotonic() - begun:.0f} s, {options.jobs} jobs")
    print(f"{counts['ok']} passed, {counts['FAIL'] + lost} failed, {counts['n.a.']} skipped")
    return counts["FAIL"] + lost > 0


if __name__ == "__main__":
    sys.exit(main())
