# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of what was measured, in Markdown: medians, and ratios to xmotion's median of the same interleaved run."""

from statistics import median

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
