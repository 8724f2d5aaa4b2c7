"""How well a recognizer knows what pictures show: F1, confusion, calibration, errors of strength, verdicts.

Measured on the fixed labelled pictures of `pellucid.labels.validation_pictures`. Those made from
even-numbered clean pictures serve calibration, those from odd-numbered ones are measured: no scene stands on
both sides. Strengths, to which no calibration is fitted, are measured on all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import __version__
from pellucid.checkpoint import Checkpoint
from pellucid.data import Shards, load_shards
from pellucid.diagnosis import PRESENT, Diagnosis, Recognizer, calibrate, conclude
from pellucid.errors import InputError
from pellucid.evaluate.scores import as_csv, code_commit, finite
from pellucid.labels import KINDS, strange_pictures, validation_pictures, validation_shards
from pellucid.models.recognizer import SCALES, Answers

BINS = 10  # of equal width, for the expected calibration error (Guo et al., 2017)
RIDGE = 1e-3  # holds slopes near 1 and offsets near 0 where few pictures say anything
FAMILIAR = 0.995  # share of the calibration pictures that count as familiar


@dataclass(frozen=True)
class Judged:
    """The answers about labelled pictures, raw.

    Attributes:
        rows: of each picture, the name of its row.
        numbers: (N,) of each picture, its number in the row, which is that of the clean picture it was made
            from.
        presence: (N, K + 1), NaN where there is no label.
        truths: (N, K) strengths in the kinds' units, NaN where unknown.
        logits: (N, K + 1), not calibrated.
        strengths: (N, K), encoded as the network learns them.
        novelty: (N,).
    """

    rows: tuple[str, ...]
    numbers: Tensor
    presence: Tensor
    truths: Tensor
    logits: Tensor
    strengths: Tensor
    novelty: Tensor

    def of(self, chosen: Tensor) -> "Judged":
        """Those pictures for which `chosen` (N,) is true."""
        rows = tuple(row for row, take in zip(self.rows, chosen.tolist(), strict=True) if take)
        fields = (self.numbers, self.presence, self.truths, self.logits, self.strengths, self.novelty)
        return Judged(rows, *(field[chosen] for field in fields))

    @property
    def mixed(self) -> Tensor:
        """(N,) whether a picture has two or three degradations."""
        return torch.tensor([row.startswith("composite") for row in self.rows])

    def decoded(self, kind: int) -> Tensor:
        """(N,) strengths of one kind, in its unit."""
        return torch.tensor([SCALES[KINDS[kind]].decode(v) for v in self.strengths[:, kind].tolist()])

    def conclude(self, config: Any) -> list[Diagnosis]:
        """The diagnosis of each picture."""
        return [
            conclude(
                Answers(self.logits[i : i + 1], self.strengths[i : i + 1], self.novelty[i : i + 1]), config
            )
            for i in range(len(self.rows))
        ]


def ask(network: nn.Module, shards: Shards, limit: int | None = None) -> Judged:
    """The raw answers of a network about `validation_pictures`, the first `limit` of each row.

    Raises:
        InputError: there are none.
    """
    rows: list[str] = []
    numbers: list[int] = []
    columns: list[tuple[Tensor, ...]] = []
    was_training = network.training
    recognizer = Recognizer(network, device=next(network.parameters()).device)
    for name, number, labelled in validation_pictures(shards, limit):
        answers = recognizer.ask(labelled.picture[None])
        known = [labelled.truth.strengths.get(kind) for kind in KINDS]
        rows.append(name)
        numbers.append(number)
        truths = torch.tensor([math.nan if v is None else v for v in known])
        columns.append((labelled.truth.presence(), truths, *(answer[0] for answer in answers)))
    network.train(was_training).requires_grad_(True)
    if not columns:
        raise InputError(
            "The shards hold no validation pictures; expected some of the split val. Add them, or give other "
            "shards."
        )
    presence, truths, logits, strengths, novelty = (torch.stack(c) for c in zip(*columns, strict=True))
    return Judged(tuple(rows), torch.tensor(numbers), presence, truths, logits, strengths, novelty)


def f1(presence: Tensor, said: Tensor) -> dict[str, float | None]:
    """F1 of each kind; none where it is neither present nor said to be.

    Args:
        presence: (N, K) 1, 0 or NaN, which is not counted.
        said: (N, K) whether the kind was said to be present.
    """
    counts = confusion(presence, said)
    return {
        kind: 2 * c["hit"] / (2 * c["hit"] + c["false"] + c["missed"])
        if c["hit"] + c["false"] + c["missed"]
        else None
        for kind, c in counts.items()
    }


def confusion(presence: Tensor, said: Tensor) -> dict[str, dict[str, int]]:
    """Of each kind, how many pictures were "hit", "missed", "false" (said without reason) and "rest"."""
    table: dict[str, dict[str, int]] = {}
    for i, kind in enumerate(KINDS):
        there, told = presence[:, i] == 1, said[:, i]
        not_there = presence[:, i] == 0
        counts = (there & told, there & ~told, not_there & told, not_there & ~told)
        names = ("hit", "missed", "false", "rest")
        table[kind] = {name: int(count.sum()) for name, count in zip(names, counts, strict=True)}
    return table


def mean(values: Sequence[float | None]) -> float:
    """Of what is there; NaN of nothing."""
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else math.nan


def fit_platt(logits: Tensor, presence: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Slope and offset for each column, by the least cross entropy with a small ridge (Platt, 1999).

    Args:
        logits: (N, K).
        presence: (N, K) 1, 0 or NaN, which is not counted.
    """
    known, truth = ~presence.isnan(), presence.nan_to_num()
    parameters = torch.stack([torch.ones(logits.shape[1]), torch.zeros(logits.shape[1])]).requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        slopes, offsets = parameters
        entropy = F.binary_cross_entropy_with_logits(logits * slopes + offsets, truth, reduction="none")
        ridge = RIDGE * ((slopes - 1).square().sum() + offsets.square().sum())
        loss = ((entropy * known).sum(0) / known.sum(0).clamp_min(1)).sum() + ridge
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    slopes, offsets = (tuple(round(v, 5) for v in row) for row in parameters.tolist())
    return slopes, offsets


def reliability(probabilities: Tensor, presence: Tensor) -> list[tuple[int, float, float]]:
    """Of each of `BINS` bins: how many labels, their mean probability, and the share that is true.

    Args:
        probabilities: any shape.
        presence: the same, 1, 0 or NaN, which is not counted.
    """
    known = ~presence.isnan()
    chances, truth = probabilities[known], presence[known]
    bins = (chances * BINS).long().clamp(max=BINS - 1)
    rows: list[tuple[int, float, float]] = []
    for i in range(BINS):
        inside = bins == i
        n = int(inside.sum())
        rows.append(
            (n, float(chances[inside].mean()) if n else 0.0, float(truth[inside].mean()) if n else 0.0)
        )
    return rows


def calibration_error(bins: Sequence[tuple[int, float, float]]) -> float:
    """The expected calibration error: mean distance of probability and truth, weighted by numbers."""
    total = sum(n for n, _, _ in bins)
    return sum(n * abs(said - true) for n, said, true in bins) / total if total else math.nan


def relative_error(judged: Judged, kind: int) -> float:
    """Mean relative error of a strength, where the kind is present and its strength known."""
    chosen = (judged.presence[:, kind] == 1) & ~judged.truths[:, kind].isnan()
    truth = judged.truths[chosen, kind]
    return float(((judged.decoded(kind)[chosen] - truth).abs() / truth).mean()) if len(truth) else math.nan


def absolute_error(judged: Judged, kind: int) -> float:
    """Mean absolute error of a strength, likewise, in the kind's unit."""
    chosen = (judged.presence[:, kind] == 1) & ~judged.truths[:, kind].isnan()
    truth = judged.truths[chosen, kind]
    return float((judged.decoded(kind)[chosen] - truth).abs().mean()) if len(truth) else math.nan


def judge(network: nn.Module, shards: Shards, limit: int | None = None) -> dict[str, Any]:
    """A short look while training, without calibration."""
    judged = ask(network, shards, limit)
    said = judged.logits[:, :-1] > 0
    single = f1(judged.presence[~judged.mixed, :-1], said[~judged.mixed])
    mixed = f1(judged.presence[judged.mixed, :-1], said[judged.mixed])
    clean = judged.presence[:, -1] == 1
    return rounded(
        {
            "f1_single": single,
            "f1_composite": mixed,
            "macro_single": mean(list(single.values())),
            "macro_composite": mean(list(mixed.values())),
            "clean_said_clean": float((judged.logits[clean, -1] > 0).float().mean()),
            "sigma_error": relative_error(judged.of(~judged.mixed), 0),
        }
    )


def calibrate_network(judged: Judged, config: Any) -> Any:
    """The configuration with slopes, offsets and the familiar novelty, from the even-numbered pictures."""
    even = judged.of(judged.numbers % 2 == 0)
    slopes, offsets = fit_platt(even.logits, even.presence)
    familiar = float(torch.quantile(even.novelty, FAMILIAR))
    return replace(config, slopes=slopes, offsets=offsets, familiar=round(familiar, 4))


def calibrate_checkpoint(checkpoint: Checkpoint, shards: Shards) -> Checkpoint:
    """The checkpoint of a recognizer with measured calibration and scores.

    Args:
        checkpoint: of a recognizer, calibrated or not.
        shards: of the validation split; the source "drawn" is added here.
    """
    network: Any = checkpoint.build()
    judged = ask(network, validation_shards(shards))
    network.config = calibrate_network(judged, network.config)
    provenance = checkpoint.provenance | {
        "validation": {},
        "recognition": score(judged, network.config),
        "validation_data_sha256": shards.data_hash,
    }
    return Checkpoint.from_network(checkpoint.model, network, provenance)


def evaluate_recognizer(recognizer: Recognizer, root: str | Path) -> tuple[dict[str, Any], str]:
    """Scores of a recognizer on the validation pictures of a shard folder, and the same as the rows of a CSV
    file.

    Raises:
        RecipeError, UnreadableImageError: `root` is no whole shard folder.
    """
    shards = load_shards(root, "val")
    judged = ask(recognizer.network, validation_shards(shards))
    scores = score(judged, recognizer.config)
    scores["strange"] = judge_strange(recognizer)
    origin = {
        "data_sha256": shards.data_hash,
        "model": recognizer.name,
        "weights_sha256": recognizer.weights_sha256,
        "commit": code_commit(),
        "version": __version__,
        "device": recognizer.device.type,
        "precision": "float32",
    }
    return scores | origin, as_csv([row | origin for row in _table(scores)])


def score(judged: Judged, config: Any) -> dict[str, Any]:
    """All measures on the odd-numbered pictures, plain values; errors of strengths on all, since nothing is
    fitted to them there.
    """
    odd = judged.of(judged.numbers % 2 == 1)
    probabilities = calibrate(odd.logits, config)
    said = probabilities[:, :-1] >= PRESENT
    kinds: dict[str, Any] = {}
    macro: dict[str, float] = {}
    for name, mixed in (("single", False), ("composite", True)):
        chosen = odd.mixed == mixed
        scores = f1(odd.presence[chosen, :-1], said[chosen])
        counts = confusion(odd.presence[chosen, :-1], said[chosen])
        macro[name] = mean(list(scores.values()))
        part = judged.of(judged.mixed == mixed)
        for i, kind in enumerate(KINDS):
            kinds.setdefault(kind, {})[name] = {
                "f1": scores[kind],
                **counts[kind],
                "relative_error": relative_error(part, i),
                "absolute_error": absolute_error(part, i),
            }
    for i, kind in enumerate(KINDS):
        kinds[kind]["calibration_error"] = calibration_error(
            reliability(probabilities[:, i], odd.presence[:, i])
        )
    bins = reliability(probabilities[:, :-1], odd.presence[:, :-1])
    nothing = reliability(probabilities[:, -1], odd.presence[:, -1])
    return rounded(
        {
            "n": len(odd.rows),
            "macro_f1": macro,
            "sigma_error": {
                "gaussian": _sigma_error(judged, ("noise_",)),
                "single": relative_error(judged.of(~judged.mixed), 0),
                "composite": relative_error(judged.of(judged.mixed), 0),
            },
            "calibration_error": calibration_error(bins),
            "calibration_error_nothing_wrong": calibration_error(nothing),
            "worst_kind_calibration_error": max(k["calibration_error"] for k in kinds.values()),
            "reliability": [list(row) for row in bins],
            "reliability_nothing_wrong": [list(row) for row in nothing],
            "kinds": kinds,
            "rows": _by_row(odd, config, said),
        }
    )


def _sigma_error(judged: Judged, prefixes: tuple[str, ...]) -> float:
    return relative_error(judged.of(torch.tensor([row.startswith(prefixes) for row in judged.rows])), 0)


def _by_row(judged: Judged, config: Any, said: Tensor) -> dict[str, Any]:
    """Of each row: how many pictures, how often each kind was said, and the verdicts."""
    verdicts = judged.conclude(config)
    table: dict[str, Any] = {}
    for row in dict.fromkeys(judged.rows):
        chosen = [i for i, name in enumerate(judged.rows) if name == row]
        counts = [verdicts[i].verdict for i in chosen]
        table[row] = {
            "n": len(chosen),
            **{kind: int(said[chosen, k].sum()) for k, kind in enumerate(KINDS)},
            **{v: counts.count(v) for v in ("degraded", "nothing wrong", "unknown")},
        }
    return table


def judge_strange(recognizer: Recognizer) -> dict[str, str]:
    """The verdict on each of `strange_pictures`, which it can't know: "unknown" is the right one."""
    return {name: recognizer(picture).verdict for name, picture in strange_pictures()}


def _table(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of `results/recognizer.csv`: every kind alone and in composites, then the means."""
    rows: list[dict[str, Any]] = []
    for part in ("single", "composite"):
        for kind in KINDS:
            found = scores["kinds"][kind]
            rows.append(
                {
                    "kind": kind,
                    "pictures": part,
                    **found[part],
                    "calibration_error": found["calibration_error"],
                }
            )
        nothing = dict.fromkeys(("hit", "missed", "false", "rest", "relative_error", "absolute_error"))
        rows.append(
            {
                "kind": "all",
                "pictures": part,
                "f1": scores["macro_f1"][part],
                **nothing,
                "calibration_error": scores["calibration_error"],
            }
        )
    return rows


def rounded(value: Any) -> Any:
    """Plain values with four digits behind the point; none for what is not finite."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return round(found, 4) if isinstance(found := finite(value), float) else found
