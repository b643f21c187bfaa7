"""What every refusal over HTTP must look like."""

import re

import httpx2

_MEMBERS = {"type", "title", "status", "code", "detail"}
_DESCRIPTION = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+")


def refused(response: httpx2.Response, status: int | None = None, code: str | None = None) -> str:
    """Check that `response` is a problem document, with this status and code; return its sentence."""
    assert response.headers.get("content-type") == "application/problem+json", response.text
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert body.pop("request_id", None) == response.headers.get("x-request-id"), response.text
    assert set(body) == _MEMBERS
    assert body["status"] == response.status_code
    assert body["type"] == f"urn:countermand:problem:{body['code']}"
    assert all(isinstance(body[name], str) and body[name] for name in _MEMBERS - {"status"})
    assert "Traceback" not in response.text
    assert status in {None, response.status_code}, response.text
    assert code in {None, body["code"]}, response.text
    return str(body["detail"])


def refused_as_input(response: httpx2.Response) -> str:
    """Check that `response` blames the caller, in a problem document; return its sentence."""
    assert 400 <= response.status_code < 500, response.text
    return refused(response)


def refused_by_oauth(response: httpx2.Response, status: int | None = None, code: str | None = None) -> str:
    """Check that `response` refuses as RFC 6749 §5.2 says, with this status and code; return its sentence."""
    assert response.headers.get("content-type") == "application/json", response.text
    assert (response.headers["cache-control"], response.headers["pragma"]) == ("no-store", "no-cache")
    body = response.json()
    assert set(body) == {"error", "error_description"}
    assert _DESCRIPTION.fullmatch(body["error_description"]), response.text
    assert ("www-authenticate" in response.headers) == (response.status_code == 401)
    assert status in {None, response.status_code}, response.text
    assert code in {None, body["error"]}, response.text
    return str(body["error_description"])
