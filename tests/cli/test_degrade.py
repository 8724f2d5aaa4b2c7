import json
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips

from pellucid.__main__ import main
from pellucid.cli.degrade import degrade
from pellucid.errors import InputError, OutputExistsError, UnknownNameError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(tmp_path / "photo.png"))
    return tmp_path / "photo.png"


def pixels(path: Path) -> np.ndarray:
    return pyvips.Image.new_from_file(str(path)).numpy()


@pytest.mark.parametrize(
    "kind", ["noise", "rain", "haze", "blur", "low_light", "jpeg", "composite", "motion_blur"]
)
def test_prints_what_replays_it(
    photo: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    degrade(photo, first, kind=kind, seed=5)
    line = capsys.readouterr().out.strip()
    assert "\n" not in line
    assert json.loads(line)["params"]
    degrade(photo, again, params=line)
    assert capsys.readouterr().out.strip() == line
    assert pixels(first).shape == pixels(photo).shape
    assert np.array_equal(pixels(first), pixels(again))
    assert not np.array_equal(pixels(first), pixels(photo))


def test_seed_decides_the_draw(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        degrade(photo, tmp_path / f"{name}.png", kind="noise", seed=seed)
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1] != lines[2]


def test_a_seed_is_refused_where_nothing_is_drawn(photo: Path, tmp_path: Path) -> None:
    line = '{"name": "jpeg", "params": {"quality": [50], "subsample": [true]}}'
    with pytest.raises(InputError, match=r"--seed 0 is given with --params.*Leave out one"):
        degrade(photo, tmp_path / "out.png", seed=0, params=line)
    assert not (tmp_path / "out.png").exists()


def test_existing_output_is_kept(photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.png"
    output.write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        degrade(photo, output, kind="rain", seed=0)
    assert output.read_bytes() == b"precious"
    degrade(photo, output, kind="rain", seed=0, overwrite=True)
    assert pixels(output).shape == (40, 56, 3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, InputError),
        ({"kind": "rian"}, UnknownNameError),
        ({"params": "[" * 100_000}, InputError),
        ({"params": '{"name": "jpeg", "params": {"quality": [NaN], "subsample": [true]}}'}, InputError),
        ({"params": "rain please"}, InputError),
        ({"params": '{"name": "rain_streaks"}'}, InputError),
        ({"params": '{"name": "jpeg", "params": {"quality": [500], "subsample": [true]}}'}, InputError),
        (
            {"params": '{"name": "jpeg", "params": {"quality": [50, 60], "subsample": [true, true]}}'},
            InputError,
        ),
        (
            {"kind": "rain", "params": '{"name": "jpeg", "params": {"quality": [50], "subsample": [true]}}'},
            InputError,
        ),
    ],
)
def test_refuses_what_it_cannot_do(
    photo: Path, tmp_path: Path, options: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        degrade(photo, tmp_path / "out.png", **options)
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize(("typo", "meant"), [("rian", "rain"), ("nosie", "noise"), ("blurr", "blur")])
def test_kinds_are_suggested_too(photo: Path, tmp_path: Path, typo: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"'{typo}'\. Did you mean {meant}"):
        degrade(photo, tmp_path / "out.png", kind=typo)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("leads_to", ["precious.png", "absent.png"])
def test_a_link_is_never_replaced(photo: Path, tmp_path: Path, leads_to: str, overwrite: bool) -> None:
    (tmp_path / "precious.png").write_bytes(b"precious")
    (tmp_path / "link.png").symlink_to(leads_to)
    with pytest.raises(OutputExistsError, match="exists already" if not overwrite else "is a link to"):
        degrade(photo, tmp_path / "link.png", kind="rain", seed=0, overwrite=overwrite)
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "precious.png").read_bytes() == b"precious"
    assert not (tmp_path / "absent.png").exists()


def test_a_folder_is_no_output(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; expected the name of a file"):
        degrade(photo, tmp_path, kind="rain", seed=0)


def test_command_line(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["pellucid", "degrade", str(photo), *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    output = tmp_path / "rainy.png"
    assert run("--kind", "rain", "-o", str(output), "--seed", "3") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "rain_streaks"
    assert run("--kind", "rain", "-o", str(output)) == OutputExistsError.exit_code
    assert "--overwrite" in capsys.readouterr().err
    assert run("--kind", "rain", "-o", "") == InputError.exit_code
    assert "An empty path" in capsys.readouterr().err
