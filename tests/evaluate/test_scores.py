import csv
import io
import math
import subprocess

import numpy as np
import pytest
from scipy.stats import bootstrap

from pellucid.evaluate import scores
from pellucid.evaluate.scores import (
    PictureScores,
    Scores,
    as_csv,
    code_commit,
    finite,
    hash_listing,
    mean_interval,
)


def test_the_interval_agrees_with_an_independent_bootstrap():
    values = np.random.default_rng(0).gamma(2, 3, 40)
    found = mean_interval(values.tolist(), seed=0)
    expected = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_the_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).normal(size=20).tolist()
    assert mean_interval(values, 0) == mean_interval(values, 0)
    assert mean_interval(values, 0) != mean_interval(values, 7)


def test_one_picture_has_no_spread():
    assert mean_interval([31.5], 0) == scores.Interval(31.5, 31.5, 31.5)


def test_equal_pictures_have_an_infinite_mean_and_no_interval():
    found = mean_interval([math.inf, 30.0], 0)
    assert found.mean == math.inf
    assert math.isnan(found.low) and math.isnan(found.high)
    assert finite({"a": [found.mean, 1.0, (found.low,)]}) == {"a": [None, 1.0, [None]]}


def test_a_clean_picture_that_stays_clean_gains_nothing():
    clean, near = Scores(math.inf, 1.0), Scores(60.0, 1.0)
    assert PictureScores("a", clean, clean, {}).gain == 0
    assert PictureScores("a", clean, near, {}).gain == -math.inf


def test_the_hash_over_files_does_not_hang_on_their_order():
    assert hash_listing({"b": "2", "a": "1"}) == hash_listing({"a": "1", "b": "2"})
    assert hash_listing({"a": "1"}) != hash_listing({"a": "2"}) != hash_listing({"b": "2"})


def test_names_that_need_quotes_survive_a_table():
    rows = [{"name": 'a, "b"', "psnr": 31.25, "n": 3, "commit": None}]
    (read,) = csv.DictReader(io.StringIO(as_csv(rows)))
    assert read == {"name": 'a, "b"', "psnr": "31.250000", "n": "3", "commit": ""}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a repository of its own, that `code_commit` takes for pellucid."""
    folder = tmp_path / "src" / "pellucid"
    (folder / "evaluate").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(scores, "__file__", str(folder / "evaluate" / "scores.py"))
    code_commit.cache_clear()
    yield folder
    code_commit.cache_clear()


def test_the_commit_is_known_in_the_codes_own_repository(package):
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-qm", "first")
    commit = code_commit()
    assert commit is not None
    assert len(commit) == 40
    (package / "network.py").write_text("")
    code_commit.cache_clear()
    assert code_commit() == f"{commit}+changes"  # new, and perhaps what was measured
    (package / ".gitignore").write_text("*")
    code_commit.cache_clear()
    assert code_commit() == commit
    (package / ".gitignore").unlink()
    (package / "network.py").unlink()
    (package / "__init__.py").write_text("changed = 1")
    code_commit.cache_clear()
    assert code_commit() == f"{commit}+changes"


def test_another_repository_around_the_package_is_not_taken_for_the_codes(package):
    (package.parent / "theirs.py").write_text("")
    git(package, "init", "-q", str(package.parent))
    git(package.parent, "add", "theirs.py")
    git(package.parent, "commit", "-qm", "theirs")
    assert code_commit() is None


def test_without_git_the_commit_is_not_known(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert code_commit() is None
