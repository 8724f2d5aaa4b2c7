"""One picture, explained."""

from dataclasses import dataclass
from typing import Any

from pellucid.explain._watch import rounded
from pellucid.explain.change import Change, Spectrum, measure_change, measure_spectrum
from pellucid.explain.prompts import PromptComparison, compare_prompts, perturbs
from pellucid.explain.routing import Choice, routes, summarize_choices, watching_routers
from pellucid.image import ImageBuffer
from pellucid.restoration import Report
from pellucid.restorer import TorchRestorer


@dataclass(frozen=True)
class Explanation:
    """What a network saw in one picture and did to it.

    Attributes:
        report: of the restoration.
        degraded, restored: the picture before and after.
        change: where and how much.
        spectrum: before and after.
        routing: each router's choice in the order of the forward pass; none for a network without routers.
        prompts: what other prompts would do; none for a network without perturbation blocks.
    """

    report: Report
    degraded: ImageBuffer
    restored: ImageBuffer
    change: Change
    spectrum: Spectrum
    routing: tuple[Choice, ...] | None
    prompts: PromptComparison | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "report": self.report.to_dict(),
            "picture": {"width": self.degraded.width, "height": self.degraded.height},
            "change": self.change.to_dict(),
            "spectrum": self.spectrum.to_dict(),
            "routing": None if self.routing is None else rounded([vars(choice) for choice in self.routing]),
            "prompts": None if self.prompts is None else self.prompts.to_dict(),
        }


def explain_picture(
    restorer: TorchRestorer, image: ImageBuffer, *, diagnosis: str | None = None
) -> Explanation:
    """Restore one picture as always, and look at the network meanwhile.

    Args:
        restorer: holds the network.
        image: the picture.
        diagnosis: for guided networks, the name of the prompt; without it a recognizer finds it.

    Raises:
        PellucidError: as a restorer does.
    """
    restorer.describe()  # and the probe's own runs are over
    with watching_routers(restorer) as calls:
        restoration = restorer(image, diagnosis=diagnosis)
    restored, report = restoration.image, restoration.report
    # Tiles of a plan that ran out of memory come before those of the plan that worked.
    routing = summarize_choices(calls[-report.tiles :]) if routes(restorer) and report.tiles else None
    prompts = None
    if report.diagnosis is not None and perturbs(restorer):
        prompts = compare_prompts(restorer, image.pixels, report.diagnosis)
    return Explanation(
        report,
        image,
        restored,
        measure_change(image.pixels, restored.pixels),
        measure_spectrum(image.pixels, restored.pixels),
        routing,
        prompts,
    )
