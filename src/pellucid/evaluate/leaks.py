"""Whether test pictures were trained on, by the hashes of their training pictures that weights carry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.datasets.training_pictures import TrainingPictures
from pellucid.errors import some
from pellucid.restorer import Restorer

# What the rows that others have published carry, by the test set (docs/data.md).
PUBLISHED = {"rain100l": "with the published leak: 75 of the 100 test pictures lie in BSD400"}
PUBLISHED_SHORT = "with the published leak (Rain100L)"


@dataclass(frozen=True)
class LeakCheck:
    """What is known about a leak of one evaluation.

    Attributes:
        training: number of training pictures whose hashes the weights carry; none if they carry none.
        test: number of test pictures.
        leaked: names of the test pictures that are near a training picture by perceptual hash.
    """

    training: int | None
    test: int
    leaked: tuple[str, ...]

    @property
    def status(self) -> str:
        """In two words: "leak-free", "with a leak" or "leak unknown"."""
        if self.training is None:
            return "leak unknown"
        return "with a leak" if self.leaked else "leak-free"

    @property
    def short(self) -> str:
        """For a cell of a table."""
        return f"{self.status}: {len(self.leaked):,} of {self.test:,}" if self.leaked else self.status

    def __str__(self) -> str:
        if self.training is None:
            return (
                "leak unknown: these weights carry no hashes of their training pictures; compare with "
                "pellucid data leak"
            )
        if not self.leaked:
            return (
                f"leak-free (none of the {self.test:,} test pictures is among the {self.training:,} training "
                "pictures by perceptual hash)"
            )
        return (
            f"with a leak: {len(self.leaked):,} of {self.test:,} test pictures were trained on: "
            f"{some(self.leaked)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "status": self.status,
            "training": self.training,
            "test": self.test,
            "leaked": list(self.leaked),
            "words": str(self),
        }


def training_pictures(restorer: Restorer) -> TrainingPictures | None:
    """What the restorer's weights were trained on; none if they don't say.

    Raises:
        CheckpointError: what they say is damaged.
    """
    return TrainingPictures.from_provenance(getattr(restorer, "provenance", {}))


def trained_on(restorer: Restorer) -> Callable[[Tensor], bool | None]:
    """Tells of a clean picture (3, H, W) in [0, 1] whether it was trained on; none if that is not known."""
    known = training_pictures(restorer)

    def look(clean: Tensor) -> bool | None:
        if known is None:
            return None
        return known.holds((clean * 255).round().byte().permute(1, 2, 0))

    return look


def worst(checks: Sequence[LeakCheck]) -> str:
    """The status of a mean over several sets: of a leak it is enough that one has it."""
    statuses = [check.status for check in checks]
    return max(statuses, key=("leak-free", "leak unknown", "with a leak").index)
