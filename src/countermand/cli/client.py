"""The admin API as the command line uses it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2

from countermand.errors import BadAnswerError, NotFoundError, RefusedError, UnreachableError
from countermand.settings import ClientSettings
from countermand.transport.http import check_api_key, check_url, is_exposed

TIMEOUT_S: Final = 10.0

_log = logging.getLogger(__name__)


class AuthorityClient:
    """Calls one authority with one API key. Every method raises only errors of our tree."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ClientSettings) -> AsyncIterator["AuthorityClient"]:
        """Give a client for the authority that `settings` name. Raises: ConfigurationError."""
        url = check_url(settings.url, "the authority's URL")
        if is_exposed(url):
            _log.warning("%s is not on https: whoever is on the way can read the API key", url)
        headers = {"authorization": f"Bearer {check_api_key(settings.api_key)}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as client:
            yield cls(client)

    async def revoke(self, kind: str, id_: str, reason: str) -> dict[str, Any]:
        """Revoke, and return the entry: `seq`, `kind`, `id`, `reason`, `revoked_at`, `is_new`."""
        return await self._call("POST", "/v1/revocations", {"kind": kind, "id": id_, "reason": reason})

    async def create_application(self, name: str) -> dict[str, Any]:
        """Register an application."""
        return await self._call("POST", "/v1/applications", {"name": name})

    async def open_session(self, application_id: str, subject: str) -> dict[str, Any]:
        """Open a subject session for a user."""
        return await self._call("POST", "/v1/sessions", {"application_id": application_id, "subject": subject})

    async def issue_mandate(self, session_id: str, audience: str) -> str:
        """Return a new mandate on a session."""
        answer = await self._call("POST", f"/v1/sessions/{session_id}/mandates", {"audience": [audience]})
        return str(answer["access_token"])

    async def _call(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, json=body)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UnreachableError(f"{self._client.base_url} did not answer: {type(error).__name__}") from error
        answer = _object(response)
        if response.is_success:
            return answer
        sentence = str(answer.get("detail", f"it answered {response.status_code}"))
        if response.status_code in {401, 403}:
            raise RefusedError(sentence)
        if response.status_code == 404:
            raise NotFoundError(sentence)
        raise BadAnswerError(sentence)


def _object(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise BadAnswerError(f"{response.url} is not an authority: it answered {response.status_code}")
    return answer
