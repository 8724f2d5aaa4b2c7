"""A restorer's scores on the fixed validation pairs of a shard folder, kind by kind."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from torch import Tensor

from pellucid.data import VALIDATION_KINDS, load_shards, validation_pairs
from pellucid.errors import InputError
from pellucid.evaluate import protocols
from pellucid.evaluate.pairs import Progress, choose_prompt, compare, prompts_of
from pellucid.evaluate.scores import Evaluation, as_csv, summarize
from pellucid.labels import validation_shards
from pellucid.restorer import Restorer


def evaluate_shards(
    restorer: Restorer,
    root: str | os.PathLike[str],
    *,
    limit: int | None = None,
    protocol: str = protocols.DEFAULT,
    measures: Sequence[str] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Scores on each kind of the validation pairs in the shard folder `root`.

    With them come clean pictures that are no photographs (`pellucid.drawn`).

    The pairs are drawn from seeds of their own (`pellucid.data.validation_pairs`) and cropped about their
    center to multiples of 16 under every protocol. A guided network is told the true kind; kinds that none of
    its prompts names are left out.

    Args:
        restorer: what is measured.
        root: the folder that holds `manifest.json`.
        limit: only the first pictures of each kind.
        protocol, measures: as in `evaluate_pairs`.
        seed: of the resampling that gives the intervals.
        progress: called with (pictures done, pictures in all), all being what is known so far.

    Raises:
        InputError: a limit below 1, or nothing to measure on.
        RecipeError, UnreadableImageError: `root` is no whole shard folder.
        UnknownNameError: no such protocol or measure.
    """
    if limit is not None and limit < 1:
        raise InputError(f"The limit is {limit}; expected 1 or more pictures of each kind.")
    how, shards = protocols.get(protocol), validation_shards(load_shards(Path(root), "val"))
    guided, done = prompts_of(restorer) is not None, 0
    results: dict[str, Evaluation] = {}

    def prepared(rows: Iterator[tuple[str, Tensor, Tensor]]) -> Iterator[tuple[str, Tensor, Tensor]]:
        for number, (kind, degraded, clean) in enumerate(rows):
            yield f"{kind}/{number}", how.prepare(degraded[0]), how.prepare(clean[0])

    def report(number: int, _: int) -> None:
        if progress is not None:
            progress(done + number, done + number + 1)

    for kind, rows in groupby(validation_pairs(shards, limit), key=lambda pair: pair[0]):
        prompt = choose_prompt(restorer, kind, VALIDATION_KINDS[kind])
        if guided and prompt is None:
            continue
        scores = compare(restorer, prepared(rows), 0, how, measures, prompt, report, None)
        done += len(scores)
        results[kind] = summarize(
            restorer,
            scores,
            protocol=how,
            what="validation pairs, cropped to multiples of 16",
            data_sha256=shards.data_hash,
            seed=seed,
            diagnosis=prompt,
        )
    if not results:
        raise InputError(
            f"{root} holds no validation pairs that {restorer.describe().model} can be measured on. "
            "Give a shard folder whose manifest lists pictures of the split val."
        )
    return results


def results_table(results: dict[str, Evaluation]) -> str:
    """The rows of `results/<weights>.csv`: one per kind, with all that is needed to make it again."""
    rows = [
        {
            "kind": kind,
            "n": result.n,
            "psnr_input": result.input.psnr,
            "psnr_output": result.output.psnr,
            "psnr_output_low": result.psnr.output.low,
            "psnr_output_high": result.psnr.output.high,
            "ssim_input": result.input.ssim,
            "ssim_output": result.output.ssim,
            "worse": result.worse,
            "least_gain": result.least_gain,
            "lowest": result.lowest,
            "prompt": result.diagnosis,
            **result.origin,
        }
        for kind, result in results.items()
    ]
    return as_csv(rows)
