"""Lists on the command line: what is taken, and what is refused in one line."""

import click
import pytest
from click.testing import CliRunner

from o2n.evaluation.options import names, numbers, pairs


@click.command()
@click.option("--any", "anything", default="", callback=names())
@click.option("--some", default="b,a", callback=names(("a", "b", "c")))
@click.option("--counts", default="4,2", callback=numbers(2, 16))
@click.option("--of", multiple=True, callback=pairs("SET=FILE"))
def shown(anything: list[str], some: list[str], counts: tuple[int, ...], of: dict[str, str]) -> None:
    click.echo(f"{anything} {some} {counts} {of}")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], "[] ['b', 'a'] (2, 4) {}"),
        (["--any", "x,,y,x", "--some", "c,c"], "['x', 'y'] ['c'] (2, 4) {}"),
        (["--counts", "16,3,16"], "[] ['b', 'a'] (3, 16) {}"),
        (["--counts", ""], "[] ['b', 'a'] () {}"),
        (["--of", "x=1=2", "--of", "y=3"], "[] ['b', 'a'] (2, 4) {'x': '1=2', 'y': '3'}"),
    ],
)
def test_a_list_is_read(options: list[str], found: str) -> None:
    assert CliRunner().invoke(shown, options).output.strip() == found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--some", "a,d,e"], "--some': d, e unknown: choose from a, b, c"),
        (["--some", ""], "'' unknown: choose from a, b, c"),
        (["--counts", "2,two"], "--counts': '2,two' is no list of numbers such as 2,4,8"),
        (["--counts", "1,2"], "'1,2' has a number below 2"),
        (["--counts", "2,17"], "'2,17' has a number above 16"),
        (["--of", "x"], "--of': 'x': give SET=FILE, once for each"),
        (["--of", "x=1", "--of", "x=2"], "'x=2': give SET=FILE, once for each"),
    ],
)
def test_what_is_no_such_list_is_refused(options: list[str], message: str) -> None:
    done = CliRunner().invoke(shown, options)
    assert done.exit_code == 2
    assert message in done.output
