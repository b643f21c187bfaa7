"""Settings from any environment and any files: what they say, or a ConfigurationError in a sentence."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from countermand.errors import ConfigurationError
from countermand.settings import (
    AuthoritySettings,
    ClientSettings,
    DataDir,
    ReplicaSettings,
    RouteSettings,
    find_data_dir,
    read_routes,
    replica_credentials,
)

NAMES = ["DATA_DIR", "ISSUER", "MANDATE_SECONDS", "RETENTION_DAYS", "URL", "API_KEY", "PIN"]
NAMES += ["REDIS_URL", "STREAM_HMAC_KEY"]
# What a process can be given: any bytes but NUL.
VALUES = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
ENVIRONMENTS = st.dictionaries(
    st.sampled_from([f"COUNTERMAND_{name}" for name in NAMES]), VALUES | st.integers().map(str) | st.just("900")
)
FILES = st.dictionaries(st.sampled_from(["url", "admin.key", "pin"]), st.binary(max_size=40))
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def authority(environ: Mapping[str, str], data_dir: Path | None = None) -> AuthoritySettings:
    return AuthoritySettings.read(data_dir=data_dir, host="127.0.0.1", port=8420, environ=environ)


def test_what_is_left_out_has_a_default() -> None:
    assert authority({}) == AuthoritySettings(DataDir(Path(".countermand")), "127.0.0.1", 8420, None, 900)


def test_the_environment_is_read() -> None:
    environ = {
        "COUNTERMAND_DATA_DIR": "/data",
        "COUNTERMAND_ISSUER": "https://issuer.example",
        "COUNTERMAND_MANDATE_SECONDS": "60",
        "COUNTERMAND_RETENTION_DAYS": "7",
    }

    assert authority(environ) == AuthoritySettings(
        DataDir(Path("/data")), "127.0.0.1", 8420, "https://issuer.example", 60, retention_days=7
    )
    assert authority(environ, Path("/chosen")).data == DataDir(Path("/chosen"))
    assert find_data_dir(None, {"COUNTERMAND_DATA_DIR": ""}) == DataDir(Path(".countermand"))


@pytest.mark.parametrize("seconds", ["", " 60", "60 ", "-1", "+1", "1.5", "1e3", "0x10", "٣", "²", "9" * 10, "many"])
def test_a_number_that_is_none_is_refused_by_name(seconds: str) -> None:
    with pytest.raises(ConfigurationError, match="COUNTERMAND_MANDATE_SECONDS is a whole number"):
        authority({"COUNTERMAND_MANDATE_SECONDS": seconds})


def test_a_client_reads_the_environment_before_the_data_directory(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.url.write_text("http://127.0.0.1:1\n")
    data.admin_key.write_text("cmk_here\n")
    data.pin.write_text("log_here\n")

    assert ClientSettings.read(tmp_path, {}) == ClientSettings("http://127.0.0.1:1", "cmk_here", "log_here")
    environ = {
        "COUNTERMAND_URL": "https://there",
        "COUNTERMAND_API_KEY": "cmk_there",
        "COUNTERMAND_PIN": "log_there",
        "COUNTERMAND_DATA_DIR": str(tmp_path / "nothing"),
    }
    assert ClientSettings.read(tmp_path, environ) == ClientSettings("https://there", "cmk_there", "log_there")
    assert ClientSettings.read(None, environ) == ClientSettings("https://there", "cmk_there", "log_there")


@pytest.mark.parametrize("missing", ["url", "admin.key"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_client_without_an_authority_is_told_how_to_get_one(tmp_path: Path, missing: str, empty: bool) -> None:
    for name in ("url", "admin.key"):
        (tmp_path / name).write_text("something")
    if empty:
        (tmp_path / missing).write_text("\n")
    else:
        (tmp_path / missing).unlink()

    with pytest.raises(ConfigurationError, match="start one with `countermand up`"):
        ClientSettings.read(tmp_path, {})


def test_the_key_of_the_data_directory_goes_to_no_authority_that_the_environment_names(tmp_path: Path) -> None:
    for name in ("url", "admin.key", "pin"):
        (tmp_path / name).write_text("here\n")
    with pytest.raises(ConfigurationError, match="set COUNTERMAND_API_KEY to a key for it"):
        ClientSettings.read(tmp_path, {"COUNTERMAND_URL": "http://elsewhere.example"})
    elsewhere = {"COUNTERMAND_URL": "http://elsewhere.example", "COUNTERMAND_API_KEY": "there"}
    assert ClientSettings.read(tmp_path, elsewhere) == ClientSettings("http://elsewhere.example", "there", None)


def test_a_client_that_may_not_read_the_key_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("http://127.0.0.1:1")
    (tmp_path / "admin.key").mkdir()

    with pytest.raises(ConfigurationError, match=r"admin\.key cannot be read: IsADirectoryError"):
        ClientSettings.read(tmp_path, {})


def test_no_key_is_shown() -> None:
    assert "cmk_secret" not in repr(ClientSettings("http://h", "cmk_secret"))


@given(ENVIRONMENTS)
def test_any_environment_is_an_authoritys_settings_or_an_error_of_ours(environ: dict[str, str]) -> None:
    try:
        read = authority(environ)
    except ConfigurationError:
        return
    assert 0 <= read.mandate_s <= 999_999_999


@in_one_folder
@given(ENVIRONMENTS, FILES)
def test_any_environment_and_any_files_are_a_clients_settings_or_an_error_of_ours(
    tmp_path: Path, environ: dict[str, str], files: dict[str, bytes]
) -> None:
    for name in ("url", "admin.key", "pin"):
        (tmp_path / name).write_bytes(files.get(name, b""))
    for data_dir in (tmp_path, None):
        try:
            read = ClientSettings.read(data_dir, environ)
        except ConfigurationError:
            continue
        assert read.url
        assert read.api_key


@given(VALUES | st.none(), VALUES | st.none(), ENVIRONMENTS)
def test_credentials_are_two_or_none(api_key: str | None, pin: str | None, environ: dict[str, str]) -> None:
    try:
        read = replica_credentials(api_key, pin, environ)
    except ConfigurationError:
        assert not (api_key and pin)
        return
    assert read == (api_key or environ["COUNTERMAND_API_KEY"], pin or environ["COUNTERMAND_PIN"])


def test_the_redis_and_its_keys_are_read_and_shown_to_nobody() -> None:
    keys = f"{'01' * 32},{'02' * 16}"
    environ = {"COUNTERMAND_REDIS_URL": "redis://:secret@cache", "COUNTERMAND_STREAM_HMAC_KEY": keys}
    read = authority(environ)
    assert read.redis_url == "redis://:secret@cache"
    assert read.stream_keys == (b"\1" * 32, b"\2" * 16)
    assert "secret" not in repr(read)
    assert repr(b"\1") not in repr(read)


@pytest.mark.parametrize("keys", ["zz", "0102", "01" * 32 + ",0", "é" * 64])
def test_a_stream_key_that_is_none_is_refused_and_not_repeated(keys: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        authority({"COUNTERMAND_STREAM_HMAC_KEY": keys})
    assert keys not in str(raised.value)


def test_a_gateway_follows_the_authority_of_the_data_directory(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.url.write_text("http://127.0.0.1:1\n")
    data.admin_key.write_text("cmk_admin\n")
    data.replica_key.write_text("cmk_replica\n")
    data.pin.write_text("log_here\n")

    here = ReplicaSettings("http://127.0.0.1:1", "http://127.0.0.1:1", "cmk_replica", "log_here")
    assert ReplicaSettings.read(None, None, tmp_path, {}) == here
    environ = {"COUNTERMAND_ISSUER": "https://issuer.example"}
    assert ReplicaSettings.read(None, None, tmp_path, environ).issuer == "https://issuer.example"
    assert ReplicaSettings.read(None, "https://other.example", tmp_path, environ).issuer == "https://other.example"


def test_a_key_of_the_data_directory_goes_to_no_authority_that_was_named(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.url.write_text("http://127.0.0.1:1\n")
    data.replica_key.write_text("cmk_replica\n")
    data.pin.write_text("log_here\n")

    named = ReplicaSettings("https://a.example", "https://a.example", None, None)
    assert ReplicaSettings.read("https://a.example", None, tmp_path, {}) == named
    assert ReplicaSettings.read(None, None, tmp_path, {"COUNTERMAND_URL": "https://a.example"}) == named
    environ = {"COUNTERMAND_URL": "https://b.example", "COUNTERMAND_API_KEY": "cmk_b", "COUNTERMAND_PIN": "log_b"}
    assert ReplicaSettings.read("https://a.example", None, tmp_path, environ).url == "https://a.example"
    assert ReplicaSettings.read(None, None, tmp_path, environ).api_key == "cmk_b"


def test_a_gateway_that_follows_nothing_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no authority has run"):
        ReplicaSettings.read(None, None, tmp_path, {})
    with pytest.raises(ConfigurationError, match="name the issuer") as refused:
        ReplicaSettings.read("redis://:secret@redis.example", None, tmp_path, {})
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(ReplicaSettings("redis://:secret@redis.example", "https://a.example", "secret", "pin"))


def test_routes_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text("""
        [[route]]
        upstream = "http://127.0.0.1:9000"
        audience = "https://api.example"

        [[route]]
        path = "/admin"
        upstream = "http://127.0.0.1:9001"
        audience = "https://api.example"
        required_scopes = ["admin", "read"]
        max_staleness_s = 5
    """)

    assert read_routes(path) == (
        RouteSettings(upstream="http://127.0.0.1:9000", audience="https://api.example"),
        RouteSettings(
            path="/admin",
            upstream="http://127.0.0.1:9001",
            audience="https://api.example",
            required_scopes=("admin", "read"),
            max_staleness_s=5,
        ),
    )


BOTH = 'upstream = "http://x"\naudience = "y"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds \\[\\[route\\]\\] tables, and nothing else"),
        ("[route]\n" + BOTH, "holds \\[\\[route\\]\\] tables, and nothing else"),
        ("port = 1\n[[route]]\n" + BOTH, "holds \\[\\[route\\]\\] tables, and nothing else"),
        ("route = [1]", "a route is a table"),
        ('[[route]]\naudience = "y"', "has no upstream"),
        ('[[route]]\nupstream = "y"', "has no audience"),
        ("[[route]]\nprefix = 1\n" + BOTH, "a route's prefix is nothing that a route has"),
        ("[[route]]\npath = 1\n" + BOTH, "a route's path is a text"),
        ('[[route]]\nrequired_scopes = "read"\n' + BOTH, "a route's required_scopes is a list of texts"),
        ("[[route]]\nmax_staleness_s = true\n" + BOTH, "a route's max_staleness_s is a number"),
        ("[[route]", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_of_routes_that_says_something_else_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))

    with pytest.raises(ConfigurationError, match=sentence):
        read_routes(path)
