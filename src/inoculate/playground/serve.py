"""Serve the page on this machine, so that nothing leaves it."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from inoculate.core.errors import InputError
from inoculate.core.extras import require
from inoculate.playground.render import TEMPLATES
from inoculate.playground.session import Session
from inoculate.playground.upload import LARGEST_FILE

LOOPBACK, FIRST_PORT = "127.0.0.1", 7860
_VISITORS = 50  # whose picture is kept
_QUEUE = 100  # requests that wait
# No statistics of use; and no proxy between this process and its own page.
_PRIVATE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",  # of which the server keeps the times in its memory
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_PROXY": "127.0.0.1,localhost,::1",
}


class Playground:
    """A page that is being served at `url`; `close` ends it, as leaving the context does.

    `warnings` say what looks wrong with the networks, and whether others can open the page, one line each.
    """

    def __init__(
        self, page: Any, url: str, folder: tempfile.TemporaryDirectory[str], warnings: tuple[str, ...]
    ) -> None:
        self.url, self.warnings = url, warnings
        self._page, self._folder, self._closed = page, folder, threading.Event()

    def wait(self) -> None:
        """Serve until `close` is called or the process is interrupted."""
        while not self._closed.wait(1):
            pass

    def close(self) -> None:
        """End the server and delete what was uploaded."""
        if not self._closed.is_set():
            self._closed.set()
            self._page.close(verbose=False)
            self._folder.cleanup()

    def __enter__(self) -> Playground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_gradio() -> None:
    """Raise `InputError` unless Gradio is installed."""
    require("gradio", "play", "the playground")


def serve(session: Session, host: str = LOOPBACK, port: int | None = None) -> Playground:
    """Serve the page of a session and return at once.

    host: the address to listen on; by default this machine alone can open the page. port: by default the first free
    one from 7860. Raises `InputError` where Gradio is not installed, or the address cannot be used.
    """
    require_gradio()
    folder = tempfile.TemporaryDirectory(prefix="inoculate-play-")
    os.environ.update(_PRIVATE, GRADIO_TEMP_DIR=folder.name)
    import gradio  # reads its settings as it is imported

    from inoculate.playground.page import layout

    theme = gradio.themes.Base(
        primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")
    ).set(body_text_color_subdued="*neutral_500")  # Gradio's own, a paler grey, is hard to read on white
    page = layout(session, Path(folder.name)).queue(default_concurrency_limit=1, max_size=_QUEUE)
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, inbrowser=False,
            inline=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, run_history=False,
            footer_links=[], max_file_size=LARGEST_FILE, state_session_capacity=_VISITORS, theme=theme,
            css_paths=[TEMPLATES / "page.css"],
        )  # fmt: skip
    except OSError as error:
        folder.cleanup()
        where = f"{host}, port {port or f'{FIRST_PORT} or above'}"
        raise InputError(
            f"cannot listen on {where}: give a free --port, and as --host an address of this machine"
        ) from error
    return Playground(page, url, folder, session.warnings)
