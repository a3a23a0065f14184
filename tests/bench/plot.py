# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bars as SVG: a peer a line, the median as a bar, least and most as a thin line over it."""

from html import escape
from statistics import median

WIDTH, LINE, LEFT, RIGHT, TOP = 820, 26, 330, 70, 46
OURS, THEIRS, INK = "#2b6cb0", "#a0aec0", "#1a202c"


def bars(title, unit, values):
    """`values`: {who: [figures]}; None in it means that it never ended."""
    ended = {who: [v for v in figures if v is not None] for who, figures in values.items()}
    most = max((max(figures) for figures in ended.values() if figures), default=1) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    height = TOP + LINE * len(values) + 12
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
           f'font-family="sans-serif" font-size="13" fill="{INK}">',
           f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
           f'<text x="12" y="24" font-size="15" font-weight="bold">{escape(title)} ({escape(unit)})</text>']
    for i, (who, figures) in enumerate(ended.items()):
        y = TOP + i * LINE
        out.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(who)}</text>')
        if not figures:
            out.append(f'<text x="{LEFT + 4}" y="{y + 15}">never</text>')
            continue
        middle = median(figures)
        colour = OURS if who.startswith("xmotion") else THEIRS
        out.append(f'<rect x="{LEFT}" y="{y + 2}" width="{max(1, middle * scale):.1f}" height="{LINE - 8}" fill="{colour}"/>')
        out.append(f'<path d="M{LEFT + min(figures) * scale:.1f} {y + 11}H{LEFT + max(figures) * scale:.1f}" stroke="{INK}"/>')
        late = len(values[who]) - len(figures)
        text = f"{middle:.3g}" + (f", {late} of {len(values[who])} never" if late else "")
        out.append(f'<text x="{LEFT + max(figures) * scale + 6:.1f}" y="{y + 15}">{text}</text>')
    return "\n".join(out + ["</svg>", ""])
