"""Verbs that guard what others serve: `gateway` and `forward-auth`."""

from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from countermand.cli.terminal import (
    AudienceOption,
    DataDirOption,
    HostOption,
    MaxStalenessOption,
    MetricsPortOption,
    MintedByOption,
    PortOption,
    ScopeOption,
    UrlOption,
    decisions_told,
    run,
    say,
    until_signalled,
)
from countermand.enforce.forward_auth import ForwardAuth
from countermand.errors import ConfigurationError
from countermand.replica.replica import MAX_STALENESS_S
from countermand.settings import (
    DEFAULT_HOST,
    FORWARD_AUTH_PORT,
    GATEWAY_PORT,
    ReplicaSettings,
    RouteSettings,
    read_routes,
)
from countermand.wiring import connect
from countermand.wiring.biscuits import biscuits_of
from countermand.wiring.metrics import metrics_served

MAX_BODY: Final = 64 * 1024 * 1024

BiscuitKeysOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="The root keys of Biscuits that pass beside mandates: ed25519/… in hex, or ID=ed25519/…, several with "
        "commas.  [COUNTERMAND_BISCUIT_KEYS]"
    ),
]
BiscuitPolicyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        help="A file of Datalog: what a Biscuit may do here. It is told the time; by a gateway, method and path."
    ),
]


def forward_auth(  # noqa: PLR0913 - one for each option
    *,
    audience: AudienceOption,
    url: UrlOption = None,
    issuer: MintedByOption = None,
    scope: ScopeOption = None,
    biscuit_keys: BiscuitKeysOption = None,
    biscuit_policy: BiscuitPolicyOption = None,
    max_staleness: MaxStalenessOption = MAX_STALENESS_S,
    host: HostOption = DEFAULT_HOST,
    port: PortOption = FORWARD_AUTH_PORT,
    metrics_port: MetricsPortOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Answer nginx, Caddy, Traefik or Envoy whether a request may pass, until Ctrl-C.

    It refuses the next request, and ends nothing that is open. What it refuses is on stderr, a line of JSON each.
    """
    from countermand.wiring.protocols import HeadsOnly  # noqa: PLC0415 - slow to import, as in `running`
    from countermand.wiring.serve import bound, serving  # noqa: PLC0415 - likewise

    settings = ReplicaSettings.read(url, issuer, data_dir)
    guard = connect(
        settings.url,
        issuer=settings.issuer,
        biscuits=biscuits_of(biscuit_keys, biscuit_policy),
        audience=audience,
        api_key=settings.api_key,
        pin=settings.pin,
        max_staleness_s=max_staleness,
        required_scopes=scope or (),
    )

    async def serve() -> None:
        stopped = until_signalled()
        with bound(host, port) as (listener, own_url):
            async with serving(ForwardAuth(guard), listener, HeadsOnly, proxy_headers=False, date_header=False):
                say(f"forward auth  {own_url}", f"audience      {audience}", f"issuer        {settings.issuer}")
                await stopped.wait()

    with decisions_told(), metrics_served(host, metrics_port, (guard,)):
        run(serve())


def gateway(  # noqa: PLR0913 - one for each option
    *,
    upstream: Annotated[str | None, typer.Option(help="The service to forward to, as a URL.")] = None,
    audience: Annotated[str | None, typer.Option(help="Whom the tokens are for.")] = None,
    scope: ScopeOption = None,
    config: Annotated[
        Path | None, typer.Option(help="A file of TOML with routes, in the place of these three.")
    ] = None,
    url: UrlOption = None,
    issuer: MintedByOption = None,
    biscuit_keys: BiscuitKeysOption = None,
    biscuit_policy: BiscuitPolicyOption = None,
    max_staleness: MaxStalenessOption = MAX_STALENESS_S,
    max_body: Annotated[int, typer.Option(help="How many bytes the body of a request may have.", min=0)] = MAX_BODY,
    host: HostOption = DEFAULT_HOST,
    port: PortOption = GATEWAY_PORT,
    metrics_port: MetricsPortOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Forward to a service what comes with a good token, and cut it when the token ends, until Ctrl-C.

    The service hears in X-Countermand-… who acts, and never sees the token. In the file each [[route]] has upstream and
    audience; it may have path, which is a prefix, required_scopes and max_staleness_s. What is refused or cut is on
    stderr, a line of JSON each.
    """
    from countermand.wiring.gateway import guards_of, serve_gateway  # noqa: PLC0415 - an extra, and slow to import

    routes = _routes(config, upstream, audience, scope or [])
    biscuits = biscuits_of(biscuit_keys, biscuit_policy)
    guards = guards_of(routes, ReplicaSettings.read(url, issuer, data_dir), max_staleness, biscuits)

    async def serve() -> None:
        stopped = until_signalled()
        async with serve_gateway(routes, guards, host, port, max_body) as own_url:
            say(f"gateway   {own_url}")
            say(*(f"forwards  {route.path} to {route.upstream} for {route.audience}" for route in routes))
            await stopped.wait()

    with decisions_told(), metrics_served(host, metrics_port, tuple(guards.values())):
        run(serve())


def _routes(
    config: Path | None, upstream: str | None, audience: str | None, scope: list[str]
) -> tuple[RouteSettings, ...]:
    if config is not None and (upstream or audience or scope):
        raise ConfigurationError("the routes are in the file: leave --upstream, --audience and --scope out")
    if config is not None:
        return read_routes(config)
    if upstream is None or audience is None:
        raise ConfigurationError("a gateway needs --upstream and --audience, or --config with a file of routes")
    return (RouteSettings(upstream=upstream, audience=audience, required_scopes=tuple(scope)),)
