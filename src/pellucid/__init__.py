"""pellucid: one network, told nothing about what is wrong, restores the photograph.

The public names are those of `__all__`; each is imported on first use, so that `import pellucid` and
`pellucid --help` never wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pellucid.checkpoint import Checkpoint
    from pellucid.errors import PellucidError
    from pellucid.image import ImageBuffer
    from pellucid.image_io import read_image, write_image
    from pellucid.one_call import restore
    from pellucid.restoration import Report, Restoration
    from pellucid.restorer import Restorer, load

_HOME = {
    "Checkpoint": "checkpoint",
    "ImageBuffer": "image",
    "PellucidError": "errors",
    "Report": "restoration",
    "Restoration": "restoration",
    "Restorer": "restorer",
    "load": "restorer",
    "read_image": "image_io",
    "restore": "one_call",
    "write_image": "image_io",
}

__all__ = [
    "Checkpoint",
    "ImageBuffer",
    "PellucidError",
    "Report",
    "Restoration",
    "Restorer",
    "__version__",
    "load",
    "read_image",
    "restore",
    "write_image",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'pellucid' has no attribute {name!r}")
    return getattr(import_module(f"pellucid.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
