"""Degradations as batched tensor operators: parameters are drawn, then applied.

`degradations.get("rain_streaks")` finds an operator, `degradations.names()` lists them.
"""

from pellucid.degradations._base import Degradation, Params
from pellucid.registry import Registry

_registry: Registry[Degradation] = Registry("pellucid.degradations", "OPERATORS", "degradation")
get = _registry.get
names = _registry.names

__all__ = ["Degradation", "Params", "get", "names"]
