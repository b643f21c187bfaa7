"""Who acts, and from where: known to whatever is done in the course of one request, without being handed on.

A request has a task, and so a context, of its own; what it starts inherits that. Whoever never said who it is, is the
authority itself. Source: docs/adr/0012.
"""

import logging
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

AUTHORITY: Final = "authority"
"""In the place of a role: what the authority does by itself."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A caller: its key, the role of that, the application that it acts as, if any; its address and its request."""

    role: str = AUTHORITY
    key_id: str = ""
    application_id: str = ""
    remote: str = ""
    request_id: str = ""


_ITSELF: Final = Actor()
_actor: Final[ContextVar[Actor]] = ContextVar("countermand.actor", default=_ITSELF)


def current_actor() -> Actor:
    """Return who acts."""
    return _actor.get()


def arrive(request_id: str, remote: str) -> None:
    """Say that a request has come, from an address; nobody knows yet from whom."""
    _actor.set(Actor("", remote=remote, request_id=request_id))


def identify(role: str, key_id: str, application_id: str) -> None:
    """Say whose request it is."""
    _actor.set(replace(_actor.get(), role=role, key_id=key_id, application_id=application_id))


def mark_request(record: logging.LogRecord) -> bool:
    """Add `request_id` to a line of the log, and `request`, which says it in words; empty outside a request.

    It is a filter for a handler, and lets every line pass.
    """
    request_id = _actor.get().request_id
    record.request_id = request_id
    record.request = f" (request {request_id})" if request_id else ""
    return True
