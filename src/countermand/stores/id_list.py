"""A list of revoked ids, as a person or a program writes it.

One id a line, or several with commas between. Blank lines are passed over, and comments: from a `#` that begins a line
or follows white space, to the line's end. Nothing else is: what is no id is an error that names the line and does not
repeat it. An id holds neither white space nor a comma. It is one of

    the hex of a Biscuit's revocation id, in either case and either twin;
    an id of our own making, such as ses_…;
    kind:id, as in a path, for any other anchor that a store is asked about: no subject, and no cutoff.

Source: docs/biscuit.md, "Lists".
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Final, Self, TextIO

from countermand.errors import ConfigurationError, MalformedError, UnknownKindError
from countermand.log.anchor import Anchor, Kind, kind_of
from countermand.log.revocation_id import ED25519_BYTES, parse_revocation_id, twins
from countermand.log.wire import flat_id

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Two million ids of 64 bytes."""

_BLOCK_CHARS = 1 << 18
_PLAIN_CHARS = 2 * ED25519_BYTES + 1
_DIGITS = b"0123456789abcdef"
_COMMENT = re.compile(r"(?:^|\s)#")
_NEVER_ASKED = frozenset({Kind.SUBJECT, Kind.CUTOFF})


@dataclass(frozen=True, slots=True)
class FileState:
    """Another one once a file was replaced, or written to. `changed_ns` is when that was, by its system's clock."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Self:
        """Return the state of the file with this stat."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def parse_ids(text: str, source: str) -> frozenset[str]:
    """Return every flat id under which a store may be asked about what `text` lists: of a Biscuit's id, both twins.

    Raises:
        ConfigurationError: a line is malformed; `source` is how it is named.
    """
    return _collect(io.StringIO(text, newline=None), source)


def read_ids(path: Path) -> tuple[FileState, frozenset[str]]:
    """Return what `parse_ids` does of a file in UTF-8, and the state in which it was. It waits for no other process.

    Raises:
        ConfigurationError: the file cannot be read (then the error has a cause), is no plain file, has over 256 MiB, or
            was written to meanwhile; a line is malformed; or it is empty, as a write that failed leaves it: a list that
            revokes nothing holds a comment.
    """
    with _translated(path), open(path, encoding="utf-8-sig", errors="surrogateescape", opener=_open_at_once) as file:
        state = _check(file, path)
        ids = _collect(file, str(path))
        if FileState.of(os.fstat(file.fileno())) != state:
            raise ConfigurationError(f"{path} was written to while it was read: write beside it, and rename")
    return state, ids


def look_at(path: Path) -> FileState:
    """Return the state in which the file is. Raises: ConfigurationError."""
    with _translated(path):
        return FileState.of(path.stat())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a path that holds NUL is a ValueError
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # whoever opens a pipe would wait for its writer


def _check(file: TextIO, path: Path) -> FileState:
    stat = os.fstat(file.fileno())
    if not S_ISREG(stat.st_mode):
        raise ConfigurationError(f"{path} is no plain file")
    if not 0 < stat.st_size <= MAX_FILE_BYTES:
        what = "is empty: a list that revokes nothing holds a comment"
        raise ConfigurationError(f"{path} {what if not stat.st_size else 'has over 256 MiB'}")
    return FileState.of(stat)


def _collect(file: TextIO, source: str) -> frozenset[str]:
    return frozenset(chain.from_iterable(_read_ids(file, source)))


def _read_ids(file: TextIO, source: str) -> Iterator[Iterable[str]]:
    number = 1
    while lines := file.readlines(_BLOCK_CHARS):
        plain = _plain_ids(lines)
        if plain is not None:
            yield plain
        else:
            for at, line in enumerate(lines, number):
                yield from _ids_in(line, source, at)
        number += len(lines)


def _plain_ids(lines: Sequence[str]) -> Iterable[str] | None:
    """Return the ids of lines that hold 128 hex digits each and nothing else, as a long list does; else None."""
    text = "".join(lines)
    if set(map(len, lines)) != {_PLAIN_CHARS} or not text.isascii():
        return None
    if text.encode().translate(None, _DIGITS) != b"\n" * len(lines):
        return None
    return text.split()


def _ids_in(line: str, source: str, number: int) -> Iterator[Iterable[str]]:
    for word in _COMMENT.split(line, maxsplit=1)[0].split(","):
        id_ = word.strip()
        if not id_:
            continue
        forms = _forms(id_)
        if not forms:
            raise ConfigurationError(
                f"{source}, line {number}: an id is a Biscuit's revocation id in hex, one of our own making, or "
                "kind:id of what is neither a subject nor a cutoff"
            )
        yield forms


def _forms(id_: str) -> Iterable[str]:
    """Return under which flat ids a store may be asked; none for what is no id."""
    kind, colon, named = id_.partition(":")
    try:
        if kind_of(id_) is not None:
            return (id_,)
        if not colon or kind == Kind.BISCUIT.text:
            return twins(parse_revocation_id(named if colon else id_))
        anchor = Anchor.parse(id_)
    except (MalformedError, UnknownKindError):
        return ()
    if anchor.kind in _NEVER_ASKED or len(id_.split()) > 1:
        return ()
    return {anchor.id, flat_id(anchor)}
