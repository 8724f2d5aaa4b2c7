"""The door before the page: names, origins, tokens, and what a browser is told to keep to."""

import base64

import httpx
import pytest

from pellucid.access import Access, Tokens

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def guarded(serve):
    with serve(Access(host="127.0.0.1", port=0, tokens=Tokens([TOKEN]))) as one:
        yield one


def get(url: str, **headers: str) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.get(url, headers=headers)


def test_only_loopbacks_names_and_no_other_origin(running):
    assert get(running.url).status_code == 200
    assert get(running.url, Host="elsewhere.example").status_code == 403
    assert get(running.url, Origin="https://elsewhere.example").status_code == 403
    assert get(running.url, Origin=running.url).status_code == 200


def test_behind_a_proxy_with_tls(serve):
    seen = {"Host": "photos.example", "X-Forwarded-Proto": "https", "Origin": "https://photos.example"}
    access = Access(port=0, origins=("https://photos.example",), hosts=("photos.example",))
    with serve(access) as one:
        reply = get(f"{one.url}/config", **seen)
        assert (reply.status_code, reply.json()["root"]) == (200, "https://photos.example")
        assert get(one.url, **seen | {"Origin": "https://elsewhere.example"}).status_code == 403


def test_a_browser_is_told_to_ask_nobody_else(running):
    reply = get(running.url)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/monitoring", "/gradio_api/proxy=https://a.hf.space/b", "/docs", "/openapi.json"]
)
def test_gradios_other_doors_are_closed(path, running):
    assert get(running.url + path).status_code == 404


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/file=/etc/hostname"])
def test_nothing_without_the_token(path, guarded):
    for header in (
        {},
        {"Authorization": basic("wrong")},
        {"Authorization": "Basic &&&"},
        {"Authorization": "Bearer x"},
    ):
        reply = get(guarded.url + path, **header)
        assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Basic")


@pytest.mark.parametrize("header", [basic(TOKEN), f"Bearer {TOKEN}"])
def test_with_the_token(header, guarded):
    assert get(guarded.url, Authorization=header).status_code == 200


@pytest.mark.parametrize("path", ["/etc/hostname", "/proc/self/environ"])
def test_no_other_files(path, running):
    assert get(f"{running.url}/gradio_api/file={path}").status_code in (403, 404)


def test_files_beyond_the_limit(serve, photo):
    with serve(max_bytes=1000) as one, httpx.Client(trust_env=False, timeout=30) as client:
        files = {"files": ("cat.jpg", photo().read_bytes(), "image/jpeg")}
        assert client.post(f"{one.url}/gradio_api/upload", files=files).status_code == 413
