"""The networks. `models.get("daair_s")` gives a structure's `ModelSpec`, `models.names()` lists them.

`models.restoring()` lists those that restore pictures: all but the recognizer.
"""

from pellucid.models._spec import ModelSpec
from pellucid.registry import Registry

_registry: Registry[ModelSpec] = Registry("pellucid.models", "SPECS", "model")
get = _registry.get
names = _registry.names


def restoring() -> list[str]:
    """Names of the structures that give a picture, sorted."""
    return [name for name in names() if get(name).restores]


__all__ = ["ModelSpec", "get", "names", "restoring"]
