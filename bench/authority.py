"""An authority that serves its log, and publishes it on a Redis, in a process of its own, as `countermand up` would.

python -m bench.authority <data directory> [<URL of the Redis>]
"""

import sys
import time
from pathlib import Path

from bench.process import answer
from bench.shared import HMAC_KEY
from countermand.authority.model import SubjectType
from countermand.cli.terminal import run
from countermand.log.anchor import Kind
from countermand.settings import AuthoritySettings, DataDir
from countermand.wiring.authority import serve_authority


async def _main(directory: str, redis_url: str | None = None) -> None:
    data = DataDir(Path(directory))
    settings = AuthoritySettings(data, port=0, redis_url=redis_url, stream_keys=(HMAC_KEY,))
    async with serve_authority(settings) as (running, url):
        opening, revoking = running.service.opening, running.service.revoking
        application = await opening.create_application("bench")

        async def about() -> list[str]:
            """Return what a replica needs to know."""
            return [url, str(running.pin), data.replica_key.read_text("utf-8").strip()]

        async def open_session() -> str:
            """Return a session to be revoked."""
            return (await opening.open_session(application.id, "alice", SubjectType.USER, 900)).id

        async def revoke(session_id: str) -> float:
            """Revoke a session; return when the transaction had committed."""
            await revoking.revoke(Kind.SESSION, session_id)
            return time.monotonic()

        async def cpu() -> float:
            """Return the seconds of a processor that this process has taken."""
            return time.process_time()

        await answer(about, open_session, revoke, cpu)


if __name__ == "__main__":
    run(_main(*sys.argv[1:]))
