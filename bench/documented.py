"""The documented in-memory store and PyJWT, asked line by line, in an environment of their own: it has none of ours.

python documented.py <where to find cryptography>
"""

import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.append(sys.argv[1])  # after its own: only what is not here comes from there

caracalai_revocation: Any = import_module("caracalai_revocation")
jwt: Any = import_module("jwt")
serialization: Any = import_module("cryptography.hazmat.primitives.serialization")

for module in (caracalai_revocation, jwt):
    if not Path(module.__file__).is_relative_to(sys.prefix):
        raise ImportError(f"{module.__name__} is not the published one")

store = caracalai_revocation.InMemoryRevocationStore()
asked: list[list[str]] = []
tokens: dict[str, Any] = {}


def fill(count: int) -> int:
    """Revoke as many ids as the log has, of the same form."""
    for number in range(count):
        store.mark_revoked(f"ses_{number:032x}")
    return count


def prepare_check(ids: list[list[str]]) -> int:
    """Take the ids that `check` asks for, by token."""
    asked[:] = ids
    return len(asked)


def check() -> float:
    """Ask for every id of every token; return the seconds for one token."""
    is_revoked = store.is_revoked
    began_s = time.perf_counter()
    for ids in asked:
        for sid in ids:
            is_revoked(sid)
    return (time.perf_counter() - began_s) / len(asked)


def prepare_verify(pem: str, issuer: str, audience: str, texts: list[str]) -> int:
    """Take the tokens that `verify` verifies."""
    tokens.update(key=serialization.load_pem_public_key(pem.encode()), issuer=issuer, audience=audience, texts=texts)
    return len(texts)


def verify() -> float:
    """Verify every token; return the seconds for one."""
    key, issuer, audience, texts = tokens["key"], tokens["issuer"], tokens["audience"], tokens["texts"]
    began_s = time.perf_counter()
    for text in texts:
        jwt.decode(text, key, algorithms=["ES256"], issuer=issuer, audience=audience)
    return (time.perf_counter() - began_s) / len(texts)


def memory(count: int) -> float:
    """Return the bytes an entry takes."""
    tracemalloc.start()
    measured = caracalai_revocation.InMemoryRevocationStore()
    for number in range(count):
        measured.mark_revoked(f"ses_{number:032x}")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / count


COMMANDS: dict[str, Callable[..., float]] = {
    command.__name__: command for command in (fill, prepare_check, check, prepare_verify, verify, memory)
}


def main() -> None:
    """Answer one command after the other."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)


main()
