import json


def test_counts_for_people_and_machines(run):
    result = run("efficiency", "--model", "daair_s", "--size", 64, "--size", 128, "--runs", 0)
    assert result.code == 0
    assert "2,486,824" in result.out
    assert [line.split()[2] for line in result.out.splitlines()[1:3]] == ["64", "128"]
    (row,) = json.loads(run("efficiency", "--model", "daair_s", "--size", 64, "--runs", 0, "--json").out)
    assert row["parameters"] == 2_486_824
    assert row["costs"][0]["size"] == 64
    assert f"{row['costs'][0]['gmac']:.2f}" in result.out


def test_times_are_printed_with_what_they_were_taken_on(run, small_weights):
    options = ("--size", 32, "--runs", 2, "--device", "cpu", "--precision", "float32")
    result = run("efficiency", "--model", small_weights, *options)
    assert result.code == 0
    assert "small: 2 runs on cpu, float32" in result.out
    assert " MB" in result.out


def test_wrong_calls_end_in_a_sentence(run, tmp_path):
    result = run("efficiency", "--model", "daair_s", "--size", 100)
    assert (result.code, result.out) == (2, "")
    assert "takes multiples of 16" in result.err
    assert run("efficiency", "--model", "nothing").code == 2
    (tmp_path / "daair_s.onnx").write_bytes(b"exported")
    result = run("efficiency", "--model", tmp_path / "daair_s.onnx")
    assert (result.code, result.out) == (2, "")
    assert "daair_s.onnx is an exported file, whose steps can't be counted" in result.err
