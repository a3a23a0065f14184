#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the benchmarks; see scripts/bench."""

import argparse
import json
import os
import shutil
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


def publish(folder, results, judged):
    os.makedirs(folder, exist_ok=True)
    write(folder, "results.json", json.dumps(results, indent=1))
    write(folder, "tables.md", "\n\n".join([judged, *map(report.table, results)]) + "\n")
    for result in results:
        if drawing := report.plot(result):
            write(folder, f"{result['workload']}.svg", drawing)


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
    results = []
    try:
        disks.make_certificates(f"{work}/{disks.TLS}")
        for module, workload in (known[name] for name in options.workloads or known):
            runs, left_out, facts = module.run_workload(workload, work, size * MIB, rounds, say, options.only)
            results.append({"workload": workload.name, "title": workload.title, "rounds": rounds, "runs": runs, "left_out": left_out, **facts})
            say("\n" + report.table(results[-1]) + "\n")
    except Failure as e:
        say(f"bench: {e}")
        return 1
    finally:
        shutil.rmtree(work)
    judged, counts = goals.table(results)
    say(judged + "\n")
    if options.out:
        publish(options.out, results, judged)
    left_out = sum(len(r["left_out"]) for r in results)
    say(f"{len(results)} workloads measured, {left_out} peers left out; goals: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
