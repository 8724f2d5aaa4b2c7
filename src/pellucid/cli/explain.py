"""`pellucid explain`: what a network saw and did, as a picture and JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import AsJson, Device, Memory, Model, Prompt, parse_path
from pellucid.errors import InputError, OutputExistsError
from pellucid.weights import DEFAULT

if TYPE_CHECKING:
    from pellucid.explain import Explanation, RoutingTable
    from pellucid.restorer import TorchRestorer


def explain(
    photo: Annotated[
        Path | None,
        typer.Argument(
            parser=parse_path, help="A picture, or a folder with a sub-folder of pictures for each kind."
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(parser=parse_path, help="Instead: a shard folder, whose validation pairs are taken."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", parser=parse_path, help="Where the figure goes, for example a .png."),
    ] = None,
    model: Model = DEFAULT,
    prompt: Prompt = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="For a data set: the first pictures of each kind. Default: 20."),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(min=16, help="For a data set: side of the center taken, in pixels. Default: 256."),
    ] = None,
    device: Device = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32 or bf16. Default: as restore chooses; for a data set float32, so that tables can "
            "be compared."
        ),
    ] = None,
    memory: Memory = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing figure.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a network saw in a picture and did to it.

    Where and how much the picture changed, its spectrum before and after, which experts a DaAIR chose, what
    other prompts of a DFPIR would do. For a data set: the table of kinds against experts, with the mutual
    information of both in each block. See docs/explain.md.
    """
    if (photo is None) == (shards is None):
        found = "Neither a picture nor --shards" if photo is None else "Both a picture and --shards"
        raise InputError(f"{found} was given; expected one of them. Example: pellucid explain photo.jpg")
    whole = shards is not None or (photo is not None and photo.is_dir())
    wrong = {"--prompt": prompt} if whole else {"--limit": limit, "--crop": crop}
    for option, value in wrong.items():
        if value is not None:
            what = "a data set, whose table is of blind networks" if whole else "one picture, taken whole"
            raise InputError(f"{option} was given for {what}. Leave it out.")

    from pellucid.arrays import image_from_array
    from pellucid.cli._shared import describe, load_restorer, precision_of_scores, print_json, say
    from pellucid.explain import draw_explanation, draw_routing_table, explain_picture
    from pellucid.image_io import IMAGE_SUFFIXES, check_writable, read_image, write_image

    if output is not None:  # before the work, not after it
        if output.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(
                f"{output} does not say by its suffix which picture it is; expected one of "
                f"{', '.join(IMAGE_SUFFIXES)}. Take .png."
            )
        if photo is not None and output.exists() and photo.exists() and output.samefile(photo):
            raise OutputExistsError(f"{output} is the picture to explain. Name another output.")
        check_writable(output, overwrite=overwrite)
    image = read_image(photo) if photo is not None and not whole else None
    precision = precision_of_scores(model, precision) if whole else precision
    restorer = load_restorer(model, device, precision, memory)
    say(describe(restorer.describe()))
    if restorer.engine is not None and not whole:
        say(
            f"{restorer.name} was exported, and such a file shows neither its routing nor what its prompts "
            "do: explain the weights for that."
        )
    if image is None:
        explained = _tabulated(restorer, photo, shards, limit, crop)
        lines, draw = _table_lines(explained), lambda: draw_routing_table(explained)
    else:
        explanation = explained = explain_picture(restorer, image, diagnosis=prompt)
        lines, draw = _picture_lines(explanation), lambda: draw_explanation(explanation)
    if output is not None:
        write_image(image_from_array(draw()), output, overwrite=overwrite)
        say(f"{output} is written.")
    if as_json:
        source = shards if photo is None else photo
        paths = {"input": str(source), "output": None if output is None else str(output)}
        print_json(paths | explained.to_dict())
        return
    for line in lines:
        print(line)


def _tabulated(
    restorer: "TorchRestorer", folder: Path | None, shards: Path | None, limit: int | None, crop: int | None
) -> "RoutingTable":
    from pellucid.cli._shared import progress_bar
    from pellucid.explain import explain_folders, explain_shards
    from pellucid.explain.routing import CROP, LIMIT

    with progress_bar() as bar:
        task = bar.add_task("Looking", total=None)

        def progress(done: int) -> None:
            bar.update(task, completed=done)

        options = {"limit": limit or LIMIT, "crop": crop or CROP}
        if shards is not None:
            return explain_shards(restorer, shards, progress=progress, **options)
        assert folder is not None
        return explain_folders(restorer, folder, progress=progress, **options)


def _picture_lines(explanation: "Explanation") -> list[str]:
    change, spectrum = explanation.change, explanation.spectrum
    finest = float(spectrum.after[-1] - spectrum.before[-1])
    lines = [
        f"change: CIEDE2000 {change.ciede2000:.2f}, seen on {change.seen:.0%} of the pixels; lightness "
        f"{float(change.lightness.abs().mean()):.2f}, color {float(change.color.mean()):.2f}",
        f"spectrum: {finest:+.1f} dB in the finest details",
    ]
    if explanation.routing:
        experts = len(explanation.routing[0].probabilities)
        lines.append(f"routing ({experts} experts, without opinion {1 / experts:.0%}):")
        lines += [f"  {c.block}  expert {c.expert}  {c.confidence:.0%}" for c in explanation.routing]
    if (comparison := explanation.prompts) is not None:
        told = comparison.prompts.index(comparison.told)
        lines.append(f"prompts, beside {comparison.told}:")
        for i, name in enumerate(comparison.prompts):
            if i == told:
                continue
            moved, masks = (
                sum(float(getattr(view, field)[told, i]) for view in comparison.blocks)
                / len(comparison.blocks)
                for field in ("slots_differ", "masks_differ")
            )
            lines.append(
                f"  {name}  {moved:.0%} of the slots and {masks:.0%} of the dropped entries differ, "
                f"the picture by {float(comparison.outputs_differ[told, i]):.2f} gray levels"
            )
    return lines


def _table_lines(table: "RoutingTable") -> list[str]:
    lines = [
        f"{int(table.counts[0].sum())} pictures of {len(table.kinds)} kinds ({table.kind_bits:.2f} bits)"
    ]
    for i, block in enumerate(table.blocks):
        used = ", ".join(
            f"{kind} {'/'.join(str(n) for n in table.counts[i, k].tolist())}"
            for k, kind in enumerate(table.kinds)
        )
        bits, chance = float(table.bits[i]), float(table.chance_bits[i])
        lines.append(f"{block}  {bits:.2f} bits (by chance up to {chance:.2f})  {used}")
    return lines
