"""The house and its arrows (docs/adr/0001): every room, what it may import, and what it must never touch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
PACKAGE = SRC / "countermand"

EVERY_ROOM = {
    *("errors", "published", "log", "tokens", "stores", "transport", "replica"),
    *("enforce", "authority", "server", "settings", "wiring", "cli"),
}
MAY_IMPORT = {
    "errors": set[str](),
    "published": set[str](),
    "log": {"errors"},
    "tokens": {"errors", "log"},
    "stores": {"errors", "log"},
    "transport": {"errors", "log"},
    "replica": {"errors", "log", "stores"},
    "enforce": {"errors", "log", "tokens", "stores", "replica"},
    "authority": {"errors", "log", "tokens"},
    "server": {"errors", "authority", "log", "tokens", "enforce"},
    "settings": {"errors"},
    "wiring": EVERY_ROOM - {"cli"},
    "cli": EVERY_ROOM,
}
ONE_ROOM_EACH = {
    "sqlalchemy": {"authority"},
    "alembic": {"authority"},
    "psycopg": {"authority"},
    "fastapi": {"server", "enforce"},  # the admin API; and apps that are guarded
    "pydantic": {"server", "enforce"},
    "starlette": {"server", "enforce"},
    "mcp": {"enforce"},
    "fastmcp": {"enforce"},
    "prometheus_client": {"enforce", "wiring"},
    "aiohttp": {"enforce"},
    "multidict": {"enforce"},
    "yarl": {"enforce"},
    "uvicorn": {"wiring"},
    "typer": {"cli"},
    "rich": {"cli"},
    "uvloop": {"cli"},
    "joserfc": {"tokens"},
    "biscuit_auth": {"tokens"},
    "cryptography": {"log", "tokens", "authority"},  # a kind of key each
    "httpx2": {"transport", "cli"},  # the log and the keys; the admin API
    "redis": {"transport"},
}
CLOCKS_AND_CHANCE = {"time", "random", "secrets", "datetime", "uuid"}
MAY_KNOW_THE_TIME = {
    "wiring/__init__.py": "the one place that chooses clocks",
    "wiring/authority.py": "as above",
    "cli/": "a person's watch",
    "server/bodies/parts.py": "writes instants, reads no clock",
    "tokens/policy.py": "writes instants, reads no clock",
    "stores/memory.py": "a documented face: its clock is a default",
    "stores/redis.py": "as above",
    "stores/consumer.py": "as above",
    "stores/runner.py": "as above",
    "stores/static.py": "as above",
    "enforce/authenticate.py": "as above",
}
NEVER_IN_LOG = {"time", "asyncio", "socket", "os", "random", "logging"}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("countermand.")} & EVERY_ROOM


IN_ROOMS = [path for path in modules(PACKAGE) if path != PACKAGE / "__init__.py"]


def test_every_room_is_in_the_table_and_exists() -> None:
    assert {room_of(path) for path in IN_ROOMS} == EVERY_ROOM == set(MAY_IMPORT)


@pytest.mark.parametrize("path", IN_ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    room = room_of(path)
    assert rooms_imported(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", modules(PACKAGE / "log"), ids=lambda path: path.name)
def test_the_log_has_no_clock_no_io_and_no_chance(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} & NEVER_IN_LOG == set()


@pytest.mark.parametrize("path", IN_ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_below_wiring_time_and_chance_are_arguments(path: Path) -> None:
    used = {name.split(".")[0] for name in imports(path)} & CLOCKS_AND_CHANCE
    allowed = any(str(path.relative_to(PACKAGE)).startswith(place) for place in MAY_KNOW_THE_TIME)
    assert not used or allowed, f"{path} imports {used}"


@pytest.mark.parametrize("path", IN_ROOMS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_foreign_library_has_one_room(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"countermand"}
    for library in foreign:
        assert room_of(path) in ONE_ROOM_EACH[library], f"{library} in {path}"


WRITES_UNAUDITED = {
    "audit.py": "the one way for a change",
    "heartbeat.py": "the other one, with an entry; and the heartbeat itself",
    "database.py": "migrations",
    "postgres.py": "migrations",
    "sqlite.py": "migrations",
    "ledger.py": "begins the log, before there is an audit",
    "keys.py": "the signing keys of the first start; and files",
    "service.py": "remembers how long mandates live",
    "descendants.py": "how far a job has come",
    "access.py": "when keys were last used",
    "once.py": "which requests were done, in the transaction that does it; and their answers",
    "cleaning.py": "takes such answers away",
    "replicas.py": "what replicas say of themselves",
    "rotation.py": "the steps of a rotation, which its time brings; what was asked for is audited",
    "witnesses.py": "what contradicts the ledger, before anything may be built on it",
}


@pytest.mark.parametrize("path", modules(PACKAGE / "authority"), ids=lambda path: path.name)
def test_whoever_changes_something_at_the_authority_writes_by_way_of_the_audit(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    writes = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute) and call.attr == "write"}
    assert writes <= {"self._audit.write"} or path.name in WRITES_UNAUDITED


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_settings_reads_the_environment(path: Path) -> None:
    reads = {"os.environ", "os.getenv"} & {
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert not reads or room_of(path) == "settings"


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_that_ships_asserts(path: Path) -> None:
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text("utf-8"))))


@pytest.mark.parametrize(
    "path", [path for folder in SRC.glob("caracalai_*") for path in modules(folder)], ids=lambda path: path.parent.name
)
def test_the_documented_names_are_faces_of_this_package_and_nothing_else(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
    assert foreign == {"countermand"}
