"""Several pictures on the command line: what is left to do, the run, and what is said about it."""

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import errors, models, weights
from pellucid.batch.journal import Entry, Journal
from pellucid.batch.plan import Reason, Settings, judge, matches, parse_since
from pellucid.batch.run import Batch, Job, Outcome, Untouched, failed_before, key, settle
from pellucid.checkpoint import Checkpoint, hash_file
from pellucid.cli._interrupt import stop_if_interrupted
from pellucid.cli._jobs import Job as PlannedJob
from pellucid.cli._jobs import Jobs, print_planned, refuse_taken
from pellucid.cli._progress import Bars, print_failures
from pellucid.cli._shared import describe, load_restorer, print_json, say
from pellucid.codec.pool import preload
from pellucid.diagnosis import DEFAULT as RECOGNIZER
from pellucid.diagnosis import GUARD_RULE
from pellucid.engines import is_exported
from pellucid.errors import CheckpointError, PellucidError
from pellucid.image_io import Limits, Strip
from pellucid.strength import Strength

if TYPE_CHECKING:
    from pellucid.restorer import TorchRestorer

_WHY: dict[Reason, str] = {
    "new": "is new",
    "gone": "its output is gone",
    "changed": "has changed",
    "settings": "was restored with other settings or weights",
    "retry": "failed before",
    "asked": "replaces what is there",
}
_REMEDIES = {
    "redone_in_float32": "computed once more in float32, since bf16 gave NaN or infinity",
    "replanned": "cut into tiles, or smaller ones, since memory ran out",
}


@dataclass(frozen=True)
class Options:
    """The options of `pellucid restore` that several pictures share, as given."""

    model: str
    device: str | None
    precision: str | None
    memory: str | None
    engine: str
    prompt: str | None
    strength: Strength
    guard: bool
    limits: Limits
    untouched: Untouched
    overwrite: bool
    retry_failed: bool
    strip: Strip | None
    as_json: bool
    quiet: bool


def open_restorer(options: Options) -> "TorchRestorer":
    """The restorer that the options ask for; unless they want quiet, it is said which."""
    restorer = load_restorer(
        options.model,
        options.device,
        options.precision,
        options.memory,
        guard=options.guard,
        engine=options.engine,
    )
    if not options.quiet:
        say(describe(restorer.describe()))
    return restorer


def select(
    plan: Jobs, output: Path, include: Sequence[str], exclude: Sequence[str], since: str | None
) -> None:
    """Leave only the jobs that the patterns and the date want; the others count as skipped."""
    moment = None if since is None else parse_since(since)

    def wanted(source: Path, target: Path) -> bool:
        name = source.name if plan.single else target.relative_to(output).as_posix()
        if not matches(name, include, exclude):
            return False
        try:
            return moment is None or source.stat().st_mtime >= moment
        except OSError:
            return True  # its reading fails with a sentence

    kept = [job for job in plan.jobs if wanted(job.source, job.target)]
    plan.skipped += len(plan.jobs) - len(kept)
    plan.jobs = kept


def restore_several(plan: Jobs, output: Path, options: Options, *, dry_run: bool = False) -> bool:
    """Restore what is left to do; whether all went well."""
    steps, claimed = _look(plan, output, options)
    todo = [step for step in steps if isinstance(step, Job)]
    if dry_run:
        _tell(todo, as_json=options.as_json)
        return True
    _settle(claimed, output, options)
    # Counts and failures, no reports: there may be millions.
    counts, failures = Counter[str](), list(plan.unreadable)
    awaited = {job.target for job in todo}
    with Bars([job.source for job in todo], visible=not options.quiet) as bars:
        for outcome in _run(steps, todo, output, options, bars):
            if outcome.error is None:
                counts[outcome.state] += 1
                for words in remedies(() if outcome.report is None else outcome.report.held):
                    counts[words] += 1
                    bars.say(f"{outcome.job.source}: {words}")
            else:
                failures.append((outcome.job.source, str(outcome.error)))
                counts["failed before"] += outcome.job.reason == "failed"
            if options.as_json:
                print_json(_row(outcome))
            if outcome.job.target in awaited:
                bars.picture_done()
            stop_if_interrupted()
    for path, message in plan.unreadable:
        if options.as_json:
            problem = {"type": "InputError", "message": message}
            print_json({"input": str(path), "output": None, "ok": False, "error": problem})
    if not options.quiet:
        say(summary(counts, len(failures), plan.skipped))
    if failures:
        print_failures(failures)
    return not failures


def _look(plan: Jobs, output: Path, options: Options) -> tuple[list[Job | Outcome], list[Job]]:
    """Each picture: a job, or what is known of it already; and those done that a killed run claims."""
    claims, entries = _known(output)
    settings_hash = settings_of(options).hash if entries else ""
    steps: list[Job | Outcome] = []
    claimed: list[Job] = []

    def judged(planned: PlannedJob) -> tuple[Reason, Entry | None]:
        name = key(planned.target, output)
        reason = judge(
            planned.source,
            planned.target,
            entries.get(name),
            settings_hash,
            overwrite=options.overwrite,
            retry_failed=options.retry_failed,
            broken_since=claims.get(name),
        )
        return reason, entries.get(name)

    found = [judged(planned) for planned in plan.jobs]
    if any(reason == "taken" for reason, _ in found) and Journal.exists(output):
        # Another run may have put them there since the journal was read.
        claims, entries = _known(output)
        settings_hash = settings_of(options).hash
    for planned, (reason, entry) in zip(plan.jobs, found, strict=True):
        if reason == "taken":
            reason, entry = judged(planned)
        job = Job(planned.source, planned.target, reason)
        try:
            refuse_taken(planned, overwrite=reason != "taken")
        except PellucidError as error:
            steps.append(Outcome(job, "taken", error=error))
            continue
        if reason == "failed" and entry is not None:
            steps.append(failed_before(job, entry))
        else:
            steps.append(Outcome(job, "done") if reason == "done" else job)
        if reason == "done" and key(job.target, output) in claims:
            claimed.append(job)
    return steps, claimed


def _settle(claimed: list[Job], output: Path, options: Options) -> None:
    """Take what is done out of the claims of killed runs."""
    if not claimed:
        return
    settings_hash = settings_of(options).hash
    with Journal(output) as journal:
        for job in claimed:
            settle(journal, job, output, settings_hash)


def _known(output: Path) -> tuple[dict[str, float], dict[str, Entry]]:
    """Claims and entries of the journal, in this order: what another run ends meanwhile is in one of them."""
    if not Journal.exists(output):
        return {}, {}
    with Journal(output) as journal:
        return journal.claims(), journal.entries()


def _run(
    steps: list[Job | Outcome], todo: list[Job], output: Path, options: Options, bars: Bars
) -> Iterator[Outcome]:
    """The outcomes, in the order of the steps; nothing is loaded where nothing is to do."""
    if not todo:
        yield from (step for step in steps if isinstance(step, Outcome))
        return
    settings = settings_of(options)
    preload()  # the processes that read and write wake up while the network is loaded
    restorer = open_restorer(options)
    with Journal(output) as journal:
        batch = Batch(
            restorer,
            journal,
            settings,
            output,
            prompt=options.prompt,
            strength=options.strength,
            limits=options.limits,
            untouched=options.untouched,
            overwrite=options.overwrite,
            retry_failed=options.retry_failed,
            strip=options.strip,
        )
        with closing(batch):
            yield from batch.run(steps, bars.part_done)


def settings_of(options: Options) -> Settings:
    """On what results depend. The precision that a probe would choose is not among it: it may vary."""
    values = {
        "weights": _hash_weights(options.model),
        "strength": options.strength.plain,
        "prompt": options.prompt,
        "recognizer": _hash_weights(RECOGNIZER) if _asks_recognizer(options) else None,
        "guard": GUARD_RULE if options.guard else None,
        "precision": options.precision,
    }
    if options.strip is not None:  # absent, it leaves the hash as journals know it
        values["strip"] = options.strip
    return Settings(values)


def _asks_recognizer(options: Options) -> bool:
    """Whether a recognizer says what is wrong: for the guard, or for a guided model that is not told."""
    if options.prompt is not None or options.guard:
        return options.prompt is None
    path = weights.find(options.model).path
    return is_exported(path) or models.get(Checkpoint.read(path).model).guided


def _hash_weights(model: str) -> str:
    file = weights.find(model)
    try:
        return file.sha256 or hash_file(file.path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file.path} can't be read: {errors.reason(error)}. Check the path."
        ) from error


def _row(outcome: Outcome) -> dict[str, Any]:
    job, error = outcome.job, outcome.error
    row: dict[str, Any] = {"input": str(job.source)}
    if error is not None:
        problem = {"type": type(error).__name__, "message": str(error)}
        return row | {"output": None, "ok": False, "error": problem}
    output = str(job.target) if job.target.exists() else None  # --untouched skip
    row |= {"output": output, "ok": True, "state": outcome.state}
    return row if outcome.report is None else row | {"report": outcome.report.to_dict()}


def _tell(todo: list[Job], *, as_json: bool) -> None:
    """What would be done, a line each, on stdout."""
    for job in todo:
        print_planned(job.source, job.target, _WHY[job.reason], as_json=as_json)
    say(f"{len(todo)} would be restored; nothing was done")


def summary(counts: Counter[str], failed: int, skipped: int) -> str:
    """What became of all pictures, in a line."""
    parts = [f"{counts['restored'] + counts['left alone']} restored"]
    if counts["left alone"]:
        parts[0] += f" ({counts['left alone']} of them left alone, nothing was found to mend; see --no-guard)"
    parts.append(f"{failed} failed")
    if known := counts["failed before"]:
        parts[1] += f" ({known} before; --retry-failed tries them again)"
    if counts["done"]:
        parts.append(f"{counts['done']} done before")
    if counts["elsewhere"]:
        parts.append(f"{counts['elsewhere']} taken by another run")
    if skipped:
        parts.append(f"{skipped} other files skipped")
    remedied = [f"{counts[words]} {words}" for words in _REMEDIES.values() if counts[words]]
    return "; ".join([", ".join(parts), *remedied])


def remedies(held: Container[str]) -> list[str]:
    """What a picture took beyond the usual, in words, by the verdicts that hold (`Report.held`)."""
    return [words for guard, words in _REMEDIES.items() if guard in held]
