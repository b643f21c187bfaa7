"""What is configured, from the environment and from files: the only module that reads either for that.

COUNTERMAND_DATA_DIR          where the authority keeps its data            .countermand
COUNTERMAND_ISSUER            the issuer of mandates                        the URL it listens on
COUNTERMAND_MANDATE_SECONDS   how long a mandate lives                      900
COUNTERMAND_RETENTION_DAYS    how long what has ended is kept               30
COUNTERMAND_URL               the authority that commands talk to           what the data directory says
COUNTERMAND_API_KEY           the key with which they, or a replica, talk   what the data directory says
COUNTERMAND_PIN               the log that a replica believes               what the data directory says
COUNTERMAND_BISCUIT_KEYS      root keys of Biscuits, by commas              no Biscuit is verified
COUNTERMAND_DATABASE_URL      a Postgres for what the authority knows      a file in the data directory
COUNTERMAND_REDIS_URL         where the authority publishes the log         nowhere: it is followed over HTTP
COUNTERMAND_STREAM_HMAC_KEY   hex keys that sign messages, by commas        messages are not signed
COUNTERMAND_REVOKED_IDS       a list of revoked ids, for a static store     none: such a store is refused
COUNTERMAND_REVOKED_IDS_FILE  a file that holds one, in its place           none
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from countermand.errors import ConfigurationError

DEFAULT_DATA_DIR: Final = ".countermand"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8420
FORWARD_AUTH_PORT: Final = 8421
GATEWAY_PORT: Final = 8422
DEFAULT_MANDATE_S: Final = 900
DEFAULT_RETENTION_DAYS: Final = 30
MIN_HMAC_BYTES: Final = 16
REVOKED_IDS: Final = "COUNTERMAND_REVOKED_IDS"
REVOKED_IDS_FILE: Final = "COUNTERMAND_REVOKED_IDS_FILE"


@dataclass(frozen=True, slots=True)
class DataDir:
    """The files of an authority, by name. `url` and the keys are written by it and read by the local command line."""

    path: Path

    @property
    def database(self) -> Path:
        """Everything that the authority knows, where no Postgres keeps it."""
        return self.path / "countermand.db"

    @property
    def keys(self) -> Path:
        """The signing keys."""
        return self.path / "keys"

    @property
    def lock(self) -> Path:
        """Held by the one process that uses this directory."""
        return self.path / "lock"

    @property
    def admin_key(self) -> Path:
        """An API key of role administrator."""
        return self.path / "admin.key"

    @property
    def replica_key(self) -> Path:
        """An API key of role replica."""
        return self.path / "replica.key"

    @property
    def pin(self) -> Path:
        """What a replica is told to believe; no secret."""
        return self.path / "pin"

    @property
    def url(self) -> Path:
        """Where the authority listens, or last did."""
        return self.path / "url"


@dataclass(frozen=True, slots=True)
class AuthoritySettings:
    """How to run an authority. `issuer` None: the URL on which it listens. Port 0: any free one."""

    data: DataDir
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    issuer: str | None = None
    mandate_s: int = DEFAULT_MANDATE_S
    redis_url: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    stream_keys: tuple[bytes, ...] = field(default=(), repr=False)
    retention_days: int = DEFAULT_RETENTION_DAYS
    biscuit_keys: str | None = None

    @property
    def place(self) -> str:
        """Where what the authority knows is kept, as a person is told: no URL, which may hold a password."""
        return str(self.data.path) if self.database_url is None else "Postgres"

    @classmethod
    def read(
        cls,
        *,
        data_dir: Path | None,
        host: str,
        port: int,
        redis_url: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Return what the arguments say, then the environment. Raises: ConfigurationError."""
        return cls(
            find_data_dir(data_dir, environ),
            host,
            port,
            environ.get("COUNTERMAND_ISSUER") or None,
            _whole_number(environ, "COUNTERMAND_MANDATE_SECONDS", DEFAULT_MANDATE_S),
            redis_url or environ.get("COUNTERMAND_REDIS_URL") or None,
            environ.get("COUNTERMAND_DATABASE_URL") or None,
            _hmac_keys(environ.get("COUNTERMAND_STREAM_HMAC_KEY", "")),
            _whole_number(environ, "COUNTERMAND_RETENTION_DAYS", DEFAULT_RETENTION_DAYS),
            biscuit_keys(None, environ),
        )


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How to talk to an authority, and what to believe of it."""

    url: str
    api_key: str = field(repr=False)
    pin: str | None = None

    @classmethod
    def read(cls, data_dir: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self:
        """Return what the environment says; without a URL there, the rest is the data directory's.

        Raises:
            ConfigurationError: something is missing. A key of the data directory goes to the authority that is there,
                and never to one that the environment names.
        """
        data = find_data_dir(data_dir, environ)
        url, api_key, pin = (environ.get(f"COUNTERMAND_{name}") or None for name in ("URL", "API_KEY", "PIN"))
        if url is not None and api_key is None:
            raise ConfigurationError("COUNTERMAND_URL names an authority: set COUNTERMAND_API_KEY to a key for it")
        if url is None:
            url, api_key, pin = _line(data.url), api_key or _line(data.admin_key), pin or _line(data.pin)
        if url is None or api_key is None:
            raise ConfigurationError(
                f"no authority has run in {data.path}: start one with `countermand up`, "
                "or set COUNTERMAND_URL and COUNTERMAND_API_KEY"
            )
        return cls(url, api_key, pin)

    @classmethod
    def find(cls, data_dir: Path | None = None, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Return what `read` would; None where nobody names an authority, and none has run here."""
        is_named = data_dir is not None or environ.get("COUNTERMAND_DATA_DIR") or environ.get("COUNTERMAND_URL")
        if not is_named and _line(find_data_dir(None, environ).url) is None:
            return None
        return cls.read(data_dir, environ)


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """What a replica follows, and what it believes. `issuer` is whose mandates a guard over it accepts."""

    url: str = field(repr=False)  # a Redis's may hold a password
    issuer: str
    api_key: str | None = field(repr=False)
    pin: str | None

    @classmethod
    def read(
        cls, url: str | None, issuer: str | None, data_dir: Path | None = None, environ: Mapping[str, str] = os.environ
    ) -> Self:
        """Return what the arguments say, then the environment; without a URL there, what the data directory says.

        Raises:
            ConfigurationError: something is missing. A key of the data directory goes to the authority that is there,
                and to no other.
        """
        url = url or environ.get("COUNTERMAND_URL") or None
        issuer = issuer or environ.get("COUNTERMAND_ISSUER") or None
        api_key, pin = environ.get("COUNTERMAND_API_KEY") or None, environ.get("COUNTERMAND_PIN") or None
        if url is None:
            data = find_data_dir(data_dir, environ)
            url, api_key, pin = _line(data.url), api_key or _line(data.replica_key), pin or _line(data.pin)
            if url is None:
                raise ConfigurationError(
                    f"no authority has run in {data.path}: name one with --url, or set COUNTERMAND_URL"
                )
        if issuer is None and not url.startswith(("http://", "https://")):
            raise ConfigurationError("only an authority is its own issuer: name the issuer with --issuer")
        return cls(url, issuer or url, api_key, pin)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """One route of a gateway: what lies under `path` goes to `upstream`, with a token for `audience`."""

    path: str = "/"
    upstream: str
    audience: str
    required_scopes: tuple[str, ...] = ()
    max_staleness_s: float | None = None

    @classmethod
    def of(cls, table: object) -> Self:
        """Return the route that a table of TOML writes. Raises: ConfigurationError."""
        if not isinstance(table, dict):
            raise ConfigurationError("a route is a table: [[route]]")
        for name, value in table.items():
            what, fits = _ROUTE.get(name, ("nothing that a route has", _fits_nothing))
            if not fits(value):
                raise ConfigurationError(f"a route's {name} is {what}")
        if missing := {"upstream", "audience"} - set(table):
            raise ConfigurationError(f"a route has an upstream and an audience, and one has no {min(missing)}")
        return cls(**table | {"required_scopes": tuple(table.get("required_scopes", ()))})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _fits_nothing(_value: object) -> bool:
    return False


_ROUTE: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "path": ("a text", _is_text),
    "upstream": ("a text", _is_text),
    "audience": ("a text", _is_text),
    "required_scopes": ("a list of texts", lambda value: isinstance(value, list) and all(map(_is_text, value))),
    "max_staleness_s": ("a number", lambda value: type(value) in {int, float}),
}


def read_routes(path: Path) -> tuple[RouteSettings, ...]:
    """Return the routes that a file of TOML names: `[[route]]`, and in it the fields of RouteSettings.

    Raises:
        ConfigurationError: it cannot be read, or names none, or says anything else.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    routes = tables.get("route")
    if set(tables) != {"route"} or not isinstance(routes, list):
        raise ConfigurationError(f"{path} holds [[route]] tables, and nothing else")
    return tuple(RouteSettings.of(table) for table in routes)


def find_data_dir(chosen: Path | None, environ: Mapping[str, str] = os.environ) -> DataDir:
    """Return the data directory: the one that was chosen, else the environment's, else `.countermand`."""
    return DataDir(chosen or Path(environ.get("COUNTERMAND_DATA_DIR") or DEFAULT_DATA_DIR))


def biscuit_keys(keys: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the root keys of Biscuits that were given, else the environment's; None where there are none."""
    return keys or environ.get("COUNTERMAND_BISCUIT_KEYS") or None


def read_policy(path: Path) -> str:
    """Return the Datalog of a file. Raises: ConfigurationError."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:  # not UTF-8, or no path
        raise ConfigurationError(f"the policy {path} cannot be read: {type(error).__name__}") from error


def replica_credentials(
    api_key: str | None, pin: str | None, environ: Mapping[str, str] = os.environ
) -> tuple[str, str]:
    """Return the API key and the pin that were given, else the environment's. Raises: ConfigurationError."""
    api_key = api_key or environ.get("COUNTERMAND_API_KEY")
    pin = pin or environ.get("COUNTERMAND_PIN")
    if not api_key or not pin:
        raise ConfigurationError(
            "a replica needs an API key and a pin: pass api_key and pin, or set COUNTERMAND_API_KEY and "
            "COUNTERMAND_PIN; the authority keeps both in its data directory, as replica.key and pin"
        )
    return api_key, pin


def replica_pin(pin: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the pin that was given, else the environment's. Raises: ConfigurationError."""
    pin = pin or environ.get("COUNTERMAND_PIN")
    if not pin:
        raise ConfigurationError(
            "a replica needs a pin: pass pin, or set COUNTERMAND_PIN; the authority keeps it in its data directory"
        )
    return pin


def has_revoked_ids(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a list of revoked ids is configured, be it an empty one."""
    return REVOKED_IDS in environ or bool(environ.get(REVOKED_IDS_FILE))


def revoked_ids(environ: Mapping[str, str] | None = None) -> str | Path:
    """Return the list of revoked ids that is configured, or the file that holds it.

    A list may be empty: that is one that somebody has set. An empty name of a file is none.

    Raises:
        ConfigurationError: there is none, or there are two.
    """
    environ = os.environ if environ is None else environ
    listed, file = environ.get(REVOKED_IDS), environ.get(REVOKED_IDS_FILE) or None
    if listed is not None and file is not None:
        raise ConfigurationError(f"{REVOKED_IDS} and {REVOKED_IDS_FILE} are both set: there is one list")
    if listed is None and file is None:
        raise ConfigurationError(
            f"no list of revoked ids is configured: set {REVOKED_IDS}, empty if nothing is revoked, or "
            f"{REVOKED_IDS_FILE}"
        )
    return Path(file) if file is not None else listed or ""


def _hmac_keys(text: str) -> tuple[bytes, ...]:
    try:
        keys = tuple(bytes.fromhex(key) for key in text.split(",") if key.strip())
    except ValueError:
        raise ConfigurationError("COUNTERMAND_STREAM_HMAC_KEY is hex, or several in hex with commas between") from None
    if any(len(key) < MIN_HMAC_BYTES for key in keys):
        raise ConfigurationError(f"a key in COUNTERMAND_STREAM_HMAC_KEY has at least {MIN_HMAC_BYTES} bytes")
    return keys


def _line(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from error


def _whole_number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ConfigurationError(f"{name} is a whole number of at most nine digits")
    return int(text)
