import os

import pytest
import torch
from torch import Tensor

from pellucid import compute
from pellucid.errors import InputError, UnsupportedDtypeError

CPU = torch.device("cpu")


def test_the_cpu_is_always_there():
    assert compute.choose_device("cpu") == CPU
    assert compute.choose_device() is not None
    assert compute.free_memory(CPU) > 2**20


def test_where_the_system_tells_less_of_its_memory_some_is_still_assumed(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "Path", lambda path: tmp_path / path.lstrip("/"))
    built_in = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert compute.free_memory(CPU) == built_in // 2
    monkeypatch.delattr(os, "sysconf")
    assert compute.free_memory(CPU) == compute.UNKNOWN_MEMORY


def test_the_tightest_control_group_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(compute, "Path", lambda path: tmp_path / path.lstrip("/"))
    service = tmp_path / "sys/fs/cgroup/system.slice/pellucid.service"
    service.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 4000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/system.slice/pellucid.service\n")
    assert compute.free_memory(CPU) == 4_096_000_000
    for folder, limit, taken, files in (
        (service, "3000000000", 1_000_000_000, 400_000_000),
        (service.parent, "5000000000", 3_000_000_000, 0),
        (service.parent.parent, "max", 9_000_000_000, 0),
    ):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    assert compute.free_memory(CPU) == 2_000_000_000  # the slice's
    (service.parent / "memory.max").write_text("max\n")
    assert compute.free_memory(CPU) == 2_400_000_000  # the service's, whose files in memory can go
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/elsewhere\n0::/\n")
    assert compute.free_memory(CPU) == 4_096_000_000


@pytest.mark.parametrize("name", ["cuda:99", "meta", "nonsense", ""])
def test_a_device_that_cannot_be_used(name):
    with pytest.raises(InputError, match=r"usable: .*cpu"):
        compute.choose_device(name)


def test_memory_is_what_lives_at_once():
    def run(x: Tensor, precision: str) -> Tensor:
        y = x + 1  # one picture
        y = torch.relu(y)  # two, then one
        return torch.cat([y, y, y]).view(9, 1, *x.shape[2:])[:1]  # three more, and a view of them

    probe = compute.probe_network(run, CPU, 32, "float32")
    assert probe.bytes_per_pixel == pytest.approx(compute.HEADROOM * 4 * 3 * (1 + 3))
    assert (probe.precision, probe.seconds) == ("float32", {})


def paced(seconds: dict[str, float], offset: float = 0.0):
    """A network that takes so long, by a clock of its own, and is off by `offset` in bf16."""
    clock = [0.0]

    def run(x: Tensor, precision: str) -> Tensor:
        clock[0] += seconds[precision]
        return x + offset if precision == "bf16" else x

    return run, lambda: clock[0]


@pytest.mark.parametrize(
    ("seconds", "offset", "chosen"),
    [
        ({"float32": 1.0, "bf16": 0.5}, 0.0, "bf16"),
        ({"float32": 0.01, "bf16": 0.005}, 0.3 / 255, "bf16"),
        ({"float32": 1.0, "bf16": 0.95}, 0.0, "float32"),
        ({"float32": 1.0, "bf16": 0.5}, 1 / 255, "float32"),
        ({"float32": 1.0, "bf16": 0.5}, float("nan"), "float32"),
    ],
)
def test_bf16_must_be_faster_and_close(monkeypatch, seconds, offset, chosen):
    run, clock = paced(seconds, offset)
    monkeypatch.setattr(compute.time, "perf_counter", clock)
    probe = compute.probe_network(run, CPU, 16)
    assert probe.precision == chosen
    assert probe.seconds == pytest.approx(seconds)
    assert probe.side == (64 if seconds["float32"] < 0.1 else 32)


def test_a_device_without_bf16():
    def run(x: Tensor, precision: str) -> Tensor:
        if precision == "bf16":
            raise RuntimeError("no kernel")
        return x

    probe = compute.probe_network(run, CPU, 16)
    assert (probe.precision, probe.difference) == ("float32", None)
    with pytest.raises(UnsupportedDtypeError, match="no kernel"):
        compute.probe_network(run, CPU, 16, "bf16")


def test_what_out_of_memory_looks_like():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert compute.is_out_of_memory(error.value)
    assert compute.is_out_of_memory(MemoryError())
    assert compute.is_out_of_memory(torch.OutOfMemoryError())
    assert not compute.is_out_of_memory(RuntimeError("shapes don't match"))


def test_the_peak_is_what_lives_at_once():
    def run() -> Tensor:
        x = torch.zeros(1000)  # 4,000 bytes
        x = x + 1  # both live for a moment
        return x + 1

    assert compute.peak_bytes(run) == 8000
    kept: list[Tensor] = []
    assert compute.peak_bytes(lambda: [kept.append(torch.zeros(1000)) for _ in range(5)]) == 20_000


def test_large_files_go_to_a_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(compute.tempfile, "tempdir", None)  # it is remembered
    folder, room = compute.choose_scratch()
    assert folder == tmp_path
    assert compute._is_in_memory(tmp_path) or room > 0
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(compute.tempfile, "tempdir", None)
    assert str(compute.choose_scratch()[0]) in ("/var/tmp", compute.tempfile.gettempdir())


def test_a_folder_in_memory_is_no_disk(monkeypatch, tmp_path):
    mounts = tmp_path / "mounts"
    text = "/dev/x / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/y /tmp/disk xfs rw 0 0\n"
    mounts.write_text(text, encoding="ascii")
    path = compute.Path
    monkeypatch.setattr(
        compute, "Path", lambda name: mounts if str(name) == "/proc/self/mounts" else path(name)
    )
    found = {name: compute._is_in_memory(path(name)) for name in ("/tmp", "/tmp/a/b", "/tmp/disk/c", "/home")}
    assert found == {"/tmp": True, "/tmp/a/b": True, "/tmp/disk/c": False, "/home": False}
    monkeypatch.setattr(compute, "_is_in_memory", lambda _: True)
    assert compute.choose_scratch()[1] == 0
    mounts.unlink()
    monkeypatch.undo()
    monkeypatch.setattr(
        compute, "Path", lambda name: mounts if str(name) == "/proc/self/mounts" else path(name)
    )
    assert not compute._is_in_memory(path("/tmp"))  # nothing is said: taken as a disk


@pytest.mark.parametrize(
    ("device", "machine", "capability", "imitates"),
    [
        ("cpu", "x86_64", "AVX2", True),
        ("cpu", "AMD64", "DEFAULT", True),
        ("cpu", "x86_64", "AVX512", False),
        ("cpu", "arm64", "DEFAULT", False),
        ("cuda", "x86_64", "AVX2", False),
    ],
)
def test_x86_without_avx512_imitates_bf16(monkeypatch, device, machine, capability, imitates):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert compute.imitates_bf16(torch.device(device)) == imitates
