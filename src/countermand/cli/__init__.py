"""The command line: one verb, one function. It talks HTTP to an authority.

app          the verbs together, and their exit codes
running      up, demo
guarding     forward-auth, gateway
looking      sessions, tree, tail
revoking     revoke, cutoff
biscuit      biscuit revoke
receipts     who enforces what they revoke, and replicas
recovering   ledger recover
keys         keys list, rotate, withdraw
inspecting   inspect
blocks       the same of a Biscuit
checking     check
auditing     audit, audit verify
access       access list, create, revoke
explaining   explain
tokens       a token from a person's hands, taken apart
following    a replica of the command line's own
knowing      what it knows of a token's anchors
terminal     what is printed, safely, and the options that verbs share
client       the authority's API as all of them use it
asking       one question to it

demo         `demo`, which judges itself
watch        `up --demo`, for a person
stage        what both of them run: an authority, a tool that it protects, and the fleet
fleet        sessions, agents and delegations, and how each agent gets its mandate
callers      the agents' HTTP clients
"""

import sys
from typing import Final

_EXTRAS: Final = {
    "aiohttp": "gateway",
    "biscuit_auth": "biscuit",
    "multidict": "gateway",
    "prometheus_client": "metrics",
    "websockets": "gateway",
}
"""Which extra brings what, where it is not the server's."""


def main() -> None:
    """Run the command line. What it needs beyond a resource server's libraries comes with an extra."""
    try:
        from countermand.cli.app import run  # noqa: PLC0415 - so that its absence can be said in a sentence

        run()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        sys.exit(f"countermand: {name} is not installed: pip install 'countermand[{_EXTRAS.get(name, 'server')}]'")
