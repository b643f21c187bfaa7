"""`access`: keys for the API, made, listed and revoked."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from countermand.cli.asking import ask
from countermand.cli.client import AuthorityClient
from countermand.cli.terminal import DataDirOption, JsonOption, ReasonOption, moment_of, printable, say, say_json
from countermand.settings import ClientSettings

DAY_S: Final = 86_400

access: Final = typer.Typer(help="Make, list and revoke keys for the API.", no_args_is_help=True)


class KeyRole(StrEnum):
    """What a key may do; those of applications are made with the application."""

    READER = "reader"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"
    REPLICA = "replica"


@access.command("list")
def list_keys(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List every key: what it may do, and when it was made and last used."""
    settings = ClientSettings.read(data_dir)
    keys = ask(settings, _every_key)
    if as_json:
        say_json({"keys": keys})
    else:
        say(*(_line(key) for key in keys))


@access.command()
def create(
    role: Annotated[KeyRole, typer.Argument(help="What the key may do.")],
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")],
    *,
    days: Annotated[int | None, typer.Option(min=1, max=366, help="After which it expires; else never.")] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key, and print it, this once."""
    settings = ClientSettings.read(data_dir)
    lifetime_s = days * DAY_S if days else None
    say(ask(settings, lambda client: client.create_api_key(role.value, name, lifetime_s=lifetime_s)))


@access.command()
def revoke(
    id_: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `access list` has it.")],
    *,
    reason: ReasonOption = "",
    data_dir: DataDirOption = None,
) -> None:
    """Revoke a key, for ever."""
    settings = ClientSettings.read(data_dir)
    say(_line(ask(settings, lambda client: client.revoke_api_key(id_, reason))))


async def _every_key(client: AuthorityClient) -> list[dict[str, Any]]:
    return [key async for page in client.api_keys() for key in page]


def _line(key: Mapping[str, Any]) -> str:
    return "  ".join([key["id"], f"{key['role']:13}", *_state(key), printable(key["name"])])


def _state(key: Mapping[str, Any]) -> Iterator[str]:
    if key["revoked_at"] is not None:
        yield f"revoked since {moment_of(key['revoked_at'])}"
    elif key["expires_at"] is None:
        yield "never expires"
    else:
        expired = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
        yield f"{'expired since' if expired else 'good until'} {moment_of(key['expires_at'])}"
    yield "never used" if key["last_used_at"] is None else f"used {moment_of(key['last_used_at'])}"
    if key["application_id"] is not None:
        yield key["application_id"]
