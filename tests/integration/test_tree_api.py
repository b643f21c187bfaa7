"""The tree over HTTP: what is opened on what, what a revocation reaches, and what a dry run says beforehand."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from countermand.log.anchor import Kind, own_id
from tests.integration.admin import AUDIENCE, Admin, Json, administering
from tests.integration.problems import refused
from tests.looking import looking_into
from tests.running import Running

pytestmark = pytest.mark.anyio

ZEROS: Final = "0" * 32
NOTHING: Final = {"counts": {}, "is_whole": True}


@dataclass(frozen=True, slots=True)
class Tree:
    """A session with one derived from it, two agents on it, one below the first, and two edges between them."""

    application: str
    grant: str
    session: str
    derived: str
    first: str
    child: str
    second: str
    edge: str
    """first -> second"""
    below: str
    """started by second, under the edge"""
    next_edge: str
    """second -> child, below the edge"""


@pytest.fixture
async def tree(admin: Admin) -> Tree:
    application = await admin.application()
    grant = await admin.grant(application, "read", "write")
    session = await admin.session(application)
    first = await admin.agent(application, session_id=session)
    child = await admin.agent(application, parent_id=first)
    second = await admin.agent(application, session_id=session)
    edge = await admin.delegation(first, second, "read", depth=1)
    return Tree(
        application,
        grant,
        session,
        (await admin.make("sessions", application_id=application, parent_id=session))["id"],
        first,
        child,
        second,
        edge,
        await admin.agent(application, parent_id=second, delegation_id=edge),
        await admin.delegation(second, child, "read", parent_id=edge),
    )


def _life(made: Json) -> timedelta:
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    return expires - created


async def test_an_application_reads_back_as_it_was_made_until_it_is_revoked(admin: Admin) -> None:
    made = await admin.make("applications", name="notes")
    path = f"applications/{made['id']}"
    assert await admin.shown(path) == made
    entry = await admin.revoke("application", made["id"])
    assert await admin.shown(path) == made | {"revoked_at": entry["revoked_at"], "stands": False}


async def test_a_key_is_given_once_and_no_cache_may_keep_it(shared: Running, admin: Admin) -> None:
    application = await admin.application()
    secrets: list[str] = []
    for body in ({}, {"name": "for the night shift"}):
        response = await admin.post(f"applications/{application}/keys", **body)
        assert response.status_code == 201
        assert response.headers["cache-control"] == "no-store"
        assert set(response.json()) == {"client_id", "client_secret"}
        assert response.json()["client_id"] == application
        secrets.append(response.json()["client_secret"])
    for secret in secrets:
        caller = await shared.authority.access.authenticate(secret)
        assert (caller.role, caller.application_id) == ("application", application)
    async with looking_into(shared.data) as look:
        query = "SELECT name, created_at_ms FROM api_keys WHERE application_id = :id"
        names, made_ms = zip(*await look.execute(query, id=application), strict=True)
    assert set(names) == {"made over the admin API", "for the night shift"}
    assert all(abs(datetime.now(UTC).timestamp() * 1000 - ms) < 30_000 for ms in made_ms)


async def test_a_revoked_application_gets_no_key_and_opens_nothing(admin: Admin) -> None:
    application = await admin.application()
    session = await admin.session(application)
    await admin.revoke("application", application)
    for path, body in (
        (f"applications/{application}/keys", {}),
        ("sessions", {"application_id": application, "subject": "alice"}),
        ("agents", {"application_id": application, "name": "worker", "session_id": session}),
        ("grants", {"application_id": application, "subject": "alice", "scope": ["a"], "audience": [AUDIENCE]}),
        (f"sessions/{session}/mandates", {"audience": [AUDIENCE]}),
    ):
        refused(await admin.post(path, **body), 409, "not_active")


async def test_a_derived_session_has_the_subject_of_its_parent_and_does_not_outlive_it(admin: Admin) -> None:
    application = await admin.application()
    parent = await admin.session(application, "nightly", subject_type="application", lifetime_s=60)
    derived = await admin.make("sessions", application_id=application, parent_id=parent, lifetime_s=3600)
    assert (derived["subject"], derived["subject_type"], derived["parent_id"]) == ("nightly", "application", parent)
    assert derived["expires_at"] == (await admin.read(f"sessions/{parent}"))["expires_at"]
    assert await admin.shown(f"sessions/{derived['id']}") == derived


async def test_an_agent_lives_an_hour_unless_told_otherwise_and_reads_back_the_same(admin: Admin) -> None:
    application = await admin.application()
    session = await admin.session(application)
    agent = await admin.make("agents", application_id=application, name="Zoë's", session_id=session)
    assert agent == {
        "id": agent["id"],
        "name": "Zoë's",
        "application_id": application,
        "session_id": session,
        "parent_id": None,
        "delegation_id": None,
        "is_delegated": False,
        "created_at": agent["created_at"],
        "expires_at": agent["expires_at"],
        "revoked_at": None,
        "stands": True,
        "labels": [],
    }
    assert _life(agent) == timedelta(hours=1)
    assert await admin.shown(f"agents/{agent['id']}") == agent
    child = await admin.make("agents", application_id=application, name="b", parent_id=agent["id"], lifetime_s=60)
    assert (child["session_id"], child["parent_id"], _life(child)) == (session, agent["id"], timedelta(minutes=1))


async def test_an_agent_is_delegated_while_it_holds_an_edge_that_stands(admin: Admin, tree: Tree) -> None:
    assert not (await admin.read(f"agents/{tree.first}"))["is_delegated"]
    assert (await admin.read(f"agents/{tree.second}"))["is_delegated"]
    await admin.revoke("delegation", tree.edge)
    agent = await admin.read(f"agents/{tree.second}")
    assert (agent["is_delegated"], agent["revoked_at"]) == (False, None), "its other authority is its own"


async def test_a_grant_lives_a_year_unless_told_otherwise_and_reads_back_the_same(admin: Admin) -> None:
    application = await admin.application()
    asked = {"subject": "alice", "scope": ["b", "a", "a"], "audience": ["https://b.example", AUDIENCE]}
    grant = await admin.make("grants", application_id=application, **asked)
    assert grant == {
        "id": grant["id"],
        "subject": "alice",
        "application_id": application,
        "scope": ["a", "b"],
        "audience": [AUDIENCE, "https://b.example"],
        "created_at": grant["created_at"],
        "expires_at": grant["expires_at"],
        "closed_at": None,
        "revoked_at": None,
        "stands": True,
        "labels": [],
    }
    assert _life(grant) == timedelta(days=365)
    assert await admin.shown(f"grants/{grant['id']}") == grant


async def test_a_closed_grant_is_good_for_nothing_new_and_ends_nothing(admin: Admin, tree: Tree) -> None:
    before = await admin.seq()
    responses = [await admin.post(f"grants/{tree.grant}/close") for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[0].json() == responses[1].json() == await admin.shown(f"grants/{tree.grant}")
    assert responses[0].json()["closed_at"] is not None
    assert responses[0].json()["revoked_at"] is None
    assert await admin.seq() == before, "it is no revocation"
    nodes = (await admin.read(f"tree/{tree.session}"))["nodes"]
    assert all(node["stands"] for node in nodes)
    fields = {"scope": ["read"], "audience": [AUDIENCE]}
    response = await admin.post("delegations", source_id=tree.first, target_id=tree.second, **fields)
    refused(response, 403, "invalid_target")


async def test_a_delegation_reads_back_as_it_was_made(admin: Admin, tree: Tree) -> None:
    asked = {"scope": ["write", "read"], "audience": [AUDIENCE]}
    edge = await admin.make("delegations", source_id=tree.first, target_id=tree.second, depth=2, **asked)
    assert edge == {
        "id": edge["id"],
        "source_id": tree.first,
        "target_id": tree.second,
        "parent_id": None,
        "grant_id": tree.grant,
        "scope": ["read", "write"],
        "audience": [AUDIENCE],
        "depth": 2,
        "created_at": edge["created_at"],
        "expires_at": edge["expires_at"],
        "revoked_at": None,
        "stands": True,
        "labels": [],
    }
    source = await admin.read(f"agents/{tree.first}")
    assert edge["expires_at"] == source["expires_at"], "it does not outlive its source"
    assert await admin.shown(f"delegations/{edge['id']}") == edge
    below = await admin.read(f"delegations/{tree.next_edge}")
    assert (below["parent_id"], below["depth"], below["grant_id"]) == (tree.edge, 0, tree.grant)


GROWING: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "another scope than the grant's": ({"scope": ["read", "admin"]}, "invalid_scope"),
    "another audience than the grant's": ({"audience": ["https://b.example"]}, "invalid_target"),
    "another scope than the parent's": (
        {"parent_id": "edge", "source_id": "second", "scope": ["write"]},
        "invalid_scope",
    ),
    "as many below as the parent has": ({"parent_id": "edge", "source_id": "second", "depth": 1}, "exceeds_authority"),
    "below an edge of another": ({"parent_id": "edge", "source_id": "first"}, "exceeds_authority"),
    "past the edge it was started under": ({"source_id": "below"}, "exceeds_authority"),
}


@pytest.mark.parametrize(("changes", "code"), GROWING.values(), ids=GROWING)
async def test_a_delegation_never_hands_on_more_than_there_is(
    admin: Admin, tree: Tree, changes: dict[str, Any], code: str
) -> None:
    body = {"source_id": tree.first, "target_id": tree.child, "scope": ["read"], "audience": [AUDIENCE]}
    named = {name: getattr(tree, value) if isinstance(value, str) else value for name, value in changes.items()}
    refused(await admin.post("delegations", **(body | named)), 403, code)


async def test_an_agent_starts_another_only_under_an_edge_that_it_holds(admin: Admin, tree: Tree) -> None:
    fields = {"application_id": tree.application, "name": "worker", "delegation_id": tree.edge}
    refused(await admin.post("agents", parent_id=tree.first, **fields), 403, "exceeds_authority")
    refused(await admin.post("agents", session_id=tree.session, **fields), 422, "invalid_value")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sessions", {"application_id": "application"}),
        ("sessions", {"application_id": "application", "subject": "alice", "parent_id": "session"}),
        ("agents", {"application_id": "application", "name": "worker"}),
        ("agents", {"application_id": "application", "name": "w", "session_id": "session", "parent_id": "first"}),
        ("delegations", {"source_id": "first", "target_id": "first", "scope": ["read"], "audience": [AUDIENCE]}),
    ],
)
async def test_what_contradicts_itself_is_refused(admin: Admin, tree: Tree, path: str, body: dict[str, Any]) -> None:
    named = {name: getattr(tree, str(value), value) for name, value in body.items()}
    refused(await admin.post(path, **named), 422, "invalid_value")


READ: Final = {
    "applications": "application",
    "sessions": "session",
    "agents": "first",
    "grants": "grant",
    "delegations": "edge",
}


@pytest.mark.parametrize("kind", READ)
async def test_an_id_of_another_kind_is_not_found(admin: Admin, tree: Tree, kind: str) -> None:
    await admin.read(f"{kind}/{getattr(tree, READ[kind])}")
    for id_ in ("nothing", *(getattr(tree, field) for other, field in READ.items() if other != kind)):
        refused(await admin.get(f"{kind}/{id_}"), 404, "not_found")


@pytest.mark.parametrize("prefix", ["app_", "ses_", "agt_", "grt_", "edg_", "tok_", "xyz_"])
async def test_an_unknown_id_of_any_kind_is_not_found(admin: Admin, prefix: str) -> None:
    id_ = prefix + ZEROS
    for path in ("tree", *READ):
        refused(await admin.get(f"{path}/{id_}"), 404, "not_found")
    refused(await admin.post(f"grants/{id_}/close"), 404, "not_found")
    refused(await admin.post(f"applications/{id_}/keys"), 404, "not_found")
    for kind in ("application", "session", "agent", "grant", "delegation"):
        for dry_run in (False, True):
            response = await admin.post("revocations", kind=kind, id=id_, dry_run=dry_run)
            refused(response, 404, "not_found")


async def test_the_tree_shows_what_rests_on_an_anchor_and_what_of_it_stands(admin: Admin, tree: Tree) -> None:
    whole = await admin.read(f"tree/{tree.session}")
    assert whole["is_whole"]
    nodes = {node["id"]: node for node in whole["nodes"]}
    assert {id_: (node["kind"], node["parent_id"]) for id_, node in nodes.items()} == {
        tree.session: ("session", None),
        tree.derived: ("session", tree.session),
        tree.first: ("agent", tree.session),
        tree.child: ("agent", tree.first),
        tree.second: ("agent", tree.session),
        tree.edge: ("delegation", tree.first),
        tree.below: ("agent", tree.edge),
        tree.next_edge: ("delegation", tree.edge),
    }
    assert all(set(node) == set(nodes[tree.session]) for node in whole["nodes"])
    assert set(nodes[tree.edge]) == {
        *("id", "kind", "name", "parent_id", "target_id", "expires_at", "revoked_at", "stands")
    }
    assert (nodes[tree.edge]["target_id"], nodes[tree.session]["name"]) == (tree.second, "alice")
    assert nodes[tree.first]["expires_at"] == (await admin.read(f"agents/{tree.first}"))["expires_at"]

    entry = await admin.revoke("agent", tree.first)
    nodes = {node["id"]: node for node in (await admin.read(f"tree/{tree.session}"))["nodes"]}
    assert {id_ for id_, node in nodes.items() if node["stands"]} == {tree.session, tree.derived, tree.second}
    assert [id_ for id_, node in nodes.items() if node["revoked_at"]] == [tree.first], "one entry, and one row"
    assert nodes[tree.first]["revoked_at"] == entry["revoked_at"]
    of_application = await admin.read(f"tree/{tree.application}")
    assert of_application["nodes"][0]["expires_at"] is None
    assert {tree.grant, *nodes} < {node["id"] for node in of_application["nodes"]}


REACHED: Final = {
    "application": {"application": 1, "grant": 1, "session": 2, "agent": 4, "delegation": 2},
    "session": {"session": 2, "agent": 4, "delegation": 2},
    "grant": {"grant": 1, "agent": 1, "delegation": 2},
    "agent": {"agent": 3, "delegation": 2},
    "delegation": {"delegation": 2, "agent": 1},
}


@pytest.mark.parametrize("kind", REACHED)
async def test_a_dry_run_appends_nothing_and_says_what_the_revocation_then_does(
    admin: Admin, tree: Tree, kind: str
) -> None:
    id_ = {"agent": tree.first, "delegation": tree.edge}.get(kind) or getattr(tree, kind)
    seq = await admin.seq()
    tried = await admin.post("revocations", kind=kind, id=id_, reason="because", dry_run=True)
    assert tried.status_code == 200
    assert tried.json() == {"dry_run": True, "seq": seq, "reach": {"counts": REACHED[kind], "is_whole": True}}
    assert await admin.seq() == seq

    done = await admin.revoke(kind, id_, reason="because")
    assert done == {
        "seq": seq + 1,
        "generation": 1,
        "kind": kind,
        "id": id_,
        "issuer": "",
        "reason": "because",
        "revoked_at": done["revoked_at"],
        "is_new": True,
        "reach": tried.json()["reach"],
    }
    assert await admin.seq() == seq + 1, "one entry, whatever it ends"

    again = await admin.post("revocations", kind=kind, id=id_, reason="another")
    assert again.status_code == 200
    assert again.json() == done | {"is_new": False, "reach": NOTHING}
    tried = await admin.post("revocations", kind=kind, id=id_, dry_run=True)
    assert tried.json() == {"dry_run": True, "seq": seq + 1, "reach": NOTHING}
    assert await admin.seq() == seq + 1


def _own(kind: Kind) -> str:
    return own_id(kind, os.urandom(16))


UNKEPT: Final[dict[str, dict[str, Any]]] = {
    "a token of ours": {"kind": "token"},
    "a token of ours, called bare": {"kind": "token", "bare": True},
    **{
        f"a foreign {kind}": {"kind": kind, "issuer": "https://other.example"}
        for kind in ("token", "subject", "application", "key")
    },
    **{f"a bare {kind}": {"kind": kind, "bare": True} for kind in ("session", "agent", "delegation", "token")},
}


@pytest.mark.parametrize("fields", UNKEPT.values(), ids=UNKEPT)
async def test_an_id_of_which_nothing_is_kept_is_revoked_unseen(admin: Admin, fields: dict[str, Any]) -> None:
    id_ = _own(Kind.TOKEN) if fields == {"kind": "token"} else f"theirs-{os.urandom(8).hex()}"
    seq = await admin.seq()
    tried = await admin.post("revocations", id=id_, reason="because", dry_run=True, **fields)
    assert tried.status_code == 200
    assert tried.json() == {"dry_run": True, "seq": seq, "reach": NOTHING}
    assert await admin.seq() == seq

    done = await admin.make("revocations", id=id_, reason="because", **fields)
    assert (done["seq"], done["kind"], done["id"], done["is_new"]) == (seq + 1, fields["kind"], id_, True)
    assert (done["issuer"], done["reason"], done["reach"]) == (fields.get("issuer", ""), "because", NOTHING)
    again = await admin.post("revocations", id=id_, **fields)
    assert (again.status_code, again.json()) == (200, done | {"is_new": False})
    assert await admin.seq() == seq + 1


REFUSED: Final[dict[str, dict[str, Any]]] = {
    "a token that is not ours, of nobody": {"kind": "token", "id": "theirs"},
    "a token nearly of ours": {"kind": "token", "id": f"tok_{ZEROS[:-1]}F"},
    "a subject of nobody": {"kind": "subject", "id": "alice"},
    "a key of nobody": {"kind": "key", "id": "k1"},
    "bare and with an issuer": {"kind": "token", "id": "theirs", "bare": True, "issuer": "https://other.example"},
    "a bare grant": {"kind": "grant", "id": "theirs", "bare": True},
    "a bare application": {"kind": "application", "id": "theirs", "bare": True},
    "a bare subject": {"kind": "subject", "id": "alice", "bare": True},
    "a session of ours, called bare": {"kind": "session", "id": f"ses_{ZEROS}", "bare": True},
    "a foreign session": {"kind": "session", "id": "theirs", "issuer": "https://other.example"},
    "a foreign grant": {"kind": "grant", "id": "theirs", "issuer": "https://other.example"},
    "an empty id": {"kind": "token", "id": "", "bare": True},
    "an id of two lines": {"kind": "token", "id": "a\nb", "bare": True},
    "a long id": {"kind": "token", "id": "x" * 513, "bare": True},
    "a long issuer": {"kind": "token", "id": "theirs", "issuer": "x" * 513},
    "a long reason": {"kind": "token", "id": "theirs", "bare": True, "reason": "x" * 513},
    "a cutoff": {"kind": "cutoff", "id": "all"},
    "a biscuit": {"kind": "biscuit", "id": "00", "bare": True},
    "a number as a kind": {"kind": 1, "id": "theirs"},
}


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
async def test_what_no_token_could_carry_is_not_revoked_and_not_tried(
    admin: Admin, body: dict[str, Any], dry_run: bool
) -> None:
    seq = await admin.seq()
    detail = refused(await admin.post("revocations", dry_run=dry_run, **body), 422, "invalid_value")
    assert await admin.seq() == seq
    if body["kind"] == "token" and set(body) == {"kind", "id"}:
        assert "bare" in detail, "it says what is missing"


@pytest.mark.parametrize("of", ["application", "subject"])
async def test_a_cutoff_ends_what_was_opened_for_its_target_and_its_dry_run_says_so(admin: Admin, of: str) -> None:
    subject = f"alice-{os.urandom(4).hex()}"
    application = await admin.application()
    session = await admin.session(application, subject)
    await admin.agent(application, session_id=session)
    other = await admin.session(await admin.application(), "bob")
    target = f"application:{application}" if of == "application" else f"subject:{subject}"
    seq = await admin.seq()
    tried = await admin.post("cutoffs", target=target, dry_run=True)
    assert tried.status_code == 200
    expected = {"counts": {"session": 1, "agent": 1}, "is_whole": True}
    assert tried.json() == {"dry_run": True, "seq": seq, "reach": expected}

    done = await admin.make("cutoffs", target=target, reason="because")
    assert done == {
        "seq": seq + 1,
        "generation": 1,
        "kind": "cutoff",
        "id": target,
        "issuer": "",
        "reason": "because",
        "revoked_at": done["revoked_at"],
        "is_new": True,
        "reach": expected,
    }
    agent = {"application_id": application, "name": "worker"}
    refused(await admin.post("agents", session_id=session, **agent), 409, "not_active")
    await admin.agent(application, session_id=other)
    later = await admin.session(application, subject)
    await admin.agent(application, session_id=later)
    assert (await admin.make("cutoffs", target=target))["seq"] == seq + 2, "what was opened since is cut off, too"


async def test_a_cutoff_for_everyone_ends_everything(running: Running) -> None:
    async with administering(running) as admin:
        application = await admin.application()
        sessions = [await admin.session(application, subject) for subject in ("alice", "bob")]
        tried = await admin.post("cutoffs", target="all", dry_run=True)
        done = await admin.make("cutoffs", target="all")
        assert done["reach"] == tried.json()["reach"] == {"counts": {"session": 2}, "is_whole": True}
        for session in sessions:
            refused(await admin.post(f"sessions/{session}/mandates", audience=[AUDIENCE]), 409, "not_active")


async def test_a_cutoff_of_another_issuer_reaches_nothing_of_ours(admin: Admin, tree: Tree) -> None:
    body = {"target": f"application:{tree.application}", "issuer": "https://other.example"}
    tried = await admin.post("cutoffs", dry_run=True, **body)
    done = await admin.make("cutoffs", **body)
    assert done["reach"] == tried.json()["reach"] == NOTHING
    assert done["issuer"] == "https://other.example"
    await admin.agent(tree.application, session_id=tree.session)


@pytest.mark.parametrize("offset_h", [0, 2, -14])
async def test_a_cutoff_for_an_earlier_time_spares_what_was_opened_after_it(admin: Admin, offset_h: int) -> None:
    application = await admin.application()
    opened = await admin.make("sessions", application_id=application, subject="alice")
    created = datetime.fromisoformat(opened["created_at"])
    target = f"application:{application}"
    counts = []
    for before in (created - timedelta(milliseconds=1), created - timedelta(microseconds=999), created):
        text = (before + timedelta(hours=offset_h)).isoformat("T", "microseconds")[:-6]
        text += "z" if offset_h == 0 else f"{offset_h:+03}:00"
        tried = await admin.post("cutoffs", target=target, issued_before=text, dry_run=True)
        done = await admin.make("cutoffs", target=target, issued_before=text)
        assert tried.json()["reach"] == done["reach"]
        counts.append(done["reach"]["counts"])
    assert counts == [{}, {"session": 1}, {}], "a part of a millisecond is a whole one, and what is ended ends once"


async def test_a_cutoff_in_the_time_to_come_is_refused(admin: Admin) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    for dry_run in (False, True):
        response = await admin.post("cutoffs", target="subject:nobody", issued_before=tomorrow, dry_run=dry_run)
        refused(response, 422, "invalid_value")


@pytest.mark.parametrize("path", ["revocations", "cutoffs"])
async def test_a_dry_run_refuses_a_reason_that_the_ledger_may_not_hold(admin: Admin, tree: Tree, path: str) -> None:
    of = {"kind": "session", "id": tree.session} if path == "revocations" else {"target": "subject:nobody"}
    for dry_run in (False, True):
        refused(await admin.post(path, reason="a\nb", dry_run=dry_run, **of), 422, "invalid_value")
