"""What the authority says of its API is true: a program that believes it finds nothing to complain of."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from countermand.settings import ClientSettings
from tests.integration.test_api_access import ROUTES, _app
from tests.running import PROOF, ServerProcess

pytestmark = pytest.mark.anyio

EXAMPLES: Final = 200 if PROOF else 4
"""For each operation, beside those at the edges of what it takes."""
AT_MOST_S: Final = 3_600 if PROOF else 300
ENDLESS: Final = "^/v1/log$"
CONFIGURED: Final = "[parameters]\nwait = 0.05\n"
"""Nobody waits for long, in all these requests. What else may be asked for is tried in test_waiting."""
UNTOLD: Final = "positive_data_acceptance"
"""What a schema cannot say: which fields go together, and how many bytes a text may have in UTF-8."""


def _operations(schema: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(m.upper(), path): one for path, operations in schema["paths"].items() for m, one in operations.items()}


async def test_a_program_that_believes_the_description_finds_nothing(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path) as server:
        key = ClientSettings.read(server.data.path, {}).api_key
        options = ["--exclude-path-regex", ENDLESS, "--exclude-checks", UNTOLD, "--max-examples", str(EXAMPLES)]
        options += ["--continue-on-failure", "--no-color", "--header", f"Authorization: Bearer {key}"]
        options += [] if PROOF else ["--generation-deterministic", "--phases", "fuzzing,stateful"]
        (tmp_path / "schemathesis.toml").write_text(CONFIGURED)
        schemathesis = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("schemathesis"),
            *("run", f"{server.url}/openapi.json", *options),
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(AT_MOST_S):
            said, _ = await schemathesis.communicate()
        assert schemathesis.returncode == 0, said.decode()
        assert await server.answers()


def test_every_operation_has_a_name_of_its_own_an_area_and_who_may_call_it() -> None:
    operations = _operations(_app().openapi())
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
    for (method, path), operation in operations.items():
        assert len(operation["tags"]) == 1
        if path.startswith("/v1/"):
            assert operation["security"] == [{"apiKey": []}], (method, path)


def test_every_operation_under_v1_says_how_it_refuses_and_how_it_is_repeated() -> None:
    schema = _app().openapi()
    problem = schema["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}
    for (method, path), operation in _operations(schema).items():
        if not path.startswith("/v1/"):
            continue
        refusals = {status for status in operation["responses"] if status >= "400"}
        assert refusals >= {"401", "403", "404", "409", "413", "422", "500", "503"}, path
        assert all(operation["responses"][status] == {"$ref": "#/components/responses/Problem"} for status in refusals)
        repeated = {"$ref": "#/components/parameters/IdempotencyKey"} in operation.get("parameters", [])
        assert repeated is (method == "POST"), path


def test_every_route_is_described_but_the_description() -> None:
    routes = [route for route in ROUTES if route[1] != "/openapi.json"]
    assert len(_operations(_app().openapi())) == len(routes)
