"""`o2n tokens`: who may ask the service, and for what."""

import click

from o2n.options import print_json, store_option
from o2n.store import CategoryStore
from o2n.tokens import SCOPES, Scope, create_token, read_tokens, revoke_token


@click.group()
def tokens() -> None:
    """Make, list and revoke the tokens that the HTTP service asks for."""


@tokens.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What it allows: to score, to give feedback, to administer. May be given several times.",
)
@store_option
def create(name: str, scopes: tuple[Scope, ...], store: CategoryStore) -> None:
    """Make a token and print it, once: it is kept nowhere.

    NAME says who it is for, and signs the feedback that is given with it.
    """
    click.echo(create_token(store, name, list(scopes)))


@tokens.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per token.")
@store_option
def list_tokens(as_json: bool, store: CategoryStore) -> None:
    """All tokens, without their secrets."""
    found = read_tokens(store).tokens
    if not found and not as_json:
        click.echo(f"no tokens in {store.url}: make one with 'o2n tokens create NAME --scope score'")
    for token in found:
        created = token.created.isoformat(timespec="seconds")
        if as_json:
            print_json({"name": token.name, "scopes": sorted(token.scopes), "created": created})
        else:
            click.echo(f"{token.name:32} {created}  {', '.join(sorted(token.scopes))}")


@tokens.command()
@click.argument("name")
@store_option
def revoke(name: str, store: CategoryStore) -> None:
    """Revoke the token NAME: within seconds, no replica takes it any more."""
    revoke_token(store, name)
    click.echo(f"token {name} is revoked")
