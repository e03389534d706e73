"""Draw what sharing is worth: `python docs/draw_pipelining.py`.

The figures are thousands of exchanges in a second of one processor's time, client and server
together: 64 tasks that exchange lines of 10 bytes as fast as they can, over a pool of 1 to 16
connections, with and without ``pipeline=64``.
"""

from __future__ import annotations

from pathlib import Path

DRAWING = Path(__file__).parent / "how-to" / "pipelining.svg"
SIZES = (1, 2, 4, 8, 16)
FIGURES = {
    "asyncio": ((26, 27, 28, 29, 30), (185, 162, 137, 109, 76)),
    "uvloop": ((34, 35, 35, 37, 38), (221, 195, 164, 126, 90)),
    "trio": ((32, 33, 33, 34, 36), (157, 139, 116, 73, 48)),
}
_WIDTH, _HEIGHT, _TOP, _LEFT = 240, 180, 30, 36
_MOST = 230


def draw() -> str:
    """Return the drawing as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * _WIDTH + _LEFT} '
        f'{_HEIGHT + _TOP + 50}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for column, (loop, series) in enumerate(FIGURES.items()):
        left = _LEFT + column * _WIDTH
        parts.append(f'<text x="{left}" y="20" font-size="13">{loop}</text>')
        for number, (size, figures) in enumerate(
            zip(SIZES, zip(*series, strict=True), strict=True)
        ):
            x = left + number * 40
            for bar, (figure, colour) in enumerate(
                zip(figures, ("#9aa5b1", "#2a6fbb"), strict=True)
            ):
                height = figure * _HEIGHT / _MOST
                parts.append(
                    f'<rect x="{x + bar * 15}" y="{_TOP + _HEIGHT - height:.0f}" width="14" '
                    f'height="{height:.0f}" fill="{colour}"/>'
                )
                parts.append(
                    f'<text x="{x + bar * 15}" y="{_TOP + _HEIGHT - height - 3:.0f}" '
                    f'font-size="8">{figure}</text>'
                )
            parts.append(f'<text x="{x + 9}" y="{_TOP + _HEIGHT + 14}">{size}</text>')
    y = _TOP + _HEIGHT + 36
    parts += [
        f'<text x="{_LEFT}" y="{y}">connections (max_size)</text>',
        f'<rect x="{_LEFT + 240}" y="{y - 9}" width="10" height="10" fill="#9aa5b1"/>',
        f'<text x="{_LEFT + 255}" y="{y}">pipeline=1</text>',
        f'<rect x="{_LEFT + 330}" y="{y - 9}" width="10" height="10" fill="#2a6fbb"/>',
        f'<text x="{_LEFT + 345}" y="{y}">pipeline=64, thousands of exchanges a second</text>',
        "</svg>",
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    DRAWING.write_text(draw() + "\n", "utf-8")
