"""What an evaluation gives: means with their intervals, and all that is needed to make it again."""

import csv
import hashlib
import io
import math
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pellucid import __version__
from pellucid.evaluate import protocols
from pellucid.evaluate.leaks import LeakCheck, training_pictures
from pellucid.evaluate.protocols import Protocol
from pellucid.restorer import Restorer, TorchRestorer

RESAMPLES = 10_000
TOLERANCE = 0.005  # dB of PSNR, within which a picture has not become worse
RECOGNIZED = "recognized"  # stands for the kinds that a recognizer told a guided network, picture by picture


@dataclass(frozen=True)
class Scores:
    """PSNR in dB (infinite for equal pictures) and SSIM, by the protocol's measures."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Change:
    """One measure of one picture, before and after."""

    input: float
    output: float


@dataclass(frozen=True)
class PictureScores:
    """The scores of one picture, before and after.

    Attributes:
        name: the degraded picture's.
        input, output: PSNR and SSIM of the degraded and of the restored picture.
        measures: every measure by its name.
        trained_on: whether the clean picture is among the training pictures; none if that is not known.
        engine: what ran the network, as in a restorer's report.
    """

    name: str
    input: Scores
    output: Scores
    measures: dict[str, Change]
    trained_on: bool | None = None
    engine: str = "torch"

    @property
    def gain(self) -> float:
        """PSNR won, in dB; 0 where both pictures equal the clean one."""
        return 0.0 if self.output.psnr == self.input.psnr else self.output.psnr - self.input.psnr


@dataclass(frozen=True)
class Interval:
    """A mean over pictures, and the bounds of its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """One measure over all pictures, before and after."""

    input: Interval
    output: Interval


@dataclass(frozen=True)
class Evaluation:
    """Means over `n` pictures, and what they were measured with.

    Attributes:
        n: number of pictures.
        input, output: of the degraded and of the restored pictures.
        protocol: in words.
        protocol_name: "papers", "papers-y" or "files".
        measures: every measure by its name, with intervals.
        model, weights_sha256, device, precision: as in a restorer's report.
        engine: likewise; "onnxruntime and torch" if some pictures were run by one and some by the other.
        diagnosis: what a guided network was told, "recognized" where a recognizer told it; else none.
        guard: whether a recognizer could leave pictures, or their light, alone, and see haze from afar. Where
            the caller says what is wrong, it is not asked.
        recognizer_sha256: weights of the recognizer, where it was asked.
        data_sha256: over the lines "path sha256" of the files, sorted.
        commit: of the code, where it runs from its repository; "+changes" if files differ, or are new.
        version: of pellucid.
        seed: of noise and resampling.
        leak: whether test pictures were trained on.
        pictures: the scores of each.
    """

    n: int
    input: Scores
    output: Scores
    protocol: str
    protocol_name: str
    measures: dict[str, Summary]
    model: str
    weights_sha256: str | None
    device: str
    precision: str
    engine: str
    diagnosis: str | None
    guard: bool
    recognizer_sha256: str | None
    data_sha256: str
    commit: str | None
    version: str
    seed: int
    leak: LeakCheck
    pictures: tuple[PictureScores, ...]

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: an infinite PSNR becomes none.

        Args:
            per_image: with the scores of each picture, as "pictures".
        """
        values = finite(asdict(self)) | {"leak": self.leak.to_dict()}
        if not per_image:
            del values["pictures"]
        return values

    @property
    def psnr(self) -> Summary:
        """The protocol's PSNR, with its interval."""
        return self.measures[protocols.get(self.protocol_name).psnr]

    @property
    def ssim(self) -> Summary:
        """The protocol's SSIM, with its interval."""
        return self.measures[protocols.get(self.protocol_name).ssim]

    @property
    def worse(self) -> int:
        """How many pictures lost PSNR. A clean picture counts if it changed at all."""
        return sum(picture.gain < -TOLERANCE for picture in self.pictures)

    @property
    def least_gain(self) -> float:
        """PSNR won by the picture that won least, in dB; below zero, it lost (a clean one without end)."""
        return min(picture.gain for picture in self.pictures)

    @property
    def lowest(self) -> float:
        """PSNR of the restored picture that is furthest from its clean one, in dB."""
        return min(picture.output.psnr for picture in self.pictures)

    @property
    def told(self) -> str:
        """What the network was told, and by whom, as ", told haze"; empty if there was nobody but it."""
        if self.diagnosis != RECOGNIZED and not self.guard:
            return f", told {self.diagnosis}" if self.diagnosis else ""
        did = ["kind recognized"] * (self.diagnosis == RECOGNIZED) + ["guarded"] * self.guard
        return f", {' and '.join(did)} by recognizer {(self.recognizer_sha256 or 'unknown')[:16]}"

    @property
    def code(self) -> str:
        """The commit, shortened, or the version where it is not known."""
        commit, plus, changes = (self.commit or "").partition("+")
        return f"{commit[:12]}{plus}{changes}" if commit else f"pellucid {self.version}"

    @property
    def run_on(self) -> str:
        """Device, precision, and the engine if it is not torch."""
        return ", ".join([self.device, self.precision, *([self.engine] if self.engine != "torch" else [])])

    @property
    def origin(self) -> dict[str, Any]:
        """What a row of a table carries beside its numbers."""
        return {
            "protocol": self.protocol_name,
            "data_sha256": self.data_sha256,
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "guard": self.guard,
            "recognizer_sha256": self.recognizer_sha256,
            "commit": self.commit,
            "version": self.version,
            "seed": self.seed,
            "device": self.device,
            "precision": self.precision,
            "engine": self.engine,
            "leak": str(self.leak),
        }


def summarize(
    restorer: Restorer,
    pictures: Iterable[PictureScores],
    *,
    protocol: Protocol,
    what: str,
    data_sha256: str,
    seed: int,
    diagnosis: str | None,
) -> Evaluation:
    """The evaluation that `pictures` amount to; `what` says in words what they are."""
    scores = tuple(pictures)
    measures = {
        name: Summary(
            mean_interval([s.measures[name].input for s in scores], seed),
            mean_interval([s.measures[name].output for s in scores], seed),
        )
        for name in scores[0].measures
    }
    psnr, ssim = measures[protocol.psnr], measures[protocol.ssim]
    report, known = restorer.describe(), training_pictures(restorer)
    leak = LeakCheck(
        None if known is None else len(known), len(scores), tuple(s.name for s in scores if s.trained_on)
    )
    guarded, told, recognizer = False, False, None
    if isinstance(restorer, TorchRestorer) and diagnosis is None and restorer.recognizes:
        guarded, told = restorer.guard, restorer.spec.guided
        recognizer = restorer.recognizer.weights_sha256 if guarded or told else None
    return Evaluation(
        n=len(scores),
        input=Scores(psnr.input.mean, ssim.input.mean),
        output=Scores(psnr.output.mean, ssim.output.mean),
        protocol=f"{what}; {protocol.words}",
        protocol_name=protocol.name,
        measures=measures,
        model=report.model,
        weights_sha256=report.weights_sha256,
        device=report.device,
        precision=report.precision,
        engine=" and ".join(sorted({s.engine for s in scores})),
        diagnosis=RECOGNIZED if told else diagnosis,
        guard=guarded,
        recognizer_sha256=recognizer,
        data_sha256=data_sha256,
        commit=code_commit(),
        version=__version__,
        seed=seed,
        leak=leak,
        pictures=scores,
    )


def mean_interval(values: list[float], seed: int) -> Interval:
    """The mean and its 95% interval, by the percentiles of the means of 10,000 seeded resamples.

    It says how much the mean hangs on which pictures the set happens to hold.
    """
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        return Interval(float(array.mean()), math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = np.concatenate(  # in parts, since a large set's resamples would fill the memory
        [array[rng.integers(len(array), size=(RESAMPLES // 20, len(array)))].mean(axis=1) for _ in range(20)]
    )
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(array.mean()), float(low), float(high))


def hash_listing(hashes: dict[str, str]) -> str:
    """One hash over files: that of the lines "path sha256", sorted by path."""
    lines = "".join(f"{path} {sha256}\n" for path, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


@cache
def code_commit() -> str | None:
    """The commit that pellucid runs from, "+changes" behind it if its files differ, or new ones lie there.

    None outside git.
    """
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str | None:
        try:
            ended = subprocess.run(
                ["git", "-C", str(package), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return ended.stdout.strip() if ended.returncode == 0 else None

    # Installed into an environment that lies inside some other repository, that one's commit says nothing.
    if git("ls-files", "__init__.py") != "__init__.py" or (commit := git("rev-parse", "HEAD")) is None:
        return None
    # A new file may be a new network; what git ignores stays out.
    return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=normal", ".") else "")


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows of equal keys, the keys first; floats with 6 digits behind the point, nothing for none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: f"{v:.6f}" if isinstance(v, float) else v for key, v in row.items()})
    return text.getvalue()


def picture_table(results: dict[str, Evaluation]) -> str:
    """One row per picture of each set: every measure before and after, and what it was measured with."""
    rows = [
        {
            "set": name,
            "picture": picture.name,
            "trained_on": picture.trained_on,
            **{
                f"{measure}_{side}": getattr(change, side)
                for measure, change in picture.measures.items()
                for side in ("input", "output")
            },
            "prompt": result.diagnosis,
            **result.origin,
            "engine": picture.engine,
        }
        for name, result in results.items()
        for picture in result.pictures
    ]
    return as_csv(rows)


def finite(value: Any) -> Any:
    """Plain values in which what is not finite has become none."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
