#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the benchmarks; see scripts/bench."""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile

import disks
import goals
import report
import scale
import w1
import w2
import w3
from machine import MIB, SHM, Failure

MODULES = (w1, w2, w3, scale)


def say(text):
    print(text, flush=True)


def write(folder, name, text):
    with open(f"{folder}/{name}", "w", encoding="utf-8") as file:
        file.write(text)


def publish(folder, results):
    """What is measured replaces what was there of the same workload. Returns the goals' table and their counts."""
    os.makedirs(folder, exist_ok=True)
    kept = []
    if os.path.exists(f"{folder}/results.json"):
        with open(f"{folder}/results.json", encoding="utf-8") as file:
            kept = json.load(file)
    order = [w.name for module in MODULES for w in module.WORKLOADS]
    merged = {r["workload"]: r for r in kept + results}
    results = sorted(merged.values(), key=lambda r: order.index(r["workload"]))
    judged, counts = goals.table(results)
    write(folder, "results.json", json.dumps(results, indent=1))
    write(folder, "tables.md", "\n\n".join([judged, *map(report.table, results)]) + "\n")
    for result in results:
        if drawing := report.plot(result):
            write(folder, f"{result['workload']}.svg", drawing)
    return judged, counts


def main():
    known = {w.name: (module, w) for module in MODULES for w in module.WORKLOADS}
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures xmotion beside its peers, in turn; prints tables and the goals.")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(known) + " (all)")
    parser.add_argument("--short", action="store_true", help="small and once: whether everything works, not how fast")
    parser.add_argument("--size", type=int, help="of the disk, in MiB (2048)")
    parser.add_argument("--rounds", type=int, help="of every peer (5)")
    parser.add_argument("--only", action="append", help="peers with this in their names; may be repeated")
    parser.add_argument("--out", help="a folder for results.json, tables.md and plots")
    options = parser.parse_args()
    if unknown := [w for w in options.workloads if w not in known]:
        parser.error(f"no workload {unknown[0]}: one of {', '.join(known)}")
    size, rounds = options.size or (256 if options.short else 2048), options.rounds or (1 if options.short else 5)
    work = tempfile.mkdtemp(prefix="xmotion-bench-", dir=SHM)
    out = options.out or f"{work}/out"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results, left_out = [], 0
    try:
        disks.make_certificates(f"{work}/{disks.TLS}")
        for module, workload in (known[name] for name in options.workloads or known):
            runs, without, facts = module.run_workload(workload, work, size * MIB, rounds, say, options.only)
            results.append({"workload": workload.name, "title": workload.title, "rounds": rounds, "runs": runs, "left_out": without, **facts})
            left_out += len(without)
            say("\n" + report.table(results[-1]) + "\n")
            judged, counts = publish(out, results)
    except (Failure, OSError, LookupError) as e:
        say(f"bench: {e}")
        return 1
    finally:
        shutil.rmtree(work)
    say(judged + "\n")
    say(f"{len(results)} workloads measured, {left_out} peers left out; goals: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
