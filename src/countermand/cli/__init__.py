"""The command line: one verb, one function. It talks HTTP to an authority.

app      the verbs
client   the admin API as the verbs use it
watch    `up --demo`, for a person
demo     `demo`, which judges itself
fleet    what both of them run
"""

import sys


def main() -> None:
    """Run the command line. What it needs beyond a resource server's libraries comes with the `server` extra."""
    try:
        from countermand.cli.app import run  # noqa: PLC0415 - so that its absence can be said in a sentence
    except ModuleNotFoundError as error:
        sys.exit(f"countermand: {error.name} is not installed: pip install 'countermand[server]'")
    run()
