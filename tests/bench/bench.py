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
import report
import w1
import w2
import w3
from machine import MIB, SHM, Failure


def say(text):
    print(text, flush=True)


def main():
    known = {w.name: (module, w) for module in (w1, w2, w3) for w in module.WORKLOADS}
    names = list(known)
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(names) + " (all)")
    parser.add_argument("--size", type=int, default=2048, help="of the disk, in MiB (2048)")
    parser.add_argument("--rounds", type=int, default=5, help="of every peer (5)")
    parser.add_argument("--only", action="append", help="peers with this in their names; may be repeated")
    parser.add_argument("--out", help="a folder for results.json, tables and plots")
    options = parser.parse_args()
    if unknown := [w for w in options.workloads if w not in names]:
        parser.error(f"no workload {unknown[0]}: one of {', '.join(names)}")
    chosen = [known[name] for name in options.workloads or names]
    work = tempfile.mkdtemp(prefix="xmotion-bench-", dir=SHM)
    results = []
    try:
        disks.make_certificates(f"{work}/{disks.TLS}")
        for module, workload in chosen:
            runs, left_out = module.run_workload(workload, work, options.size * MIB, options.rounds, say, options.only)
            results.append({"workload": workload.name, "title": workload.title, "rounds": options.rounds, "runs": runs, "left_out": left_out})
            say("\n" + report.table(results[-1]) + "\n")
    except Failure as e:
        say(f"bench: {e}")
        return 1
    finally:
        shutil.rmtree(work)
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        with open(f"{options.out}/results.json", "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
