"""What all tests share, and on which databases those run that have an authority."""

import os
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.databases import DATABASES, KINDS, Kind
from tests.running import PROOF

ORDINARY: Final[tuple[Kind, ...]] = ("sqlite",)
CHOSEN: Final[Mapping[str, tuple[Kind, ...]]] = {"sqlite": ("sqlite",), "postgres": ("postgres",), "both": KINDS}
"""What TEST_DATABASE may say, for every module."""
ON_BOTH: Final = frozenset(
    f"test_{name}"
    for name in (
        "concurrent_writers",
        "database",
        "heartbeat",
        "ledger",
        "migrations",
    )
)
"""The modules that ask the most of a database: they run on both in an ordinary run too."""

_AUTHORITIES: Final = frozenset(
    {"Running", "ServerProcess", "authority_running", "plane", "publishing", "rooms", "rooms_open", "running"}
)
"""By which names a module has an authority: what it imports, or a fixture."""


@pytest.fixture(scope="module", autouse=True)
def database_kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """On which database the authorities of this module are."""
    kind: Kind = getattr(request, "param", "sqlite")
    with DATABASES.all_on(kind):
        yield kind


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if not _AUTHORITIES.isdisjoint({*metafunc.fixturenames, *vars(metafunc.module)}):
        metafunc.parametrize("database_kind", _kinds_for(metafunc), indirect=True, scope="module")


def _kinds_for(metafunc: pytest.Metafunc) -> tuple[Kind, ...]:
    own = tuple(kind for kind in KINDS if metafunc.definition.get_closest_marker(kind))
    chosen = os.environ.get("TEST_DATABASE")
    if own or chosen is not None:
        return own or CHOSEN[chosen or ""]
    return KINDS if PROOF or metafunc.module.__name__.rpartition(".")[2] in ON_BOTH else ORDINARY


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [] if PROOF else [item for item in items if item.get_closest_marker("proof") is not None]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


def pytest_report_header() -> str:
    return f"what is marked `proof` {'runs' if PROOF else 'runs in `make proof`, and not here'}"


def pytest_sessionfinish() -> None:
    DATABASES.stop()
