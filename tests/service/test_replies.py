import doctest

import pytest

from pellucid.errors import NotAcceptableError
from pellucid.service import replies
from pellucid.service.replies import JSON, MIXED, choose


@pytest.mark.parametrize(
    ("accept", "wanted", "expected"),
    [
        ("", None, ("image", "jpeg")),
        ("*/*", None, ("image", "jpeg")),
        ("image/*", "png", ("image", "png")),
        ("image/webp", None, ("image", "webp")),
        ("image/webp;q=0.5, image/png", None, ("image", "png")),
        ("image/*;q=0.2, application/json", None, (JSON, "jpeg")),
        ("multipart/mixed", "avif", (MIXED, "avif")),
        ("multipart/*, application/json;q=0.9", None, (MIXED, "jpeg")),
        ("text/html, */*;q=0.1", None, ("image", "jpeg")),
        ("image/jpeg;q=0, */*", None, ("image", "png")),
        ("application/json; charset=utf-8", None, (JSON, "jpeg")),
    ],
)
def test_the_best_is_chosen(accept, wanted, expected):
    assert choose(accept, "jpeg", wanted) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/*;q=0", "image/png;q=x", ";", "application"])
def test_nothing_fits(accept):
    with pytest.raises(NotAcceptableError, match="Accept"):
        choose(accept, "jpeg", None)


def test_the_docstring_is_true():
    assert doctest.testmod(replies).failed == 0
