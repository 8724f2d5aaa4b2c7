"""Hooks that look at a network from outside while a restorer runs it."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Seen = TypeVar("Seen")


@contextmanager
def watching(
    network: nn.Module, kind: type[nn.Module], look: Callable[[Any, Any, Any], Seen]
) -> Generator[list[dict[str, Seen]]]:
    """A list that grows by one dict for each call of `network`: a module's path, and what `look` gave.

    A restorer repeats a tile that was not finite; such calls are left out.

    Args:
        network: what is watched.
        kind: the modules of this class.
        look: called with (module, its positional arguments, its result).
    """
    calls: list[dict[str, Seen]] = []

    def begin(*_: object) -> None:
        calls.append({})

    def end(_module: nn.Module, _arguments: object, output: Tensor) -> None:
        if not bool(torch.isfinite(output).all()):
            calls.pop()

    def hook(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def see(module: nn.Module, arguments: Any, output: Any) -> None:
            calls[-1][path] = look(module, arguments, output)

        return see

    handles = [network.register_forward_pre_hook(begin), network.register_forward_hook(end)]
    handles += [
        module.register_forward_hook(hook(path))
        for path, module in network.named_modules()
        if isinstance(module, kind)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def has(network: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether the network holds a module of this class."""
    return any(isinstance(module, kind) for module in network.modules())


def rounded(value: Any, digits: int = 4) -> Any:
    """Nested numbers, arrays and tensors as plain values, floats rounded for JSON."""
    if isinstance(value, dict):
        return {key: rounded(v, digits) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v, digits) for v in value]
    if hasattr(value, "tolist"):
        return rounded(value.tolist(), digits)
    return round(value, digits) if isinstance(value, float) else value
