"""Whoever imports the published names finds the same under ours."""

from typing import Any

import pytest

from tests.interop.faces import describe
from tests.interop.peer import Published


@pytest.mark.parametrize("module", ["caracalai_revocation", "caracalai_revocation_redis"])
def test_every_name_argument_and_default_is_ours_too_and_in_the_same_place(published: Published, module: str) -> None:
    ours = describe(module)
    for name, theirs in published.describe(module).items():
        assert name in ours
        if isinstance(theirs, dict):
            assert {method: ours[name][method][: len(arguments)] for method, arguments in theirs.items()} == theirs
        else:
            assert ours[name] == theirs


@pytest.mark.parametrize("module", ["caracalai_revocation", "caracalai_revocation_redis"])
def test_what_ours_asks_for_besides_may_be_left_out(published: Published, module: str) -> None:
    ours = describe(module)
    for name, theirs in published.describe(module).items():
        more: list[Any] = []
        for method, arguments in theirs.items() if isinstance(theirs, dict) else ():
            more += ours[name][method][len(arguments) :]
        assert "required" not in [default for _, default in more]
