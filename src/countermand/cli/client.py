"""The authority's HTTP API as the command line uses it: as an administrator, and as an application."""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import httpx2

from countermand.errors import (
    BadAnswerError,
    InvalidValueError,
    NotFoundError,
    RefusedError,
    UnknownTokenKeyError,
    UnreachableError,
)
from countermand.log.audit import ChainedRow, Seal, parse_chained, parse_seal
from countermand.settings import ClientSettings
from countermand.transport.http import check_api_key, check_url, is_exposed, open_client

TIMEOUT_S: Final = 10.0
RECOVERY_S: Final = 600.0
"""For all that witnesses hold to be read, and what was lost to be appended."""
AUDIT_PAGE: Final = 1_000
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name of RFC 8693 §3
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name of RFC 8693 §2.1
_KEY: Final = ("id", "purpose", "state", "switch_at")

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
        async with open_client(TIMEOUT_S, url=url, headers=headers) as client:
            yield cls(client)

    async def revoke(
        self,
        kind: str,
        id_: str,
        reason: str = "",
        *,
        issuer: str = "",
        bare: bool = False,
        dry_run: bool = False,
        wait_s: float | None = None,
    ) -> dict[str, Any]:
        """Revoke, and return the entry with what it reached; of a dry run, what it would reach.

        With `wait_s` its `receipt` as well, once all replicas enforce it or after so long, if that can be found out.
        """
        named = {"kind": kind, "id": id_}
        options = _given(reason=reason, issuer=issuer, bare=bare, dry_run=dry_run)
        return await self._call("POST", "/v1/revocations", "seq", "reach", json=named | options, **_waiting(wait_s))

    async def revoke_biscuit(
        self,
        token: str,
        block: int | None = None,
        reason: str = "",
        *,
        dry_run: bool = False,
        wait_s: float | None = None,
    ) -> dict[str, Any]:
        """Revoke a block of a Biscuit that the authority verifies; the last, if none is named. Return as `revoke` does.

        Raises:
            UnknownTokenKeyError: it has no key with which to verify it, and nothing was done.
        """
        body = {"token": token} | ({} if block is None else {"block": block}) | _given(reason=reason, dry_run=dry_run)
        return await self._call("POST", "/v1/biscuit/revocations", "seq", "reach", json=body, **_waiting(wait_s))

    async def close_grant(self, id_: str) -> dict[str, Any]:
        """Close a grant for the future, and return it."""
        return await self._post(f"/v1/grants/{_quoted(id_)}/close", {}, "id", "revoked_at")

    async def cut_off(
        self,
        target: str,
        *,
        before: datetime | None = None,
        issuer: str = "",
        reason: str = "",
        dry_run: bool = False,
        wait_s: float | None = None,
    ) -> dict[str, Any]:
        """End what was issued to `target` until now, or until `before`. Return as `revoke` does."""
        issued_before = before.isoformat() if before else None
        options = _given(issued_before=issued_before, issuer=issuer, reason=reason, dry_run=dry_run)
        body = {"target": target} | options
        return await self._call("POST", "/v1/cutoffs", "seq", "reach", json=body, **_waiting(wait_s))

    async def recover(self, *, keep_sessions: bool, force: bool, dry_run: bool) -> dict[str, Any]:
        """Take up a disputed ledger again; return what was found and done."""
        body = {"keep_sessions": keep_sessions, "force": force, "dry_run": dry_run}
        return await self._call("POST", "/v1/ledger/recovery", "begun", "witnesses", json=body, timeout=RECOVERY_S)

    async def sessions(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield every subject session, newest first, page by page."""
        place: dict[str, str] = {}
        while True:
            answer = await self._call("GET", "/v1/sessions", "items", "next", params=place)
            yield answer["items"]
            if answer["next"] is None:
                return
            place = {"after": answer["next"]}

    async def audit(self, after: int = 0) -> AsyncIterator[list[ChainedRow | Seal]]:
        """Yield every change after number `after`, page by page, each seal behind the row that it signs."""
        following: int | None = after
        while following is not None:
            params = {"after": following, "limit": AUDIT_PAGE}
            answer = await self._call("GET", "/v1/audit", "rows", "seals", "next", params=params)
            rows, seals = map(parse_chained, answer["rows"]), map(parse_seal, answer["seals"])
            records: list[ChainedRow | Seal] = [*rows, *seals]
            yield sorted(records, key=lambda record: record.place)
            following = answer["next"]

    async def api_keys(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield every key for the API, page by page; none of them whole."""
        after = ""
        while True:
            answer = await self._call("GET", "/v1/keys", "items", "next", params={"after": after})
            yield answer["items"]
            if answer["next"] is None:
                return
            after = answer["next"]

    async def create_api_key(self, role: str, name: str, lifetime_s: int | None = None) -> str:
        """Return a new key for the API; it is not seen again."""
        body = {"role": role, "name": name}
        return str((await self._post("/v1/keys", body, "secret", lifetime_s=lifetime_s))["secret"])

    async def revoke_api_key(self, id_: str, reason: str = "") -> dict[str, Any]:
        """Revoke a key for the API, and return it."""
        return await self._post(f"/v1/keys/{_quoted(id_)}/revoke", {}, "id", "revoked_at", reason=reason)

    async def tree(self, id_: str) -> dict[str, Any]:
        """Return an anchor and what rests on it: `nodes`, ancestors first, and whether that `is_whole`."""
        return await self._call("GET", f"/v1/tree/{_quoted(id_)}", "nodes", "is_whole")

    async def replicas(self) -> dict[str, Any]:
        """Return the last report of each replica as `items`, the newest first."""
        return await self._call("GET", "/v1/replicas", "items")

    async def revocation(self, seq: int) -> dict[str, Any]:
        """Return an entry of the ledger."""
        return await self._call("GET", f"/v1/revocations/{seq}", "kind", "id", "issuer", "reason")

    async def receipt(self, seq: int, wait_s: float) -> dict[str, Any]:
        """Return who enforces an entry, once all replicas do or after so long."""
        return await self._call("GET", f"/v1/revocations/{seq}/receipt", "of", "is_enforced", **_waiting(wait_s))

    async def signing_keys(self) -> dict[str, Any]:
        """Return the signing `keys`, the version of the newest `keyset`, and the `pin` of a new replica."""
        return await self._call("GET", "/v1/signing-keys", "keys", "keyset", "pin")

    async def rotate_signing_key(self, purpose: str, *, wait_s: int | None, force: bool) -> dict[str, Any]:
        """Put a new key in the place of the one that signs, and return it."""
        body = {"purpose": purpose} | ({} if wait_s is None else {"wait_s": wait_s})
        return await self._post("/v1/signing-keys/rotate", body, *_KEY, force=force)

    async def withdraw_signing_key(self, id_: str, reason: str) -> dict[str, Any]:
        """Let nobody believe a key any more, and return it."""
        return await self._post(f"/v1/signing-keys/{_quoted(id_)}/withdraw", {}, *_KEY, reason=reason)

    async def create_application(self, name: str) -> dict[str, Any]:
        """Register an application."""
        return await self._post("/v1/applications", {"name": name}, "id")

    async def create_key(self, application_id: str) -> str:
        """Return a new key for an application; it is not seen again."""
        answer = await self._post(f"/v1/applications/{_quoted(application_id)}/keys", {}, "client_secret")
        return str(answer["client_secret"])

    async def create_grant(
        self, application_id: str, subject: str, scope: Sequence[str], audience: str
    ) -> dict[str, Any]:
        """Give an application a subject's leave."""
        body = {"application_id": application_id, "subject": subject, "scope": list(scope), "audience": [audience]}
        return await self._post("/v1/grants", body, "id")

    async def open_session(self, application_id: str, subject: str) -> dict[str, Any]:
        """Open a subject session for a user."""
        return await self._post("/v1/sessions", {"application_id": application_id, "subject": subject}, "id")

    async def start_agent(
        self,
        application_id: str,
        name: str,
        lifetime_s: int,
        *,
        session_id: str | None = None,
        parent_id: str | None = None,
        delegation_id: str | None = None,
    ) -> dict[str, Any]:
        """Start an agent on a session, or by another agent, which may do so by a delegation."""
        body = {"application_id": application_id, "name": name, "lifetime_s": lifetime_s}
        return await self._post(
            "/v1/agents", body, "id", session_id=session_id, parent_id=parent_id, delegation_id=delegation_id
        )

    async def delegate(
        self,
        source_id: str,
        target_id: str,
        scope: Sequence[str],
        audience: str,
        lifetime_s: int,
        *,
        depth: int = 0,
        parent_id: str | None = None,
    ) -> dict[str, Any]:
        """Hand an agent a part of what another has."""
        ends = {"source_id": source_id, "target_id": target_id}
        what = {"scope": list(scope), "audience": [audience], "lifetime_s": lifetime_s}
        return await self._post("/v1/delegations", ends | what, "id", depth=depth, parent_id=parent_id)

    async def issue_mandate(self, session_id: str, audience: str, scope: Sequence[str] = ()) -> str:
        """Return a new mandate on a session."""
        body = {"audience": [audience]}
        answer = await self._post(
            f"/v1/sessions/{_quoted(session_id)}/mandates", body, "access_token", scope=list(scope)
        )
        return str(answer["access_token"])

    async def _post(self, path: str, body: dict[str, Any], *gives: str, **options: object) -> dict[str, Any]:
        return await self._call("POST", path, *gives, json=body | _given(**options))

    async def _call(self, method: str, path: str, *gives: str, **request: Any) -> dict[str, Any]:
        """Return the answer, which has the fields that the call `gives`."""
        response = await _answer(self._client, method, path, **request)
        answer = _object(response)
        if response.is_success:
            return _with(answer, gives, response)
        sentence = str(answer.get("detail", f"it answered {response.status_code}"))
        if response.status_code in {401, 403}:
            raise RefusedError(sentence)
        if response.status_code == 404:
            raise NotFoundError(sentence)
        if answer.get("code") == UnknownTokenKeyError.code:
            raise UnknownTokenKeyError(sentence)
        raise BadAnswerError(sentence)


class ApplicationClient:
    """An application with its key, at the token endpoint of one authority."""

    def __init__(self, client: httpx2.AsyncClient, id_: str, secret: str) -> None:
        self.id = id_
        self._client = client
        self._credentials = httpx2.BasicAuth(quote(id_, safe=""), quote(secret, safe=""))  # RFC 6749 §2.3.1

    @classmethod
    @asynccontextmanager
    async def open_all(cls, url: str, secrets: Iterable[tuple[str, str]]) -> AsyncIterator[list["ApplicationClient"]]:
        """Give a client for each application, from its id and its key."""
        async with open_client(TIMEOUT_S, url=url) as client:
            yield [cls(client, id_, secret) for id_, secret in secrets]

    async def exchange(
        self, token: str, audience: str, *, agent_id: str | None = None, delegation_id: str | None = None
    ) -> str:
        """Return the mandate that is had for another (RFC 8693 §2).

        Raises:
            RefusedError: it is not to be had.
            UnreachableError, BadAnswerError: no answer, or none that we can use.
        """
        form = {
            "grant_type": TOKEN_EXCHANGE,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
            "audience": audience,
            "agent_session_id": agent_id,
            "delegation_edge_id": delegation_id,
        }
        given = {name: value for name, value in form.items() if value is not None}
        response = await _answer(self._client, "POST", "/oauth2/token", data=given, auth=self._credentials)
        answer = _object(response)
        if response.is_success:
            return str(_with(answer, ["access_token"], response)["access_token"])
        sentence = f"{answer.get('error')}: {answer.get('error_description', 'without a word')}"
        raise RefusedError(sentence) if response.status_code < 500 else BadAnswerError(sentence)


async def _answer(client: httpx2.AsyncClient, method: str, path: str, **request: Any) -> httpx2.Response:
    try:
        return await client.request(method, path, **request)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UnreachableError(f"{client.base_url} did not answer: {type(error).__name__}") from error
    except UnicodeEncodeError:
        raise InvalidValueError("what was given is not valid Unicode") from None


def _object(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise BadAnswerError(f"{response.url} is not an authority: it answered {response.status_code}")
    return answer


def _with(answer: dict[str, Any], gives: Iterable[str], response: httpx2.Response) -> dict[str, Any]:
    for name in gives:
        if name not in answer:
            raise BadAnswerError(f"{response.url} is not an authority that this program knows: it gave no {name}")
    return answer


def _given(**options: object) -> dict[str, object]:
    """Options that are empty are left out: the API's own defaults hold."""
    return {name: value for name, value in options.items() if value}


def _waiting(wait_s: float | None) -> dict[str, Any]:
    """Return what a request is given that is answered only after so long."""
    return {} if wait_s is None else {"params": {"wait": wait_s}, "timeout": TIMEOUT_S + wait_s}


def _quoted(id_: str) -> str:
    return quote(id_, safe="", errors="replace")  # what is no Unicode is no id either
