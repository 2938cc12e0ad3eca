"""What monitoring and administrators see of TLS: gauges, counters, and what needs attention.

Rule: read from the last report of the process that ends TLS; it opens no file. Labels come from closed sets.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coffer.server.tls.connections import ENDINGS
from coffer.server.tls.gatekeeper import Gatekeeper
from coffer.server.tls.handshake import REASONS

__all__ = ["TlsCollector", "concerns"]

_SOON_SECONDS: Final = 30 * 86_400.0
_DAY: Final = 86_400.0


class TlsCollector(Collector):
    """Reads the gatekeeper at scrape time; shows nothing where TLS is not used."""

    def __init__(self, keeper: Gatekeeper | None) -> None:
        self._keeper = keeper

    def collect(self) -> Iterable[Metric]:
        """The metrics `coffer_tls_…`."""
        if self._keeper is None:
            return
        counted, pulse = self._keeper.counted(), self._keeper.pulse
        yield _counter("coffer_tls_handshakes", "TLS handshakes.", "outcome", "handshake", ("done", *REASONS), counted)
        yield _counter(
            "coffer_tls_connections_ended", "Connections ended because their certificate was no longer good.",
            "reason", "ended", ENDINGS, counted,
        )  # fmt: skip
        yield _counter(
            "coffer_tls_reloads", "Times that changed TLS files were read.", "outcome", "reload", ("done", "failed"),
            counted,
        )  # fmt: skip
        up = "Whether the process that ends TLS reports."
        yield GaugeMetricFamily("coffer_tls_up", up, value=float(pulse is not None))
        if pulse is None:
            return
        yield GaugeMetricFamily("coffer_tls_open_connections", "TLS connections open now.", value=pulse.open)
        expires = "When the first of Coffer's own certificates expires, in seconds since 1970."
        yield GaugeMetricFamily("coffer_tls_certificate_expiry_timestamp_seconds", expires, pulse.expiry.certificate)
        if pulse.expiry.revocations is not None:
            ends = "When the first revocation list is out of date, in seconds since 1970."
            yield GaugeMetricFamily("coffer_tls_crl_expiry_timestamp_seconds", ends, pulse.expiry.revocations)
        failed = "Whether the TLS files on disk are not the ones in use, because they do not fit together."
        yield GaugeMetricFamily("coffer_tls_reload_failed", failed, value=float(bool(pulse.reload_trouble)))


def concerns(keeper: Gatekeeper, now: Callable[[], float] = time.time) -> list[str]:
    """What an administrator should look at although the server serves; `now` is in seconds since 1970."""
    pulse = keeper.pulse
    if pulse is None:
        return []
    found = []
    if pulse.reload_trouble:
        found.append(f"changed TLS files are not used: {pulse.reload_trouble}")
    left = pulse.expiry.certificate - now()
    if left < 0:
        found.append("the TLS certificate has expired: peers refuse it")
    elif left < _SOON_SECONDS:
        found.append(f"the TLS certificate expires in {left / _DAY:.0f} days: renew it")
    if pulse.expiry.revocations is not None and pulse.expiry.revocations < now():
        found.append("a revocation list is out of date: nobody whom it concerns is let in")
    if pulse.short_of:
        found.append(f"the process that ends TLS is short of {pulse.short_of}")
    return found


def _counter(  # noqa: PLR0917
    name: str, text: str, label: str, kind: str, values: Iterable[str], counted: dict[str, int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], counted.get(f"{kind} {value}", 0))
    return family
