"""`pellucid evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pellucid.cli._shared import AsJson, Device, MeasuredIn, Memory, Model, Prompt, parse_path
from pellucid.errors import InputError
from pellucid.weights import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pellucid.evaluate import Evaluation, Scores
    from pellucid.evaluate.suites import SuiteResult, TestSet
    from pellucid.restorer import TorchRestorer


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Folder with degraded/ and clean/ of the same names; with --sigma, of clean ones; with "
            "--suite, the folder below which the test sets lie.",
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Shard folder: measure on its validation pairs, kind by kind."),
    ] = None,
    model: Model = DEFAULT,
    protocol: Annotated[str, typer.Option(help="papers, papers-y or files.")] = "papers",
    suite: Annotated[
        str | None, typer.Option(help="3task or 5task: the papers' test sets, beside their numbers.")
    ] = None,
    sigma: Annotated[
        float | None, typer.Option(help="Add Gaussian noise to clean pictures, in gray levels of 255.")
    ] = None,
    prompt: Prompt = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="Take this too, for example ciede2000 or niqe (docs/evaluation.md). Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of noise and resampling.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --shards: the first pictures of each kind.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(parser=parse_path, help="Write the scores of each picture to this file.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="With --suite: write the report to this .md, .csv or .html."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="With --shards: folder in which <weights>.csv is written. Default: results.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    guard: Annotated[
        bool,
        typer.Option(
            "--guard",
            help="Let the recognizer leave good pictures and good light alone, and so on, as restore does.",
        ),
    ] = False,
    device: Device = None,
    precision: MeasuredIn = None,
    memory: Memory = None,
    per_image: Annotated[bool, typer.Option("--per-image", help="With the scores of each picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on pictures whose clean originals are known.

    PSNR and SSIM by a named protocol, means over pictures with 95% bootstrap intervals. Every result carries
    protocol, hashes of data and weights, the code's commit, and the seed. See docs/evaluation.md.
    """
    _refuse_wrong_options(data, shards, suite, sigma, prompt, limit, report, results)
    from pellucid.cli._shared import describe, load_restorer, precision_of_scores, say
    from pellucid.evaluate import protocols
    from pellucid.evaluate.pairs import choose_measures
    from pellucid.evaluate.report import check_suffix
    from pellucid.image_io import check_writable

    # What can't be is refused before hours are spent.
    choose_measures(protocols.get(protocol), measure or ())
    if report is not None:
        check_suffix(report)
    for path in (csv, report):
        if path is not None:
            check_writable(path, overwrite=overwrite)
    if csv is not None and csv == report:
        raise InputError(f"--csv and --report both name {csv}; expected two files. Name another for one.")
    precision = precision_of_scores(model, precision)
    restorer = load_restorer(model, device, precision, memory, guard=guard)
    options: dict[str, Any] = {"protocol": protocol, "measures": measure or (), "seed": seed}
    shown = _Shown(csv=csv, overwrite=overwrite, per_image=per_image, as_json=as_json)
    if shards is not None:
        results = results or Path("results")
        if results.exists() and not results.is_dir():
            raise InputError(f"{results} is a file; --results expects a folder. Name another.")
        target = results / f"{restorer.name}.csv"
        results.mkdir(parents=True, exist_ok=True)
        check_writable(target, overwrite=overwrite)
        say(describe(restorer.describe()))
        _evaluate_shards(restorer, shards, limit, target, shown, options)
        return
    assert data is not None
    if suite is not None:
        _evaluate_suite(restorer, data, suite, report, shown, options)
        return
    say(describe(restorer.describe()))
    _evaluate_folder(restorer, data, sigma, prompt, shown, options)


def _refuse_wrong_options(
    data: Path | None,
    shards: Path | None,
    suite: str | None,
    sigma: float | None,
    prompt: str | None,
    limit: int | None,
    report: Path | None,
    results: Path | None,
) -> None:
    if (data is None) == (shards is None):
        found = "Neither" if data is None else "Both"
        raise InputError(
            f"{found} of --data and --shards was given; expected one. Name a folder of pictures."
        )
    for where, wrong in (
        ("--shards", {"--suite": suite, "--sigma": sigma, "--prompt": prompt} if shards else {}),
        ("--suite", {"--sigma": sigma, "--prompt": prompt} if suite else {}),
    ):
        for option, value in wrong.items():
            if value is not None:
                raise InputError(
                    f"{option} does not go with {where}, which names its kinds itself. Leave it out."
                )
    if report is not None and suite is None:
        raise InputError(
            "--report was given without --suite, whose report it is. Add --suite, or take --csv."
        )
    if limit is not None and shards is None:
        raise InputError("--limit was given without --shards, whose pictures it counts. Leave it out.")
    if results is not None and shards is None:
        raise InputError(
            "--results was given without --shards, whose rows are written there. Leave it out, or take --csv."
        )


class _Shown:
    """What is done with results: the options, and the ways of printing and writing."""

    def __init__(self, *, csv: Path | None, overwrite: bool, per_image: bool, as_json: bool) -> None:
        self.csv, self.overwrite = csv, overwrite
        self.per_image, self.as_json = per_image, as_json

    def write(self, text: str, path: Path) -> None:
        from pellucid.cli._shared import say
        from pellucid.image_io import write_bytes

        # File names need not be text.
        write_bytes(text.encode(errors="backslashreplace"), path, overwrite=self.overwrite)
        say(f"{path} is written.")

    def write_pictures(self, results: "dict[str, Evaluation]") -> None:
        from pellucid.evaluate.scores import picture_table

        if self.csv is not None:
            self.write(picture_table(results), self.csv)


def _evaluate_folder(
    restorer: "TorchRestorer",
    data: Path,
    sigma: float | None,
    prompt: str | None,
    shown: _Shown,
    options: dict[str, Any],
) -> None:
    from pellucid.cli._shared import print_json
    from pellucid.evaluate import evaluate_denoising, evaluate_pairs

    with _Bar() as bar:
        options |= {"diagnosis": prompt, "progress": bar("Evaluating")}
        result = (
            evaluate_pairs(restorer, data, **options)
            if sigma is None
            else evaluate_denoising(restorer, data, sigma, **options)
        )
    shown.write_pictures({data.name: result})
    if shown.as_json:
        print_json(result.to_dict(per_image=shown.per_image))
        return
    if shown.per_image:
        _print_pictures(result)
    _print_means(result)
    _print_origin(result)
    print(result.leak)


def _evaluate_shards(
    restorer: "TorchRestorer",
    shards: Path,
    limit: int | None,
    target: Path,
    shown: _Shown,
    options: dict[str, Any],
) -> None:
    from dataclasses import replace

    from pellucid.cli._shared import print_json
    from pellucid.evaluate import evaluate_shards
    from pellucid.evaluate.report import details, losses
    from pellucid.evaluate.shards import results_table

    with _Bar() as bar:
        rows = evaluate_shards(restorer, shards, limit=limit, progress=bar("Evaluating"), **options)
    shown.write(results_table(rows), target)
    shown.write_pictures(rows)
    if shown.as_json:
        print_json({kind: result.to_dict(per_image=shown.per_image) for kind, result in rows.items()})
        return
    for result in rows.values() if shown.per_image else ():
        _print_pictures(result)
    _print_tables(details(rows), losses(rows))
    first = next(iter(rows.values()))
    _print_origin(replace(first, diagnosis=first.diagnosis and "the true kind"))
    for words in dict.fromkeys(str(result.leak) for result in rows.values()):
        kinds = [kind for kind, result in rows.items() if str(result.leak) == words]
        print(f"{', '.join(kinds)}: {words}")


def _evaluate_suite(
    restorer: "TorchRestorer",
    root: Path,
    suite: str,
    report: Path | None,
    shown: _Shown,
    options: dict[str, Any],
) -> None:
    from pellucid.cli._shared import describe, print_json, say
    from pellucid.evaluate import evaluate_suite, plan_suite
    from pellucid.evaluate.report import Cases, render

    plan = plan_suite(root, suite)
    for where in dict.fromkeys(found.where for found in plan.present.values()):
        say(f"measured: {where}")
    for sentence in (*plan.remarks, *plan.missing.values()):
        say(sentence)
    if not plan.present:
        say(f"None of the sets of {suite} is below {root}. docs/evaluation.md says how they are laid out.")
        raise typer.Exit(1)
    say(describe(restorer.describe()))
    cases: dict[str, Cases] = {}

    def witness(test_set: "TestSet") -> Cases | None:
        if report is None or report.suffix.lower() != ".html":
            return None
        return cases.setdefault(test_set.key, Cases())

    with _Bar() as bar:
        result = evaluate_suite(
            restorer, root, suite, progress=lambda s: bar(s.title), witness=witness, plan=plan, **options
        )
    for sentence in result.failed.values():
        say(sentence)
    if result.sets:
        shown.write_pictures(result.sets)
        if report is not None:
            shown.write(render(result, report.suffix, cases), report)
        if shown.as_json:
            print_json(result.to_dict(per_image=shown.per_image))
        else:
            _print_suite(result, per_image=shown.per_image)
    if result.failed:
        raise typer.Exit(1)


def _print_suite(result: "SuiteResult", *, per_image: bool) -> None:
    from pellucid.evaluate.report import comparison, measured, sources

    for evaluation in result.sets.values() if per_image else ():
        _print_pictures(evaluation)
    _print_tables(comparison(result), *measured(result))
    for line in (*sources(result.suite), *result.how, *result.notes):
        print(line)


def _print_tables(*tables: list[list[str]]) -> None:
    """Each table's head is its first row; our own row among others' stands out."""
    from rich.markup import escape
    from rich.table import Table

    from pellucid.cli._shared import wide_console

    console = wide_console()
    for rows in tables:
        table = Table(*rows[0], box=None, pad_edge=False)
        for row in rows[1:]:
            table.add_row(*map(escape, row), style="bold" if row[0].endswith("(ours)") else None)
        console.print(table)
        console.print()


def _line(name: str, before: "Scores", after: "Scores") -> str:
    psnr = f"PSNR {before.psnr:6.2f} -> {after.psnr:6.2f} dB"
    return f"{name}  {psnr}  SSIM {before.ssim:.4f} -> {after.ssim:.4f}"


def _print_pictures(result: "Evaluation") -> None:
    for picture in result.pictures:
        print(_line(picture.name, picture.input, picture.output))


def _print_means(result: "Evaluation") -> None:
    from pellucid import metrics

    print(_line(f"mean of {result.n}", result.input, result.output))
    for name, summary in result.measures.items():
        digits, output = metrics.get(name).digits, summary.output
        print(
            f"  {name}  {summary.input.mean:.{digits}f} -> {output.mean:.{digits}f}, "
            f"95% {output.low:.{digits}f} to {output.high:.{digits}f}"
        )


def _print_origin(result: "Evaluation") -> None:
    print(result.protocol)
    weights = (result.weights_sha256 or "none")[:16]
    print(
        f"protocol {result.protocol_name}{result.told}, seed {result.seed}, data {result.data_sha256[:16]}, "
        f"weights {weights}, code {result.code}, {result.run_on}"
    )


class _Bar:
    """A progress bar on stderr; `bar("title")` gives the function to call with (done, all)."""

    def __enter__(self) -> "_Bar":
        from pellucid.cli._shared import progress_bar

        self.bar = progress_bar()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> Literal[False]:
        self.bar.stop()
        return False

    def __call__(self, title: str) -> "Callable[[int, int], None]":
        task = self.bar.add_task(title, total=None)
        return lambda done, total: self.bar.update(task, completed=done, total=total)
