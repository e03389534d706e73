"""Which size to choose, as far as what was measured can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anyconnpool.command._results import Point

#: the share of the best throughput that is good enough
GOOD_ENOUGH = 0.95


@dataclass(frozen=True)
class Advice:
    """Which size to choose.

    :ivar max_size: the smallest one that is good enough; ``None`` if nothing can be said
    :ivar text: why, and how far to trust it
    """

    max_size: int | None
    text: str


def advise(points: Sequence[Point], tasks: int, rate: float | None = None) -> Advice:
    """Choose the smallest size that reaches most of the best throughput, or the rate.

    :param points: those with a pool, by size
    :param tasks: how many tasks asked
    :param rate: requests that were begun per second, if that was not up to the server
    """
    if lost := unasked(points):
        return Advice(None, f"No advice: {lost}")
    sound = [point for point in points if point.answered and not point.failed]
    if not sound:
        return Advice(None, "No advice: requests failed at every size.")
    if len(sound) == 1:
        return Advice(None, "No advice from one size: compare some, as in --connections 1,2,4,8.")
    if rate is not None:
        return _advise_at_rate(sound, rate)
    if any(math.isinf(point.noise) for point in sound):
        return Advice(None, "No advice: it was too short to tell a difference from noise.")
    best = max(sound, key=lambda point: point.throughput)
    wanted = GOOD_ENOUGH * best.throughput
    chosen = next(point for point in sound if point.throughput >= wanted)
    # The first one of which nobody can be sure that it is not good enough.
    perhaps = next(point for point in sound if _most(point) >= GOOD_ENOUGH * _least(best))
    if perhaps is not chosen:
        return Advice(None, _explain_noise(perhaps, chosen))
    if chosen is sound[0] and _most(chosen) >= _least(best):
        return Advice(None, _explain_indifference(sound))
    return Advice(chosen.max_size, _explain(chosen, best, sound, tasks))


def unasked(points: Sequence[Point]) -> str:
    """Return what is wrong where a server says more than replies; empty if that isn't so."""
    for point in points:
        if point.unasked:
            return (
                f"with {point.name}, {point.unasked} connections were closed since more came over "
                f"them than one reply to each request (unread_data), so that replies may have been "
                f"taken for others. If the server greets who connects, try --greeting; otherwise, "
                f"is --format right?"
            )
    return ""


def _advise_at_rate(sound: Sequence[Point], rate: float) -> Advice:
    # The throughput is the rate: what is left to compare are the latencies.
    kept_up = [point for point in sound if not point.fell_behind]
    if not kept_up:
        return Advice(None, f"No advice: no size kept up with {rate:g} requests/s.")
    if len(kept_up) == len(sound):
        return Advice(None, f"Every size kept up with {rate:g} requests/s: compare the latencies.")
    return Advice(
        kept_up[0].max_size,
        f"max_size={kept_up[0].max_size} is the smallest size measured that kept up with {rate:g} "
        f"requests/s; compare the latencies of the larger ones.",
    )


def _most(point: Point) -> float:
    return point.throughput * (1 + point.noise)


def _least(point: Point) -> float:
    return point.throughput * max(0.0, 1 - point.noise)


def _explain_noise(perhaps: Point, chosen: Point) -> str:
    noise = max(perhaps.noise, chosen.noise)
    return (
        f"No advice: what max_size={perhaps.max_size} and max_size={chosen.max_size} differ by is "
        f"no more than the noise (±{noise:.0%}). Let each size take longer, as with --duration 20, "
        f"and leave the machine alone meanwhile."
    )


def _explain_indifference(sound: Sequence[Point]) -> str:
    noise = max(point.noise for point in sound)
    return (
        f"No advice: no size is faster than max_size={sound[0].max_size} by more than the noise "
        f"(±{noise:.0%}). For this server and payload, more connections gain nothing that can be "
        f"measured so."
    )


def _explain(chosen: Point, best: Point, sound: Sequence[Point], tasks: int) -> str:
    if chosen is sound[-1]:
        text = (
            f"max_size={chosen.max_size}, the largest size measured, was the fastest by more than "
            f"5 %; "
        )
        if (chosen.max_size or 0) < tasks:
            return text + "try larger ones."
        return text + f"{tasks} tasks can't use more, try more of both if your program has them."
    return (
        f"max_size={chosen.max_size} is the smallest size measured that reaches 95 % of the best "
        f"throughput ({chosen.throughput:.0f} of {best.throughput:.0f} requests/s). That holds for "
        f"this server, payload and {tasks} tasks; repeat it before you rely on it."
    )
