"""The documented `_sig` of a stream message: HMAC-SHA256 over the stream's name and the sorted fields.

It proves a message to those who hold the shared key, and all of them can also forge it: our own replicas believe
checkpoints alone. The signed text does not say where a value ends: one that holds a newline could be cut into other
fields under the same signature. So such a message is neither signed nor accepted.
Source: docs/protocol.md, "The documented signature".
"""

import hmac
from collections.abc import Mapping
from typing import Final

from countermand.errors import MalformedError

STREAM_SIG_FIELD: Final = "_sig"


def stream_signature(key: bytes, stream: str, fields: Mapping[str, str]) -> str:
    """Return the lower-case hex signature of `fields` (without `_sig`) on `stream`.

    Raises:
        MalformedError: a newline anywhere, or a name with `=`; its text could be read as other fields.
    """
    names = sorted(fields.keys() - {STREAM_SIG_FIELD})
    if "=" in "".join(names):
        raise MalformedError("the name of a signed field has no equals sign")
    text = "\n".join([stream, *[f"{name}={fields[name]}" for name in names], ""])
    if text.count("\n") != len(names) + 1:
        raise MalformedError("a signed field has no newline")
    return hmac.digest(key, text.encode(errors="surrogatepass"), "sha256").hex()


def signature_holds(key: bytes, stream: str, fields: Mapping[str, str]) -> bool:
    """Whether `fields` carry their valid `_sig`; compared in constant time, as bytes."""
    claimed = fields.get(STREAM_SIG_FIELD, "").encode(errors="surrogatepass")
    try:
        expected = stream_signature(key, stream, fields)
    except MalformedError:
        return False
    return hmac.compare_digest(claimed, expected.encode())
