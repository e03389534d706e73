"""The command line: what to measure, and where to put it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.backends import BACKENDS
from benchmarks.cases import CASES
from benchmarks.imports import CASE as IMPORT
from benchmarks.imports import measure_imports
from benchmarks.machine import machine_facts
from benchmarks.markdown import write_markdown
from benchmarks.plot import draw
from benchmarks.processes import measure, serving
from benchmarks.processor import stay_on_one
from benchmarks.results import Figure
from benchmarks.table import render


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments ask for, show it, and return the exit status.

    A goal that is missed is no failure: machines differ.
    """
    options = _parser().parse_args(arguments)
    facts = {**machine_facts(), "one_processor": stay_on_one()}
    figures = _measure(options)
    print(render(facts, figures))
    if options.json:
        results = {
            "machine": facts,
            "seed": options.seed,
            "quick": options.quick,
            "figures": [figure.to_json() for figure in figures],
        }
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    if options.markdown:
        write_markdown(figures, options.markdown)
    if options.svg:
        draw(figures, options.svg)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the pool, its peers and its floors."
    )
    parser.add_argument("--quick", action="store_true", help="in a minute or two, less exact")
    parser.add_argument(
        "--case", action="append", choices=[*CASES, IMPORT], help="only this one; may be repeated"
    )
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="only this one; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order of turns")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write what has a goal there, as a table"
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the results there")
    return parser


def _measure(options: argparse.Namespace) -> list[Figure]:
    wanted = options.case or [*CASES, IMPORT]
    cases = [case for case in CASES if case in wanted]
    figures: list[Figure] = []
    with serving() as remotes:
        for backend in options.backend or BACKENDS:
            figures += measure(backend, cases, remotes, options.seed, quick=options.quick)
    if IMPORT in wanted:
        figures += measure_imports(rounds=5 if options.quick else 15)
    return figures
