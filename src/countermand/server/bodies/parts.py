"""What bodies are made of: JSON. Times are RFC 3339: UTC in answers, with any offset in requests."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Generic, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from countermand.authority.checks import LONGEST_S, MAX_LABEL_CHARS
from countermand.errors import InvalidValueError

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")


def _instant_of(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def ms_of(name: str, instant: str | None) -> int | None:
    """Return an instant in milliseconds since 1970; a part of one counts as a whole one, so as to end no less.

    Raises: InvalidValueError, where it is no instant; a time without an offset is none.
    """
    if instant is None:
        return None
    is_instant = _RFC_3339.fullmatch(instant) is not None  # what reads it reads more than that
    try:
        moment = datetime.fromisoformat(instant.upper() if is_instant else "")
    except ValueError:
        raise InvalidValueError(f"{name} is an instant such as 2030-01-31T23:59:59Z") from None
    return -((_EPOCH - moment) // timedelta(milliseconds=1))


Life = Annotated[int, Field(ge=1, le=LONGEST_S)]
Audience = Annotated[list[str], Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
InstantText = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

Time = Annotated[datetime, BeforeValidator(_instant_of)]
TimeOrNone = Annotated[datetime | None, BeforeValidator(_instant_of)]
CreatedAt = Annotated[Time, Field(validation_alias="created_at_ms")]
ExpiresAt = Annotated[Time, Field(validation_alias="expires_at_ms")]
ExpiresAtOrNone = Annotated[TimeOrNone, Field(validation_alias="expires_at_ms")]
RevokedAt = Annotated[TimeOrNone, Field(validation_alias="revoked_at_ms")]
KindText = Annotated[str, BeforeValidator(lambda kind: kind.text)]


class Body(BaseModel):
    """What a caller sends: an unknown field is an error, and a number in quotes is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """What a caller gets, read from the attributes of a value of the authority's model."""

    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        return cls.model_validate(value)


class PageOut(Answer, Generic[_T]):
    """Newest first. `next` is for the query's `after`; null on the last page, which alone tells that it is the last."""

    items: list[_T]
    next: str | None
