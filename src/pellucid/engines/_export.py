"""A network to a file for another engine, with a gate that lets only the network's result through."""

import logging
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import __version__
from pellucid.compute import Precision, probe_picture
from pellucid.engines._base import (
    FORMATS,
    Engine,
    Header,
    TorchEngine,
    check_precision,
    open_engine,
    require,
    version_of,
)
from pellucid.errors import ExportError
from pellucid.image_io import check_writable, write_bytes
from pellucid.models import ModelSpec

CLOSENESS = 1e-4  # the largest difference between outputs, of pictures in [0, 1]
CLOSENESS_PSNR = 50.0  # dB, for the pictures on which a network that selects by rank has met a tie
CLOSENESS_BF16 = 60.0  # dB, for all pictures of a file that is run in bf16
OPSET = 20
# Heights and widths of the gate's pictures, in the network's multiples: none is that of the export.
_SIZES = ((4, 4), (5, 9), (8, 3), (6, 6), (3, 11), (8, 8))


@dataclass(frozen=True)
class Parity:
    """How far one engine's outputs are from the network's.

    Attributes:
        differences: the largest per picture, unclamped pictures in [0, 1].
        psnrs: between the outputs, in dB, per picture.
        selects: the network selects by rank (DFPIR), so that a tie, decided by the last bit, may turn out
            differently: then half of the pictures must be within `CLOSENESS`, and all above
            `CLOSENESS_PSNR`.
        precision: of the engine; in bf16 all pictures must be above `CLOSENESS_BF16`, and nothing else.
    """

    differences: tuple[float, ...]
    psnrs: tuple[float, ...]
    selects: bool
    precision: Precision = "float32"

    @property
    def ok(self) -> bool:
        """Whether that is close enough; NaN is not."""
        if self.precision == "bf16":
            return all(psnr >= CLOSENESS_BF16 for psnr in self.psnrs)
        within = [difference <= CLOSENESS for difference in self.differences]
        if not self.selects:
            return all(within)
        return 2 * sum(within) >= len(within) and all(psnr >= CLOSENESS_PSNR for psnr in self.psnrs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: pictures, those within the bound, the largest difference, the lowest PSNR."""
        return {
            "pictures": len(self.differences),
            "within": sum(difference <= CLOSENESS for difference in self.differences),
            "bound": CLOSENESS,
            "largest_difference": max(self.differences),
            "lowest_psnr": min(self.psnrs),
        }


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path: its path.
        header: what it says about itself.
    """

    path: Path
    header: Header


def measure_parity(network: nn.Module, spec: ModelSpec, engine: Engine) -> Parity:
    """Compare an engine with the network on six pictures of as many sizes, one prompt after the other."""
    exact, config = TorchEngine(network), network.config
    prompts: tuple[str, ...] = config.prompts if spec.guided else ()  # type: ignore[union-attr, assignment]
    differences: list[float] = []
    psnrs: list[float] = []
    for number, (rows, columns) in enumerate(_SIZES):
        height, width = rows * spec.multiple_of, columns * spec.multiple_of
        picture = probe_picture(max(height, width))[..., :height, :width]
        picture = (picture.flip(3) if number % 2 else picture) * (1 - 0.15 * number)  # bright to dark
        prompt = number % len(prompts) if prompts else None
        difference = engine(picture, prompt) - exact(picture, prompt)
        differences.append(float(difference.abs().max()))
        psnrs.append(_psnr(difference))
    precision = "float32" if engine.header is None else engine.header.precision
    return Parity(tuple(differences), tuple(psnrs), getattr(config, "keep_tenths", 10) < 10, precision)


def _psnr(difference: Tensor) -> float:
    return -10 * float(difference.double().square().mean().clamp_min(1e-20).log10())


def export(
    network: nn.Module,
    spec: ModelSpec,
    header: Header,
    target: Path,
    *,
    onnx_model: Any = None,
    overwrite: bool = False,
) -> Exported:
    """Write a network for another engine, with dynamic height and width (multiples of what it asks).

    The file is run and compared with the network before it gets its name.

    Args:
        network: on the CPU, in evaluation mode.
        spec: its structure.
        header: what the file says, its precision included; parity and versions are added.
        target: the file; its suffix, of `FORMATS`, says the format. An .xml gets a .bin beside it.
        onnx_model: what `to_onnx` gives; made where it is missing.
        overwrite: replace existing files.

    Raises:
        ExportError: the file's output is not the network's; nothing was written.
        InputError: no such folder, or the extra `export` is missing.
        OutputExistsError: a file is there already.
        UnsupportedDtypeError: no such precision in this format.
    """
    check_target(target, overwrite=overwrite)
    name = "onnxruntime" if target.suffix == FORMATS["onnx"] else "openvino"
    check_precision(name, header.precision)
    tool = require(name)
    model = to_onnx(network, spec) if onnx_model is None else onnx_model
    names = ("torch", "onnx", tool.__name__)
    header = replace(header, versions={"pellucid": __version__, **{n: version_of(n) for n in names}})
    with tempfile.TemporaryDirectory(prefix="pellucid-") as folder:
        draft = Path(folder) / f"draft{target.suffix}"
        _save(model, header, draft)
        engine = open_engine(draft)
        parity = measure_parity(network, spec, engine)
        del engine  # and its hold on the file
        if not parity.ok:
            raise ExportError(_refusal(tool.__name__, header.name, parity))
        header = replace(header, parity=parity.to_dict())
        _save(model, header, draft)
        # First what the other file needs.
        for suffix in (".bin", ".xml") if target.suffix == ".xml" else (target.suffix,):
            data = draft.with_suffix(suffix).read_bytes()
            write_bytes(data, target.with_suffix(suffix), overwrite=overwrite)
    return Exported(target, header)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse, before long work, a file that `export` could not write.

    Raises:
        InputError, OutputExistsError: as there.
    """
    check_writable(target, overwrite=overwrite)
    if target.suffix == ".xml":
        check_writable(target.with_suffix(".bin"), overwrite=overwrite)


def _save(onnx_model: Any, header: Header, path: Path) -> None:
    onnx = require("onnx")
    onnx.helper.set_model_props(onnx_model, {"pellucid": header.to_json()})
    source = path.with_suffix(FORMATS["onnx"])
    onnx.save(onnx_model, source)
    if path != source:
        openvino = require("openvino")
        model = openvino.convert_model(source)
        model.set_rt_info(header.to_json(), "pellucid")
        openvino.save_model(model, path, compress_to_fp16=False)


def to_onnx(network: nn.Module, spec: ModelSpec) -> Any:
    """The network as an `onnx.ModelProto`, for one picture of any size.

    Raises:
        InputError: the extra `export` is missing.
    """
    require("onnx")
    require("onnxscript")
    arguments = [probe_picture(4 * spec.multiple_of), *([torch.zeros(1, dtype=torch.long)] * spec.guided)]
    sides = {axis + 2: spec.multiple_of * torch.export.Dim(name) for axis, name in enumerate("hw")}
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that nobody needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            program = torch.onnx.export(
                network,
                tuple(arguments),
                dynamo=True,
                dynamic_shapes=(sides, *([None] * spec.guided)),
                input_names=["degraded", "prompt"][: len(arguments)],
                output_names=["restored"],
                opset_version=OPSET,
                optimize=False,  # the engines do that themselves when they load the file
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # stack traces, with the folders of whoever exports
        part.ClearField("doc_string")
    return model


def _refusal(engine: str, name: str, parity: Parity) -> str:
    found = parity.to_dict()
    expected = f"at most {CLOSENESS:.0e}"
    if parity.precision == "bf16":
        expected = f"{CLOSENESS_BF16:.0f} dB on all"
    elif parity.selects:
        expected += f" on half of the pictures, and {CLOSENESS_PSNR:.0f} dB on all"
    return (
        f"{name} as {engine} runs it in {parity.precision} is off by {found['largest_difference']:.1e} "
        f"({found['within']} of {found['pictures']} pictures within {CLOSENESS:.0e}, lowest PSNR "
        f"{found['lowest_psnr']:.1f} dB); expected {expected}. Nothing was written; "
        "export to another format, or run it with torch."
    )
