"""Agents with a mandate each, for tests of what they call."""

import json
import math
import time
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from countermand.cli.client import ApplicationClient
from countermand.tokens.mandate import LEEWAY_S
from tests.running import Running
from tests.unit.mandates import sign

HOUR_S: Final = 3_600


@dataclass(frozen=True)
class Agent:
    """An agent at work on a session, and the mandate that it got for an audience."""

    id: str
    session_id: str
    token: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


async def open_agent(running: Running, subject: str, audience: str, scope: Sequence[str] = ("read",)) -> Agent:
    """Open all that it takes, and let the agent exchange its session's mandate for one of its own."""
    client = running.client
    application = (await client.create_application(f"{subject}'s"))["id"]
    secret = await client.create_key(application)
    await client.create_grant(application, subject, scope, audience)
    session = (await client.open_session(application, subject))["id"]
    agent = (await client.start_agent(application, "agent", HOUR_S, session_id=session))["id"]
    first = await client.issue_mandate(session, audience, scope)
    async with ApplicationClient.open_all(running.url, [(application, secret)]) as (own,):
        return Agent(agent, session, await own.exchange(first, audience, agent_id=agent))


def dying(running: Running, token: str, in_s: float = 1) -> str:
    """Return a token like this one that ends so soon: its time is over, and the leeway nearly."""
    payload = token.split(".")[1]
    claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["exp"] = math.ceil(time.time() + in_s) - LEEWAY_S
    claims["iat"] = claims["exp"] - 60
    return sign(claims, running.authority.keys.mandate)
