"""Whose network restores a picture, with which habits, and that no two are on it at once."""

import asyncio
import time
from types import SimpleNamespace

import pytest
import torch

from pellucid.errors import UnknownNameError
from pellucid.image import ImageBuffer
from pellucid.restoration import Report, Restoration
from pellucid.service.engine import Engine, Options, Restored
from pellucid.service.metrics import Metrics
from pellucid.service.settings import Settings


class Noting:
    """Stands for a restorer: notes the guard of each picture, and how many are at work at once."""

    def __init__(self, name, at_work, most):
        self.name, self.at_work, self.most, self.guard = name, at_work, most, True

    def __call__(self, image, *, diagnosis, strength, progress):
        self.at_work.append(self)
        began_with = self.guard
        time.sleep(0.02)
        assert self.guard == began_with  # nobody else's request changes it
        self.most.append(len(self.at_work))
        self.at_work.remove(self)
        report = Report(self.name, None, "cpu", "float32", 1, (8, 8), 1.0, None, {"guard": self.guard}, {})
        return Restoration(image, report, image)


class InMemory:
    """Stands for the processes that read and write."""

    async def decode(self, data):
        return ImageBuffer(torch.zeros(3, 8, 8))

    async def encode(self, image, suffix):
        return suffix.encode()


@pytest.fixture
def most():
    return []


@pytest.fixture
def engine(most):
    at_work = []
    restorers = {name: Noting(name, at_work, most) for name in ("first", "second")}
    engine = Engine(Settings(), restorers, SimpleNamespace(), InMemory(), Metrics())
    yield engine
    engine.stop()


def restore(engine, *asked: Options) -> list[dict]:
    """The reports of requests that come at once."""

    async def all_at_once():
        return await asyncio.gather(*(engine.restore(b"", options, "png") for options in asked))

    return [restored.report for restored in asyncio.run(all_at_once())]


def test_requests_at_once_share_a_network_by_turns_and_keep_their_guards(engine, most):
    guards = [True, False, False, True, False, True]
    reports = restore(engine, *(Options(guard=guard) for guard in guards))
    assert [report["guards"]["guard"] for report in reports] == guards
    assert most == [1] * len(guards)
    assert engine.restorers["first"].guard  # as it was given


def test_the_model_that_is_asked_for_restores_and_else_the_first(engine):
    reports = restore(engine, Options("second"), Options(), Options("first"))
    assert [report["model"] for report in reports] == ["second", "first", "first"]
    engine.check(Options("second"))
    with pytest.raises(UnknownNameError, match="Did you mean second"):
        engine.check(Options("secon"))


def test_what_is_restored_elsewhere_is_counted_at_the_door(engine):
    class Elsewhere:
        async def restore(self, data, options, target) -> Restored:
            return await engine.restore(data, options, target)

    metrics = Metrics()
    door = Engine(Settings(), {}, SimpleNamespace(), InMemory(), metrics, Elsewhere())
    restore(door, Options(), Options("second"))
    door.stop()
    assert metrics.registry.get_sample_value("pellucid_restored_pixels_total") == 2 * 8 * 8
