"""A resolver of the test's own: one name leads to one loopback address."""

import socket
from typing import Any

import pytest


def resolve(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    """Let `name` lead to `address`; every other name resolves as always."""
    really = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        return really(address if host in {name, name.encode()} else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
