"""A restorer's scores on pictures whose clean originals are known, and what a network costs.

`protocols` says how pictures are compared, `scores` what a result carries. Pictures come as pairs or clean
ones in folders (`pairs`), as the validation pairs of a shard folder (`shards`), or as the test sets that the
papers report on (`suites`, beside their published numbers). `report` writes results as Markdown, CSV or HTML;
`efficiency` measures parameters, multiply-adds, latency and memory.
"""

from pellucid.evaluate.pairs import add_noise, evaluate_denoising, evaluate_pairs
from pellucid.evaluate.scores import Evaluation, Interval, PictureScores, Scores
from pellucid.evaluate.shards import evaluate_shards
from pellucid.evaluate.suites import evaluate_suite, plan_suite

__all__ = [
    "Evaluation",
    "Interval",
    "PictureScores",
    "Scores",
    "add_noise",
    "evaluate_denoising",
    "evaluate_pairs",
    "evaluate_shards",
    "evaluate_suite",
    "plan_suite",
]
