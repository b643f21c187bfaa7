"""Whose Biscuits a service accepts, and what they may do there, from what is configured."""

from pathlib import Path
from typing import TYPE_CHECKING

from countermand.errors import ConfigurationError
from countermand.settings import biscuit_keys, read_policy

if TYPE_CHECKING:  # an extra
    from countermand.enforce.biscuits import Biscuits


def biscuits_of(keys: str | None, policy: Path | None) -> "Biscuits | None":
    """Return what a guard needs to accept Biscuits; None where neither keys nor a policy are configured.

    The keys are those that were given, else the environment's; the policy is a file of Datalog.

    Raises:
        ConfigurationError: one without the other, or what cannot work.
    """
    keys = biscuit_keys(keys)
    if keys is None and policy is None:
        return None
    if keys is None:
        raise ConfigurationError(
            "a policy of Biscuits needs the issuer's keys: give --biscuit-keys, or set COUNTERMAND_BISCUIT_KEYS"
        )
    if policy is None:
        raise ConfigurationError("no policy says what a Biscuit may do: give --biscuit-policy beside the keys")
    try:
        from countermand.enforce.biscuits import Biscuits  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is not installed: pip install 'countermand[biscuit]'") from error
    return Biscuits(keys, read_policy(policy))
