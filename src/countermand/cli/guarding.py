"""Verbs that guard what others serve: `forward-auth`."""

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
from countermand.replica.replica import MAX_STALENESS_S
from countermand.settings import DEFAULT_HOST, FORWARD_AUTH_PORT, ReplicaSettings
from countermand.wiring import connect


def forward_auth(  # noqa: PLR0913 - one for each option
    *,
    audience: AudienceOption,
    url: UrlOption = None,
    issuer: MintedByOption = None,
    scope: ScopeOption = None,
    max_staleness: MaxStalenessOption = MAX_STALENESS_S,
    host: HostOption = DEFAULT_HOST,
    port: PortOption = FORWARD_AUTH_PORT,
    metrics_port: MetricsPortOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Answer nginx, Caddy, Traefik or Envoy whether a request may pass, until Ctrl-C.

    It refuses the next request, and ends nothing that is open. What it refuses is on stderr, a line of JSON each.
    """
    from countermand.wiring.metrics import metrics_served  # noqa: PLC0415 - an extra
    from countermand.wiring.protocols import HeadsOnly  # noqa: PLC0415 - slow to import, as in `running`
    from countermand.wiring.serve import bound, serving  # noqa: PLC0415

    settings = ReplicaSettings.read(url, issuer, data_dir)
    guard = connect(
        settings.url,
        issuer=settings.issuer,
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
