"""What the door counts. Its own registry, so that a test or a second app starts from nothing."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, help_: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, help_, labels, registry=self.registry)

        def histogram(name: str, help_: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, help_, labels, buckets=_SECONDS, registry=self.registry)

        self.requests = counter("noria_requests", "Requests answered, by route and status", ("route", "status"))
        self.duration_s = histogram("noria_request_seconds", "From a request to its response", ("route",))
        self.drafts = counter("noria_drafts", "Drafts answered whole", ("domain", "release"))
        self.cancelled = counter("noria_drafts_cancelled", "Drafts whose client left in the middle", ("domain",))
        self.broken = counter("noria_drafts_broken", "Drafts that an engine did not finish", ("domain",))
        self.first_token_s = histogram("noria_first_token_seconds", "From the request to the first piece", ("domain",))
        self.recall_s = histogram("noria_recall_seconds", "What recall added to an answer", ("domain",))
        self.recall_unavailable = counter(
            "noria_recall_unavailable", "Answers given without a memory that was asked for", ("domain",)
        )
        self.append_s = histogram("noria_append_seconds", "From an append to its acknowledgement")
        self.append_failures = counter("noria_append_failures", "Appends that the log did not acknowledge")
        self.feedback = counter("noria_feedback", "Feedback recorded, by kind", ("kind",))
        self.in_flight = Gauge("noria_in_flight", "Drafts in flight", ["engine"], registry=self.registry)
        self.quarantined = Gauge("noria_quarantined", "What was put into quarantine", registry=self.registry)
        self.parked = Gauge("noria_parked", "States that met a bug and stand still", ["kind"], registry=self.registry)
        self.disk = Gauge("noria_disk_bytes", "What lies on the disk, by kind", ["kind"], registry=self.registry)
        self.disk_free = Gauge("noria_disk_free_bytes", "Room that the disk has left", registry=self.registry)
        self.live_release = Gauge("noria_live_release", "The release that answers", ["domain"], registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
