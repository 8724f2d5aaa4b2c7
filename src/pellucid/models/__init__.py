"""The networks. `models.get("daair_s")` gives a structure's `ModelSpec`, `models.names()` lists them."""

from pellucid.models._spec import ModelSpec
from pellucid.registry import Registry

_registry: Registry[ModelSpec] = Registry("pellucid.models", "SPECS", "model")
get = _registry.get
names = _registry.names

__all__ = ["ModelSpec", "get", "names"]
