"""One finds all that a request has caused by its id: lines of the log, and the answer where we fail ourselves."""

import logging
import os
from typing import Any

import httpx2
import pytest

from countermand.authority.actor import mark_request
from countermand.server.app import create_app
from tests.integration.problems import refused
from tests.integration.rooms import ISSUER, Rooms

pytestmark = pytest.mark.anyio


def _client(rooms: Rooms, *, fails: bool = False) -> httpx2.AsyncClient:
    nothing: Any = None
    app = create_app(rooms.service, nothing if fails else rooms.access, rooms.reader, ISSUER, os.urandom)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://authority.example")


async def test_every_line_that_a_request_causes_names_it(rooms: Rooms, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "countermand.server")
    caplog.handler.addFilter(mark_request)
    async with _client(rooms) as client:
        for id_ in ("one", "other"):
            await client.get("/v1/sessions/secret", headers={"x-request-id": id_})
            await client.get("/.well-known/jwks.json", headers={"x-request-id": id_})
    lines = [
        (record.getMessage(), record.__dict__["request_id"], record.__dict__["request"]) for record in caplog.records
    ]
    assert lines == [
        (message, id_, f" (request {id_})")
        for id_ in ("one", "other")
        for message in ("GET - 401", "GET /.well-known/jwks.json 200")
    ], "and none says what was asked for in the place of an id"


async def test_what_fails_for_a_reason_of_ours_is_answered_with_its_id(rooms: Rooms) -> None:
    async with _client(rooms, fails=True) as client:
        response = await client.get("/v1/sessions", headers={"x-request-id": "job-1"})
    refused(response, 500, "internal_error")
    assert response.headers["x-request-id"] == response.json()["request_id"] == "job-1"


def test_a_line_outside_a_request_names_none() -> None:
    record = logging.LogRecord("x", logging.INFO, "x", 1, "x", None, None)
    assert mark_request(record)
    assert (record.__dict__["request_id"], record.__dict__["request"]) == ("", "")
