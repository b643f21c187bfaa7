"""The configurations in `deploy/`: none leaves an identity header out, and what nobody tested says so."""

import re

import pytest

from countermand.enforce.identity import NOBODY
from tests.proxies import DEPLOY

UNTESTED = ("traefik.yml", "traefik-dynamic.yml", "envoy.yaml")


@pytest.mark.parametrize("file", ["nginx.conf", "Caddyfile", "envoy.yaml"])
def test_every_identity_header_is_named(file: str) -> None:
    text = (DEPLOY / file).read_text().lower()
    assert [name for name in NOBODY if not re.search(rf"\b{name}\b", text)] == []


def test_traefiks_pattern_matches_every_identity_header_and_no_other() -> None:
    patterns = re.findall(r'authResponseHeadersRegex: "(.*)"', (DEPLOY / "traefik-dynamic.yml").read_text())
    assert len(patterns) == 2
    for pattern in patterns:
        for name in NOBODY:
            assert re.match(pattern, name.title())
            assert re.match(pattern, name.replace("-", "_"))
        assert not re.match(pattern, "Authorization")


def test_what_was_not_tested_says_so() -> None:
    readme = (DEPLOY / "README.md").read_text()
    for file in UNTESTED:
        assert (DEPLOY / file).read_text().startswith("# NOT TESTED HERE.")
        assert re.search(rf"^\|.*\({file}\).*\*\*not tested here\*\*", readme, re.MULTILINE)
