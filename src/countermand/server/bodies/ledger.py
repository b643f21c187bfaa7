"""The ledger, taken up again."""

from countermand.server.bodies.parts import Answer, Body


class NewRecovery(Body):
    """`force`: also where nothing disputes the ledger, without witnesses that do not answer, or keys without files."""

    keep_sessions: bool = False
    force: bool = False
    dry_run: bool = False


class SeenOut(Answer):
    witness: str
    generation: int
    seq: int
    contradicts: bool


class RecoveredOut(Answer):
    """`begun` is the new generation; None where none was needed. Of a dry run, what it would be.

    `keyset` is the last that is taken up again; `missing_keys` are those of a later one, which lack their files here.
    """

    generation: int
    seq: int
    witnesses: list[SeenOut]
    lost: int
    missing: int
    begun: int | None
    is_cut_off: bool
    keyset: int | None
    missing_keys: list[str]
