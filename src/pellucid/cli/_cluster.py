"""`--ray`: the options as a task for a cluster, and what is said about the run."""

import uuid
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import weights
from pellucid.cli._batch import Options, remedies, settings_of, summary
from pellucid.cli._interrupt import stop_if_interrupted
from pellucid.cli._progress import print_failures
from pellucid.cli._shared import parse_size, print_json, progress_bar, say
from pellucid.errors import InputError
from pellucid.image_io import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from pellucid.cluster.worker import Outcome
    from pellucid.restorer import TorchRestorer
    from pellucid.service.engine import Elsewhere
    from pellucid.service.settings import Settings

MOST_LISTED = 100  # failures; the report holds all


@dataclass(frozen=True)
class Place:
    """Where to run: address of a cluster, and what an actor takes of a machine, as given."""

    address: str
    actor: str


def restore_on_cluster(
    urls: Sequence[str],
    output: str,
    options: Options,
    place: Place,
    include: Sequence[str],
    exclude: Sequence[str],
) -> bool:
    """Restore what is left to do on a cluster; whether all went well.

    Raises:
        InputError: the extra is not installed, an option has no meaning here, or the model is an exported
            file. Else as `pellucid.cluster.run.restore`.
    """
    try:
        from pellucid.cluster import run, storage
        from pellucid.cluster.inputs import Inputs
        from pellucid.cluster.report import FOLDER
        from pellucid.cluster.worker import Task
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    size = run.ActorSize.parse(place.actor)
    _check_travels(options.model)
    if Path(output).suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(
            f"The output {output} is named like a picture; a cluster writes to a folder. Name one."
        )
    if options.untouched == "link":
        raise InputError("--untouched link has no meaning for stores of files; expected copy or skip.")
    settings = settings_of(options)
    task = Task(
        storage.absolute(output),
        uuid.uuid4().hex,
        {},
        settings.hash,
        options.model,
        settings.values["weights"],
        options.device,
        options.precision,
        None if options.memory is None else parse_size(options.memory),
        options.engine,
        options.guard,
        options.prompt,
        options.strength,
        untouched=options.untouched,
        overwrite=options.overwrite,
        retry_failed=options.retry_failed,
        strip=options.strip,
        max_pixels=options.limits.max_pixels,
    )
    inputs = Inputs([storage.absolute(url) for url in urls], task.output, include, exclude)
    total = inputs.check()
    counts, failed, failures = Counter[str](), 0, list[tuple[str, str]]()
    with run.connected(place.address), progress_bar(visible=not options.quiet) as bar:
        shown = bar.add_task("Pictures", total=total)
        for outcome in run.restore(inputs, task, _weights(options.model), size):
            if outcome.error is None:
                counts[outcome.state] += 1
                for words in remedies(outcome.guards):
                    counts[words] += 1
                    if not bar.disable:
                        say(f"{outcome.path}: {words}")
            else:
                failed += 1
                counts["failed before"] += outcome.known
                if len(failures) < MOST_LISTED:
                    failures.append((outcome.path, outcome.error))
            if options.as_json:
                print_json(_row(outcome, task.output))
            bar.advance(shown)
            stop_if_interrupted()
    if not counts and not failed:
        raise InputError(
            f"There are no pictures in {', '.join(urls)} ({inputs.skipped} other files); expected files "
            f"ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    if not options.quiet:
        say(summary(counts, failed, inputs.skipped))
    if failures:
        print_failures(failures)
        if failed > len(failures):
            say(f"... and {failed - len(failures)} more: see the report in {task.output}/{FOLDER}/report")
    return not failed


def _row(outcome: "Outcome", output: str) -> dict[str, Any]:
    row: dict[str, Any] = {"input": outcome.path, "state": outcome.state}
    if outcome.error is not None:
        problem = {"type": outcome.error_type, "message": outcome.error}
        return row | {"output": None, "ok": False, "error": problem}
    return row | {"output": f"{output}/{outcome.name}" if outcome.written else None, "ok": True}


@dataclass(frozen=True)
class Loaded:
    """Models as they were given with the restorers that they gave here, and how replicas are to load them."""

    models: Sequence[tuple[str, "TorchRestorer"]]
    device: str | None
    memory: str | None
    engine: str


@contextmanager
def serve_on_cluster(place: Place, most: int, loaded: Loaded, settings: "Settings") -> Generator["Elsewhere"]:
    """Up to so many replicas of the networks on a cluster, as long as the context lasts.

    They compute in what was chosen here.

    Raises:
        InputError: the extra is not installed, or a model is an exported file. Else as
            `pellucid.service.replicas.replicas`.
    """
    for given, _ in loaded.models:
        _check_travels(given)
    try:
        from pellucid.cluster.run import ActorSize
        from pellucid.cluster.worker import Task
        from pellucid.service.replicas import Model, replicas
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    memory = None if loaded.memory is None else parse_size(loaded.memory)
    models = [
        Model(
            restorer.name,
            Task(
                *("", "", {}, "", given, restorer.weights_sha256 or ""),
                loaded.device,
                restorer.precision,
                memory,
                loaded.engine,
            ),
            _weights(given),
        )
        for given, restorer in loaded.models
    ]
    with replicas(place.address, models, ActorSize.parse(place.actor), most, settings) as elsewhere:
        yield elsewhere


def _check_travels(model: str) -> None:
    """Refuse an exported file: machines compare hashes of weights, and its own is another."""
    from pellucid.engines import is_exported

    if is_exported(model):
        raise InputError(
            f"{model} is an exported file, which can't be sent to a cluster; expected weights, by name or "
            "as a .safetensors file. Give those with --engine onnxruntime or openvino: each machine exports "
            "them."
        )


def _weights(model: str) -> bytes | None:
    """What other machines can't find by name."""
    return None if model in weights.names() else weights.find(model).path.read_bytes()


def _not_installed(error: ModuleNotFoundError) -> InputError:
    return InputError(
        f"{error.name} is not installed, which runs on clusters need. "
        "Install it with: pip install 'pellucid[ray]'"
    )
