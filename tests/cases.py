"""Tables within one test: what fails says in which row."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias

Test: TypeAlias = Callable[..., Any]


@contextmanager
def in_case(*row: object) -> Generator[None]:
    """Add the row of a table to the error that is raised under it.

    :param row: what tells this row from the others
    """
    try:
        yield
    except BaseException as error:
        if sys.version_info >= (3, 11):
            error.add_note("in the case of " + ", ".join(map(repr, row)))
        raise


def table(names: str, rows: Iterable[Any]) -> Callable[[Test], Test]:
    """Run a test with each row of a table, one after the other: together they are one case.

    What ``pytest.mark.parametrize`` makes a case each. The rows share the test's fixtures.

    :param names: the arguments that the rows fill, parted by commas
    :param rows: what to fill them with: a tuple if there are several
    """
    keys = [name.strip() for name in names.split(",")]
    table = [dict(zip(keys, row if len(keys) > 1 else (row,), strict=True)) for row in rows]

    def decorate(test: Test) -> Test:
        @wraps(test)
        def run(**fixtures: object) -> None:
            for row in table:
                with in_case(row):
                    test(**fixtures, **row)

        @wraps(test)
        async def run_async(**fixtures: object) -> None:
            for row in table:
                with in_case(row):
                    await test(**fixtures, **row)

        chosen: Test = run_async if inspect.iscoroutinefunction(test) else run
        signature = inspect.signature(test)
        fixtures = [one for name, one in signature.parameters.items() if name not in keys]
        vars(chosen)["__signature__"] = signature.replace(parameters=fixtures)
        return chosen

    return decorate
