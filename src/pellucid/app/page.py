"""The page: its parts, and what happens when they are used."""

import html
import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ListFiles
from gradio.events import EventData
from gradio_client.utils import is_valid_file

from pellucid.app.desk import Desk, Options, Session, Step
from pellucid.app.sentences import read_sentences
from pellucid.diagnosis import Diagnosis, describe_strength
from pellucid.errors import PellucidError
from pellucid.image_io import IMAGE_SUFFIXES
from pellucid.strength import DETAIL_KINDS, TONE_KINDS, Strength

_HERE = Path(__file__).parent
EXAMPLES_FOLDER = _HERE / "examples"
EXAMPLES = ("noisy_cat", "rainy_cup", "hazy_astronaut", "dark_cup")
_MIX = "(...shares) => { window.pellucidMix = shares; window.dispatchEvent(new Event('pellucid-mix')); }"
_SAVE = """(file) => {
    if (!file) return;
    const link = document.createElement("a");
    [link.href, link.download] = [file.url, file.orig_name];
    link.click();
}"""

Changes = dict[Any, Any]  # parts of the page, and what becomes of them


class Page:
    """Lays the page out, and answers what is done on it."""

    def __init__(self, desk: Desk, language: str = "en") -> None:
        self.desk, self.words = desk, read_sentences(language)
        self.theme = _theme()
        # Words of Gradio's own that its translations lack.
        self.i18n = gr.I18n(**{language: {"common.upload": self.words["more"]}})
        self.css = _read("page.css")
        self.js = _read("page.js").replace("WORDS", json.dumps({"paste_none": self.words["paste_none"]}))
        self.blocks = self._lay_out()
        desk.kept = self.examples.keep_in_cache

    def _lay_out(self) -> gr.Blocks:
        words = self.words
        os.environ["GRADIO_TEMP_DIR"] = str(self.desk.folder)  # read when a part of the page is made
        with gr.Blocks(title=words["title"], analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
            gr.HTML(f"<h1>{words['title']}</h1><p>{words['tagline']}</p>")
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    self._lay_out_input()
                with gr.Column(scale=2, min_width=300):
                    self._lay_out_output()
            self._connect(blocks)
        blocks.preprocess_data = _only_uploads(blocks)
        return blocks

    def _lay_out_input(self) -> None:
        words, desk = self.words, self.desk
        self.files = gr.File(
            label=words["pictures"],
            file_count="multiple",
            file_types=list(IMAGE_SUFFIXES),
            elem_id="pictures",
            height=180,
        )
        self.files.preprocess = _paths_of(self.files)
        self.paste = gr.Button(words["paste"], size="md")
        prompts = desk.prompts(desk.models[0])
        with gr.Accordion(words["options"], open=False):
            self.model = gr.Dropdown(
                list(desk.models), value=desk.models[0], label=words["model"], info=words["model_about"]
            )
            self.prompt = gr.Dropdown(
                [(words["prompt_auto"], ""), *prompts],
                value="",
                label=words["prompt"],
                info=words["prompt_about"],
                visible=bool(prompts),
            )
            self.engine = gr.Dropdown(
                list(desk.engines),
                value=desk.engines[0],
                label=words["engine"],
                info=words["engine_about"],
                visible=len(desk.engines) > 1,
                elem_id="engine",
            )
            self.guard = gr.Checkbox(True, label=words["guard"])
        with gr.Row():
            self.restore = gr.Button(words["restore"], variant="primary", elem_id="restore")
            self.cancel = gr.Button(words["cancel"], interactive=False, elem_id="cancel")
        files = [EXAMPLES_FOLDER / f"{name}.jpg" for name in EXAMPLES]
        self.examples = gr.Gallery(
            [(str(file), words[f"example_{file.stem}"]) for file in files if file.exists()],
            label=words["examples"],
            columns=2,
            height="auto",
            allow_preview=False,
            interactive=False,
            elem_id="examples",
            buttons=[],
        )

    def _lay_out_output(self) -> None:
        words = self.words
        self.status = gr.HTML(_paragraph(words["status_empty"]), elem_id="status")
        self.picture = gr.Dropdown([], label=words["picture"], visible=False, elem_id="picture")
        self.viewer = gr.HTML(
            None,
            html_template=_read("viewer.html"),
            css_template=_read("viewer.css"),
            js_on_load=_read("viewer.js"),
            words=words,
            elem_id="viewer",
        )
        with gr.Column(visible=False) as self.downloads:
            self.strength = self._share("strength", words["strength_about"])
            with gr.Row():
                self.download = gr.Button(words["download"], variant="primary", elem_id="download")
                self.download_all = gr.Button(words["download_all"], elem_id="download-all")
                self.download_report = gr.Button(words["download_report"], elem_id="download-report")
        with gr.Column(visible=False) as self.found_group:
            self.verdict = gr.HTML()
            with gr.Row():
                with gr.Column(min_width=260):
                    self.found_light = gr.HTML()
                    self.light = self._share("light")
                with gr.Column(min_width=260):
                    self.found_detail = gr.HTML()
                    self.detail = self._share("detail")
        self.file = gr.File(visible=False)

    def _share(self, name: str, info: str | None = None) -> gr.Slider:
        return gr.Slider(0, 1, 1, step=0.01, label=self.words[name], info=info, elem_id=name)

    def _connect(self, blocks: gr.Blocks) -> None:
        shares = [self.strength, self.light, self.detail]
        shown = [self.status, self.picture, self.viewer, self.found_group, self.verdict]
        shown += [self.examples, self.found_light, self.found_detail, self.downloads, self.download_all]
        running = [*shown, self.restore, self.cancel]
        self.files.change(self.look, self.files, shown, show_progress="hidden", api_name="look")
        self.paste.click(None, js="() => window.pellucidPaste()")
        self.examples.select(self.choose_example, None, self.files, api_visibility="private")
        self.model.change(self.choose_model, self.model, self.prompt, api_visibility="private")
        options = [self.files, self.model, self.prompt, self.guard, self.engine]
        run = self.restore.click(
            self.run, options, running, show_progress="hidden", concurrency_limit=1, api_name="restore"
        )
        self.cancel.click(self.stop, None, running, cancels=[run], queue=False, api_name="cancel")
        self.picture.input(self.show, self.picture, shown, show_progress="hidden", api_name="show")
        for slider in shares:
            slider.change(None, shares, js=_MIX)
        self.viewer.painted(self.paint, None, None, queue=False, api_visibility="private")  # pyright: ignore[reportAttributeAccessIssue]
        for button, write, name in (
            (self.download, self.write, "download"),
            (self.download_all, self.write_all, "download_all"),
            (self.download_report, self.write_report, "download_report"),
        ):
            chosen = [self.picture, *shares] if write == self.write else shares
            button.click(write, chosen, self.file, api_name=name).success(None, self.file, js=_SAVE)
        blocks.unload(self.leave)

    # What happens: each answer is for the browser that asked.

    def look(self, files: list[str] | None, request: gr.Request) -> Changes:
        """A preview of the first of the pictures that were dropped, and what is wrong with it."""
        if not files:
            examples = {self.examples: gr.update(visible=True)}
            return self._blank() | examples | {self.status: _paragraph(self.words["status_empty"])}
        try:
            session = self._session(request)
            session.receive(files)
            looked = session.look(files[0])
        except PellucidError as error:
            return self._blank() | {self.status: _alert(str(error))}
        key = "status_looked" if len(files) == 1 else "status_looked_many"
        told = self._say(key, name=looked.name, width=looked.width, height=looked.height, count=len(files))
        layers = {"degraded": _url(looked.preview), "width": looked.width, "height": looked.height}
        return (
            self._blank()
            | {self.status: _paragraph(told), self.viewer: layers}
            | self._found(looked.diagnosis)
        )

    def choose_example(self, event: gr.SelectData) -> list[str]:
        """The example that was clicked, as if it had been dropped."""
        return [str(EXAMPLES_FOLDER / f"{EXAMPLES[event.index]}.jpg")]

    def choose_model(self, model: str) -> Any:
        """What the model may be told."""
        prompts = self.desk.prompts(model)
        return gr.update(choices=[(self.words["prompt_auto"], ""), *prompts], value="", visible=bool(prompts))

    def run(
        self,
        files: list[str] | None,
        model: str,
        prompt: str,
        guard: bool,
        engine: str,
        request: gr.Request,
    ) -> Generator[Changes]:
        """Restore the pictures, and tell how far that is."""
        if not files:
            yield {self.status: _alert(self.words["status_nothing"])}
            return
        idle = {self.restore: gr.update(interactive=True), self.cancel: gr.update(interactive=False)}
        busy = {self.restore: gr.update(interactive=False), self.cancel: gr.update(interactive=True)}
        yield {self.status: _paragraph(self.words["status_start"])} | busy
        try:
            session = self._session(request)
            for step in session.restore(files, Options(model, prompt or None, guard, engine)):
                yield {self.status: self._progress(step)}
            yield idle | self._outcome(session, len(files))
        except PellucidError as error:
            yield idle | {self.status: _alert(str(error))}
        except Exception:
            yield idle | {self.status: _alert(self.words["status_fault"])}
            raise

    def stop(self, request: gr.Request) -> Changes:
        """Stop the run; what is restored until then stays."""
        idle = {self.restore: gr.update(interactive=True), self.cancel: gr.update(interactive=False)}
        try:
            session = self._session(request)
            session.cancel()
            return idle | self._outcome(session, session.count)
        except PellucidError as error:
            return idle | {self.status: _alert(str(error))}

    def show(self, index: int | None, request: gr.Request) -> Changes:
        """Another of the restored pictures."""
        try:
            return self._shown(self._session(request), index or 0)
        except PellucidError as error:
            return {self.status: _alert(str(error))}

    def paint(self, event: EventData, request: gr.Request) -> None:
        """Keep the part that was painted, for the download."""
        told: dict[str, Any] = event._data  # pyright: ignore[reportPrivateUsage]
        region = told.get("region")
        with _as_sentence():
            self._session(request).paint(int(told.get("index") or 0), None if region is None else str(region))

    def write(
        self, index: int | None, strength: float, light: float, detail: float, request: gr.Request
    ) -> str:
        """The restored picture as a file."""
        with _as_sentence():
            return str(self._session(request).write(index or 0, _strength(strength, light, detail)))

    def write_all(self, strength: float, light: float, detail: float, request: gr.Request) -> str:
        """All of them, in a zip."""
        with _as_sentence():
            return str(self._session(request).write_all(_strength(strength, light, detail)))

    def write_report(self, strength: float, light: float, detail: float, request: gr.Request) -> str:
        """What was done, as JSON."""
        with _as_sentence():
            return str(self._session(request).write_report(_strength(strength, light, detail)))

    def leave(self, request: gr.Request) -> None:
        """The browser is gone, and so are its pictures."""
        self.desk.leave(str(request.session_hash))

    # What the page says.

    def _session(self, request: gr.Request) -> Session:
        return self.desk.session(str(request.session_hash))

    def _say(self, key: str, **parts: Any) -> str:
        return self.words[key].format(**parts)

    def _blank(self) -> Changes:
        return {
            self.examples: gr.update(visible=False),
            self.picture: gr.update(choices=[], value=None, visible=False),
            self.viewer: None,
            self.found_group: gr.update(visible=False),
            self.downloads: gr.update(visible=False),
        }

    def _outcome(self, session: Session, count: int) -> Changes:
        items, failures = session.items, session.failures
        if session.canceled:
            told = self._say("status_canceled", done=len(items), count=count)
        elif count > 1:
            told = self._say("status_done_many", done=len(items), count=count)
        elif items and items[0].output is None:
            told = self._say("status_alone", name=items[0].name)
        elif items:
            seconds = sum(items[0].report.seconds.values())
            told = self._say("status_done", name=items[0].name, seconds=f"{seconds:.1f}")
        else:
            told = ""
        rows = "".join(f"<li>{html.escape(name)}: {html.escape(text)}</li>" for name, text in failures)
        listed = f"<p>{self.words['failed']}</p><ul>{rows}</ul>" if rows else ""
        status = _alert(told, listed) if rows else _paragraph(told)
        if not items:
            return {self.status: status}
        choices = [(item.name, index) for index, item in enumerate(session.items)]
        return self._shown(session, 0) | {
            self.status: status,
            self.picture: gr.update(choices=choices, value=0, visible=len(items) > 1),
            self.downloads: gr.update(visible=True),
            self.download_all: gr.update(visible=len(items) > 1),
        }

    def _shown(self, session: Session, index: int) -> Changes:
        files, change, item = session.show(index)
        layers: dict[str, Any] = {name: _url(file) for name, file in files.items()}
        seen, difference = f"{change.seen:.0%}".rstrip("%"), f"{change.ciede2000:.1f}"
        layers |= {"index": index, "width": item.width, "height": item.height}
        layers["about_change"] = self._say("change_about", seen=seen, difference=difference)
        found = item.report.recognized
        return {self.viewer: layers} | ({} if found is None else self._found(found))

    def _found(self, diagnosis: Diagnosis | dict[str, Any]) -> Changes:
        told = diagnosis.to_dict() if isinstance(diagnosis, Diagnosis) else diagnosis
        unknown = "found_unclear" if told["familiar"] else "found_unknown"
        verdict = {"nothing wrong": "found_nothing_wrong", "unknown": unknown}.get(told["verdict"])
        told_in_words = " ".join(self.words[key] for key in (verdict, "kinds_about") if key)
        return {
            self.found_group: gr.update(visible=True),
            self.verdict: f"<h2>{self.words['found']}</h2><p>{told_in_words}</p>",
            self.found_light: self._bars(self.words["found_light"], TONE_KINDS, told),
            self.found_detail: self._bars(self.words["found_detail"], DETAIL_KINDS, told),
        }

    def _bars(self, title: str, kinds: tuple[str, ...], told: dict[str, Any]) -> str:
        rows: list[str] = []
        for kind in kinds:
            if kind not in told["probabilities"]:
                continue
            name, percent = self.words[f"kind_{kind}"], round(100 * told["probabilities"][kind])
            text = self._say("found_probability", percent=percent)
            if kind in told["strengths"]:
                text += f", {describe_strength(kind, told['strengths'][kind])}"
            rows.append(
                f'<li><span>{name}</span><div class="bar" role="meter" aria-label="{name}" aria-valuemin="0" '
                f'aria-valuemax="100" aria-valuenow="{percent}" aria-valuetext="{text}">'
                f'<div style="width: {percent}%"></div></div><span class="told">{text}</span></li>'
            )
        return f'<h3>{title}</h3><ul class="pellucid-found">{"".join(rows)}</ul>'

    def _progress(self, step: Step) -> str:
        told = self._say("status_running", name=step.name, number=step.index + 1, count=step.count)
        percent = f"{100 * step.share:.0f}"
        more = self._say("status_percent", percent=percent)
        if step.seconds_left is not None:
            more += ", " + self._say("status_left", left=self._duration(step.seconds_left))
        return (
            f'<div class="pellucid-status"><p role="status">{html.escape(told)}</p>'
            f'<progress max="100" value="{percent}" aria-label="{html.escape(told)}"></progress>'
            f"<p>{html.escape(more)}</p></div>"
        )

    def _duration(self, seconds: float) -> str:
        if seconds < 90:
            return self._say("seconds", n=max(1, round(seconds)))
        return self._say("minutes", n=round(seconds / 60))


class _as_sentence:  # noqa: N801 - used as a word
    """An error of pellucid becomes a sentence on the page, without a traceback in the log."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        if isinstance(error, PellucidError):
            raise gr.Error(str(error), print_exception=False) from error


def _theme() -> gr.themes.Base:
    """The machine's own fonts, and words dark enough to be read."""
    theme = gr.themes.Base(font="system-ui, sans-serif", font_mono="ui-monospace, monospace")
    dim, dim_dark = "*neutral_600", "*neutral_300"
    return theme.set(
        body_text_color_subdued=dim,
        body_text_color_subdued_dark=dim_dark,
        block_info_text_color=dim,
        block_info_text_color_dark=dim_dark,
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_600",
    )


def _only_uploads(blocks: gr.Blocks) -> Any:
    """Gradio's way to take what a browser sends, but for addresses in it: it would fetch them.

    All of the page's parts go through it, those too that Gradio makes anew for a session.
    """
    take = blocks.preprocess_data

    async def take_uploads(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> list[Any]:
        if _names_address(inputs):
            told = "No picture is fetched from elsewhere. Upload the file itself."
            raise gr.Error(told, print_exception=False)
        return await take(block_fn, inputs, *more, **options)

    return take_uploads


def _names_address(sent: Any) -> bool:
    """Whether a file anywhere in what a browser sent lies at an address of the web."""
    if isinstance(sent, dict):
        place = str(sent.get("path", "")).lower()
        return place.startswith(("http:", "https:")) or any(map(_names_address, sent.values()))
    return isinstance(sent, list | tuple) and any(map(_names_address, sent))


def _paths_of(files: gr.File) -> Any:
    """Gives the paths of uploads; Gradio's own way makes an empty file for each, at every use of the list."""

    def paths(payload: ListFiles | None) -> list[str]:
        named = [file.path for file in payload or ()]
        for path in named:
            if not is_valid_file(path, files.file_types or []):
                told = f"{Path(path).name} is not named like a picture; expected a name ending in "
                raise gr.Error(f"{told}{', '.join(IMAGE_SUFFIXES)}. Rename it.", print_exception=False)
        return named

    return paths


def _strength(strength: float, light: float, detail: float) -> Strength:
    for share in (strength, light, detail):
        Strength.of(share)  # refused where it is none, before products hide it
    return Strength(strength * light, strength * detail)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _url(file: Path) -> str:
    return f"gradio_api/file={file}?{file.stat().st_mtime_ns}"


def _paragraph(text: str) -> str:
    return f'<div class="pellucid-status" role="status"><p>{html.escape(text)}</p></div>'


def _alert(text: str, more: str = "") -> str:
    return f'<div class="pellucid-status" role="alert"><p>{html.escape(text)}</p>{more}</div>'
