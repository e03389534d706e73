"""Draw the states of a connection from the code's own table: `python docs/draw_states.py`.

Where the states stand and how the arrows run is chosen here by hand; which arrows there are, the
table says. The colours are those of the page that includes the drawing.
"""

from __future__ import annotations

from pathlib import Path

from anyconnpool._core.states import TRANSITIONS, State

DRAWING = Path(__file__).parent / "explanation" / "states.svg"

WIDTH, HEIGHT = 980, 630
BOX_WIDTH, BOX_HEIGHT = 128, 48
LINE_HEIGHT = 18
#: the middles of the boxes
POSITIONS = {
    State.OPENING: (90, 310),
    State.IN_USE: (450, 110),
    State.IDLE: (450, 310),
    State.CHECKING: (450, 480),
    State.CLOSING: (800, 310),
    State.GONE: (800, 570),
}


class Arrow:
    """How one transition is drawn.

    :param path: the line, as SVG writes it, from the edge of a box to the edge of another
    :param at: where the text stands
    :param anchor: which end of the text stands there
    :param label: what makes a connection go there, a line of text each
    """

    def __init__(self, path: str, at: tuple[int, int], anchor: str, *label: str) -> None:
        self.path = path
        self.at = at
        self.anchor = anchor
        self.label = label


ARROWS = {
    (State.OPENING, State.IN_USE): Arrow(
        "M140 286 L386 116", (216, 172), "end", "opened,", "somebody waits"
    ),
    (State.OPENING, State.IDLE): Arrow("M154 310 H386", (238, 302), "middle", "nobody waits"),
    (State.OPENING, State.CLOSING): Arrow(
        "M110 334 C150 640 640 640 786 334",
        (616, 532),
        "start",
        "opened too late:",
        "retired, surplus",
    ),
    (State.OPENING, State.GONE): Arrow(
        "M90 334 C90 640 500 620 736 574", (324, 612), "middle", "failed or cancelled"
    ),
    (State.CHECKING, State.IDLE): Arrow("M462 456 V334", (472, 400), "start", "hook done"),
    (State.CHECKING, State.IN_USE): Arrow(
        "M502 456 C582 400 582 200 500 134", (572, 236), "start", "hook done,", "somebody waits"
    ),
    (State.CHECKING, State.CLOSING): Arrow(
        "M514 474 C640 460 730 420 770 334", (590, 392), "start", "hook failed,", "or dead"
    ),
    (State.IDLE, State.CHECKING): Arrow(
        "M438 334 V456", (428, 380), "end", "check due,", "unread bytes"
    ),
    (State.IDLE, State.IN_USE): Arrow("M462 286 V134", (472, 220), "start", "borrowed"),
    (State.IDLE, State.CLOSING): Arrow("M514 310 H736", (648, 330), "middle", "old, dead, surplus"),
    (State.IN_USE, State.IDLE): Arrow("M438 134 V286", (428, 226), "end", "given back,", "clean"),
    (State.IN_USE, State.IN_USE): Arrow(
        "M420 86 C400 30 500 30 480 86", (450, 34), "middle", "handed on to the next who waits"
    ),
    (State.IN_USE, State.CHECKING): Arrow(
        "M400 134 C280 240 280 400 396 460", (300, 420), "end", "given back,", "to be reset"
    ),
    (State.IN_USE, State.CLOSING): Arrow(
        "M514 108 C660 120 760 200 790 286",
        (552, 158),
        "start",
        "not clean, old,",
        "retired, surplus",
    ),
    (State.IN_USE, State.GONE): Arrow(
        "M514 92 C820 70 1060 330 864 562", (890, 214), "start", "detached"
    ),
    (State.CLOSING, State.GONE): Arrow("M800 334 V546", (810, 446), "start", "closed"),
}


def draw_state(state: State) -> str:
    """Return a box with its name."""
    x, y = POSITIONS[state]
    left, top = x - BOX_WIDTH // 2, y - BOX_HEIGHT // 2
    return (
        f'<rect x="{left}" y="{top}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"/>\n'
        f'<text class="state" x="{x}" y="{y + 6}">{state.name}</text>'
    )


def draw_arrow(before: State, after: State) -> str:
    """Return an arrow with its label."""
    arrow = ARROWS[before, after]
    x, y = arrow.at
    lines = "".join(
        f'<tspan x="{x}" y="{y + LINE_HEIGHT * number}">{line}</tspan>'
        for number, line in enumerate(arrow.label)
    )
    return (
        f'<path class="arrow" d="{arrow.path}"/>\n'
        f'<text style="text-anchor: {arrow.anchor}">{lines}</text>'
    )


def draw() -> str:
    """Return the drawing, as SVG."""
    arrows = [
        draw_arrow(before, after) for before in State for after in sorted(TRANSITIONS[before])
    ]
    assert len(arrows) == len(ARROWS), "an arrow is described that the table doesn't have"
    parts = [*arrows, *map(draw_state, State)]
    return f"""\
<svg class="states" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>The states of a connection, and what leads from one to the next</title>
<style>
.states text {{ font: 15px sans-serif; fill: currentColor; text-anchor: middle }}
.states .state {{ font-weight: bold; font-family: monospace }}
.states rect, .states .arrow {{ fill: none; stroke: currentColor; stroke-width: 1.5 }}
.states .arrow {{ marker-end: url(#states-tip); opacity: 0.7 }}
</style>
<marker id="states-tip" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/>
</marker>
{chr(10).join(parts)}
</svg>
"""


if __name__ == "__main__":
    DRAWING.write_text(draw(), "utf-8")
