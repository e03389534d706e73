"""Complete the docstrings of methods that do what other methods do, so that each stands by itself.

A parameter or an error is described once, in the docstring of one class, and is told by ``help()``
and in the reference for each class that has a method of the same name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from textwrap import fill
from typing import TypeVar

AnyClass = TypeVar("AnyClass", bound=type)

_FIELD = re.compile(r":(?:param|return|raises)[^:]*:")


def completes_docstrings(
    model: type, *, of_exchanges: str, remote: str = "", words: Mapping[str, str]
) -> Callable[[AnyClass], AnyClass]:
    """Add to the docstrings of a class the fields of the methods of another class.

    A method gets those that it hasn't itself, of the parameters that it has.

    :param model: the other class
    :param of_exchanges: text and fields for each method that can be repeated
    :param remote: the field for each method whose first parameter is a remote
    :param words: what to say instead of what the other class says
    """

    def decorate(cls: AnyClass) -> AnyClass:
        for name, method in vars(cls).items():
            other = vars(model).get(name)
            # Without docstrings (python -OO) there is nothing to complete.
            if name.startswith("_") or not (inspect.isfunction(method) and method.__doc__):
                continue
            parameters = inspect.signature(method).parameters
            text, fields = _split(method.__doc__)
            others = [_split(remote)]
            if "retry" in parameters:
                others.append(_split(of_exchanges))
                text += "\n\n" + others[-1][0]
            if other is not None and other.__doc__:
                others.append(_split(other.__doc__))
            for _, theirs in others:
                fields = theirs | fields
            described = _put_in_order(fields, parameters)
            method.__doc__ = "\n".join([text, "", *(_reword(each, words) for each in described)])
        return cls

    return decorate


def _split(docstring: str) -> tuple[str, dict[str, str]]:
    """Return the text of a docstring, and its fields by what they begin with."""
    text: list[str] = []
    fields: dict[str, str] = {}
    current = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if (found := _FIELD.match(line)) is not None:
            current = found[0]
            fields[current] = line
        elif current and line.startswith(" "):
            fields[current] += "\n" + line
        else:
            current = ""
            text.append(line)
    return "\n".join(text).strip(), fields


def _put_in_order(fields: Mapping[str, str], parameters: Collection[str]) -> Iterable[str]:
    """Yield the fields of the parameters that there are, in order, and then the others."""
    begins = [*(f":param {name}:" for name in parameters), ":return:"]
    begins += sorted(begin for begin in fields if begin.startswith(":raises"))
    return (fields[begin] for begin in begins if begin in fields)


def _reword(field: str, words: Mapping[str, str]) -> str:
    for theirs, ours in words.items():
        field = re.sub(theirs.replace(" ", r"\s+"), ours, field)
    return fill(" ".join(field.split()), 96, subsequent_indent="    ", break_long_words=False)
