"""Everything that an operator of the service sets, with defaults that are safe."""

from dataclasses import dataclass
from pathlib import Path

from pellucid.access import Access


@dataclass(frozen=True)
class Settings(Access):
    """Everything an operator sets; the defaults are those of `pellucid serve`.

    Attributes:
        max_bytes: of a request's body.
        max_pixels: width times height of a picture.
        upload_seconds: within which a body has to arrive.
        request_seconds: from there to the reply, waiting included.
        send_seconds: within which a reply has to be read, besides a second for each 512 kB of it; and
            each event of a job that is followed.
        queue: requests that wait for the network or run on it; beyond them there is a 429.
        concurrency: requests with a picture that are being read or answered; beyond them there is a 429.
        streams: clients that follow jobs at once; beyond them there is a 429.
        workers: processes that decode and encode.
        worker_bytes: of address space that each of them may take beyond what it starts with.
        worker_seconds: that one picture may take to decode or to encode.
        data: folder of jobs.
        max_jobs: that wait; beyond them there is a 429.
        job_seconds: that a job may run.
        keep_seconds: after which a finished job is forgotten.
        drain_seconds: that a stop waits for what is under way.
    """

    max_bytes: int = 64 * 10**6
    max_pixels: int = 50 * 10**6
    upload_seconds: float = 30
    request_seconds: float = 120
    send_seconds: float = 120
    queue: int = 16
    concurrency: int = 32
    streams: int = 64
    workers: int = 2
    worker_bytes: int | None = None
    worker_seconds: float = 30
    data: Path = Path("pellucid-jobs")
    max_jobs: int = 100
    job_seconds: float = 3600
    keep_seconds: float = 24 * 3600
    drain_seconds: float = 20

    @property
    def codec_bytes(self) -> int:
        """Of address space for a worker: what decoding a picture of `max_pixels` takes, and some to spare."""
        return self.worker_bytes or 2**30 + 80 * self.max_pixels
