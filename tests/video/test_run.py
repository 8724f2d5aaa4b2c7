"""Films keep their times, sound and tags, are cleaner, and go on after a kill."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from skimage import data
from tests.video.conftest import packets, pictures, read_film, write_film
from typer.testing import CliRunner

from pellucid.cli import create_app
from pellucid.diagnosis import GUARD_RULE, PRESENT, Diagnosis
from pellucid.errors import (
    ImageTooLargeError,
    InputError,
    OutputExistsError,
    UnreadableImageError,
    UnsupportedImageError,
)
from pellucid.light import LightRule
from pellucid.models.recognizer import SCALES
from pellucid.strength import Strength
from pellucid.video import container as container_module
from pellucid.video import restore_video
from pellucid.video.container import opened, pixels_of, video_stream


def psnr(frames, expected):
    error = np.mean([np.mean((a.astype(float) - b) ** 2) for a, b in zip(frames, expected, strict=True)])
    return 10 * np.log10(255**2 / error)


def test_a_noisy_film_becomes_clean_at_its_own_times_with_its_own_sound(restorer, tmp_path):
    times = [9000, 12_600, 14_000, 21_001, 25_200, 28_800, 32_400]  # a variable rate that does not begin at 0
    source = write_film(
        *(tmp_path / "film.mp4", pictures(7)), times=times, sound=True, pixel_format="yuv444p"
    )
    calls = []
    report = restore_video(
        restorer, source, tmp_path / "out.mp4", progress=lambda *call: calls.append(call), segment_frames=3
    )
    clean, (restored, seconds), noisy = (
        pictures(7, sigma=0),
        read_film(tmp_path / "out.mp4"),
        read_film(source),
    )
    assert psnr(restored, clean) > psnr(noisy[0], clean) + 3
    assert seconds == noisy[1]
    assert seconds == pytest.approx([t / 90_000 for t in times])
    assert packets(tmp_path / "out.mp4", "audio") == packets(source, "audio")
    with av.open(str(tmp_path / "out.mp4")) as result:
        assert result.metadata["title"] == "A window on a photograph"
    assert calls == [(i, 7) for i in range(1, 8)]
    assert (report.frames, report.streams_copied, report.not_copied, report.resumed_at) == (7, 1, [], 0)
    assert [shot["kinds"] for shot in report.shots] == [["noise"]]
    assert json.loads(json.dumps(report.to_dict()))["film"]["rate"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "out.mp4"]


def test_at_strength_0_and_in_a_clean_film_frames_come_back_but_for_the_encoding(restorer, tmp_path):
    frames = pictures(5, sigma=0)
    source = write_film(tmp_path / "film.mkv", frames)
    for strength in (Strength.of(0), Strength.of(1)):
        report = restore_video(restorer, source, tmp_path / "out.mkv", strength=strength, overwrite=True)
        assert psnr(read_film(tmp_path / "out.mkv")[0], read_film(source)[0]) > 38
        if strength.plain == 0:
            assert [shot["left_alone"] for shot in report.shots] == [True]


def diagnosis(**probabilities: float) -> Diagnosis:
    found = dict.fromkeys(SCALES, 0.0) | probabilities
    present = tuple(kind for kind, p in probabilities.items() if p >= PRESENT)
    return Diagnosis("degraded", present, found, 0.0, probabilities, 1.0, True, "oracle", 0.0)


class Oracle:
    """A recognizer that always finds the same."""

    def __init__(self, weights_sha256: str = "oracle", **probabilities: float) -> None:
        self.weights_sha256, self.found = weights_sha256, diagnosis(**probabilities)

    def __call__(self, pixels: torch.Tensor) -> Diagnosis:
        return self.found


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ({"blur": 1.0}, True),
        ({"haze": 1.0}, False),
        ({"blur": 1.0, "haze": 0.2}, True),
        ({"blur": 1.0, "haze": 0.6}, False),
    ],
)
def test_a_shot_keeps_its_light_where_nothing_changed_it(restorer, found, kept, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(restorer, "_recognizer", Oracle(**found))
    monkeypatch.setattr(restorer, "run", lambda pixels, **options: asked.append(options) or pixels)
    source = write_film(tmp_path / "film.mkv", pictures(3))
    report = restore_video(restorer, source, tmp_path / "out.mkv")
    radius = found.get("blur", 0.0)
    rule = LightRule(kept=True, blur_radius=radius) if kept else LightRule()
    assert [frame["light"].to_dict() for frame in asked] == [rule.to_dict()] * 3
    assert [(shot["light"]["kept"], shot["left_alone"]) for shot in report.shots] == [(kept, False)]


def test_frames_that_took_more_than_the_usual_are_counted(unguarded, tmp_path, monkeypatch):
    usual, frames = unguarded.restore_pixels, []

    def remedied(degraded, *arguments):
        frames.append(degraded)
        restored, plan, guards = usual(degraded, *arguments)
        return restored, plan, guards | {"redone_in_float32": len(frames) in (2, 3)}

    monkeypatch.setattr(unguarded, "restore_pixels", remedied)
    monkeypatch.setattr("pellucid.cli._video.open_restorer", lambda _: unguarded)
    source, target = write_film(tmp_path / "film.mkv", pictures(3)), tmp_path / "out.mkv"
    told = CliRunner().invoke(create_app(), ["restore", str(source), "-o", str(target), "--json"])
    assert json.loads(told.stdout)["report"]["guards"] == {"redone_in_float32": 2, "replanned": 0}
    assert "; 2 frames computed once more in float32, since bf16 gave NaN or infinity" in told.stderr


class Changing(Oracle):
    """A recognizer that finds one after another."""

    def __init__(self, *found: Diagnosis) -> None:
        super().__init__()
        self.left = list(found)

    def __call__(self, pixels: torch.Tensor) -> Diagnosis:
        return self.left.pop(0)


CLEAN = Diagnosis("nothing wrong", (), dict.fromkeys(SCALES, 0.0), 0.99, {}, 0.1, True, "oracle", 0.0)
HAZY, BLURRED, NOISY = diagnosis(haze=1.0), diagnosis(blur=1.0), diagnosis(noise=1.0)


@pytest.mark.parametrize(
    ("found", "left_alone", "light_kept"),
    [
        ((CLEAN, HAZY, HAZY), False, False),
        ((HAZY, CLEAN, CLEAN), True, False),
        ((BLURRED, BLURRED, HAZY), False, True),
    ],
)
def test_most_of_the_frames_looked_at_decide_about_a_shot(
    restorer, found, left_alone, light_kept, tmp_path, monkeypatch
):
    monkeypatch.setattr(restorer, "_recognizer", Changing(*found))
    report = restore_video(restorer, write_film(tmp_path / "film.mkv", pictures(6)), tmp_path / "out.mkv")
    assert [(shot["left_alone"], shot["light"]["kept"]) for shot in report.shots] == [
        (left_alone, light_kept)
    ]


@pytest.mark.parametrize(
    ("found", "views"),
    [((HAZY, NOISY, HAZY), [2]), ((BLURRED, NOISY, HAZY), []), ((HAZY, CLEAN, CLEAN), [])],
)
def test_most_of_the_frames_looked_at_decide_whether_haze_is_seen_from_afar(
    found, views, restorer, tmp_path, monkeypatch
):
    monkeypatch.setattr("pellucid.light.VIEWS", (48, 64))
    monkeypatch.setattr("pellucid.light.LARGE", 100)
    monkeypatch.setattr(restorer, "_recognizer", Changing(*found))
    report = restore_video(restorer, write_film(tmp_path / "film.mkv", pictures(6)), tmp_path / "out.mkv")
    assert [shot["light"]["views"] for shot in report.shots] == [views]


def test_a_film_seen_from_afar_goes_on_after_a_kill(restorer, tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.light.VIEWS", (24, 48))
    monkeypatch.setattr("pellucid.light.LARGE", 100)
    monkeypatch.setattr(restorer, "_recognizer", Oracle(haze=1.0))
    source = write_film(tmp_path / "film.mkv", pictures(6))
    whole = restore_video(restorer, source, tmp_path / "whole.mkv", segment_frames=2)
    assert [shot["light"]["views"] for shot in whole.shots] == [[2, 5]]
    run, left = restorer.run, [None] * 3

    def killed(*arguments, **options):
        left.pop()  # and where none is left, it ends
        return run(*arguments, **options)

    monkeypatch.setattr(restorer, "run", killed)
    with pytest.raises(IndexError):
        restore_video(restorer, source, tmp_path / "out.mkv", segment_frames=2)
    monkeypatch.setattr(restorer, "run", run)
    report = restore_video(restorer, source, tmp_path / "out.mkv", segment_frames=2)
    assert (report.resumed_at, report.shots) == (2, whole.shots)
    frames = [read_film(tmp_path / name)[0] for name in ("out.mkv", "whole.mkv")]
    assert all(map(np.array_equal, *frames))


def test_most_of_the_frames_looked_at_decide_what_a_guided_network_is_told(guided, tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "_recognizer", Changing(BLURRED, HAZY, HAZY))
    report = restore_video(guided, write_film(tmp_path / "film.mkv", pictures(6)), tmp_path / "out.mkv")
    assert [shot["prompt"] for shot in report.shots] == ["haze"]


def test_nothing_of_a_shot_enters_the_next(restorer, tmp_path, monkeypatch):
    """Every cell has the same light in both shots, so that only the cut tells them apart."""
    stripes = np.arange(128) // 8 % 2
    frames = [
        np.broadcast_to((60 + 100 * bright)[None, :, None], (96, 128, 3)).astype(np.uint8)
        for bright in [stripes] * 3 + [1 - stripes] * 3
    ]
    changes = iter([0.2] * 3 + [0.0] * 3)
    monkeypatch.setattr(restorer, "_recognizer", Oracle(haze=1.0))
    monkeypatch.setattr(restorer, "run", lambda pixels, **_: pixels + next(changes))
    source = write_film(tmp_path / "film.mkv", frames, pixel_format="yuv444p")
    report = restore_video(restorer, source, tmp_path / "out.mkv")
    assert [shot["frame"] for shot in report.shots] == [0, 3]
    assert psnr(read_film(tmp_path / "out.mkv")[0][3:], frames[3:]) > 38
    assert report.flicker["input_difference"] < 1


def test_a_prompt_is_heeded_without_asking_the_recognizer(guided, tmp_path, monkeypatch):
    monkeypatch.setattr(guided, "guard", True)
    monkeypatch.setattr(guided, "_recognizer", Oracle(blur=1.0))
    source = write_film(*(tmp_path / "film.mkv", pictures(2)))
    report = restore_video(guided, source, tmp_path / "out.mkv", diagnosis="haze")
    assert [(shot["prompt"], shot["light"]["kept"]) for shot in report.shots] == [("haze", False)]


@pytest.mark.parametrize("suffix", [".mkv", ".webm", ".mov"])
def test_ten_bits_and_hdr_tags_are_kept(unguarded, suffix, tmp_path):
    colors = (9, 16, 9, 1)  # BT.2020, PQ
    source = write_film(
        *(tmp_path / "film.mkv", pictures(3)), codec="libx265", pixel_format="yuv420p10le", colors=colors
    )
    report = restore_video(unguarded, source, tmp_path / f"out{suffix}")
    assert report.film["hdr"]
    with opened(tmp_path / f"out{suffix}") as container:
        stream = video_stream(container, source)
        frame = next(container.decode(stream))
    assert frame.format.name == "yuv420p10le"
    found = frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range
    assert tuple(map(int, found)) == colors


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_film_is_restored_upright_and_stays_turned(unguarded, rotation, tmp_path):
    source = write_film(*(tmp_path / "film.mp4", pictures(3)), rotation=rotation, pixel_format="yuv444p")
    seen = []
    run = unguarded.run
    unguarded.run = lambda pixels, **options: seen.append(pixels) or run(pixels, **options)
    try:
        report = restore_video(unguarded, source, tmp_path / "out.mp4")
    finally:
        del unguarded.run
    assert report.film["rotation"] == rotation
    stored, _ = read_film(source)
    upright = np.rot90(stored[0], rotation // 90)
    assert np.abs(seen[0].permute(1, 2, 0).numpy() * 255 - upright).mean() < 4
    restored, _ = read_film(tmp_path / "out.mp4")
    assert psnr(restored, pictures(3, sigma=0)) > psnr(stored, pictures(3, sigma=0)) + 3
    with opened(tmp_path / "out.mp4") as container:
        assert round(next(container.decode(video=0)).rotation) % 360 == rotation


def test_chapters_subtitles_and_languages_are_kept(unguarded, tmp_path):
    source = write_film(tmp_path / "film.mkv", pictures(3), sound=True, subtitles=True)
    report = restore_video(unguarded, source, tmp_path / "out.mkv")
    assert report.streams_copied == 2
    assert packets(tmp_path / "out.mkv", "subtitle") == packets(source, "subtitle")
    assert [words for _, words in packets(source, "subtitle")] == [b"Zeile 0", b"Zeile 1"]
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert len(after.chapters()) == 2
        assert [s.language for s in after.streams] == [s.language for s in before.streams]
        assert "ger" in [s.language for s in after.streams]
        assert [c["metadata"] for c in after.chapters()] == [c["metadata"] for c in before.chapters()]
        assert [Fraction(c["end"]) * c["time_base"] for c in after.chapters()] == [
            Fraction(c["end"]) * c["time_base"] for c in before.chapters()
        ]


def test_what_the_format_cannot_hold_is_told(unguarded, tmp_path):
    source = write_film(tmp_path / "film.mp4", pictures(2), sound=True)  # AAC is not for WebM
    report = restore_video(unguarded, source, tmp_path / "out.webm")
    assert report.streams_copied == 0
    assert report.not_copied == ["audio aac (stream 1)"]


def test_sound_that_is_refused_with_its_first_packet_is_told(unguarded, tmp_path):
    """MP4 takes the header of PCM in stereo from an AVI, and no packet: of old, hours of work were lost."""
    with av.open(str(tmp_path / "film.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000, layout="stereo")
        for picture in pictures(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="stereo")
        block.sample_rate = 8000
        for packet in (*stream.encode(None), *sound.encode(block), *sound.encode(None)):
            container.mux(packet)
    report = restore_video(unguarded, tmp_path / "film.avi", tmp_path / "out.mp4")
    assert (report.streams_copied, report.not_copied) == (0, ["audio pcm_s16le (stream 1)"])
    assert restore_video(unguarded, tmp_path / "film.avi", tmp_path / "out.mkv").streams_copied == 1


@pytest.mark.parametrize("target", [".mp4", ".mov", ".mkv", ".webm"])
def test_the_file_states_the_rate_of_the_film(unguarded, target, tmp_path):
    restore_video(unguarded, write_film(tmp_path / "film.mp4", pictures(5)), tmp_path / f"out{target}")
    with av.open(str(tmp_path / f"out{target}")) as result:
        assert float(result.streams.video[0].average_rate) == pytest.approx(25, abs=0.1)


def test_tags_in_another_encoding_do_no_harm(unguarded, tmp_path):
    source = write_film(tmp_path / "film.mkv", pictures(2))
    source.write_bytes(source.read_bytes().replace(b"A window", b"A w\xefndow"))
    assert restore_video(unguarded, source, tmp_path / "out.mkv").frames == 2


@pytest.mark.parametrize(("codec", "pixel_format"), [("libx264rgb", "rgb24"), ("png", "rgba")])
def test_a_film_in_rgb_keeps_its_colors_and_transparency_is_told(unguarded, codec, pixel_format, tmp_path):
    source = write_film(tmp_path / "film.mov", pictures(2), codec=codec, pixel_format=pixel_format)
    report = restore_video(unguarded, source, tmp_path / "out.mov", strength=Strength(0))
    before, after = (np.mean(read_film(path)[0], (0, 1, 2)) for path in (source, tmp_path / "out.mov"))
    assert np.abs(after - before).max() < 2  # gray levels of red, green and blue; noise that goes takes one
    assert report.not_copied == (["transparency"] if pixel_format == "rgba" else [])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("target", [".mp4", ".mkv"])
def test_the_last_frame_lasts_as_long_as_the_others(unguarded, suffix, target, tmp_path):
    source = write_film(tmp_path / f"film{suffix}", pictures(5))
    restore_video(unguarded, source, tmp_path / f"out{target}")
    with av.open(str(tmp_path / f"out{target}")) as result:
        stream = result.streams.video[0]
        lasting = [float(p.duration * p.time_base) for p in result.demux(stream) if p.pts is not None]
        assert lasting == pytest.approx([0.04] * 5, abs=0.0011)  # Matroska counts milliseconds
        assert result.duration / av.time_base == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize("target", [".mp4", ".mov", ".mkv", ".webm"])
def test_wide_pixels_stay_wide(unguarded, target, tmp_path):
    source = write_film(tmp_path / "film.mp4", pictures(2), pixel_aspect=Fraction(64, 45))
    report = restore_video(unguarded, source, tmp_path / f"out{target}")
    assert report.film["pixel_aspect"] == "64/45"
    assert report.not_copied == (["aspect 64/45 of a pixel"] if target == ".webm" else [])
    if target == ".webm":
        return
    with av.open(str(tmp_path / f"out{target}")) as result:
        assert result.streams.video[0].sample_aspect_ratio == Fraction(64, 45)


@pytest.mark.parametrize(("size", "pixel_format"), [((33, 47), "yuv444p"), ((64, 80), "yuv422p")])
def test_odd_sizes_and_other_subsamplings_are_kept(unguarded, size, pixel_format, tmp_path):
    frames = [frame[: size[0], : size[1]] for frame in pictures(2)]
    source = write_film(tmp_path / "film.mkv", frames, pixel_format=pixel_format)
    report = restore_video(unguarded, source, tmp_path / "out.mkv")
    assert report.pixel_format == pixel_format
    assert read_film(tmp_path / "out.mkv")[0][0].shape[:2] == size


def test_interlaced_frames_are_counted(unguarded, tmp_path):
    source = write_film(tmp_path / "film.mkv", pictures(4), interlaced=True)
    assert restore_video(unguarded, source, tmp_path / "out.mkv").interlaced == 4


def test_each_shot_is_judged_for_itself(restorer, tmp_path):
    noisy, clean = pictures(6), pictures(6, sigma=0, photograph=np.ascontiguousarray(data.rocket()))
    source = write_film(tmp_path / "film.mkv", noisy + clean + noisy[:2], pixel_format="yuv444p")
    report = restore_video(restorer, source, tmp_path / "out.mkv", segment_frames=4)
    assert [shot["frame"] for shot in report.shots] == [0, 6, 12]
    assert [shot["kinds"] for shot in report.shots][::2] == [["noise"], ["noise"]]


def test_a_guided_network_is_told_per_shot(guided, tmp_path):
    source = write_film(tmp_path / "film.mkv", pictures(3))
    report = restore_video(guided, source, tmp_path / "out.mkv")
    assert report.shots[0]["prompt"].startswith("noise")


CODE = """
import sys, time, torch
from pathlib import Path
from pellucid.restorer import load
from pellucid.video import restore_video
torch.set_num_threads(int(sys.argv[4]))  # others add up in another order
restorer = load(device="cpu", precision="float32", guard=False)
def slowly(done, total):
    print(done, flush=True)
    time.sleep(float(sys.argv[3]))
restore_video(restorer, Path(sys.argv[1]), Path(sys.argv[2]), progress=slowly, segment_frames=4)
"""


def test_a_killed_run_goes_on_and_gives_the_same_bytes(unguarded, tmp_path):
    source = write_film(tmp_path / "film.mp4", pictures(14), sound=True)
    target = tmp_path / "killed.mp4"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(source), str(target), "0.3", str(torch.get_num_threads())],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 10:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert not target.exists()
    report = restore_video(unguarded, source, target, segment_frames=4)
    assert report.resumed_at == 8
    whole = restore_video(unguarded, source, tmp_path / "whole.mp4", segment_frames=4)
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert whole.flicker == pytest.approx(report.flicker, rel=1e-5)  # sums in other threads
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "killed.mp4", "whole.mp4"]


def test_other_settings_begin_anew(unguarded, tmp_path):
    source, target = write_film(tmp_path / "film.mp4", pictures(6)), tmp_path / "out.mp4"

    def stop(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_video(unguarded, source, target, progress=stop, segment_frames=2)
    assert not target.exists()
    again = restore_video(unguarded, source, target, strength=Strength.of(0.5), segment_frames=2)
    assert again.resumed_at == 0


@pytest.mark.parametrize(
    ("rule", "weights", "resumed_at"), [(0, "oracle", 0), (GUARD_RULE, "other", 0), (GUARD_RULE, "oracle", 4)]
)
def test_another_guard_begins_anew(restorer, rule, weights, resumed_at, tmp_path, monkeypatch):
    monkeypatch.setattr(restorer, "_recognizer", Oracle(blur=1.0))
    source, target = write_film(tmp_path / "film.mp4", pictures(6)), tmp_path / "out.mp4"

    def stop(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_video(restorer, source, target, progress=stop, segment_frames=2)
    monkeypatch.setattr("pellucid.video.run.GUARD_RULE", rule)
    monkeypatch.setattr(restorer, "_recognizer", Oracle(weights, blur=1.0))
    assert restore_video(restorer, source, target, segment_frames=2).resumed_at == resumed_at


def retimed(path, times):
    """A film whose packets were given these times, in milliseconds, by a careless program."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        frames = [av.VideoFrame.from_ndarray(picture, format="rgb24") for picture in pictures(len(times))]
        packets = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
        for packet, time in zip(packets, times, strict=True):
            packet.pts = packet.dts = time
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)
    return path


def test_two_frames_at_one_time_part_by_a_tick(unguarded, tmp_path):
    source = retimed(tmp_path / "film.mkv", [0, 40, 80, 80, 80, 120])
    restore_video(unguarded, source, tmp_path / "out.mkv", segment_frames=4)
    _, seconds = read_film(tmp_path / "out.mkv")
    assert seconds == pytest.approx([0, 0.04, 0.08, 0.081, 0.082, 0.12])


def test_times_that_fall_are_refused(unguarded, tmp_path, monkeypatch):
    source, genuine = retimed(tmp_path / "film.mkv", [0, 40, 80, 120]), container_module._frames

    def falling(*arguments):
        for frame, time in zip(genuine(*arguments), [0, 40, 80, 70], strict=True):
            frame.pts = time
            yield frame

    monkeypatch.setattr(container_module, "_frames", falling)
    with pytest.raises(UnreadableImageError, match=r"Frame 4 of .* is shown before"):
        restore_video(unguarded, source, tmp_path / "out.mkv")


def test_what_ffmpeg_cannot_write_is_one_sentence(tmp_path):
    source = write_film(tmp_path / "film.mp4", pictures(2))
    with opened(source) as container:
        stream = video_stream(container, source)
        film = container_module.describe(stream, frame := next(container.decode(stream)))
    writer = container_module.SegmentWriter(tmp_path / "segment", film, ".mp4")
    with pytest.raises(InputError, match=r"can't be written: .*Another suffix"):
        for time in (9000, 5400, 1800):
            writer.write(frame, time)
        writer.close()


def test_bad_input_is_one_sentence_and_touches_nothing(unguarded, tmp_path):
    film = write_film(tmp_path / "film.mp4", pictures(4))
    broken, sound = tmp_path / "broken.mp4", tmp_path / "sound.mka"
    broken.write_bytes(film.read_bytes()[:700])
    with av.open(str(sound), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        block.sample_rate = 8000
        container.mux(stream.encode(block))
    strange = write_film(tmp_path / "strange.mkv", pictures(2))
    strange.write_bytes(strange.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XXX"))
    cases = [
        (strange, "out.mp4", UnsupportedImageError, "a codec that this FFmpeg does not know"),
        (tmp_path / "none.mp4", "out.mp4", UnreadableImageError, "no file"),
        (broken, "out.mp4", UnreadableImageError, "can't be read as a film"),
        (sound, "out.mp4", UnsupportedImageError, "no moving pictures"),
        (film, "out.avi", UnsupportedImageError, "Choose one of"),
        (film, "missing/out.mp4", InputError, "no folder"),
        (film, "film.mp4", OutputExistsError, "exists already"),
    ]
    before = sorted(tmp_path.iterdir())
    for source, target, error, words in cases:
        with pytest.raises(error, match=words):
            restore_video(unguarded, source, tmp_path / target)
    assert sorted(tmp_path.iterdir()) == before


def test_two_runs_do_not_share_a_target(unguarded, tmp_path):
    source, target = write_film(tmp_path / "film.mp4", pictures(3)), tmp_path / "out.mp4"

    def meanwhile(done, _):
        if done == 1:
            with pytest.raises(InputError, match="Another run"):
                restore_video(unguarded, source, target)

    restore_video(unguarded, source, target, progress=meanwhile)
    assert target.exists()


def test_a_folder_named_like_a_film_is_a_folder(tmp_path):
    (tmp_path / "trip.mov").mkdir()
    told = CliRunner().invoke(
        create_app(), ["restore", str(tmp_path / "trip.mov"), "-o", str(tmp_path / "out")]
    )
    assert "There are no pictures in" in str(told.exception)


def test_the_command_takes_films(tmp_path):
    source = write_film(tmp_path / "film.mp4", pictures(3))
    target = tmp_path / "out.mkv"
    command = ["restore", str(source), "-o", str(target), "--precision", "float32", "--json"]
    told = CliRunner().invoke(create_app(), [*command, "--dry-run"])
    assert (told.exit_code, target.exists()) == (0, False)
    assert "1 would be restored" in told.stderr
    done = CliRunner().invoke(create_app(), command)
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["state"] == "restored"
    assert (row["ok"], row["report"]["frames"], row["output"]) == (True, 3, str(target))
    assert "3 frames in 1 shots" in done.stderr
    # refused before the model is looked for
    again = CliRunner().invoke(create_app(), [*command, "--model", "no_such_weights"])
    assert isinstance(again.exception, OutputExistsError)
    assert json.loads(again.stdout)["error"]["type"] == "OutputExistsError"


def test_options_that_choose_or_refuse_pictures_hold_for_films(tmp_path):
    source, target = write_film(tmp_path / "film.mp4", pictures(1)), tmp_path / "out.mp4"

    def run(*options):
        command = ["restore", str(source), "-o", str(target), "--precision", "float32", *options]
        return CliRunner().invoke(create_app(), command)

    for choice in (("--exclude", "*.mp4"), ("--include", "*.png"), ("--since", "2999-01-01")):
        for options in (choice, (*choice, "--dry-run")):
            told = run(*options)
            assert (told.exit_code, told.stdout) == (0, ""), told.exception
            assert "film.mp4 is not among those that were chosen" in told.stderr
    large = run("--max-pixels", "12287").exception
    assert isinstance(large, ImageTooLargeError)
    assert "film.mp4 is 128 x 96 pixels (12,288 px); the limit is 12,287 px" in str(large)
    for options in (("--untouched", "copy"), ("--untouched", "link"), ("--retry-failed",)):
        with pytest.raises(InputError, match=r"with one film, .*film\.mp4; expected a folder"):
            raise run(*options).exception
    with pytest.raises(InputError, match=r"--strip doesn't go with a film\. Leave it out"):
        raise run("--strip", "gps").exception
    assert not target.exists()


def test_a_frame_survives_its_way_to_rgb_and_back(tmp_path):
    source = write_film(tmp_path / "film.mkv", pictures(1, sigma=0), pixel_format="yuv444p")
    from pellucid.video.container import describe, frame_of

    with opened(source) as container:
        stream = video_stream(container, source)
        frame = next(container.decode(stream))
        film = describe(stream, frame)
        again = frame_of(pixels_of(frame, film), film, "yuv444p")
    off = frame.to_ndarray().astype(int) - again.to_ndarray()
    assert np.abs(off).max() <= 1
