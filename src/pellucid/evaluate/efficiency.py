"""What a network costs: parameters, multiply-adds, latency and memory, measured and not quoted.

Multiply-adds are half of what torch's `FlopCounterMode` counts: those of convolutions and matrix products,
on one RGB picture. Elementwise steps, norms, softmax and the routers' means are left out, as in the papers'
tables; so is what a network multiplies out of its weights alone. They are counted on fake tensors, which
compute nothing.

There are two counts, since inference may take other steps than a figure draws. `gmac` follows the figure:
DFPIR expands, shuffles and contracts one by one; the experts of DaAIR reduce, then expand. `gmac_run` is what
is run here: DFPIR's shuffle folded into one convolution, the experts' two maps into one product.
"""

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import compute, models, weights
from pellucid.checkpoint import Checkpoint
from pellucid.engines import is_exported
from pellucid.errors import InputError
from pellucid.evaluate.pairs import prompts_of
from pellucid.image import ImageBuffer
from pellucid.models import ModelSpec
from pellucid.models.daair import LowRankExperts
from pellucid.restorer import TorchRestorer

SIZES = (224, 256)  # of the square pictures that the field's tables state


@dataclass(frozen=True)
class Cost:
    """What one network costs on a picture of size x size.

    Attributes:
        size: in pixels.
        gmac: billions of multiply-adds of the steps that the figure draws.
        gmac_run: of the steps that inference takes here.
        seconds: median latency of the whole restorer (padding, network, clamping); none if not measured.
        fastest, slowest: of the runs.
        peak_bytes: weights, and the tensors of a run that live at once; on CUDA what the allocator held.
    """

    size: int
    gmac: float
    gmac_run: float
    seconds: float | None = None
    fastest: float | None = None
    slowest: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Efficiency:
    """What one network costs, and what it was measured with.

    Attributes:
        model: name of the weights, or of the structure.
        structure: its name.
        parameters: trained ones and the moving averages, buffers not counted.
        costs: per size.
        runs: that the median latency was taken over; 0 if only counted.
        device, precision, threads, torch: what it ran on; device and precision none if only counted.
    """

    model: str
    structure: str
    parameters: int
    costs: tuple[Cost, ...]
    runs: int
    device: str | None
    precision: str | None
    threads: int
    torch: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def measure_efficiency(
    model: str,
    sizes: Sequence[int] = SIZES,
    *,
    runs: int = 5,
    device: str | None = None,
    precision: str | None = None,
) -> Efficiency:
    """Count and time `model` on square pictures.

    Args:
        model: a structure (then with fresh weights, which cost the same), weights by name, or a checkpoint.
        sizes: in pixels, multiples of what the network asks.
        runs: for the median latency, after one that warms up; 0 only counts.
        device, precision: as for `pellucid.load`.

    Raises:
        InputError: an exported file, a size that does not fit, runs below 0, or no such device.
        UnknownNameError: no such model.
    """
    if model in models.names():
        spec = models.get(model)
        config, name = spec.config, model
    else:
        file = weights.find(model)
        if is_exported(file.path):
            raise InputError(
                f"{file.path} is an exported file, whose steps can't be counted; expected weights. "
                "Give the .safetensors that it was exported from."
            )
        checkpoint = Checkpoint.read(file.path, sha256=file.sha256)
        spec = models.get(checkpoint.model)
        config, name = spec.config_from(checkpoint.config), checkpoint.named(file.name)
    if not spec.restores:
        raise InputError(
            f"{name} restores nothing, and looks at a few crops whatever the size; expected a network that "
            f"restores, {', '.join(models.restoring())}. Its time is in docs/models/recognizer.md."
        )
    if runs < 0:
        raise InputError(f"The number of runs is {runs}; expected 0 or more.")
    for size in sizes:
        if size < 1 or size % spec.multiple_of:
            raise InputError(
                f"The size is {size}; {name} takes multiples of {spec.multiple_of}. "
                f"Usual: {', '.join(map(str, SIZES))}."
            )
    counted = [Cost(size, *count_gmac(spec, config, size)) for size in sizes]
    network = spec.build(config)
    parameters = sum(p.numel() for p in network.parameters())
    restorer = TorchRestorer(network, spec, name=name, device=device, precision=precision) if runs else None
    return Efficiency(
        name,
        spec.name,
        parameters,
        tuple(counted if restorer is None else (_timed(restorer, cost, runs) for cost in counted)),
        runs,
        restorer.device.type if restorer else None,
        restorer.probe.precision if restorer else None,
        torch.get_num_threads(),
        torch.__version__,
    )


def count_gmac(spec: ModelSpec, config: Any, size: int) -> tuple[float, float]:
    """Billions of multiply-adds on size x size: as the figure draws the network, and as inference runs it."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    if "shuffle" in {field.name for field in fields(config)}:
        config = replace(config, shuffle="fixed")  # a learned one takes the same steps, but folds in training
    with warnings.catch_warnings(), FakeTensorMode(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own parts
        network = spec.build(config)
        unfolded = 0

        def count_unfolded(experts: nn.Module, inputs: tuple[Tensor, Tensor], _: Tensor) -> None:
            # Inference takes 2RC per pixel, and 2RRC once; the figure R C, then 2R R.
            nonlocal unfolded
            assert isinstance(experts, LowRankExperts)
            pixels = inputs[0].shape[2] * inputs[0].shape[3]
            rank, dim = experts.reduce.shape[1:]
            unfolded += pixels * (rank * dim + 2 * rank**2 - 2 * rank * dim) - 2 * rank**2 * dim

        for module in network.modules():
            if isinstance(module, LowRankExperts):
                module.register_forward_hook(count_unfolded)

        def run() -> int:
            nonlocal unfolded
            unfolded = 0
            arguments: list[Any] = [torch.zeros(1, 3, size, size), *([0] if spec.guided else [])]
            with FlopCounterMode(display=False) as counter:
                network(*arguments)
            return counter.get_total_flops() // 2

        drawn = run() + unfolded  # in training mode DFPIR's steps are those of its figure
        network.eval()
        return drawn / 1e9, run() / 1e9


def _timed(restorer: TorchRestorer, cost: Cost, runs: int) -> Cost:
    """The cost with latency and memory of the restorer on its size."""
    picture = ImageBuffer(compute.probe_picture(cost.size)[0])
    prompts = prompts_of(restorer)
    diagnosis = prompts[0] if prompts else None

    def run() -> float:
        start = time.perf_counter()
        restorer(picture, diagnosis=diagnosis)  # ends with a copy to the CPU, which waits for the device
        return time.perf_counter() - start

    run()
    if restorer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(restorer.device)
        seconds = sorted(run() for _ in range(runs))
        peak = torch.cuda.max_memory_allocated(restorer.device)
    else:
        seconds = sorted(run() for _ in range(runs))
        state = restorer.network.state_dict().values()
        peak = sum(tensor.nbytes for tensor in state) + compute.peak_bytes(run)
    return Cost(
        cost.size, cost.gmac, cost.gmac_run, statistics.median(seconds), seconds[0], seconds[-1], peak
    )
