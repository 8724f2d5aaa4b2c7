"""The test sets that the papers report on, and what has been published about them.

`pellucid.evaluate.find` looks for a suite's sets below one folder.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from pellucid.errors import InputError, PellucidError, UnknownNameError
from pellucid.evaluate import protocols
from pellucid.evaluate.find import Found, find_set
from pellucid.evaluate.leaks import PUBLISHED, worst
from pellucid.evaluate.pairs import (
    Progress,
    Witness,
    choose_measures,
    choose_prompt,
    evaluate_pictures,
    prompts_of,
)
from pellucid.evaluate.scores import Evaluation, Scores, code_commit, finite
from pellucid.registry import unknown_name
from pellucid.restorer import Restorer


@dataclass(frozen=True)
class TestSet:
    """One column of the papers' tables.

    Attributes:
        key: as in `published.toml`.
        title: for people.
        folder: below the root, and the name of its manifest.
        pictures: how many the papers' means are over.
        prompts: what a guided network may call the kind, the exact name first.
        sigma: of the noise that is added to clean pictures; none for pairs.
    """

    __test__ = False  # nothing for pytest, whatever its name says

    key: str
    title: str
    folder: str
    pictures: int
    prompts: tuple[str, ...]
    sigma: float | None = None


def _cbsd68(sigma: int) -> TestSet:
    return TestSet(
        f"cbsd68_{sigma}", f"CBSD68 σ {sigma}", "cbsd68", 68, (f"noise_{sigma}", "noise"), float(sigma)
    )


_HAZE = TestSet("sots_outdoor", "SOTS outdoor", "sots_outdoor", 500, ("haze",))
_RAIN = TestSet("rain100l", "Rain100L", "rain100l", 100, ("rain",))
SUITES = {
    "3task": (_HAZE, _RAIN, _cbsd68(15), _cbsd68(25), _cbsd68(50)),
    "5task": (
        _HAZE,
        _RAIN,
        _cbsd68(25),
        TestSet("gopro", "GoPro", "gopro", 1111, ("blur",)),
        TestSet("lol_v1", "LOL-v1", "lol_v1", 15, ("low_light",)),
    ),
}


@dataclass(frozen=True)
class Published:
    """One row of others' results.

    Attributes:
        method: its name.
        parameters: as printed, or empty.
        scores: per set, PSNR and SSIM (none where not printed).
        average: as printed, or none.
        source: where it is printed, a key of `published_sources`.
    """

    method: str
    parameters: str
    scores: dict[str, tuple[float, float | None]]
    average: tuple[float, float | None] | None
    source: str


@dataclass(frozen=True)
class SuiteResult:
    """What a suite has given.

    Attributes:
        suite: "3task" or "5task".
        model: name of the weights.
        parameters: of the network; none if it is no network.
        sets: the evaluation of each set, by its key.
        missing: a sentence for each set that is not there.
        failed: a sentence for each set that could not be finished.
        guided: whether the network was told the true kind.
        recognized: for a guided network, the evaluation of each set where it was told what the recognizer
            found.
        remarks: sentences about what is wrong or ambiguous with the sets that are there.
        where: in which folder and layout each set was found, by its key.
    """

    suite: str
    model: str
    parameters: int | None
    sets: dict[str, Evaluation]
    missing: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    guided: bool = False
    remarks: Sequence[str] = ()
    where: Mapping[str, str] = field(default_factory=dict[str, str])
    recognized: Mapping[str, Evaluation] = field(default_factory=dict[str, Evaluation])

    @property
    def leak(self) -> str:
        """The status of all sets together: "leak-free", "with a leak" or "leak unknown"."""
        return worst([result.leak for result in self.sets.values()])

    @property
    def average(self) -> Scores | None:
        """The mean over all sets, as the papers take it; none unless all are there."""
        return self._average(self.sets)

    @property
    def recognized_average(self) -> Scores | None:
        """The same, where the network was told what the recognizer found."""
        return self._average(self.recognized)

    def _average(self, sets: Mapping[str, Evaluation]) -> Scores | None:
        results = list(sets.values())
        if len(results) < len(SUITES[self.suite]):
            return None
        n = len(results)
        return Scores(sum(r.output.psnr for r in results) / n, sum(r.output.ssim for r in results) / n)

    @property
    def how(self) -> list[str]:
        """The protocols of the sets in words, each once."""
        return list(dict.fromkeys(evaluation.protocol for evaluation in self.sets.values()))

    @property
    def notes(self) -> list[str]:
        """What a reader of the table must know, in sentences."""
        notes: list[str] = []
        if self.guided:
            recognizer = next((one.recognizer_sha256 for one in self.recognized.values()), None) or "unknown"
            notes.append(
                f"{self.model} is guided and was told the true kind of each set"
                + (
                    f"; in the row 'kind recognized', what the recognizer ({recognizer[:16]}) found in each "
                    "picture."
                    if self.recognized
                    else ". A row with the kind recognized is left out: no recognizer is there."
                )
            )
        names = {result.protocol_name for result in self.sets.values()}
        if names - {protocols.DEFAULT}:
            notes.append(
                f"Published rows follow the protocol {protocols.DEFAULT}, ours {', '.join(sorted(names))}: "
                "they can't be compared."
            )
        for test_set in SUITES[self.suite]:
            result = self.sets.get(test_set.key)
            if result is not None and result.n != test_set.pictures:
                notes.append(
                    f"{test_set.title} holds {result.n:,} pictures here; the published means are over "
                    f"{test_set.pictures:,}: they can't be compared."
                )
        leaks: dict[str, list[str]] = {}
        for test_set in SUITES[self.suite]:
            if test_set.key in self.sets:
                leaks.setdefault(str(self.sets[test_set.key].leak), []).append(test_set.title)
        notes += [f"{', '.join(titles)}: {words}." for words, titles in leaks.items()]
        return [*notes, *self.remarks, *self.missing.values(), *self.failed.values()]

    def to_dict(self, *, per_image: bool = False) -> dict[str, Any]:
        """Plain values for JSON, with the published rows."""
        average = self.average
        return finite(
            {
                "suite": self.suite,
                "model": self.model,
                "parameters": self.parameters,
                "guided": self.guided,
                "commit": code_commit(),
                "sets": {key: result.to_dict(per_image=per_image) for key, result in self.sets.items()},
                "average": average and {"psnr": average.psnr, "ssim": average.ssim},
                "recognized": {
                    key: result.to_dict(per_image=per_image) for key, result in self.recognized.items()
                },
                "leak": self.leak if self.sets else None,
                "where": dict(self.where),
                "missing": self.missing,
                "failed": self.failed,
                "notes": self.notes,
                "published": [
                    {
                        "method": row.method,
                        "parameters": row.parameters,
                        "sets": {
                            key: {"psnr": psnr, "ssim": ssim} for key, (psnr, ssim) in row.scores.items()
                        },
                        "average": row.average and dict(zip(("psnr", "ssim"), row.average, strict=True)),
                        "source": published_sources()[row.source],
                        "leak": {key: words for key, words in PUBLISHED.items() if key in row.scores},
                    }
                    for row in published(self.suite)
                ],
            }
        )


@dataclass(frozen=True)
class SuitePlan:
    """Which sets of a suite are there.

    Attributes:
        present: where each set was found, by its key.
        missing: a sentence for each set that is not there, by its key.
    """

    present: dict[str, Found]
    missing: dict[str, str]

    @property
    def remarks(self) -> list[str]:
        """What is wrong or ambiguous with the sets that are there, in sentences, each once."""
        return list(dict.fromkeys(remark for found in self.present.values() for remark in found.remarks))


def plan_suite(root: str | os.PathLike[str], suite: str) -> SuitePlan:
    """Look for the sets of `suite` below `root`, in every layout that `find_set` knows.

    Raises:
        UnknownNameError: no such suite.
        InputError: `root` is no folder, or a set is there as degraded/ and clean/, but empty or without
            partners.
    """
    if suite not in SUITES:
        raise UnknownNameError(unknown_name("suite", suite, list(SUITES)))
    if not Path(root).is_dir():
        raise InputError(f"{root} is no folder; expected one that holds the test sets. Check the name.")
    names = dict.fromkeys(test_set.folder for test_set in SUITES[suite])
    found = _without_overlap({name: find_set(Path(root), name) for name in names})
    present: dict[str, Found] = {}
    missing: dict[str, str] = {}
    for test_set in SUITES[suite]:
        match found[test_set.folder]:
            case Found() as there:
                present[test_set.key] = there
            case sentence:
                missing[test_set.key] = f"{test_set.title} is skipped: {sentence}"
    return SuitePlan(present, missing)


def _without_overlap(found: Mapping[str, Found | str]) -> dict[str, Found | str]:
    """Files that two sets claim, since names like input/1.png are common, go to the one they fit better."""
    result: dict[str, Found | str] = {}
    owners: dict[Path, str] = {}
    order = sorted(found.items(), key=lambda item: 0 if isinstance(item[1], str) else item[1].faults)
    for name, entry in order:
        files = set() if isinstance(entry, str) else set(entry.pictures.files().values())
        if taken := files & set(owners):
            owner = owners[min(taken)]
            result[name] = (
                f"its names fit {min(taken)}, which belongs to {owner}, whose rules it fits better."
            )
        else:
            result[name] = entry
            owners |= dict.fromkeys(files, name)
    return result


def evaluate_suite(
    restorer: Restorer,
    root: str | os.PathLike[str],
    suite: str,
    *,
    protocol: str = protocols.DEFAULT,
    measures: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[TestSet], Progress | None] | None = None,
    witness: Callable[[TestSet], Witness | None] | None = None,
    plan: SuitePlan | None = None,
) -> SuiteResult:
    """Scores on each set of `suite` that lies below `root`.

    A guided network is told the true kind of each set, and then, in a second pass, what the recognizer finds
    in each picture. A set whose files can't be used does not end the
    others: it is told in `failed`.

    Args:
        restorer: what is measured.
        root: the folder of the sets.
        suite: "3task" or "5task".
        protocol, measures, seed: as in `evaluate_denoising`.
        progress, witness: give what is called with the pictures of a set.
        plan: what `plan_suite` has given, if it was asked before.

    Raises:
        InputError: a set is empty or has no partners, or the network has no prompt for one.
        UnknownNameError: no such suite, protocol or measure.
    """
    plan = plan or plan_suite(root, suite)
    present = [test_set for test_set in SUITES[suite] if test_set.key in plan.present]
    choose_measures(protocols.get(protocol), measures)
    prompts: dict[str, str | None] = {s.key: choose_prompt(restorer, *s.prompts) for s in present}
    known = prompts_of(restorer)
    for test_set in present:
        if known is not None and prompts[test_set.key] is None:
            raise InputError(
                f"{restorer.describe().model} has no prompt for {test_set.title}: it knows "
                f"{', '.join(known)}, expected {' or '.join(test_set.prompts)}. Evaluate the set by itself, "
                "with --prompt."
            )
    sets: dict[str, Evaluation] = {}
    recognized: dict[str, Evaluation] = {}
    failed: dict[str, str] = {}
    for test_set in present:
        pictures = plan.present[test_set.key].pictures
        options: dict[str, Any] = {
            "protocol": protocol,
            "measures": measures,
            "seed": seed,
            "diagnosis": prompts[test_set.key],
            "progress": progress(test_set) if progress else None,
            "witness": witness(test_set) if witness else None,
        }
        try:
            sets[test_set.key] = evaluate_pictures(restorer, pictures, test_set.sigma, **options)
            if known is not None and getattr(restorer, "recognizes", False):
                options |= {"diagnosis": None, "witness": None}
                recognized[test_set.key] = evaluate_pictures(restorer, pictures, test_set.sigma, **options)
        except PellucidError as error:
            failed[test_set.key] = f"{test_set.title} could not be finished: {error}"
    network = getattr(restorer, "network", None)
    parameters = None if network is None else sum(p.numel() for p in network.parameters())
    return SuiteResult(
        suite,
        restorer.describe().model,
        parameters,
        sets,
        plan.missing,
        failed,
        known is not None,
        plan.remarks,
        {key: found.where for key, found in plan.present.items()},
        recognized,
    )


def published(suite: str) -> list[Published]:
    """Others' results, the best average first."""
    table = _published()[suite]
    rows = [
        Published(method, parameters, dict(_cells(table["columns"][:-1], cells)), _cell(average), source)
        for method, parameters, *cells, average, source in table["rows"]
    ]
    return sorted(rows, key=lambda row: -(row.average or (0.0, None))[0])


def published_sources() -> dict[str, str]:
    """Where the rows are printed."""
    return _published()["sources"]


def _published() -> dict[str, Any]:
    text = resources.files("pellucid.evaluate").joinpath("published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _cells(columns: list[str], cells: list[str]) -> Iterator[tuple[str, tuple[float, float | None]]]:
    for column, cell in zip(columns, cells, strict=True):
        if (scores := _cell(cell)) is not None:
            yield column, scores


def _cell(text: str) -> tuple[float, float | None] | None:
    """PSNR and SSIM from "32.30/.981", "32.30" or an empty cell."""
    psnr, _, ssim = text.partition("/")
    return (float(psnr), float(ssim) if ssim else None) if psnr else None
