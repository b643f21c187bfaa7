"""One question to the authority, and its answer."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from countermand.cli.client import AuthorityClient
from countermand.cli.terminal import run
from countermand.settings import ClientSettings

_T = TypeVar("_T")


def ask(settings: ClientSettings, question: Callable[[AuthorityClient], Awaitable[_T]]) -> _T:
    """Return what the authority that `settings` name answers to `question`."""

    async def answer() -> _T:
        async with AuthorityClient.open(settings) as client:
            return await question(client)

    return run(answer())
