"""What keeps a film steady: shots, and routing and light that follow slowly, how much it flickers."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.models.daair import Router

# Thumbnails of neighbors in a shot are correlated at least so, or differ by no more gray levels: by noise.
ALIKE, DIFFERENT = 0.5, 12
FOLLOW = 0.15  # how far routing and light follow each frame
MOVED = 4 / 255  # a cell whose mean light changes more, follows at once
CELLS = 8  # along each side, of the grid on which light is looked at
_THUMBNAIL = (48, 27)


class Shots:
    """Tells where one shot ends and another begins."""

    def __init__(self) -> None:
        self._before: np.ndarray[Any, Any] | None = None

    def begins(self, frame: Any) -> bool:
        """Whether a decoded frame is the first of a shot."""
        gray = (
            frame.reformat(*_THUMBNAIL, format="gray", interpolation="AREA").to_ndarray().astype(np.float32)
        )
        gray -= gray.mean()  # a flash, or a fade, is no other shot
        before, self._before = self._before, gray
        if before is None:
            return True
        alike = float((gray * before).mean() / max(gray.std() * before.std(), 1e-3))
        return alike < ALIKE and float(np.abs(gray - before).mean()) > DIFFERENT


class SteadyRouter(nn.Module):
    """A router that decides by a mean which follows the frames of a shot slowly.

    It follows a frame once, also where that is computed again (in float32, or in smaller parts): then, and
    where a frame comes in tiles or beside reduced copies, by the average of all its means that are finite.

    Attributes:
        mean: (1, C), or none at the beginning of a shot.
    """

    remembers = True

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router
        self.mean: Tensor | None = None
        self.begin_frame()

    def begin_frame(self) -> None:
        """What comes now is another frame."""
        self._before, self._seen = self.mean, list[Tensor]()

    def forward(self, x: Tensor, trial: None) -> tuple[Tensor, Tensor]:
        """As `Router.forward`, the same for all of a batch."""
        mean = x.mean((2, 3), dtype=torch.promote_types(x.dtype, torch.float32)).mean(0, keepdim=True)
        if torch.isfinite(mean).all():
            self._seen.append(mean)
            seen = torch.stack(self._seen).mean(0)
            before = self._before
            self.mean = seen if before is None else before.to(seen.device).lerp(seen, FOLLOW)
        decisive = mean if self.mean is None else self.mean
        return self.router(decisive[:, :, None, None].expand(len(x), -1, 1, 1), trial)


@contextmanager
def steady_routers(network: nn.Module) -> Generator[list[SteadyRouter]]:
    """A network's routers made steady, in their order, and put back."""
    places = [(m, m.router) for m in network.modules() if isinstance(getattr(m, "router", None), Router)]
    steady = [SteadyRouter(router) for _, router in places]  # type: ignore[arg-type]
    for (module, _), router in zip(places, steady, strict=True):
        module.router = router  # type: ignore[assignment]
    try:
        yield steady
    finally:
        for module, router in places:
            module.router = router


class SteadyLight:
    """Lets the light that a network adds follow slowly, on a coarse grid, where the film itself stands still.

    Attributes:
        change: (3, CELLS, CELLS), what is added now; none at the beginning of a shot.
        before: (3, CELLS, CELLS), the last frame's own light.
    """

    def __init__(self) -> None:
        self.change: Tensor | None = None
        self.before: Tensor | None = None

    def __call__(self, degraded: Tensor, restored: Tensor) -> Tensor:
        """The restored (3, H, W), its light steadied."""
        light = cells(degraded)
        change = cells(restored) - light
        before, self.before = self.before, light
        if before is None or self.change is None:
            self.change = change
            return restored
        moved = ((light - before).abs().mean(0) / MOVED).square().clamp(max=1)
        self.change = self.change + (FOLLOW + (1 - FOLLOW) * moved) * (change - self.change)
        correction = F.interpolate(
            (self.change - change)[None], restored.shape[1:], mode="bilinear", align_corners=False
        )
        return (restored + correction[0]).clamp_(0, 1)


def cells(pixels: Tensor) -> Tensor:
    """Mean light on a grid, (3, CELLS, CELLS)."""
    return F.adaptive_avg_pool2d(pixels, CELLS)


class Flicker:
    """How much neighbors in a shot differ, in gray levels: by pixel, and by light where nothing moves.

    Attributes:
        sums: of the differences of input and output, by pixel and by light, and how many were added up.
    """

    def __init__(self, sums: list[float] | None = None) -> None:
        self.sums = sums or [0.0] * 6
        self._before: list[tuple[Tensor, Tensor]] | None = None  # pixels and light of input and output

    def begin(self) -> None:
        """A new shot."""
        self._before = None

    def add(self, degraded: Tensor, restored: Tensor) -> None:
        """Take in a frame, (3, H, W) each."""
        before, self._before = self._before, [(x, cells(x)) for x in (degraded, restored)]
        if before is not None:
            pairs = list(zip(self._before, before, strict=True))
            for place, ((pixels, _), (old, _)) in enumerate(pairs):
                self.sums[place] += 255 * float((pixels - old).abs().mean())
            self.sums[2] += 1
            light = [(new - old).abs().mean(0) for (_, new), (_, old) in pairs]
            still = light[0] < MOVED
            for place, part in enumerate(light, start=3):
                self.sums[place] += 255 * float(part[still].sum())
            self.sums[5] += int(still.sum())

    def to_dict(self) -> dict[str, float | None]:
        """Means, in gray levels of 255; none where there was nothing to compare."""
        pixels, still = self.sums[2], self.sums[5]
        return {
            "input_difference": self.sums[0] / pixels if pixels else None,
            "output_difference": self.sums[1] / pixels if pixels else None,
            "input_light": self.sums[3] / still if still else None,
            "output_light": self.sums[4] / still if still else None,
        }
