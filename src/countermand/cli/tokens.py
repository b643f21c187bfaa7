"""A token from a person's hands, taken apart without believing a word of it."""

import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from countermand.cli.terminal import err
from countermand.errors import (
    BadTokenSignatureError,
    ConfigurationError,
    KeysError,
    MalformedError,
    MalformedTokenError,
    TokenError,
    TransportError,
    UnknownTokenKeyError,
)
from countermand.log.anchor import Anchors
from countermand.log.codec import from_base64
from countermand.tokens.claims import read_mandate
from countermand.tokens.encoding import parse_json
from countermand.tokens.jwks import KeySet, parse_jwks
from countermand.tokens.mandate import MAX_TOKEN_BYTES, parse_mandate
from countermand.transport.http import fetch_keys

TokenArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="TOKEN",
        help="The token, or a file that holds it. Left out, or -, it is read from standard input: an argument is seen "
        "by others on the machine.",
    ),
]
RawInputOption: TypeAlias = Annotated[
    bool, typer.Option("--raw-input", help="It is a Biscuit in binary, in a file or by standard input.")
]
PublicKeyOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The root keys of Biscuits: ed25519/… in hex, or ID=ed25519/…, several with commas.  "
        "[COUNTERMAND_BISCUIT_KEYS]"
    ),
]

_TERMINAL_LINE: Final = 4_095  # what Linux lets through in one line
_READ: Final = MAX_TOKEN_BYTES + 16  # white space around the token

HOLDS: Final = "holds"
NOT_CHECKED: Final = "not checked"
DOES_NOT_HOLD: Final = "does not hold"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a token says of itself, unproven."""

    text: str = field(repr=False)
    header: Mapping[str, object]
    claims: dict[str, object]

    @property
    def key_id(self) -> str | None:
        """The key that it names."""
        key_id = self.header.get("kid")
        return key_id if isinstance(key_id, str) else None

    def anchors(self) -> Anchors:
        """Return all by which a guard would ask about it: the key that it names, and the whole path.

        Raises: MalformedTokenError, where no guard would read it.
        """
        return read_mandate(self.claims, self.key_id).all_anchors()


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether the authority's signature on a token `holds`, and a sentence about it."""

    state: str
    sentence: str

    @property
    def holds(self) -> bool:
        """Whether the claims are proven."""
        return self.state == HOLDS


def read_token(argument: str | None, *, raw: bool = False) -> str:
    """Return the token that was typed, or is in the file that was named, or comes by standard input.

    `raw`: a file or standard input has it in binary; it is returned in base64. Raises: ConfigurationError, where there
    is none.
    """
    if argument is not None and argument != "-":
        data = _read_file(argument) if raw or _is_file(argument) else _typed(argument)
    elif sys.stdin.isatty() and not raw:
        err.print("the token, then Enter:")
        data = sys.stdin.buffer.readline()
        if len(data) >= _TERMINAL_LINE:
            raise ConfigurationError(f"a terminal cuts lines at {_TERMINAL_LINE} characters: give the token by a pipe")
    else:
        data = sys.stdin.buffer.read(_READ)
    token = urlsafe_b64encode(data).decode() if raw else data.decode("ascii", "replace").strip()
    if not token:
        raise ConfigurationError("there is no token: give it as an argument, in a file, or by standard input")
    return token


def _is_file(name: str) -> bool:
    try:
        return Path(name).exists() and not Path(name).is_dir()
    except (OSError, ValueError):  # longer than names are, as most tokens are
        return False


def _read_file(name: str) -> bytes:
    try:
        with Path(name).open("rb") as file:
            return file.read(_READ)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the file with the token cannot be read: {type(error).__name__}") from None


def _typed(argument: str) -> bytes:
    if "/" in argument or argument.count(".") == 1:
        raise ConfigurationError("that is neither a token nor the name of a file")
    return argument.encode("ascii", "replace")


def is_biscuit(token: str) -> bool:
    """Whether it can be a Biscuit and no mandate, which has dots between its parts."""
    return "." not in token


def open_token(token: str) -> Opened:
    """Take a token apart. Raises: MalformedTokenError, for what is no signed JWT; it is not repeated."""
    if len(token) > MAX_TOKEN_BYTES:
        raise MalformedTokenError(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
    try:
        header, claims, _ = token.encode("ascii").split(b".")
        opened_header, opened_claims = (parse_json(from_base64(part)) for part in (header, claims))
    except (ValueError, MalformedError):
        raise MalformedTokenError("this is not a signed JWT") from None  # a cause could quote it
    if not isinstance(opened_header, dict) or not isinstance(opened_claims, dict):
        raise MalformedTokenError("this is not a signed JWT")
    return Opened(token, opened_header, opened_claims)


async def prove(opened: Opened, authority_url: str) -> Proof:
    """Say whether the authority signed the token: its keys are fetched from there, wherever the token points."""
    try:
        keys = parse_jwks(await fetch_keys(authority_url))
    except (KeysError, TransportError) as error:
        return Proof(NOT_CHECKED, str(error))
    try:
        return _verified(opened, keys, authority_url)
    except UnknownTokenKeyError:
        return Proof(NOT_CHECKED, f"{authority_url} has no such key: the token is another issuer's, or made up")
    except TokenError as refusal:
        return Proof(DOES_NOT_HOLD, str(refusal))


def _verified(opened: Opened, keys: KeySet, authority_url: str) -> Proof:
    """Raises: TokenError."""
    unverified = parse_mandate(opened.text)
    key = keys.find(unverified.key_id, unverified.algorithm)
    if key.algorithm != unverified.algorithm or not key.verify(unverified.signing_input, unverified.signature):
        raise BadTokenSignatureError("it is not that of the key it names, or the token was changed")
    return Proof(HOLDS, f"signed by {authority_url}, key {short_key(key.kid)}")


def short_key(key_id: str | None) -> str:
    """Return a key's id as short as it can be recognised."""
    return "without a name" if key_id is None else f"{key_id[:12]}…" if len(key_id) > 12 else key_id
