# SPDX-License-Identifier: LGPL-2.1-or-later
"""The goals of docs/performance.md, judged by what was measured in this run: medians, but where it says "every run"."""

from statistics import median

MIB = 1 << 20
NBD = ("nbdcopy", "nbdcopy --destination-is-zero")
BEST = NBD + ("qemu-img convert -n -W -m16 --target-is-zero",)
MIRRORS = ("QEMU mirror, background", "QEMU mirror, background, 4 KiB", "QEMU mirror, write-blocking")
MULTIFD = ("QEMU, multifd 2", "QEMU, multifd 4", "QEMU, multifd 2, zstd")
MIGRATION = ("QEMU, one connection",) + MULTIFD
ROUNDS = 5  # that a verdict takes
HASH = 24 / 65536  # octets on the wire for an octet that is offered by its checksum


class Missing(Exception):
    """A workload or a peer that the goal needs was not run."""


class Runs:
    def __init__(self, results):
        self.results = {r["workload"]: r for r in results}
        self.rounds = min((r["rounds"] for r in results), default=0)

    def all(self, workload, peer, key):
        if workload not in self.results:
            raise Missing(f"{workload} was not run")
        values = [r for r in self.results[workload]["runs"] if r.get("peer") == peer]
        if not values:
            raise Missing(f"{peer} was not run")
        for part in key.split("."):
            values = [None if v is None else v[part] for v in values]
        return values

    def median(self, workload, peer, key):
        """None counts as endless."""
        return median([float("inf") if v is None else v for v in self.all(workload, peer, key)])

    def best(self, workload, among, key):
        return min(self.median(workload, peer, key) for peer in among)

    def ratio(self, workload, key, among, peer="xmotion"):
        return self.median(workload, peer, key) / self.best(workload, among, key)

    def whole(self, workload):
        if workload not in self.results:
            raise Missing(f"{workload} was not run")
        return self.results[workload]


def spread(speeds):
    middle = [median(values) for values in speeds.values()]
    return 1 - min(middle) / max(middle)


def _of_the_lab(_runs):
    raise Missing("the lab's to say")


def _wire_of_changes(r):
    result = r.whole("w1c")
    return r.median("w1c", "xmotion --reuse", "wire") / (result["changed"] + result["size"] * HASH)


# id, what, how it is computed, limit, moonshot (None: none), unit
GOALS = (
    ("G1", "cold copy: wall / the better of nbdcopy and qemu-img", lambda r: r.ratio("w1", "wall", BEST), 0.90, 0.80, ""),
    ("G2", "cold copy: processor time / nbdcopy's", lambda r: r.ratio("w1", "cpu", NBD), 0.95, 0.85, ""),
    ("G3", "cold copy: wall / QEMU's blockdev-mirror", lambda r: r.ratio("w1", "wall", ("QEMU blockdev-mirror",)), 0.75, 0.65, ""),
    ("G3", "cold copy: wall / ssh and dd", lambda r: r.ratio("w1", "wall", ("dd | ssh aes128-gcm | dd",)), 0.40, 0.33, ""),
    ("G4", "cold copy: peak memory of a side", lambda r: max(max(r.all("w1", "xmotion", f"rss_{end}")) for end in ("client", "server")) / MIB,
     40, 24, "MiB"),
    ("G4", "cold copy: octets allocated at the target / those of the data", lambda r: max(r.all("w1", "xmotion", "target")) / r.whole("w1")["data"], 1.01, None, ""),
    ("G5", "1 Gbit/s: wall / nbdcopy", lambda r: r.ratio("w1n", "wall", NBD[1:]), 0.73, 0.71, ""),
    ("G5", "1 Gbit/s: processor time / zstd -1 in a pipe", lambda r: r.ratio("w1n", "cpu", ("zstd -1 | ssh | zstd -d",)), 0.70, None, ""),
    ("G5", "loopback: what deciding about compression costs", lambda r: r.ratio("w1", "wall", ("xmotion --compress=none",)) * 100 - 100, 3, None, "%"),
    ("G5", "1 Gbit/s: what 50 ms of delay cost", lambda r: r.median("w1nd", "xmotion", "wall") / r.median("w1n", "xmotion", "wall") * 100 - 100,
     10, None, "%"),
    ("G6", "old copy: wall / rsync --inplace with 64 KiB blocks",
     lambda r: r.ratio("w1c", "wall", ("rsync --inplace --block-size=64K",), "xmotion --reuse"), 0.35, 0.20, ""),
    ("G6", "old copy: wire / what changed and the hashes", _wire_of_changes, 1.2, None, ""),
    ("G7", "100 MB/s of writes: ready, the slowest run", lambda r: max(float("inf") if v is None else v for v in r.all("w2-100", "xmotion", "ready")), 3, 2, "s"),
    ("G7", "100 MB/s of writes: the writer's rate, the least run, in % of its own before (at least)",
     lambda r: -100 * min(d / b for d, b in zip(r.all("w2-100", "xmotion", "during.rate"), r.all("w2-100", "xmotion", "before.rate"))), -80, -95, "%"),
    ("G7", "100 MB/s of writes: the writer's p99 / QEMU's best", lambda r: r.ratio("w2-100", "during.p99", MIRRORS), 0.5, None, ""),
    ("G8", "20 MB/s of writes: ready / QEMU's mirror in the background", lambda r: r.ratio("w2-20", "ready", MIRRORS[:2]), 1.0, None, ""),
    ("G8", "20 MB/s of writes: ready / QEMU's mirror that blocks writes, at the writer's cost", lambda r: r.ratio("w2-20", "ready", MIRRORS[2:]), 1.0, None, ""),
    ("G8", "20 MB/s of writes: the writer's p99 / QEMU's best", lambda r: r.ratio("w2-20", "during.p99", MIRRORS), 0.25, None, ""),
    ("G8", "20 MB/s of writes: the final stop", lambda r: r.median("w2-20", "xmotion", "stop_ms"), 10, 5, "ms"),
    ("G9", "memory: wall / QEMU's best multifd with TLS", lambda r: r.ratio("w3", "wall", MULTIFD), 0.60, 0.45, ""),
    ("G9", "memory: wire / pages that were sent", lambda r: max(w / s for w, s in zip(r.all("w3", "xmotion", "wire"), r.all("w3", "xmotion", "pages_sent"))), 1.02, None, ""),
    ("G10", "memory: the longest pause, --downtime 300ms", lambda r: max(r.all("w3", "xmotion", "pause_ms") + r.all("w3-200", "xmotion", "pause_ms")), 300, None, "ms"),
    ("G10", "memory: the longest pause, --downtime 50ms", lambda r: max(r.all("w3-50ms", "xmotion", "pause_ms")), 50, 10, "ms"),
    ("G10", "memory: pause / QEMU's least median, the worst of three workloads",
     lambda r: max(r.ratio(w, "pause_ms", MIGRATION) for w in ("w3", "w3-50ms", "w3-200")), 1.0, None, ""),
    ("G11", "Xen: tests/xen/lab run peer-xl peer-xl-pv", _of_the_lab, 0, None, ""),
    ("G12", "disks of 1 to 64 GiB: spread of MB/s", lambda r: 100 * spread(r.whole("scale")["runs"][0]["sizes"]), 10, None, "%"),
    ("G12", "1 to 16 disks at once: spread of MB/s", lambda r: 100 * spread(r.whole("scale")["runs"][0]["counts"]), 10, None, "%"),
    ("G12", "marks of a disk of 4 TiB looked through", lambda r: r.whole("scale")["runs"][0]["scan_ms"], 50, None, "ms"),
)


def table(results):
    """Markdown, and how many goals were met, missed and not judged."""
    runs, counts = Runs(results), {"met": 0, "missed": 0, "not judged": 0}
    lines = ["| goal | what | measured | limit | moonshot | |", "| --- | --- | --- | --- | --- | --- |"]
    for name, what, compute, limit, moonshot, unit in GOALS:
        shown = [f"{abs(v):g} {unit}".strip() if v is not None else "" for v in (limit, moonshot)]
        try:
            value = compute(runs)
            verdict = "met" if value <= limit else "missed"
            counts[verdict] += 1
            if verdict == "met" and moonshot is not None and value <= moonshot:
                verdict = "moonshot"
            if runs.rounds < ROUNDS:
                verdict += f", of {runs.rounds} rounds"
            measured = f"{abs(value) if limit < 0 else value:.3g} {unit}".strip()
        except Missing as e:
            counts["not judged"] += 1
            measured, verdict = "-", f"not judged: {e}"
        lines.append(f"| {name} | {what} | {measured} | {shown[0]} | {shown[1]} | {verdict} |")
    return "\n".join(lines), counts
