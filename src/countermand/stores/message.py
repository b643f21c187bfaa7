"""A message of the documented revocation stream, out of whatever shape a client gives it.

Nothing here raises, whatever the bytes and the shapes: what cannot be read is marked unreadable, and judged as such.
Source: docs/protocol.md, "The documented signature"; the documented contract.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, TypeAlias

from countermand.log.hmac import STREAM_SIG_FIELD, signature_holds

ANCHOR_FIELDS: Final = ("session_id", "sid", "root_sid", "agent_session_id", "delegation_edge_id")
INVALID_SIGNATURE: Final = "invalid_signature"
MISSING_ANCHOR: Final = "missing_revocation_anchor"

_NONE: Final = frozenset[str]()

MessageId: TypeAlias = bytes | str
"""As the client gives it, and wants it back."""


@dataclass(frozen=True, slots=True)
class Message:
    """`fields` are text. Those of the names in `unreadable` were not: what stands there is an escaped form.

    `anchors` are what it revokes.
    """

    id: MessageId
    fields: Mapping[str, str]
    anchors: Sequence[str]
    unreadable: frozenset[str]

    @property
    def is_trimmed(self) -> bool:
        """Whether only the id is left: the stream holds no message without fields."""
        return not self.fields

    @property
    def payload(self) -> str:
        """The fields as JSON, for a dead letter."""
        return json.dumps(dict(self.fields))


@dataclass(frozen=True, slots=True)
class Signing:
    """Which signatures a message of `stream` needs: by any of `keys`. One that is there and wrong is always refused."""

    stream: str
    keys: tuple[bytes, ...]
    required: bool

    def __repr__(self) -> str:
        return f"Signing(stream={self.stream!r}, {len(self.keys)} keys, required={self.required})"

    def refusal(self, message: Message) -> str | None:
        """Why `message` goes to the dead letters; None if it is to be applied."""
        if self.keys and (self.required or STREAM_SIG_FIELD in message.fields) and not self._holds(message):
            return INVALID_SIGNATURE
        return None if message.anchors else MISSING_ANCHOR

    def _holds(self, message: Message) -> bool:
        if message.unreadable:
            return False
        return any(signature_holds(key, self.stream, message.fields) for key in self.keys)


@dataclass(frozen=True, slots=True)
class Page:
    """Some of many messages: go on at `cursor`, None at the end. `nameless`: trimmed ones came without their ids."""

    messages: list[Message]
    cursor: MessageId | None
    nameless: bool = False


def parse_read(answer: object) -> list[Message]:
    """Return the messages in an answer of XREADGROUP for one stream.

    RESP2 gives a list of (stream, entries), RESP3 a mapping of them, which redis-py wraps in one more list unless it
    was told to unify its answers.
    """
    if isinstance(answer, Mapping):
        streams: Iterable[object] = answer.values()
    else:
        streams = (pair[1] for pair in map(_sequence, _sequence(answer)) if len(pair) == 2)
    return [message for entries in streams for message in _messages(entries) if message is not None]


def parse_claim(answer: object) -> Page:
    """Return the page in an answer of XAUTOCLAIM: cursor, entries and, from Redis 7 on, the ids that are gone.

    Those need no answer, since Redis 7 forgets them itself; 6.2 gives nil in their place, and keeps them pending.
    """
    cursor, entries, *_ = (*_sequence(answer), None, None)
    messages = list(_messages(entries))
    following = (
        cursor if isinstance(cursor, bytes | str) and cursor not in (b"0-0", "0-0", b"0", "0", b"", "") else None
    )
    return Page([message for message in messages if message is not None], following, None in messages)


def _messages(entries: object) -> Iterator[Message | None]:
    """None stands for an entry without an id."""
    for entry in entries.items() if isinstance(entries, Mapping) else _sequence(entries):
        if _is_entry(entry):
            yield _message(entry)
        elif isinstance(entry, list | tuple) and all(_is_entry(inner) for inner in entry):
            yield from (_message(inner) for inner in entry)
        else:
            yield None


def _is_entry(entry: object) -> bool:
    pair = _sequence(entry)
    return len(pair) >= 2 and (pair[0] is None or isinstance(pair[0], bytes | str))


def _message(entry: object) -> Message | None:
    message_id, fields, *_ = _sequence(entry)
    if not isinstance(message_id, bytes | str):
        return None
    texts, unreadable = _texts(fields)
    named = ANCHOR_FIELDS if not unreadable else [name for name in ANCHOR_FIELDS if name not in unreadable]
    return Message(message_id, texts, [texts[name] for name in named if texts.get(name)], unreadable)


def _texts(fields: object) -> tuple[dict[str, str], frozenset[str]]:
    """Return the fields as text, and the names of those that were none."""
    if isinstance(fields, dict):
        with suppress(AttributeError, UnicodeError, TypeError):  # nearly always bytes that are text
            return {name.decode(): value.decode() for name, value in fields.items()}, _NONE
    texts: dict[str, str] = {}
    unreadable = set()
    for name, value in _pairs(fields):
        (name_text, name_is_text), (value_text, value_is_text) = _text(name), _text(value)
        texts[name_text] = value_text
        if not (name_is_text and value_is_text):
            unreadable.add(name_text)
    return texts, frozenset(unreadable)


def _pairs(fields: object) -> Iterable[tuple[object, object]]:
    """The fields as pairs: of a mapping, of a flat list as Redis sends it, or none."""
    if isinstance(fields, Mapping):
        return fields.items()
    if fields is None or isinstance(fields, list | tuple):
        flat = _sequence(fields)
        return zip_longest(flat[::2], flat[1::2])
    return [(fields, None)]


def _text(value: object) -> tuple[str, bool]:
    """Return `value` as text that UTF-8 can hold, and whether it was that already."""
    try:
        if isinstance(value, bytes):
            return value.decode(), True
        if isinstance(value, str):
            value.encode()
            return value, True
    except UnicodeError:
        if isinstance(value, bytes):
            return value.decode(errors="backslashreplace"), False
        return str(value).encode(errors="backslashreplace").decode(), False
    return f"<{type(value).__name__}>", False


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
