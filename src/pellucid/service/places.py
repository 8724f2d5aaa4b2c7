"""A bounded number of places: who finds none is sent away at once."""

import contextlib
from collections.abc import Generator

from prometheus_client import Counter, Gauge

from pellucid.errors import OverloadedError


class Places:
    """So many places, and no queue for them.

    Args:
        name: for metrics: what is full when no place is free.
        limit: how many there are.
        refused: counts who was sent away.
        taken: shows how many are taken.
    """

    def __init__(self, name: str, limit: int, refused: Counter, taken: Gauge | None = None) -> None:
        self.name, self.limit, self.taken = name, limit, 0
        self.seconds = 1.0  # that one held its place lately, a running mean
        self._refused, self._gauge = refused, taken

    @property
    def full(self) -> bool:
        """Whether no place is free."""
        return self.taken >= self.limit

    def check(self) -> None:
        """Refuse now what would be refused later, before work is put into it.

        Raises:
            OverloadedError: no place is free.
        """
        if self.full:
            self._refused.labels(self.name).inc()
            raise OverloadedError(
                f"All {self.limit} places of this service are taken ({self.name}). "
                "Ask again after the seconds that Retry-After says.",
                retry_after=self.retry_after,
            )

    @property
    def retry_after(self) -> int:
        """Seconds after which a place is likely to be free: 1 to 60."""
        return max(1, min(60, round(self.seconds)))

    @contextlib.contextmanager
    def take(self) -> Generator[None]:
        """Hold a place.

        Raises:
            OverloadedError: none is free.
        """
        self.check()
        self._move(+1)
        try:
            yield
        finally:
            self._move(-1)

    def took(self, seconds: float) -> None:
        """Learn how long one held what places wait for."""
        self.seconds += 0.2 * (seconds - self.seconds)

    def _move(self, by: int) -> None:
        self.taken += by
        if self._gauge is not None:
            self._gauge.set(self.taken)
