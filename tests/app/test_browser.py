"""The page in a real browser, Debian's Chromium. Screenshots are kept where PELLUCID_SCREENSHOTS says."""

import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pellucid.cli import create_app
from pellucid.image_io import decode_image

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def chromium() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--no-proxy-server"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=["light, desktop", "dark, phone"])
def tab(request, chromium, running) -> Iterator["sync_api.Page"]:
    """The page, open; all that it asks for is watched, and so is what it complains about."""
    phone = "phone" in request.param
    context = chromium.new_context(
        viewport={"width": 375, "height": 800} if phone else {"width": 1280, "height": 900},
        color_scheme="dark" if "dark" in request.param else "light",
        has_touch=phone,
        accept_downloads=True,
    )
    page = context.new_page()
    page.set_default_timeout(30_000)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
    page.goto(running.url)
    page.wait_for_selector("#restore")
    yield page
    if "PELLUCID_SCREENSHOTS" in os.environ:
        name = f"{request.node.originalname}-{request.param.replace(', ', '-')}.png"
        page.screenshot(path=Path(os.environ["PELLUCID_SCREENSHOTS"]) / name, full_page=True)
    # No picture, and nothing else, goes anywhere but to the page itself.
    assert not [url for url in asked if not url.startswith((running.url, "data:", "blob:"))]
    assert len(asked) > 10
    assert not complaints
    # Nothing hangs over the edge.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def drop(page, *files: Path) -> None:
    page.set_input_files("#pictures input[type=file]", files)
    page.wait_for_function("document.querySelector('#status').innerText.includes('restored')")


def restore(page) -> None:
    page.click("#restore")
    page.wait_for_function("/is restored|are restored/.test(document.querySelector('#status').innerText)")
    page.wait_for_function("document.querySelector('.stage .restored').naturalWidth > 0")


def download(page, button: str, target: Path) -> Path:
    with page.expect_download() as caught:
        page.click(button)
    caught.value.save_as(target)
    return target


def opacity(page, layer: str) -> float:
    return float(page.eval_on_selector(f".stage .{layer}", "(e) => e.style.opacity"))


def set_share(page, name: str, share: float) -> None:
    number = page.locator(f"#{name} input[type=number]")
    number.fill(str(share))
    number.blur()


def test_from_drop_to_download(tab, photo, small_weights, tmp_path):
    tab.click("text=Options")
    tab.get_by_label("Leave a picture alone").uncheck()
    drop(tab, photo())
    assert tab.locator("[role=meter]").count() == 6
    restore(tab)
    assert (opacity(tab, "restored"), opacity(tab, "one")) == (1, 0)
    # Live: the browser mixes, and no request is made.
    asked: list[str] = []
    tab.on("request", lambda one: asked.append(one.url))
    slider = tab.locator("#strength input[type=range]")
    slider.focus()
    for _ in range(50):
        slider.press("ArrowLeft")
    tab.wait_for_function("document.querySelector('.stage .restored').style.opacity == '0.5'")
    assert not [url for url in asked if "/queue/" in url]
    # By kind: haze is kept as it was, the rest taken away by half.
    set_share(tab, "light", 0.5)
    tab.wait_for_function("document.querySelector('.stage .one').style.opacity == '0.25'")
    assert tab.get_attribute(".stage .one", "src").split("?")[0].endswith("detail.jpg")
    got = download(tab, "#download", tmp_path / "got.jpg")
    command = ["restore", str(photo()), "-o", str(tmp_path / "cli.jpg"), "--model", str(small_weights), "-q"]
    command += ["--device", "cpu", "--precision", "float32", "--no-guard"]
    create_app()([*command, "--strength", "haze=0.25,noise=0.5"], standalone_mode=False)
    assert got.read_bytes() == (tmp_path / "cli.jpg").read_bytes()


def test_the_line_the_zoom_and_the_map(tab, photo):
    drop(tab, photo())
    restore(tab)
    line = tab.get_by_label("Dividing line")
    line.focus()
    line.press("Home")
    assert "0%" in tab.eval_on_selector(".clip", "(e) => e.style.clipPath")
    stage = tab.locator(".stage")
    stage.focus()
    for key in ("+", "+", "ArrowRight"):
        stage.press(key)
    transform = tab.eval_on_selector(".clip .world", "(e) => e.style.transform")
    assert "scale(2.25)" in transform
    stage.press("0")
    assert "scale(1)" in tab.eval_on_selector(".clip .world", "(e) => e.style.transform")
    tab.get_by_role("button", name="Map of changes").click()
    tab.wait_for_function("document.querySelector('.stage .change').naturalWidth > 0")
    assert "CIEDE2000" in tab.inner_text(".about-change")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    tab.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 10)
    assert float(line.input_value()) == pytest.approx(75, abs=1)


@pytest.mark.parametrize("how", ["pointer", "keys"])
def test_the_brush(tab, photo, tmp_path, how):
    source = photo("cat.png")
    drop(tab, source)
    restore(tab)
    tab.get_by_role("button", name="Brush").click()
    with tab.expect_request(lambda one: "/queue/" in one.url or "/run/" in one.url or "/call/" in one.url):
        if how == "keys":
            tab.locator(".stage").press("Space")
        else:
            tab.locator(".stage").scroll_into_view_if_needed()
            box = tab.locator(".stage").bounding_box()
            tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.5 * box["height"])
            tab.mouse.down()
            tab.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"], steps=5)
            tab.mouse.up()
    assert tab.eval_on_selector(".region", "(e) => e.style.maskImage").startswith('url("data:image/png')
    tab.wait_for_timeout(500)
    got = decode_image(download(tab, "#download", tmp_path / "got.png").read_bytes()).pixels
    before = decode_image(source.read_bytes()).pixels
    changed = (got != before).any(0)
    assert bool(changed[44:52, 60:68].any()) and not bool(changed[:, :20].any() or changed[:20].any())
    share = json.loads(download(tab, "#download-report", tmp_path / "report.json").read_text())[0]["region"]
    assert 0 < share < 0.2
    tab.get_by_role("button", name="All of it again").click()
    assert tab.eval_on_selector(".region", "(e) => e.style.maskImage") in ("", "none")


def test_many_and_a_zip(tab, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    drop(tab, photo(), photo("cat.png"), broken)
    restore(tab)
    assert "2 of 3" in tab.inner_text("#status") and "broken.jpg" in tab.inner_text("#status")
    with zipfile.ZipFile(download(tab, "#download-all", tmp_path / "all.zip")) as archive:
        assert archive.namelist() == ["cat.jpg", "cat.png"]
    tab.locator("#picture input").click()
    tab.get_by_role("option", name="cat.png").click()
    tab.wait_for_function("document.querySelector('.stage .restored').naturalWidth > 0")
    got = download(tab, "#download", tmp_path / "got.png")
    assert got.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # on a very busy machine Gradio's own way to cancel may lose the next run's picture
def test_progress_and_cancel(tab, photo, restorer, monkeypatch):
    gate = threading.Event()
    run = type(restorer).__call__

    def slow(self, image, *, progress=None, **options):
        for part in range(1000):
            progress(part, 1000)
            if gate.wait(0.02):
                break
        return run(self, image, progress=progress, **options)

    monkeypatch.setattr(type(restorer), "__call__", slow)
    drop(tab, photo(rows=97))
    tab.click("#restore")
    tab.wait_for_selector("#status progress")
    tab.wait_for_function("document.querySelector('#status').innerText.includes('left')")
    tab.click("#cancel")
    tab.wait_for_function("document.querySelector('#status').innerText.includes('Canceled')")
    gate.set()
    restore(tab)


def test_a_name_is_only_a_name(tab, photo, tmp_path):
    name = "${1+1} {{value}} <img src=x onerror=alert(1)>.jpg"
    (tmp_path / name).write_bytes(photo().read_bytes())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / name).write_bytes(b"no picture")
    drop(tab, tmp_path / name, tmp_path / "bad" / name)
    restore(tab)
    told = tab.inner_text("#status")
    assert "1+1" in told and "value" in told and not tab.locator("#status img").count()


def test_paste_and_examples(tab, photo):
    tab.get_by_role("img", name="Rain", exact=True).click()
    tab.wait_for_function("document.querySelector('#status').innerText.includes('rainy_cup.jpg')")
    tab.get_by_role("button", name="Clear").click()
    tab.wait_for_selector("#pictures input[type=file]", state="attached")
    tab.evaluate(
        """(bytes) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "pasted.png", { type: "image/png" }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        list(photo("cat.png").read_bytes()),
    )
    tab.wait_for_function("document.querySelector('#status').innerText.includes('pasted.png')")


def test_everything_has_a_name_and_the_keyboard_reaches_it(tab, photo):
    drop(tab, photo())
    restore(tab)
    nameless = tab.evaluate(
        """() => [...document.querySelectorAll("button, input, img, [role=meter]")].filter((e) => {
            if (!e.checkVisibility() || e.closest("[aria-hidden=true]")) return false;
            if (e.tagName === "IMG") return !e.hasAttribute("alt");
            const told = e.getAttribute("aria-label") || e.title || e.innerText?.trim() || e.closest("label");
            return !told && !document.querySelector(`label[for="${e.id}"]`);
        }).map((e) => e.outerHTML.slice(0, 200))"""
    )
    assert not nameless
    tab.locator("#restore").focus()
    reached: set[str] = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("(document.activeElement.closest('[id]') ?? document.body).id"))
        reached.add(tab.evaluate("document.activeElement.className.split(' ')[0]"))
    assert {"stage", "strength", "download", "light", "detail"} <= reached


def test_twice_the_size(chromium, running, photo):
    """200% zoom is half the width: nothing hangs over, nothing is hidden."""
    context = chromium.new_context(viewport={"width": 640, "height": 450}, device_scale_factor=2)
    page = context.new_page()
    page.goto(running.url)
    page.wait_for_selector("#restore")
    drop(page, photo())
    restore(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator("#download").is_visible()
    context.close()


def test_a_browser_that_leaves_takes_its_pictures_along(chromium, running, photo):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(running.url)
    page.wait_for_selector("#restore")
    before = set(running.desk.folder.glob("session-*"))
    drop(page, photo(seed=7))
    (own,) = set(running.desk.folder.glob("session-*")) - before
    context.close()
    deadline = threading.Event()
    for _ in range(200):
        if not own.exists():
            break
        deadline.wait(0.1)
    assert not own.exists()
