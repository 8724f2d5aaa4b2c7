"""Measures of a restored picture against the clean one. `metrics.get("psnr_rgb")` gives one by name."""

from pellucid.metrics._measure import Measure
from pellucid.registry import Registry

_registry: Registry[Measure] = Registry("pellucid.metrics", "MEASURES", "measure")
get = _registry.get
names = _registry.names

__all__ = ["Measure", "get", "names"]
