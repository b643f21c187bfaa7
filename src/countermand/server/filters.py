"""What lists and revocations by filter are asked for, as a query or as JSON."""

from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from countermand.authority.listing import LONGEST_PAGE
from countermand.authority.model import Filter
from countermand.log.anchor import Kind
from countermand.server.bodies.parts import InstantText, Label, ms_of

_Text: TypeAlias = Annotated[str, Field(max_length=512)]
_FLAGS: Final = {"true": True, "false": False}
_Flag: TypeAlias = Annotated[bool, BeforeValidator(lambda text: _FLAGS.get(text, ""))]
_NOT_FILTERS: Final = {"after", "limit", "kind", "opened_before", "reason", "dry_run"}
After = Annotated[str, Field(max_length=16)]


class _Query(BaseModel):
    """A page of a list: up to `limit`, from the place that the page before gave as `next`."""

    model_config = ConfigDict(extra="forbid")

    after: After | None = None
    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = LONGEST_PAGE


class _AnchorsQuery(_Query):
    """`stands`: only what stands, or only what has ended."""

    KIND: ClassVar[Kind]

    label: Label | None = None
    opened_before: InstantText | None = None
    stands: _Flag | None = None

    @property
    def which(self) -> Filter:
        """The filter that it asks for. Raises: InvalidValueError."""
        return _filter(self, self.KIND, self.opened_before)


class ApplicationsQuery(_AnchorsQuery):
    KIND = Kind.APPLICATION


class SessionsQuery(_AnchorsQuery):
    KIND = Kind.SESSION

    application_id: _Text | None = None
    subject: _Text | None = None
    parent_id: _Text | None = None


class AgentsQuery(_AnchorsQuery):
    KIND = Kind.AGENT

    application_id: _Text | None = None
    session_id: _Text | None = None
    parent_id: _Text | None = None
    delegation_id: _Text | None = None


class GrantsQuery(_AnchorsQuery):
    KIND = Kind.GRANT

    application_id: _Text | None = None
    subject: _Text | None = None


class DelegationsQuery(_AnchorsQuery):
    KIND = Kind.DELEGATION

    application_id: _Text | None = None
    parent_id: _Text | None = None
    source_id: _Text | None = None
    target_id: _Text | None = None
    grant_id: _Text | None = None


class EntriesQuery(_Query):
    """Entries of this kind, of this id, of this issuer."""

    kind: Literal[tuple(kind.text for kind in Kind)] | None = None  # type: ignore[valid-type]  # one list of kinds
    id: _Text | None = None
    issuer: _Text | None = None


class NewRevocations(BaseModel):
    """Which to revoke: those of one kind that have all of what is given, and at least one thing is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["session", "agent", "delegation", "grant", "application"]
    label: Label | None = None
    opened_before: InstantText | None = None
    application_id: _Text | None = None
    subject: _Text | None = None
    session_id: _Text | None = None
    parent_id: _Text | None = None
    delegation_id: _Text | None = None
    source_id: _Text | None = None
    target_id: _Text | None = None
    grant_id: _Text | None = None
    after: After | None = None
    reason: str = ""
    dry_run: bool = False

    @property
    def which(self) -> Filter:
        """The filter that it asks for. Raises: InvalidValueError."""
        return _filter(self, Kind.parse(self.kind), self.opened_before)


def _filter(asked: BaseModel, kind: Kind, opened_before: str | None) -> Filter:
    named = asked.model_dump(exclude=_NOT_FILTERS)
    return Filter(kind=kind, opened_before_ms=ms_of("opened_before", opened_before), **named)
