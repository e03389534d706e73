"""Whatever the package raises or logs is explained to those who look for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anyconnpool
from anyconnpool import ExchangeError

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "anyconnpool").rglob("*.py"))
PAGE = (ROOT / "docs" / "troubleshooting.rst").read_text("utf-8")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
PLACEHOLDER = re.compile(r"%(?:\.\d+)?[a-z]")
#: what has no text of its own: that of an error, which is among the errors
OTHERS_TEXTS = {"%s"}


def log_texts(source: Path) -> Iterator[str]:
    """Yield the texts that a module logs, as they are before values are put in."""
    tree = ast.parse(source.read_text("utf-8"))
    assigned = {
        target.id: node.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=level, value=logger), args=[text, *_]) if (
                level in LEVELS and "logger" in ast.unparse(logger)
            ):
                found = assigned[text.id] if isinstance(text, ast.Name) else ast.literal_eval(text)
                assert isinstance(found, str)
                yield found
            case _:
                pass


def pattern_of(text: str) -> str:
    """Return a pattern for a line of the page that says what a text says."""
    parts = PLACEHOLDER.split(text)
    # What begins or ends a text may be a value of which nothing is known.
    return "^" + ".*".join(map(re.escape, parts)) + "$"


@pytest.mark.newest
def test_every_line_of_the_log_is_explained() -> None:
    """The page has each text that is logged, and below it what that means."""
    texts = {text for source in SOURCES for text in log_texts(source)} - OTHERS_TEXTS
    assert len(texts) > 15
    missing = [
        text for text in texts if not re.search(pattern_of(text) + r"\n   \S", PAGE, re.MULTILINE)
    ]
    assert not missing


@pytest.mark.newest
def test_every_error_is_explained() -> None:
    """The page has an entry for each error class that users can meet, and all of AnyIO's."""
    exported = [getattr(anyconnpool, name) for name in anyconnpool.__all__]
    classes = {
        each for each in exported if isinstance(each, type) and issubclass(each, BaseException)
    } | set(ExchangeError)
    # OSError itself is never raised: its kinds are.
    names = {each.__name__ for each in classes} - {"OSError", "PoolError"} | {"TimeoutError"}
    assert len(names) > 10
    assert not [name for name in names if f"\n``{name}``" not in PAGE]
    assert "\n``PoolError``: " in PAGE
