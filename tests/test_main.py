import subprocess
import sys
from pathlib import Path

import pytest

import pellucid
from pellucid.cli import create_app
from pellucid.cli._shared import parse_size
from pellucid.errors import InputError

LIGHT = """
import sys
from pellucid.__main__ import main
sys.argv = ["pellucid", *{arguments}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {heavy} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], {"torch", "numpy", "pyvips", "safetensors"}),
        (["--version"], {"torch", "numpy", "pyvips", "safetensors"}),
        (["restore", "--help"], {"torch", "numpy", "pyvips", "safetensors"}),
    ],
)
def test_help_imports_nothing_heavy(arguments, heavy):
    code = LIGHT.format(arguments=arguments, heavy=heavy)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version():
    shown = subprocess.run(
        [sys.executable, "-m", "pellucid", "--version"], check=True, capture_output=True, text=True
    )
    assert shown.stdout == f"pellucid {pellucid.__version__}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_under_stdout_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "pellucid", "--help"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("pellucid: The output can't be used: ")
    assert ended.stderr.count("\n") == 1


def test_every_command_explains_itself():
    commands = create_app().registered_commands
    assert {"restore", "models", "doctor", "evaluate"} <= {command.name for command in commands}
    for command in commands:
        assert command.callback is not None
        assert command.callback.__doc__
        assert command.callback.__name__ == command.name


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2GB", 2 * 10**9), ("1.5 gib", 3 * 2**29), ("500M", 5 * 10**8), ("1000000b", 10**6)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "2XB", "1e9", "iB"])
def test_bad_sizes(text):
    with pytest.raises(InputError, match="2GB"):
        parse_size(text)
