"""Draw how much slower or faster an exchange over the pool is than one on a socket of one's own.

The drawing is as wide as a phone, and follows the reader's choice of light or dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.goals import HELD, HELD_ASYNCIO
from benchmarks.results import Figure

_LIMITED = f"{HELD}, within fail_after"
_ANYIO, _ASYNCIO = "one that I keep open with AnyIO", "asyncio's reader and writer"
#: what is compared, and of which contestant of which case that is said
_PARTS = (
    ("One task", f"compared to {_ANYIO}", "exchange-tcp", HELD),
    ("One task", f"compared to {_ASYNCIO}", "exchange-tcp", HELD_ASYNCIO),
    ("One task, with a time limit on both", f"compared to {_ANYIO}", "time-limit", _LIMITED),
    ("16 tasks at the same time", f"compared to {_ANYIO}", "exchange-16", HELD),
    ("16 tasks at the same time", f"compared to {_ASYNCIO}", "exchange-16", HELD_ASYNCIO),
)
_WIDTH = 360
_MIDDLE = 204
_PER_CENT = 2.5
_FARTHEST = 50
_TOP = 96
_LINE = 22
_STYLE = """
svg { color: #1d2733; background: #f7f9fb }
text { font: 13px system-ui, sans-serif; fill: currentColor }
.title { font-size: 14px; font-weight: 600 }
.part { font-weight: 600 }
.small { font-size: 12px }
.grid { stroke: currentColor; opacity: 0.15 }
.zero { stroke: currentColor }
.range { stroke: currentColor; stroke-width: 1.5; opacity: 0.75 }
.faster { fill: #2b7bba }
.slower { fill: #d9822b }
@media (prefers-color-scheme: dark) {
  svg { color: #e4e9ee; background: #1a2027 }
  .faster { fill: #4b9fe0 }
  .slower { fill: #e0913f }
}
"""


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Draw the exchanges among some figures as an SVG file."""
    body: list[str] = []
    y = _TOP
    for part, than, case, name in _PARTS:
        shown = [one for one in figures if one.case == case and one.name == name]
        if shown:
            body += _draw_part(part, than, shown, y)
            y += 44 + _LINE * len(shown)
    height = y + 26
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="440" height="{round(height * 440 / _WIDTH)}" role="img">',
        "<title>Time of a request and its reply, compared to a connection of one's own</title>",
        f"<style>{_STYLE}</style>",
        *_draw_axis(),
        *body,
        _text(12, y + 14, "The thin line holds half of all measurements.", "small"),
        "</svg>",
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _draw_axis() -> Iterator[str]:
    yield _text(12, 22, "A request and its reply through the pool,", "title")
    yield _text(12, 41, "compared to my own open connection", "title")
    yield _text(_MIDDLE - 8, 64, "← takes less time", "small", "end")
    yield _text(_MIDDLE + 8, 64, "takes more time →", "small")
    for per_cent in range(-_FARTHEST, _FARTHEST + 1, 25):
        x = _MIDDLE + per_cent * _PER_CENT
        label = f"{per_cent:+} %".replace("-", "\N{MINUS SIGN}") if per_cent else "same"
        yield _text(x, 83, label, "small", "middle")


def _draw_part(part: str, than: str, figures: Sequence[Figure], y: float) -> Iterator[str]:
    yield _text(12, y + 16, part, "part")
    yield _text(12, y + 32, than, "small")
    for per_cent in range(-_FARTHEST, _FARTHEST + 1, 25):
        x = _MIDDLE + per_cent * _PER_CENT
        kind = "grid" if per_cent else "zero"
        yield f'<path class="{kind}" d="M{x:.1f} {y + 38} v{_LINE * len(figures) + 2}"/>'
    for number, figure in enumerate(figures):
        if figure.ratio is not None:
            yield from _draw_bar(figure, y + 40 + number * _LINE)


def _draw_bar(figure: Figure, y: float) -> Iterator[str]:
    assert figure.ratio is not None
    per_cent = round(100 * (figure.ratio.median - 1))
    kind = "slower" if per_cent > 0 else "faster"
    left, right = sorted((_x(figure.ratio.median), _MIDDLE))
    yield _text(12, y + 13, figure.backend.rpartition("+")[2])
    yield (
        f'<rect class="{kind}" x="{left:.1f}" y="{y + 2}" width="{right - left:.1f}" '
        f'height="{_LINE - 8}"/>'
    )
    low, high = _x(figure.ratio.low), _x(figure.ratio.high)
    yield f'<path class="range" d="M{low:.1f} {y + 9} H{high:.1f}"/>'
    # On the side where the bar is not.
    words = f"{abs(per_cent)} % {'more' if per_cent > 0 else 'less'} time" if per_cent else "same"
    if per_cent > 0:
        yield _text(min(low, _MIDDLE) - 6, y + 13, words, anchor="end")
    else:
        yield _text(max(high, _MIDDLE) + 6, y + 13, words)


def _x(ratio: float) -> float:
    per_cent = max(-_FARTHEST, min(100 * (ratio - 1), _FARTHEST))
    return _MIDDLE + per_cent * _PER_CENT


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
