"""What Prometheus is told. Labels have few values: routes as templates, never paths, and no clients."""

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The service's counters; each service has its own, so that two in one process don't mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
            self.registry.register(collector)
        self.requests = Counter(
            "pellucid_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "pellucid_request_seconds",
            "From a request's head to the end of its reply.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "pellucid_stage_seconds",
            "What a picture spends on each stage: header, wait, read, network, write.",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.pixels = Counter("pellucid_restored_pixels", "Pixels restored.", registry=self.registry)
        self.places = Gauge(
            "pellucid_places_taken",
            "Requests that wait for the network or run on it.",
            registry=self.registry,
        )
        self.refused = Counter(
            "pellucid_refused",
            "Requests answered with 429, by what was full.",
            ("full",),
            registry=self.registry,
        )
        self.lost_workers = Counter(
            "pellucid_lost_workers",
            "Processes lost over a picture: out of time, or ended on their own.",
            ("reason",),
            registry=self.registry,
        )
        self.jobs = Gauge("pellucid_jobs", "Jobs by state.", ("state",), registry=self.registry)

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
