"""The tree as it is drawn, and a revocation's reach in words."""

from typing import Any

from rich.console import Console

from countermand.cli.looking import draw
from countermand.cli.revoking import counted

PAST, AHEAD = "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"


def node(id_: str, parent_id: str | None = None, **more: Any) -> dict[str, Any]:
    usual = {"kind": "agent", "name": id_, "target_id": None, "expires_at": AHEAD, "revoked_at": None, "stands": True}
    return {"id": id_, "parent_id": parent_id} | usual | more


def lines(*nodes: dict[str, Any], colours: bool = False) -> list[str]:
    console = Console(width=200, force_terminal=colours, color_system="standard" if colours else None)
    with console.capture() as captured:
        console.print(draw(nodes))
    return captured.get().splitlines()


def test_how_a_node_ended_is_said_in_words() -> None:
    drawn = lines(
        node("a"),
        node("b", "a", stands=False, revoked_at=PAST),
        node("c", "b", stands=False),
        node("d", "a", stands=False, expires_at=PAST),
        node("e", "a", expires_at=None),
    )
    assert [line.lstrip("└├─│ ") for line in drawn] == [
        "agent a a",
        "agent b b  revoked",
        "agent c c  ended",
        "agent d d  expired",
        "agent e e",
    ]


def test_what_has_ended_is_struck_out_and_what_stands_is_not() -> None:
    stands, ended = lines(node("a"), node("b", "a", stands=False, revoked_at=PAST), colours=True)
    assert "\x1b[" not in stands
    assert "\x1b[2;9magent b b\x1b[0m" in ended


def test_a_strangers_name_stays_in_its_place() -> None:
    (line,) = lines(node("a", name="x\n└── agent root\x1b[2K [red]:heart:"))
    assert line == "agent x\\n└── agent root\\x1b[2K [red]:heart: a"


def test_a_receiver_is_named_where_it_is_in_the_tree_and_else_by_its_whole_id() -> None:
    long, other = "agt_" + "1" * 32, "agt_" + "2" * 32
    _, inside, outside = lines(
        node(long, name="reader"),
        node("edg_1", long, kind="delegation", name="", target_id=long),
        node("edg_2", long, kind="delegation", name="", target_id=other),
    )
    assert inside.endswith("delegation edg_1 → reader agt_11111111…")
    assert outside.endswith(f"delegation edg_2 → {other}")


def test_a_reach_is_counted_by_kind_and_a_part_of_it_is_said_to_be_one() -> None:
    assert counted({"counts": {"agent": 1, "delegation": 2_000}, "is_whole": True}) == "1 agent and 2,000 delegations"
    assert counted({"counts": {"agent": 20_000}, "is_whole": False}) == "at least 20,000 agents"
    assert counted({"counts": {"agent": 0}, "is_whole": True}) == "nothing still standing"
    assert counted({"counts": {}, "is_whole": True}) == "nothing still standing"
