"""The metrics of guards at a port of their own, apart from what is guarded: for verbs that guard what others serve."""

from collections.abc import Iterator
from contextlib import contextmanager

from countermand.enforce.guard import Guard
from countermand.errors import ConfigurationError


@contextmanager
def metrics_served(host: str, port: int | None, guards: tuple[Guard, ...]) -> Iterator[None]:
    """Let Prometheus scrape `guards`, and this process, while the block lasts; at no port where that is None.

    Raises:
        ConfigurationError: it cannot be listened on.
    """
    if port is None:
        yield
        return
    from prometheus_client import (  # noqa: PLC0415 - an extra, which is not needed where nobody scrapes
        CollectorRegistry,
        ProcessCollector,
        start_http_server,
    )

    from countermand.enforce.metrics import GuardMetrics  # noqa: PLC0415 - likewise

    registry = CollectorRegistry()
    registry.register(GuardMetrics(*guards))
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigurationError(f"{host}:{port} cannot be listened on: {error}") from error
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
