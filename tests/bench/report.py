# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of what was measured, in Markdown: medians, and ratios to xmotion's median of the same interleaved run."""

from statistics import median

from plot import bars

MIB = 1 << 20


def of_peer(result, peer, key):
    return [r[key] for r in result["runs"] if r["peer"] == peer]


def peers(result):
    return list(dict.fromkeys(r["peer"] for r in result["runs"]))


def disk_table(result):
    lines = [f"**{result['title']}** ({result['rounds']} rounds, medians)", "",
             "| who | wall s (min to max) | xmotion's wall / this | CPU s both ends | xmotion's CPU / this | peak MiB sender, receiver | wire MiB | target MiB |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    names = peers(result)
    ours = next((n for n in names if n.startswith("xmotion")), None)
    for name in names:
        wall, cpu = of_peer(result, name, "wall"), of_peer(result, name, "cpu")
        ratio = (lambda key: f"{median(of_peer(result, ours, key)) / median(of_peer(result, name, key)):.2f}") if ours else lambda key: "-"  # pylint: disable=cell-var-from-loop
        lines.append(f"| {name} | {median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) | {ratio('wall')} | {median(cpu):.2f} | {ratio('cpu')} "
                     f"| {max(of_peer(result, name, 'rss_client')) / MIB:.0f}, {max(of_peer(result, name, 'rss_server')) / MIB:.0f} "
                     f"| {median(of_peer(result, name, 'wire')) / MIB:.0f} | {median(of_peer(result, name, 'target')) / MIB:.0f} |")
    lines += [f"| {name} | left out: {why} | | | | | | |" for name, why in result["left_out"].items()]
    return "\n".join(lines)


def live_table(result):
    lines = [f"**{result['title']}** ({result['rounds']} rounds, medians)", "",
             "| who | ready s (min to max) | writer MB/s before, during (min) | p50 ms before, during | p99 ms before, during | longest ms | stop ms (max) |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for name in peers(result):
        runs = [r for r in result["runs"] if r["peer"] == name]
        ready = [r["ready"] for r in runs if r["ready"]]
        late = len(runs) - len(ready)
        stops = [r["stop_ms"] for r in runs if r["stop_ms"] is not None]
        of = lambda when, what, choose=median: choose([r[when][what] for r in runs if r[when][what] is not None] or [0])  # pylint: disable=cell-var-from-loop
        lines.append(f"| {name} | " + (f"{median(ready):.1f} ({min(ready):.1f} to {max(ready):.1f})" if ready else "-") +
                     (f", {late} of {len(runs)} never" if late else "") +
                     f" | {of('before', 'rate'):.0f}, {of('during', 'rate'):.0f} ({of('during', 'rate', min):.0f}) "
                     f"| {of('before', 'p50'):.2f}, {of('during', 'p50'):.2f} | {of('before', 'p99'):.2f}, {of('during', 'p99'):.2f} "
                     f"| {of('during', 'max', max):.0f} | " + (f"{median(stops):.1f} ({max(stops):.1f})" if stops else "-") + " |")
    lines += [f"| {name} | left out: {why} | | | | | |" for name, why in result["left_out"].items()]
    return "\n".join(lines)


def memory_table(result):
    lines = [f"**{result['title']}** ({result['rounds']} rounds, medians)", "",
             "| who | wall s (min to max) | xmotion's wall / this | pause ms (min to max) | CPU s, guests' too | wire MiB | rounds |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    ours = [r["wall"] for r in result["runs"] if r["peer"] == "xmotion"]
    for name in peers(result):
        wall, pause = of_peer(result, name, "wall"), of_peer(result, name, "pause_ms")
        ratio = f"{median(ours) / median(wall):.2f}" if ours else "-"
        lines.append(f"| {name} | {median(wall):.2f} ({min(wall):.2f} to {max(wall):.2f}) | {ratio} "
                     f"| {median(pause):.0f} ({min(pause):.0f} to {max(pause):.0f}) | {median(of_peer(result, name, 'cpu')):.2f} "
                     f"| {median(of_peer(result, name, 'wire')) / MIB:.0f} | {median(of_peer(result, name, 'rounds')):.0f} |")
    lines += [f"| {name} | left out: {why} | | | | | |" for name, why in result["left_out"].items()]
    return "\n".join(lines)


def scale_table(result):
    run = result["runs"][0]
    lines = [f"**{result['title']}** ({result['rounds']} rounds, medians)", "", "| what | MB/s of data (min to max) |", "| --- | --- |"]
    for what, speeds in (("a disk of {} GiB", run["sizes"]), ("{} disks at once", run["counts"])):
        lines += [f"| {what.format(n)} | {median(v):.0f} ({min(v):.0f} to {max(v):.0f}) |" for n, v in speeds.items()]
    return "\n".join(lines + [f"| the marks of 4 TiB looked through | {run['scan_ms']:.1f} ms |"])


# What the runs of a kind of workload have: the table, and the figure that is drawn.
KINDS = (("sizes", scale_table, None), ("ready", live_table, ("ready", "until ready, s")), ("pause_ms", memory_table, ("wall", "s")),
         ("target", disk_table, ("wall", "s")))


def _kind(result):
    return next((kind for kind in KINDS if result["runs"] and kind[0] in result["runs"][0]), KINDS[-1])


def table(result):
    return _kind(result)[1](result)


def plot(result):
    """An SVG, or None where there is nothing to draw."""
    drawn = _kind(result)[2]
    if not drawn or not result["runs"]:
        return None
    return bars(result["title"], drawn[1], {name: of_peer(result, name, drawn[0]) for name in peers(result)})
