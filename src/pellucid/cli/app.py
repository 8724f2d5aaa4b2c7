"""`pellucid app`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli._shared import (
    AllowHost,
    AllowOrigin,
    Device,
    EngineName,
    Host,
    Memory,
    Models,
    Port,
    PrecisionName,
    Public,
    TokenFile,
    given_tokens,
    load_restorer,
    parse_size,
    say,
)
from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.restorer import TorchRestorer


def app(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    model: Models = None,
    device: Device = None,
    precision: PrecisionName = None,
    memory: Memory = None,
    engine: EngineName = "torch",
    token_file: TokenFile = None,
    public: Public = False,
    allow_origin: AllowOrigin = None,
    allow_host: AllowHost = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(min=1, help="Refuse larger pictures. Default: 250 million.", show_default=False),
    ] = None,
    max_bytes: Annotated[str, typer.Option(help="Of one file.")] = "1GB",
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Open a page that restores photographs in the browser.

    Listens on loopback by default, for this machine alone. Another address needs a token, or --public. See
    docs/app.md.
    """
    from pellucid.access import Access, listen

    largest, tokens = parse_size(max_bytes), given_tokens(token_file)
    hosts = tuple(name.lower() for name in allow_host or ())
    access = Access(host, port, tokens, public, tuple(allow_origin or ()), hosts)
    with listen(access) as bound:  # refused before anything is loaded
        try:
            import gradio
        except ModuleNotFoundError as error:
            raise InputError(
                f"{error.name} is not installed, which the page needs. "
                "Install it with: pip install 'pellucid[app]'"
            ) from error
        del gradio
        from pellucid import engines
        from pellucid.app.desk import Desk, Options, offered
        from pellucid.app.server import create_app, run
        from pellucid.cli._shared import describe
        from pellucid.image_io import Limits

        engines.check_engine(engine)
        names = [name for name in engines.ENGINES if name == "torch" or engines.is_installed(name)]
        names += ["auto"] if len(names) > 1 else []
        names.sort(key=lambda name: name != engine)  # the default first

        def load(name: str, engine: str) -> "TorchRestorer":
            return load_restorer(name, device, precision, memory, guard=True, engine=engine)

        limits = Limits() if max_pixels is None else Limits(max_pixels=max_pixels)
        with tempfile.TemporaryDirectory(prefix="pellucid-app-") as folder:
            desk = Desk(offered(model), load, Path(folder).resolve(), limits, names)
            try:
                say(describe(desk.restorer(Options(desk.models[0], engine=engine)).describe()))
                run(create_app(desk, access, max_bytes=largest), bound, open_browser=open_browser)
            finally:
                desk.close()
