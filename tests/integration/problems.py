"""What every refusal over HTTP must look like."""

import httpx2

_MEMBERS = {"title", "status", "code", "detail"}


def refused(response: httpx2.Response, status: int | None = None, code: str | None = None) -> str:
    """Check that `response` is a problem document, with this status and code; return its sentence."""
    assert response.headers.get("content-type") == "application/problem+json", response.text
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == _MEMBERS
    assert body["status"] == response.status_code
    assert all(isinstance(body[name], str) and body[name] for name in _MEMBERS - {"status"})
    assert "Traceback" not in response.text
    assert status in {None, response.status_code}, response.text
    assert code in {None, body["code"]}, response.text
    return str(body["detail"])


def refused_as_input(response: httpx2.Response) -> str:
    """Check that `response` blames the caller, in a problem document; return its sentence."""
    assert 400 <= response.status_code < 500, response.text
    return refused(response)
