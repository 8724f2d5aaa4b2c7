"""A still film comes back steadier with what follows slowly than without."""

import torch
from skimage import data
from tests.video.conftest import av, pictures, write_film

from pellucid import models
from pellucid.models.daair import Router
from pellucid.runner import NetworkRunner
from pellucid.video import restore_video
from pellucid.video.steady import Flicker, Shots, SteadyLight, SteadyRouter, steady_routers


def test_a_still_film_flickers_less(unguarded, tmp_path):
    dark = [(frame * 0.25).astype("uint8") for frame in pictures(10, still=True, sigma=60)]
    source = write_film(tmp_path / "film.mkv", dark)
    loose = restore_video(unguarded, source, tmp_path / "loose.mkv", steady=False).flicker
    steady = restore_video(unguarded, source, tmp_path / "steady.mkv").flicker
    assert steady["input_light"] == loose["input_light"]
    assert steady["output_light"] < 0.7 * loose["output_light"]


def test_light_follows_slowly_where_nothing_moves_and_at_once_where_something_does():
    still, light = torch.full((3, 64, 64), 0.2), SteadyLight()
    assert torch.equal(light(still, still + 0.3), still + 0.3)
    jump = light(still, still + 0.5)  # the network changes its mind
    assert torch.allclose(jump, still + 0.3 + 0.15 * 0.2, atol=1e-6)
    moved = torch.full((3, 64, 64), 0.4)
    assert torch.allclose(light(moved, moved + 0.5), moved + 0.5, atol=1e-6)


def test_routers_follow_and_are_put_back():
    spec = models.get("daair_s")
    network = spec.build(spec.config).eval()
    before = [m.router for m in network.modules() if isinstance(getattr(m, "router", None), Router)]
    with steady_routers(network) as routers:
        assert [router.router for router in routers] == before
        first, second = torch.rand(2, 1, before[0].linear.in_features, 4, 4)
        routers[0](first, None)
        routers[0].begin_frame()
        routers[0](second, None)
        expected = first.mean((2, 3)).lerp(second.mean((2, 3)), 0.15)
        assert torch.allclose(routers[0].mean, expected)
    assert [m.router for m in network.modules() if isinstance(getattr(m, "router", None), Router)] == before


def test_routers_that_remember_are_not_recorded_in_a_graph(unguarded):
    assert not unguarded._remembers
    with steady_routers(unguarded.network):
        assert unguarded._remembers


def test_a_router_follows_a_frame_once_and_nothing_that_is_not_finite():
    router = SteadyRouter(Router(4, 3))
    overflown = torch.full((1, 4, 2, 2), torch.nan)
    first, second = torch.rand(2, 2, 4, 2, 2)  # in tiles, two at once
    for frame in (first, second):
        router.begin_frame()
        router(overflown, None)
        index, gate = router(frame, None)
        router(frame, None)
    expected = first.mean((0, 2, 3)).lerp(second.mean((0, 2, 3)), 0.15)
    assert torch.allclose(router.mean, expected[None])
    assert index.shape == gate.shape == (2,)


def test_routers_that_follow_at_once_decide_by_each_frame(unguarded, tmp_path, monkeypatch):
    source = write_film(tmp_path / "film.mkv", pictures(4, sigma=60))
    loose = restore_video(unguarded, source, tmp_path / "loose.mkv", steady=False).flicker
    monkeypatch.setattr("pellucid.video.steady.FOLLOW", 1.0)
    monkeypatch.setattr(SteadyLight, "__call__", lambda _light, _degraded, restored: restored)
    assert restore_video(unguarded, source, tmp_path / "steady.mkv").flicker == loose


def test_a_frame_that_is_computed_again_makes_no_other_film(unguarded, tmp_path, monkeypatch):
    source = write_film(tmp_path / "film.mkv", pictures(4, sigma=60))
    once = restore_video(unguarded, source, tmp_path / "once.mkv").flicker
    usual = NetworkRunner._finite

    def twice(self, run):
        run(self.precision)
        return usual(self, run)

    monkeypatch.setattr(NetworkRunner, "_finite", twice)
    assert restore_video(unguarded, source, tmp_path / "twice.mkv").flicker == once


def test_a_film_goes_on_where_one_frame_overflows(unguarded, tmp_path, monkeypatch):
    source = write_film(tmp_path / "film.mkv", pictures(3))
    usual, weight, frames = NetworkRunner._finite, unguarded.network.stem.weight, []

    def overflowing(self, run):
        frames.append(run)
        if len(frames) == 2:
            kept = weight.clone()
            weight.fill_(torch.nan)
            run(self.precision)
            weight.copy_(kept)
        return usual(self, run)

    monkeypatch.setattr(NetworkRunner, "_finite", overflowing)
    assert restore_video(unguarded, source, tmp_path / "out.mkv").frames == 3


def test_a_cut_is_told_from_movement_noise_and_flashes():
    def begins(frames):
        shots = Shots()
        return [shots.begins(av.VideoFrame.from_ndarray(frame, format="rgb24")) for frame in frames]

    moving = pictures(6, sigma=40)
    assert begins(moving) == [True] + [False] * 5
    flash = (pictures(1)[0] // 2 + 120).astype("uint8")
    assert begins([*pictures(2), flash]) == [True, False, False]
    other = pictures(2, photograph=data.rocket())
    assert begins([*pictures(2), *other]) == [True, False, True, False]


def test_flicker_counts_light_only_where_nothing_moves():
    flicker, still = Flicker(), torch.full((3, 32, 32), 0.5)
    flicker.add(still, still)
    half = still.clone()
    half[:, :, 16:] = 0.9  # the right half moves
    flicker.add(half, half + 2 / 255)
    found = flicker.to_dict()
    assert found["input_light"] == 0
    assert abs(found["output_light"] - 2) < 1e-3
    assert abs(found["input_difference"] - 0.2 * 255) < 1e-2
    flicker.begin()
    flicker.add(still, still)
    assert flicker.to_dict() == found
