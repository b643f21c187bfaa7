"""A process that is forked from one that guards: nothing waits for what its parent held, or looks after its calls."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from countermand.enforce.forks import renew_in_children
from countermand.log.anchor import Kind
from countermand.wiring import Following
from tests.signer import Signer
from tests.unit.guarded import TOKEN_TEXT, Log, guard
from tests.unit.mandates import SESSION

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]
LIMIT_S = 10


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def child(does: Callable[[], Any]) -> int:
    """Return the exit code of a child that does this, or is ended after a while."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            threading.Timer(LIMIT_S, os._exit, (2,)).start()
            code = 0 if does() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_lock_that_a_thread_held_at_the_fork_stops_nobody_in_the_child() -> None:
    guarding = guard()
    locks = [guarding.trace._counting, guarding.thread._changing, guarding._in_flight._changing]
    for lock in locks:
        lock.acquire()
    try:
        assert child(lambda: asyncio.run(guarding.decide(None)).code == "missing_token") == 0  # type: ignore[union-attr]
        assert child(lambda: [guarding.close(), guarding.in_flight] == [None, 0]) == 0  # type: ignore[func-returns-value]
    finally:
        for lock in locks:
            lock.release()


async def test_a_child_looks_after_no_call_of_its_parents() -> None:
    log = Log()
    log.publish()
    guarding = guard(log.replica)
    log.on_applied = guarding.on_applied
    call = await guarding.admit(TOKEN_TEXT, guarding.combine(None))
    assert call
    assert child(lambda: guarding.in_flight == 0 and not guarding._in_flight._watches) == 0
    assert guarding.in_flight == 1
    log.revoke(Kind.SESSION, SESSION)


class Forever:
    """What a follower does, as far as `Following` knows."""

    async def run(self) -> None:
        await asyncio.Event().wait()


async def test_what_follows_the_log_in_the_parent_does_not_in_the_child() -> None:
    following = Following(Forever())  # type: ignore[arg-type]  # all that it uses
    await following.start()
    assert child(lambda: not following.running) == 0
    assert following.running
    await following.aclose()


def test_what_has_gone_is_not_renewed() -> None:
    class Kept:
        renewed = 0

        def renew(self) -> None:
            self.renewed += 1

    kept, gone = Kept(), Kept()
    renew_in_children(kept)
    renew_in_children(gone)
    del gone
    assert child(lambda: kept.renewed == 1) == 0


def test_a_program_that_guards_ends_without_a_word() -> None:
    program = (
        "import countermand\n"
        "url = 'http://127.0.0.1:1'\n"
        f"guard = countermand.connect(url, issuer=url, audience='a', api_key='k', pin={str(Signer().pin)!r})\n"
        "app = guard.asgi(print)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")
