"""What a store that is a list promises beyond the contract: what a list may hold, and when a file of it counts."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from countermand.enforce.revocations import StoreRevocations
from countermand.errors import ConfigurationError, StoreError
from countermand.log.anchor import Anchor, Anchors, Kind
from countermand.log.verdict import Revoked, Unknown
from countermand.log.wire import flat_id
from countermand.stores import id_list
from countermand.stores.static import StaticRevocationStore
from countermand.wiring import static_revocations

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ED25519 = "0123456789abcdef" * 8
OTHER = "fedcba9876543210" * 8
LOW, HIGH = (encode_dss_signature(2**250, s).hex() for s in (3, N - 3))
SESSION = "ses_" + "0a" * 16

parse = StaticRevocationStore.parse


# What a list may hold


@pytest.mark.parametrize("listed", [ED25519, ED25519.upper(), LOW, LOW.upper(), HIGH, HIGH.upper()])
def test_a_biscuits_id_is_found_in_every_twin_and_case_whichever_is_listed(listed: str) -> None:
    forms = [ED25519] if len(listed) == 128 else [LOW, HIGH]
    store = parse(listed)

    assert all(store.is_revoked(form) and store.is_revoked(form.upper()) for form in forms)
    assert not store.is_revoked(OTHER)
    assert not store.is_revoked(OTHER.upper())


def test_a_biscuits_id_in_mixed_case_is_found_too() -> None:
    assert parse(ED25519).is_revoked(ED25519[:64] + ED25519[64:].upper())


def test_lines_commas_blanks_and_comments_are_read_as_described() -> None:
    text = f"# a comment, {OTHER}\r\n\r\n  {ED25519}\t# why, and when\n,{LOW} ,, {SESSION},\n\t#\n agent:a#1\n"

    store = parse(text)

    assert all(store.is_revoked(sid) for sid in (ED25519, LOW, HIGH, SESSION, "a#1"))
    assert not store.is_revoked(OTHER)
    assert not store.is_revoked("#")


@pytest.mark.parametrize("text", ["", "\n", " \n\t\r\n", "# none", ",", "\n # none\n"])
def test_a_text_without_an_id_is_an_empty_list(text: str) -> None:
    assert not parse(text).is_revoked(ED25519)


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind not in {Kind.SUBJECT, Kind.CUTOFF, Kind.BISCUIT}])
@pytest.mark.parametrize("id_", ["a", "a:b", "é"])
def test_any_other_anchor_is_listed_with_its_kind_as_the_guard_asks_for_it(kind: Kind, id_: str) -> None:
    store = parse(f"{kind.text}:{id_}")

    assert store.is_revoked(id_)
    assert store.is_revoked(flat_id(Anchor(kind, id_)))
    assert not store.is_revoked(f"{kind.text}:{id_}")


def test_a_biscuits_id_may_be_listed_with_its_kind() -> None:
    store = parse(f"biscuit:{HIGH.upper()}")

    assert store.is_revoked(LOW)
    assert store.is_revoked(HIGH)


MALFORMED = {
    "a digit too few": ED25519[:-1],
    "a byte too few": ED25519[:-2],
    "a byte more": ED25519 + "00",
    "a digit that is none": ED25519[:-1] + "g",
    "no hex": "hunter2",
    "a prefix": "0x" + ED25519,
    "two ids and a blank": f"{ED25519} {ED25519}",
    "two anchors and a blank": "session:hunter2 session:b",
    "a comment without a blank": ED25519 + "#hunter2",
    "a DER that is cut": LOW[:-2],
    "s is zero": encode_dss_signature(1, 0).hex(),
    "a short id of our own": SESSION[:-1],
    "an id of our own in upper case": SESSION.upper(),
    "a kind that is none": "hunter2:a",
    "a kind in upper case": "SESSION:hunter2",
    "a kind without an id": "session:",
    "an id without a kind": ":hunter2",
    "a malformed Biscuit's id with its kind": "biscuit:hunter2",
    "a subject, which no store is asked about": "subject:hunter2",
    "a cutoff, which no store is asked about": "cutoff:all",
    "a control character": "session:hunter2\x07",
    "a byte that is no text": "session:\udcff",
    "an id that is too long": "session:" + "x" * 513,
    "a semicolon": f"{ED25519};{ED25519}",
    "quotes": f'"{ED25519}"',
    "other digits": "\u0660" * 128,
    "a byte order mark within": "\ufeff" + ED25519,
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("around", ["{}", "{},", f"{ED25519},{{}},{ED25519}"])
def test_a_malformed_line_is_an_error_that_names_it_and_does_not_repeat_it(line: str, around: str) -> None:
    text = f"# one\n{ED25519}\n\n{around.format(line)}\n{OTHER}\n"

    with pytest.raises(ConfigurationError, match=r"^the source, line 4: an id is ") as raised:
        parse(text, source="the source")

    assert raised.value.__context__ is None
    assert line[:24] not in str(raised.value)


def test_a_malformed_line_far_down_a_long_list_is_named_by_its_number() -> None:
    lines = [f"{n:0128x}" for n in range(10_000)]
    lines[8_765] = "hunter2"

    with pytest.raises(ConfigurationError, match="line 8766:"):
        parse("\n".join(lines))


def test_a_long_list_holds_each_of_its_ids_with_and_without_a_last_newline() -> None:
    ids = [f"{n:0128x}" for n in range(10_000)]

    for text in ("\n".join(ids), "\n".join(ids) + "\n", "\r\n".join(ids), "\n".join(ids).upper(), ",".join(ids)):
        store = parse(text)
        assert all(store.is_revoked(id_) for id_ in ids)
        assert not store.is_revoked(f"{10_000:0128x}")


HEX = st.text("0123456789abcdefABCDEF", min_size=126, max_size=146)
WORDS = HEX | st.sampled_from([ED25519, LOW, HIGH, SESSION, "session:a", "subject:a", ""]) | st.text(max_size=20)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from(["\n", ",", " #", "\r", "\ufeff", "\0", " ", "\u2028"]))).map(
    lambda parts: "".join(word + end for word, end in parts)
)


@given(TEXTS | st.text())
def test_no_text_raises_anything_but_a_configuration_error(text: str) -> None:
    try:
        store = parse(text)
    except ConfigurationError:
        return
    assert not store.is_revoked("")
    assert all(store.is_revoked(word) for word in (ED25519, LOW, SESSION) if text == word)


@given(st.lists(st.binary(min_size=64, max_size=64)), st.lists(st.binary(min_size=64, max_size=64)))
def test_exactly_what_is_listed_is_revoked(listed: list[bytes], asked: list[bytes]) -> None:
    store = parse("\n".join(signature.hex() for signature in listed))

    assert [store.is_revoked(signature.hex()) for signature in listed + asked] == [
        signature in listed for signature in listed + asked
    ]


# The file


class File:
    """A list in a file, the store of it, and the two clocks, which a test holds.

    A file's change is dated by the machine, so the wall clock runs with the machine's, ahead by what `pass_` says.
    """

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "revoked"
        self.path.write_text(text)
        self.passed_s = 0.0
        self.changed_s = 0.0
        self._store: StaticRevocationStore | None = None

    @property
    def store(self) -> StaticRevocationStore:
        if self._store is None:
            self._store = StaticRevocationStore.from_file(
                self.path, clock_s=lambda: 1e6 + self.passed_s, wall_s=self.wall_s
            )
        return self._store

    def wall_s(self) -> float:
        """The time by which the last change was just now, and not later, however slow this machine is."""
        changed_s = self.path.stat().st_ctime if self.path.exists() else 0.0
        return changed_s + self.passed_s - self.changed_s + 0.001  # for what floats round off

    def pass_(self, seconds: float) -> None:
        self.passed_s += seconds

    def write(self, text: str) -> None:
        """Write it in its place."""
        self.path.write_text(text)
        self.changed_s = self.passed_s

    def replace(self, text: str) -> None:
        """Write it beside, and rename."""
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)
        self.changed_s = self.passed_s

    def says(self, sid: str) -> bool | None:
        """What the store says; None where it says that it cannot know."""
        try:
            return self.store.is_revoked(sid)
        except StoreError:
            return None


@pytest.fixture
def file(tmp_path: Path) -> File:
    made = File(tmp_path, ED25519 + "\n")
    assert made.says(ED25519) is True
    assert made.says(OTHER) is False
    made.pass_(2)
    assert made.says(OTHER) is False  # it has been looked at, and is known
    return made


def write(file: File, text: str) -> None:
    file.write(text)


def replace(file: File, text: str) -> None:
    file.replace(text)


either_way = pytest.mark.parametrize("change", [write, replace])


@either_way
def test_two_seconds_after_a_change_it_counts_and_what_is_no_longer_listed_is_not_revoked(
    file: File, change: Callable[[File, str], None]
) -> None:
    change(file, OTHER + "\n")
    file.pass_(2)

    assert file.says(OTHER) is True
    assert file.says(ED25519) is False


@either_way
def test_a_file_that_changed_just_now_is_not_believed_yet(file: File, change: Callable[[File, str], None]) -> None:
    file.pass_(1)
    change(file, OTHER + "\n")

    assert file.says(OTHER) is False
    assert file.says(ED25519) is True
    file.pass_(1)
    assert file.says(OTHER) is True


def test_a_file_that_is_written_in_its_place_is_not_believed_half_way(file: File) -> None:
    ids = [f"{n:0128x}" for n in range(40)]
    file.write("")
    for n in range(1, 20):
        file.pass_(1)
        file.write("\n".join(ids[:n]) + "\n")
        assert file.says(ED25519) is True, "what was loaded stays revoked"
        assert file.says(ids[-1]) is False

    file.write("\n".join(ids) + "\n")
    file.pass_(2)

    assert all(file.says(id_) for id_ in ids)
    assert file.says(ED25519) is False


def test_a_file_that_never_stops_changing_is_read_as_it_is_once_what_was_loaded_is_too_old(file: File) -> None:
    for n in range(31):
        file.pass_(1)
        file.write(OTHER + "\n" * (n + 1))
        assert file.says(OTHER) is (n == 30)


def test_after_a_long_rest_the_first_question_is_answered_by_the_file_as_it_is(file: File) -> None:
    file.pass_(3600)
    assert file.says(LOW) is False

    file.replace(OTHER + "\n")
    file.pass_(3600)
    assert file.says(OTHER) is True

    file.pass_(3600)
    file.replace(ED25519 + "\n")  # at this moment
    assert file.says(ED25519) is True
    assert file.says(OTHER) is False


def test_a_list_that_was_written_as_the_store_was_made_is_read_again(tmp_path: Path) -> None:
    file = File(tmp_path, ED25519 + "\n")
    assert file.says(OTHER) is False
    state = file.path.stat()
    file.path.write_text(OTHER + "\n")
    os.utime(file.path, ns=(state.st_atime_ns, state.st_mtime_ns))

    file.pass_(2)

    assert file.says(OTHER) is True


def test_the_file_is_looked_at_once_a_second_at_most_and_read_when_it_has_changed(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("look_at", "read_ids"):
        monkeypatch.setattr(f"countermand.stores.static.{name}", noting(done, name))

    for _ in range(100):
        file.pass_(0.125)
        file.says(OTHER)
    assert done == ["look_at"] * 12
    file.replace(OTHER)
    file.pass_(2)
    for _ in range(100):
        file.says(OTHER)

    assert done == ["look_at"] * 13 + ["read_ids"]


def noting(done: list[str], name: str) -> Callable[[Path], object]:
    real: Callable[[Path], object] = getattr(id_list, name)

    def note(path: Path) -> object:
        done.append(name)
        return real(path)

    return note


def vanish(file: File) -> None:
    file.path.unlink()


def become_malformed(file: File) -> None:
    file.replace(f"{ED25519}\n{OTHER}\nhunter2\n")


def become_empty(file: File) -> None:
    file.write("")


def become_a_folder(file: File) -> None:
    file.path.unlink()
    file.path.mkdir()


def become_a_pipe(file: File) -> None:
    file.path.unlink()
    os.mkfifo(file.path)


def grow_too_large(file: File) -> None:
    os.truncate(file.path, id_list.MAX_FILE_BYTES + 1)


def lose_its_way(file: File) -> None:
    file.path.unlink()
    file.path.symlink_to(file.path)


FAULTS = [vanish, become_malformed, become_empty, become_a_folder, become_a_pipe, grow_too_large, lose_its_way]


@pytest.mark.parametrize("fail", FAULTS)
def test_a_file_that_can_no_longer_be_loaded_un_revokes_nothing_and_is_not_trusted_for_long(
    file: File, fail: Callable[[File], None], caplog: pytest.LogCaptureFixture
) -> None:
    fail(file)
    for _ in range(30):
        file.pass_(1)
        assert (file.says(ED25519), file.says(OTHER)) == (True, False)
    for _ in range(3):
        file.pass_(1)
        assert (file.says(ED25519), file.says(OTHER)) == (True, None)
    assert file.says("") is False

    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "is not loaded anew" in told[0].getMessage()
    assert str(file.path) in told[0].getMessage()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("fail", FAULTS)
def test_once_the_file_is_mended_all_is_known_again_and_the_log_says_so(
    file: File, fail: Callable[[File], None], caplog: pytest.LogCaptureFixture
) -> None:
    fail(file)
    file.pass_(2)
    file.says(OTHER)
    file.pass_(40)
    assert file.says(OTHER) is None

    if file.path.is_dir():
        file.path.rmdir()
    file.replace(OTHER + "\n")
    file.pass_(2)

    assert file.says(OTHER) is True
    assert file.says(ED25519) is False
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told[1:] == ["the list of revoked ids is loaded again"]


def test_a_file_that_was_away_for_a_moment_is_the_one_that_was_loaded(file: File) -> None:
    away = file.path.rename(file.path.with_suffix(".away"))
    file.pass_(5)
    assert file.says(OTHER) is False
    away.rename(file.path)
    file.pass_(40)

    assert (file.says(ED25519), file.says(OTHER)) == (True, False)


def test_a_malformed_file_is_read_once_and_not_every_second(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr("countermand.stores.static.read_ids", noting(done, "read_ids"))

    become_malformed(file)
    for _ in range(60):
        file.pass_(1)
        file.says(OTHER)

    assert len(done) == 1


def test_the_guard_hears_that_it_is_not_known(file: File) -> None:
    revocations = StoreRevocations(file.store)
    listed, other = (Anchors((Anchor(Kind.BISCUIT, id_),)) for id_ in (ED25519, OTHER))
    vanish(file)
    file.pass_(40)

    assert revocations.check(other, None) == Unknown("store_error")
    assert isinstance(revocations.check(listed, None), Revoked)


def test_a_link_that_is_turned_to_another_file_is_a_change(tmp_path: Path) -> None:
    for name, text in (("one", ED25519), ("two", OTHER)):
        (tmp_path / name).write_text(text)
    link = tmp_path / "revoked.link"
    link.symlink_to("one")
    now_s = [0.0]
    store = StaticRevocationStore.from_file(link, clock_s=lambda: now_s[0], wall_s=lambda: float("inf"))

    link.unlink()
    link.symlink_to("two")
    now_s[0] += 1

    assert store.is_revoked(OTHER)
    assert not store.is_revoked(ED25519)


def test_a_relative_path_is_that_of_when_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "revoked").write_text(ED25519)
    monkeypatch.chdir(tmp_path)
    now_s = [0.0]
    store = StaticRevocationStore.from_file("revoked", clock_s=lambda: now_s[0])
    monkeypatch.chdir("/")
    now_s[0] = 100

    assert not store.is_revoked(OTHER)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_text(f"{ED25519}\n", encoding="utf-8-sig")

    assert StaticRevocationStore.from_file(path).is_revoked(ED25519)


@pytest.mark.parametrize("comment", [b"# caf\xe9\n", "# café\n".encode()])
def test_a_comment_may_be_in_any_encoding(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "revoked"
    path.write_bytes(comment + ED25519.encode())

    assert StaticRevocationStore.from_file(path).is_revoked(ED25519)


@given(st.binary() | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_of_a_file_raise_anything_but_a_configuration_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any bytes"
    path.write_bytes(data)
    with suppress(ConfigurationError):
        StaticRevocationStore.from_file(path)


def test_a_list_that_cannot_be_had_is_refused_at_once(tmp_path: Path) -> None:
    for name in ("not there", "nul\0"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            StaticRevocationStore.from_file(tmp_path / name)
    with pytest.raises(ConfigurationError, match="cannot be read: IsADirectoryError"):
        StaticRevocationStore.from_file(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigurationError, match="empty is empty: a list that revokes nothing holds a comment"):
        StaticRevocationStore.from_file(tmp_path / "empty")
    (tmp_path / "malformed").write_text(f"\n{ED25519}\nhunter2")
    with pytest.raises(ConfigurationError, match="malformed, line 3"):
        StaticRevocationStore.from_file(tmp_path / "malformed")


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigurationError, match="is no plain file"):
        StaticRevocationStore.from_file(tmp_path / "pipe")


def test_what_is_written_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "revoked"
    path.write_text(ED25519)
    real = id_list._forms

    def append(id_: str) -> object:
        with path.open("a") as file:
            file.write("\n")
        return real(id_)

    monkeypatch.setattr(id_list, "_forms", append)

    with pytest.raises(ConfigurationError, match="written to while it was read"):
        StaticRevocationStore.from_file(path)


@pytest.mark.parametrize("seconds", [0, 2, -1, float("inf"), float("nan")])
def test_a_bound_that_bounds_nothing_or_leaves_no_time_to_look_is_refused(tmp_path: Path, seconds: float) -> None:
    (tmp_path / "revoked").write_text(ED25519)

    with pytest.raises(ConfigurationError, match="over 2 seconds"):
        StaticRevocationStore.from_file(tmp_path / "revoked", max_staleness_s=seconds)


# Threads


def test_while_one_thread_loads_the_others_go_by_what_was_loaded(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()
    real = id_list.read_ids

    def read(path: Path) -> object:
        reading.set()
        assert go_on.wait(30)
        return real(path)

    monkeypatch.setattr("countermand.stores.static.read_ids", read)
    file.replace(OTHER)
    file.pass_(2)
    said: list[bool | None] = []
    thread = threading.Thread(target=lambda: said.append(file.says(OTHER)))
    thread.start()
    try:
        assert reading.wait(30)
        assert (file.says(ED25519), file.says(OTHER)) == (True, False)
    finally:
        go_on.set()
        thread.join()

    assert said == [True]
    assert file.says(OTHER) is True


def test_after_a_long_rest_all_threads_wait_for_the_one_that_looks(file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    all_ask = threading.Barrier(8)
    monkeypatch.setattr("countermand.stores.static.look_at", noting(looks, "look_at"))
    file.pass_(3600)
    said: list[bool | None] = []

    def ask() -> None:
        all_ask.wait(30)
        said.append(file.says(OTHER))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert said == [False] * 8
    assert len(looks) == 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_that_is_forked_while_a_thread_loads_looks_for_itself(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    real = id_list.read_ids

    def read(path: Path) -> object:
        reading.set()
        assert go_on.wait(30)
        return real(path)

    monkeypatch.setattr("countermand.stores.static.read_ids", read)
    file.replace(OTHER)
    file.pass_(2)
    thread = threading.Thread(target=lambda: file.says(OTHER))
    thread.start()
    try:
        assert reading.wait(30)
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            go_on.set()
            file.pass_(100)
            os._exit(0 if file.says(OTHER) is True else 1)
    finally:
        go_on.set()
        thread.join()

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# What is configured


def test_the_environment_holds_a_list_or_names_the_file_of_one(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_text(ED25519)

    for environ in (
        {"COUNTERMAND_REVOKED_IDS": f"{LOW.upper()},{ED25519}"},
        {"COUNTERMAND_REVOKED_IDS": ED25519, "COUNTERMAND_REVOKED_IDS_FILE": ""},
        {"COUNTERMAND_REVOKED_IDS_FILE": str(path)},
    ):
        store = static_revocations(environ)
        assert store.is_revoked(ED25519)
        assert not store.is_revoked(OTHER)


def test_an_empty_variable_is_a_list_and_none_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not static_revocations({"COUNTERMAND_REVOKED_IDS": ""}).is_revoked(ED25519)
    for nothing in ({}, {"COUNTERMAND_REVOKED_IDS_FILE": ""}):
        with pytest.raises(ConfigurationError, match="no list of revoked ids is configured"):
            static_revocations(nothing)

    monkeypatch.setenv("COUNTERMAND_REVOKED_IDS", ED25519)
    assert static_revocations().is_revoked(ED25519)
    monkeypatch.delenv("COUNTERMAND_REVOKED_IDS")
    with pytest.raises(ConfigurationError, match="no list"):
        static_revocations()


@pytest.mark.parametrize("listed", ["", ED25519])
def test_two_lists_are_refused(listed: str) -> None:
    with pytest.raises(ConfigurationError, match="both set"):
        static_revocations({"COUNTERMAND_REVOKED_IDS": listed, "COUNTERMAND_REVOKED_IDS_FILE": "/a"})


def test_a_malformed_variable_is_named_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match=r"^COUNTERMAND_REVOKED_IDS, line 1: ") as raised:
        static_revocations({"COUNTERMAND_REVOKED_IDS": "hunter2"})

    assert "hunter2" not in str(raised.value)
