"""Verbs that look at what there is, and at what is being revoked: `sessions`, `tree` and `tail`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.text import Text
from rich.tree import Tree

from countermand.cli.asking import ask
from countermand.cli.client import AuthorityClient
from countermand.cli.following import following
from countermand.cli.terminal import (
    DataDirOption,
    JsonOption,
    moment_of,
    moment_of_ms,
    printable,
    run,
    say,
    say_json,
    say_tree,
    short,
    until_signalled,
    without_tokens,
)
from countermand.log.entry import Entry
from countermand.settings import ClientSettings

Node: TypeAlias = Mapping[str, Any]

_OPEN: Final = "open"
_ENDED: Final = "ended"
_LEGEND: Final = "ended: cut off, or revoked with something on which it rests"


def sessions(*, as_json: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """List the subject sessions, and what each is: open, expired, revoked, or ended in another way."""
    settings = ClientSettings.read(data_dir)
    everything = run(_print_sessions(settings, as_json=as_json))
    if as_json:
        say_json({"sessions": everything})
    elif not everything:
        say("there is no session")


async def _print_sessions(settings: ClientSettings, *, as_json: bool) -> list[dict[str, Any]]:
    """Return every session, with its state; print each page as it comes."""
    everything: list[dict[str, Any]] = []
    async with AuthorityClient.open(settings) as client:
        async for page in client.sessions():
            now = datetime.now(UTC)
            everything += [session | {"state": _state(session, now) or _OPEN} for session in page]
            if not as_json:
                say(*_session_lines(everything[-len(page) :] if page else []))
    return everything


def _session_lines(page: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    width = max((len(printable(session["subject"])) for session in page), default=0)
    for session in page:
        line = Text(f"{session['id']}  {printable(session['subject']):{width}}  ")
        line.append(f"{_when(session):34}", "green" if session["stands"] else "dim")
        yield line.append(f"  {short(session['application_id'])}")


def _state(thing: Mapping[str, Any], now: datetime) -> str:
    """Say how a session or a node has ended; nothing of one that stands."""
    if thing["stands"]:
        return ""
    if thing["revoked_at"] is not None:
        return "revoked"
    expires_at = thing["expires_at"]
    return "expired" if expires_at is not None and datetime.fromisoformat(expires_at) <= now else _ENDED


def _when(session: Mapping[str, Any]) -> str:
    """Say what a session is, and until or since when. When its ancestor ended, or a cutoff came, is not known here."""
    at = moment_of(session["revoked_at"] or session["expires_at"])
    if session["state"] == _ENDED:
        return _ENDED
    return f"{session['state']} {'until' if session['stands'] else 'since'} {at}"


def tree(
    id_: Annotated[str, typer.Argument(metavar="ID", help="An application, session, agent, grant or delegation.")],
    *,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Draw what rests on something, and what of it has ended.

    Revoking a node ends all that hangs from it. A delegation ends with what it handed on, and not its receiver.
    """
    settings = ClientSettings.read(data_dir)
    answer = ask(settings, lambda client: client.tree(id_))
    if as_json:
        say_json(answer)
        return
    say_tree(draw(answer["nodes"]))
    if any(_state(node, datetime.now(UTC)) == _ENDED for node in answer["nodes"]):
        say(Text(_LEGEND, "dim"))
    if not answer["is_whole"]:
        say(f"this is not all: only the first {len(answer['nodes']):,} are drawn")


def draw(nodes: Sequence[Node]) -> Tree:
    """Return the nodes, ancestors first, as a tree. What has ended is struck out, and said to be."""
    by_id = {node["id"]: node for node in nodes}
    drawn: dict[str, Tree] = {}
    for node in nodes:
        label = _label(node, by_id)
        above = drawn.get(node["parent_id"])
        drawn[node["id"]] = Tree(label, highlight=False) if above is None else above.add(label)
    return drawn[nodes[0]["id"]]


def _label(node: Node, by_id: Mapping[str, Node]) -> Text:
    state = _state(node, datetime.now(UTC))
    label = Text(no_wrap=True, overflow="ignore")
    words = [node["kind"], printable(node["name"]), node["id"]]
    label.append(" ".join(word for word in words if word), "" if node["stands"] else "dim strike")
    if node["target_id"] is not None:
        label.append(f" → {_receiver(node['target_id'], by_id)}", "" if node["stands"] else "dim")
    if state:
        label.append(f"  {state}", "red")
    return label


def _receiver(id_: str, by_id: Mapping[str, Node]) -> str:
    """A receiver that is in the tree has its whole id there."""
    return f"{printable(by_id[id_]['name'])} {short(id_)}" if id_ in by_id else id_


def tail(*, data_dir: DataDirOption = None) -> None:
    """Print revocations as they are made, verified as a replica does, until Ctrl-C."""
    settings = ClientSettings.read(data_dir)

    async def until_stopped() -> None:
        stopped = until_signalled()
        async with following(settings, _print_entries):
            say(f"following {settings.url}")
            await stopped.wait()

    run(until_stopped())


def _print_entries(entries: Sequence[Entry]) -> None:
    for entry in entries:
        before = "" if entry.issued_before_ms is None else f"  issued before {moment_of_ms(entry.issued_before_ms)}"
        texts = "  ".join(text for text in (entry.id, entry.issuer, entry.reason) if text)
        shown = without_tokens(printable(texts))
        say(f"{entry.seq:>8}  {moment_of_ms(entry.at_ms)}  {entry.kind.text}  {shown}{before}")
