"""What docs/redis.md prints, parsed, so that tests hold what a reader would type."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

GUIDE: Final = (Path(__file__).parents[1] / "docs" / "redis.md").read_text("utf-8")
_BEGINNING: Final = "ACL SETUSER "
_GIVEN: Final = {"reset", "on"}


@dataclass(frozen=True, slots=True)
class AclUser:
    """A user as the guide would have it made: `rules` are those of ACL SETUSER, in order."""

    name: str
    rules: tuple[str, ...]

    @property
    def password(self) -> str:
        """The guide's own placeholder."""
        (password,) = (rule[1:] for rule in self.rules if rule.startswith(">"))
        return password

    @property
    def rights(self) -> tuple[str, ...]:
        """The rules that give a right: keys and commands."""
        return tuple(rule for rule in self.rules if rule not in _GIVEN and not rule.startswith(">"))

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that it may use at all, without what follows their name."""
        return tuple(right.partition("|")[0][1:] for right in _words(self.rights) if right.startswith("+"))

    def without(self, position: int) -> Sequence["AclUser"]:
        """Return the users that have all but the right at `position`; of a right in parentheses, all but a part."""
        right = self.rights[position]
        if not right.startswith("("):
            return [self._with(right, ())]
        words = right[1:-1].split()
        return [self._with(right, (f"({' '.join(_all_but(words, each))})",)) for each in range(len(words))]

    def _with(self, right: str, instead: tuple[str, ...]) -> "AclUser":
        at = self.rules.index(right)
        return AclUser(self.name, (*self.rules[:at], *instead, *self.rules[at + 1 :]))


def blocks(language: str, text: str = GUIDE) -> list[str]:
    """Return the fenced blocks of `language`, as they stand."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def acl_users(version: str, text: str = GUIDE) -> dict[str, AclUser]:
    """Return the users that the guide makes on a Redis of `version`: "6.2", or "7+"."""
    lines = [
        line for fence in ("6.2+", version) for block in blocks(f"redis {fence}", text) for line in block.splitlines()
    ]
    users = [_user(line) for line in lines if line.startswith(_BEGINNING)]
    return {user.name: user for user in users}


def _user(line: str) -> AclUser:
    name, *rules = re.findall(r"\([^)]*\)|\S+", line.removeprefix(_BEGINNING))
    return AclUser(name, tuple(rules))


def _words(rights: Sequence[str]) -> list[str]:
    return [word for right in rights for word in right.strip("()").split()]


def _all_but(words: list[str], position: int) -> list[str]:
    return words[:position] + words[position + 1 :]
