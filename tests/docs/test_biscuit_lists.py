"""What docs/biscuit.md says of lists is so: its blocks run, and its script fetches from a server that knows ETags."""

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from countermand import Biscuits
from countermand.settings import REVOKED_IDS, REVOKED_IDS_FILE
from countermand.stores.id_list import MAX_FILE_BYTES
from countermand.stores.redis import RedisRevocationStore
from countermand.stores.static import MAX_STALENESS_S, StaticRevocationStore
from tests.redis_guide import blocks
from tests.signer import Signer

GUIDE: Final = (Path(__file__).parents[2] / "docs" / "biscuit.md").read_text("utf-8")
SECTION: Final = GUIDE.partition("\n## Lists")[2].partition("\n## ")[0]
EXPORT: Final = "https://authority.example/v1/biscuit/revoked"
ROOT_KEY: Final = "ed25519/" + "1055c750b1a1505937af1537c626ba3263995c33a64758aaafb1275b0312e284"
ED25519, OTHER = "ab" * 64, "cd" * 64


def block(language: str, word: str) -> str:
    (found,) = (text for text in blocks(language, SECTION) if word in text)
    return found


def test_its_numbers_are_those_of_the_code() -> None:
    assert MAX_STALENESS_S == 30
    assert "another 30 s" in SECTION
    assert MAX_FILE_BYTES == 256 * 1024 * 1024
    assert "256 MiB at most" in SECTION
    assert f"`{REVOKED_IDS_FILE}=" in SECTION


def test_the_variable_is_read_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    name, id_ = re.findall(r"^\$ export (\w+)=(\w+)$", SECTION, re.MULTILINE)[0]
    assert name == REVOKED_IDS
    monkeypatch.setenv(name, id_)
    names: dict[str, Any] = {"biscuits": Biscuits(ROOT_KEY, "allow if true")}

    exec(block("python", "static_revocations"), names)  # noqa: S102 - the guide is ours

    assert names["revocations"].is_revoked(id_)
    assert names["guard"].biscuits is names["biscuits"]


def test_a_replica_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHORITY", "http://127.0.0.1:1")
    monkeypatch.setenv("COUNTERMAND_API_KEY", "cmk_0")
    monkeypatch.setenv("COUNTERMAND_PIN", str(Signer().pin))
    names: dict[str, Any] = {"biscuits": Biscuits(ROOT_KEY, "allow if true")}

    exec(block("python", "AUTHORITY"), names)  # noqa: S102 - the guide is ours

    assert names["guard"].biscuits is names["biscuits"]


def test_a_guard_of_both_is_made_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERMAND_API_KEY", "cmk_0")
    monkeypatch.setenv("COUNTERMAND_PIN", str(Signer().pin))
    url = "http://127.0.0.1:1"
    names: dict[str, Any] = {"root_key": ROOT_KEY, "url": url, "issuer": url}

    (shown,) = (text for text in blocks("python", GUIDE) if "issuer=issuer" in text)
    exec(shown, names)  # noqa: S102 - the guide is ours

    assert (names["guard"].issuer, names["guard"].biscuits) == (url, names["biscuits"])


def test_the_store_in_redis_is_made_as_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    names: dict[str, Any] = {}

    exec(block("python", "RedisRevocationStore"), names)  # noqa: S102 - the guide is ours

    assert isinstance(names["revocations"], RedisRevocationStore)


def test_an_id_is_added_as_shown(tmp_path: Path) -> None:
    path = tmp_path / "revoked.txt"
    path.write_text(ED25519 + "\n")

    run(block("sh", "lost laptop"), tmp_path, ID=OTHER)

    store = StaticRevocationStore.from_file(path)
    assert store.is_revoked(ED25519)
    assert store.is_revoked(OTHER)


class Export:
    """A server that gives a text with its ETag, and says what it answered. Half of it, when told to be cut off."""

    def __init__(self) -> None:
        self.text = ""
        self.cut_off = False
        self.answers: list[int] = []
        self.authorizations: set[str | None] = set()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        etag = f'"{hash(self.text):x}"'
        status = 304 if handler.headers["If-None-Match"] == etag else 200
        self.answers.append(status)
        self.authorizations.add(handler.headers["Authorization"])
        handler.send_response(status)
        handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(len(self.text)))
        handler.end_headers()
        if status == 200:
            handler.wfile.write(self.text[: len(self.text) // (1 + self.cut_off)].encode())


@pytest.fixture
def export() -> Export:
    return Export()


@pytest.fixture
def fetched(tmp_path: Path, export: Export) -> Iterator["Fetched"]:
    if shutil.which("curl") is None:
        sentence = "THE SCRIPT OF docs/biscuit.md WAS NOT RUN: there is no curl"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            export.answer(self)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Fetched(tmp_path, f"http://127.0.0.1:{server.server_port}/")
        finally:
            server.shutdown()
            thread.join()


class Fetched:
    """The script, with the folder and the server of a test, and the list that it keeps."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.path = folder / "revoked.txt"
        (folder / "authorization").write_text("Authorization: Bearer cmk_reader\n")
        script = block("sh", "--etag-compare")
        for shown, used in (
            ("/var/lib/countermand", str(folder)),
            ("/etc/countermand", str(folder)),
            (EXPORT, url),
        ):
            assert shown in script
            script = script.replace(shown, used)
        self.script = script

    def fetch(self) -> int:
        return run(self.script, self.folder, check=False)

    def revokes(self, id_: str) -> bool:
        return StaticRevocationStore.from_file(self.path).is_revoked(id_)


def run(script: str, folder: Path, *, check: bool = True, **environ: str) -> int:
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=folder, env=os.environ | environ, check=check, timeout=60, capture_output=True
    )
    return done.returncode


def test_the_script_fetches_the_list_when_it_has_changed_and_leaves_it_otherwise(
    fetched: Fetched, export: Export
) -> None:
    export.text = f"{ED25519}\n"
    assert fetched.fetch() == 0
    assert fetched.revokes(ED25519)
    state = fetched.path.stat()

    assert fetched.fetch() == 0
    assert fetched.path.stat() == state
    export.text += f"{OTHER}\n"
    assert fetched.fetch() == 0

    assert fetched.revokes(ED25519)
    assert fetched.revokes(OTHER)
    assert fetched.path.stat().st_ino != state.st_ino, "it is another file, and was not written in its place"
    assert export.answers == [200, 304, 200]
    assert export.authorizations == {"Bearer cmk_reader"}


def test_where_nothing_is_revoked_the_script_writes_a_list_all_the_same(fetched: Fetched) -> None:
    assert fetched.fetch() == 0

    assert not fetched.revokes(ED25519)


def test_an_answer_that_is_cut_off_changes_nothing_and_is_asked_for_again(fetched: Fetched, export: Export) -> None:
    export.text = f"{ED25519}\n"
    assert fetched.fetch() == 0
    export.text, export.cut_off = f"{ED25519}\n{OTHER}\n", True
    assert fetched.fetch() != 0
    assert not fetched.revokes(OTHER)

    export.cut_off = False
    assert fetched.fetch() == 0

    assert fetched.revokes(OTHER)
    assert export.answers == [200, 200, 200]


def test_a_list_that_was_lost_is_fetched_whole(fetched: Fetched, export: Export) -> None:
    export.text = f"{ED25519}\n"
    assert fetched.fetch() == 0
    fetched.path.unlink()

    assert fetched.fetch() == 0

    assert fetched.revokes(ED25519)
