"""What Redis may do, and who else may write to it: every fault as something that is done to a trial.

The hostile may write to every key, and know the HMAC key of the messages; of Ed25519 they have only a key of their own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from countermand.log.anchor import Kind, Rev
from countermand.log.chain import next_link
from countermand.log.checkpoint import Checkpoint
from countermand.log.codec import to_base64
from countermand.log.entry import Entry
from countermand.log.state import MAX_AHEAD, MAX_RIVALS
from countermand.log.wire import signed_messages, to_fields
from tests.faults.trial import BOUND_S, Trial
from tests.integration.planes import HMAC_KEY, KEYS
from tests.running import until
from tests.signer import OTHER_KEY

FAR: Final = 10**12
AWAY: Final = frozenset({"unreachable"})
LATE: Final = frozenset({"bad_answer"})
"""Of a relay before which others have written, again and again."""

Act: TypeAlias = Callable[[Trial], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done, and what the relay says of it.

    `loses`: whether it counts a loss; None where that is chance. `shows`: the code that it must show, `may_show` those
    that it may. `refuses`: it lasts so long that every replica must refuse.
    """

    act: Act
    loses: bool | None = False
    shows: str | None = None
    may_show: frozenset[str] = frozenset()
    refuses: bool = False


def at_once(do: Callable[[Any], object]) -> Act:
    """Do it with a client of its own, in a thread."""

    async def act(trial: Trial) -> None:
        with trial.redis.client() as client:
            await asyncio.to_thread(do, client)

    return act


def trim(key: str, *, to: int) -> Act:
    return at_once(lambda client: client.xtrim(key, maxlen=to, approximate=False))


def delete(key: str) -> Act:
    return at_once(lambda client: client.delete(key))


async def pause(trial: Trial, most_s: float) -> None:
    await asyncio.sleep(trial.chance.uniform(0, most_s))


async def restart(trial: Trial) -> None:
    await asyncio.to_thread(trial.redis.restart)


async def freeze(trial: Trial) -> None:
    with trial.redis.frozen():
        await asyncio.sleep(BOUND_S + 1.0)


async def cut_every_connection(trial: Trial) -> None:
    with trial.redis.client() as client:
        for _ in range(60):
            client.client_kill_filter(_type="normal", skipme=True)
            await pause(trial, 0.04)


async def kill_the_authority(trial: Trial) -> None:
    for _ in range(4):
        await trial.kill()
        await trial.start()
        await pause(trial, 0.4)


async def flush_unseen(trial: Trial) -> None:
    """Nobody is there to notice."""
    await trial.kill()
    await at_once(lambda client: client.flushall())(trial)
    await trial.start()


async def repeat_in_any_order(trial: Trial) -> None:
    def write(client: Any) -> None:
        messages = [fields for _, fields in client.xrevrange(KEYS.stream, count=5_000)]
        trial.chance.shuffle(messages)
        with client.pipeline(transaction=False) as pipeline:
            for fields in messages:
                pipeline.xadd(KEYS.stream, fields)
            pipeline.execute()

    await at_once(write)(trial)


async def replay_checkpoints(trial: Trial) -> None:
    with trial.redis.client() as client:
        old = [fields for _, fields in client.xrange(KEYS.checkpoints, count=20)]
        for _ in range(10):
            client.xadd(KEYS.checkpoints, trial.chance.choice(old))
            await pause(trial, 0.1)


def write_beside(client: Any) -> None:
    for number in range(1_500):
        client.xadd(KEYS.stream, {"session_id": f"of another {number}", "cm_seq": "x" * number, "\xff": b"\xff"})


def crowd_out(client: Any) -> None:
    for number in range(3_000):
        client.xadd(KEYS.stream, {"session_id": f"of another {number}"}, maxlen=200, approximate=number % 10 != 0)


def set_over(key: str) -> Act:
    """Until the relay says that it is in the way."""

    async def act(trial: Trial) -> None:
        with trial.redis.client() as client:
            client.set(key, "no stream")
            await until(lambda: trial.relay.way.error is not None, "the relay says that something is in the way")
            client.delete(key)

    return act


def forge_entry(trial: Trial, seq: int, previous: bytes) -> tuple[dict[str, str], Entry]:
    """Return an entry against a session that is good, as a message under the true key for messages."""
    good = trial.chance.choice(trial.watch.good).path[0]
    entry = Entry(1, seq, Kind.SESSION, good.id, 1_800_000_000_000, f"forged {trial.chance.random()}")
    (message,) = signed_messages(KEYS.stream, to_fields(previous, entry.to_bytes()), [HMAC_KEY])
    return message, entry


async def forge_next(trial: Trial) -> None:
    """Put entries with the next number on the true link, and checkpoints that cover them."""
    with trial.redis.client() as client:
        for _ in range(20):
            head = await trial.rooms.head()
            message, entry = forge_entry(trial, head.rev.seq + 1, head.link)
            link, at_ms = next_link(head.link, entry.to_bytes()), trial.rooms.clock().wall_ms
            checkpoint = Checkpoint(trial.rooms.pin.log_id, entry.rev, link, at_ms)
            client.xadd(KEYS.stream, message)
            client.xadd(KEYS.checkpoints, {"cm_checkpoint": to_base64(checkpoint.sign(OTHER_KEY))})
            await pause(trial, 0.05)


async def forge_far_checkpoints(trial: Trial) -> None:
    """Put checkpoints far ahead in number and time: by another key, and with the true one's id."""
    pin = trial.rooms.pin
    true_id = next(iter(pin.keys))
    with trial.redis.client() as client:
        for _ in range(20):
            at_ms = trial.rooms.clock().wall_ms + FAR
            signed = Checkpoint(pin.log_id, Rev(1, FAR), bytes(32), at_ms).sign(OTHER_KEY)
            renamed = signed[: -64 - len(true_id)] + true_id + signed[-64:]
            for data in (signed, renamed):
                client.xadd(KEYS.checkpoints, {"cm_checkpoint": to_base64(data)})
            await pause(trial, 0.05)


async def forge_far_entries(trial: Trial) -> None:
    """Put an entry from so far ahead that nobody holds it."""
    with trial.redis.client() as client:
        head = await trial.rooms.head()
        client.xadd(KEYS.stream, forge_entry(trial, head.rev.seq + MAX_AHEAD + 5_000, head.link)[0])


async def flood(trial: Trial) -> None:
    """Put more candidates for one entry than anybody holds, behind the true one and before the next."""
    with trial.redis.client() as client:
        for _ in range(10):
            head = await trial.rooms.head()
            with client.pipeline(transaction=False) as pipeline:
                for seq in (head.rev.seq, head.rev.seq + 1):
                    for _ in range(2 * MAX_RIVALS):
                        pipeline.xadd(KEYS.stream, forge_entry(trial, seq, head.link)[0])
                pipeline.execute()
            await pause(trial, 0.1)


def delete_in_the_middle(client: Any) -> None:
    """Delete a third of the messages, between those that the relay asks for."""
    ids = [id_ for id_, _ in client.xrange(KEYS.stream)]
    client.xdel(KEYS.stream, *ids[len(ids) // 3 : 2 * len(ids) // 3])


FAULTS: Final = {
    "XTRIM of the stream to nothing": Fault(trim(KEYS.stream, to=0), loses=True),
    "XTRIM of the stream to its end": Fault(trim(KEYS.stream, to=10), loses=True),
    "XTRIM of the checkpoints": Fault(trim(KEYS.checkpoints, to=0), loses=True),
    "DEL of the stream": Fault(delete(KEYS.stream), loses=True),
    "DEL of the checkpoints": Fault(delete(KEYS.checkpoints), loses=True),
    "DEL of the snapshot": Fault(delete(KEYS.snapshot), loses=None),
    "FLUSHALL": Fault(at_once(lambda client: client.flushall()), loses=True),
    "FLUSHALL while the authority is down": Fault(flush_unseen),
    "kill -9 without persistence": Fault(restart, loses=True, may_show=AWAY),
    "CLIENT KILL in a loop": Fault(cut_every_connection, may_show=AWAY),
    "SIGSTOP": Fault(freeze, may_show=AWAY, refuses=True),
    "everything again in any order": Fault(repeat_in_any_order),
    "old checkpoints": Fault(replay_checkpoints, may_show=LATE),
    "forged next entries": Fault(forge_next, may_show=LATE),
    "forged far checkpoints": Fault(forge_far_checkpoints, may_show=LATE),
    "forged far entries": Fault(forge_far_entries),
    "a flood of forged entries": Fault(flood),
    "XDEL in the middle": Fault(at_once(delete_in_the_middle)),
    "another producer": Fault(at_once(write_beside)),
    "another producer's MAXLEN": Fault(at_once(crowd_out), loses=True),
    "SET over the stream": Fault(set_over(KEYS.stream), loses=None, shows="bad_answer"),
    "SET over the checkpoints": Fault(set_over(KEYS.checkpoints), loses=True, shows="bad_answer"),
    "an authority that is killed": Fault(kill_the_authority),
}
