"""What guards decide, as Prometheus scrapes it.

    REGISTRY.register(GuardMetrics(guard))

A scrape reads what the guards have counted by themselves: a decision costs an addition. Where several threads decide at
the same instant one of their passes may go uncounted; denials are not missed.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from countermand.enforce.guard import Guard


class GuardMetrics(Collector):
    """The metrics of `guards`, apart by their audience; two guards of one audience stand in one process at most once.

    countermand_decisions_total{audience, outcome, code, anchor_kind}   how each was, and what happened in flight
    countermand_calls_in_flight{audience}                               what may still be cut
    countermand_staleness_seconds{audience}                             how old the knowledge is; none before the first
    """

    def __init__(self, *guards: Guard) -> None:
        self._guards = guards

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield them as they are now."""
        decisions = CounterMetricFamily(
            "countermand_decisions", "Decisions, and what happened to calls in flight.", labels=_DECISION
        )
        in_flight = GaugeMetricFamily(
            "countermand_calls_in_flight", "Calls that may still be cut.", labels=["audience"]
        )
        staleness = GaugeMetricFamily(
            "countermand_staleness_seconds", "How old the knowledge of revocations is.", labels=["audience"]
        )
        for guard in self._guards:
            for (outcome, code, anchor_kind), count in guard.trace.counts().items():
                decisions.add_metric([guard.audience, outcome, code, anchor_kind], count)
            in_flight.add_metric([guard.audience], guard.in_flight)
            staleness_ms = guard.trace.staleness_ms()
            if staleness_ms is not None:
                staleness.add_metric([guard.audience], staleness_ms / 1000)
        yield from (decisions, in_flight, staleness)


_DECISION = ("audience", "outcome", "code", "anchor_kind")
