"""The log as server-sent events: `entry` events with the fields of `wire`, the others with signed bytes.

Source: docs/protocol.md, "Feed"; the event stream format is WHATWG HTML §9.2.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from countermand.errors import MalformedError
from countermand.log import codec, wire
from countermand.log.chain import Candidate
from countermand.log.checkpoint import CHECKPOINT_BYTES
from countermand.log.keyset import MAX_KEYSET_BYTES
from countermand.log.ports import Batch
from countermand.log.succession import SUCCESSION_BYTES

MAX_EVENT_BYTES: Final = 16_384
"""An entry of the largest size, in base64 and as escaped fields beside it, fits."""


def entry_event(previous: bytes, data: bytes) -> bytes:
    """Return the event of the entry with canonical bytes `data` after the link `previous`."""
    fields = wire.to_fields(previous, data)
    return f"event: entry\nid: {fields[wire.SEQ_FIELD]}\ndata: {json.dumps(fields)}\n\n".encode()


def checkpoint_event(signed: bytes) -> bytes:
    """Return the event of a signed checkpoint."""
    return _signed_event("checkpoint", signed)


def keyset_event(signed: bytes) -> bytes:
    """Return the event of a signed keyset."""
    return _signed_event("keyset", signed)


def succession_event(signed: bytes) -> bytes:
    """Return the event of a signed succession."""
    return _signed_event("succession", signed)


def _signed_event(type_: str, signed: bytes) -> bytes:
    return f"event: {type_}\ndata: {codec.to_base64(signed)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: its type and its data."""

    type: str
    data: str


class EventParser:
    """Takes an event stream in any split of its bytes. Holds at most one event's bytes."""

    def __init__(self) -> None:
        self._buffer = b""
        self._type = ""
        self._data: list[str] = []
        self._held = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Yield the events that `chunk` completes. Raises: MalformedError, for an endless event or one not in UTF-8."""
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        if self._held + len(self._buffer.removesuffix(b"\r")) > MAX_EVENT_BYTES:
            raise MalformedError("an event is too long")

    def _line(self, line: bytes) -> Event | None:
        if not line:
            event = Event(self._type or "message", "\n".join(self._data)) if self._data else None
            self._type, self._data, self._held = "", [], 0
            return event
        self._held += len(line)
        if self._held > MAX_EVENT_BYTES:
            raise MalformedError("an event is too long")
        try:
            name, _, value = line.decode().partition(":")
        except UnicodeDecodeError:
            raise MalformedError("an event is not UTF-8") from None
        if name == "event":
            self._type = value.removeprefix(" ")
        elif name == "data":
            self._data.append(value.removeprefix(" "))
        return None


class FeedParser:
    """Takes the feed's bytes in any split, and gives what they complete as one batch."""

    def __init__(self) -> None:
        self._events = EventParser()

    def feed(self, chunk: bytes) -> Batch:
        """Return the records that `chunk` completes; unknown types of event are passed over. Raises: MalformedError."""
        candidates: list[Candidate] = []
        checkpoints: list[bytes] = []
        keysets: list[bytes] = []
        successions: list[bytes] = []
        for event in self._events.feed(chunk):
            if event.type == "entry":
                candidates.append(_candidate(event.data))
            elif event.type == "checkpoint":
                checkpoints.append(_signed(event.data, CHECKPOINT_BYTES))
            elif event.type == "keyset":
                keysets.append(_signed(event.data, MAX_KEYSET_BYTES))
            elif event.type == "succession":
                successions.append(_signed(event.data, SUCCESSION_BYTES))
        return Batch(tuple(candidates), tuple(checkpoints), keysets=tuple(keysets), successions=tuple(successions))


def _candidate(data: str) -> Candidate:
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError("an entry's event is not JSON") from None
    if not isinstance(fields, dict):
        raise MalformedError("an entry's event is not an object")
    return wire.from_fields(fields)


def _signed(data: str, longest_bytes: int) -> bytes:
    if len(data) > longest_bytes * 2:
        raise MalformedError("the event of a signed record is too long")
    return codec.from_base64(data)
