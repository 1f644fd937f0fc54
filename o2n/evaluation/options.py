"""Command-line options that are lists, of the jobs that evaluate and measure."""

import math
from collections.abc import Callable, Collection

import click


def names(choices: Collection[str] = ()) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A callback for an option of names with commas between them, each once; of `choices`, if there are any, at least
    one."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
        found = [name for name in dict.fromkeys(text.split(",")) if name]
        unknown = [name for name in found if name not in choices]
        if choices and (unknown or not found):
            raise click.BadParameter(f"{', '.join(unknown) or repr(text)} unknown: choose from {', '.join(choices)}")
        return found

    return read


def numbers(least: int, most: float = math.inf) -> Callable[[click.Context, click.Parameter, str], tuple[int, ...]]:
    """A callback for an option of whole numbers from `least` to `most` with commas between them: in ascending order,
    each once."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
        try:
            found = tuple(sorted({int(number) for number in text.split(",") if number}))
        except ValueError:
            raise click.BadParameter(f"{text!r} is no list of numbers such as 2,4,8") from None
        if found and found[0] < least:
            raise click.BadParameter(f"{text!r} has a number below {least}")
        if found and found[-1] > most:
            raise click.BadParameter(f"{text!r} has a number above {most}")
        return found

    return read


def pairs(form: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], dict[str, str]]:
    """A callback for an option that may be given again, each time as NAME=VALUE; `form` is what its help calls that."""

    def read(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if not name or not value or name in found:
                raise click.BadParameter(f"{text!r}: give {form}, once for each")
            found[name] = value
        return found

    return read
