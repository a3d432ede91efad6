"""The page, by Gradio: it passes on what a visitor chooses and shows what the session answers.

Only `serve` imports this file: Gradio reads its settings as it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from inoculate.attribution.explain import choose_images
from inoculate.core.errors import InputError
from inoculate.playground.render import render_answer, render_refusal
from inoculate.playground.session import STEPS_TO_START, Session
from inoculate.playground.upload import ENDINGS, Picture, take_file
from inoculate.report.formatting import attack_name, norm_name

THUMBNAILS = 12
_SIDE = 96  # of a thumbnail, in pixels
_COLUMNS = 3
_UNIT = 255  # the slider's eps in L∞ is in 1/255


def layout(session: Session, uploads: Path) -> gr.Blocks:
    """The page of a session, not served yet. `uploads` is the folder into which Gradio puts uploaded files."""
    numbers = choose_images(session.data, torch.ones(len(session.data), dtype=torch.bool), THUMBNAILS)
    start = session.first_right(numbers)
    unit = _UNIT if session.norm == "linf" else 1
    page = gr.Blocks(title="inoculate playground", analytics_enabled=False, fill_width=True)
    with page:
        gr.HTML(f"<h1>Playground</h1><p>{escape(session.title)}</p>", elem_id="head")
        picture = gr.State(session.picture(start))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                gallery = gr.Gallery(
                    [_thumbnail(session, number) for number in numbers], label=f"Images of {session.data.name}",
                    columns=_COLUMNS, height=300, allow_preview=False, interactive=False, buttons=[],
                    selected_index=numbers.index(start), object_fit="contain", elem_id="images",
                )  # fmt: skip
                number = gr.Number(
                    start, label=f"or the number of an image, 0 to {len(session.data) - 1}", precision=0,
                    elem_id="number",
                )  # fmt: skip
                upload = gr.File(
                    label="or your own image: drop it here or click", file_types=list(ENDINGS), height=150, buttons=[],
                    elem_id="upload",
                )  # fmt: skip
                status = gr.HTML("", elem_id="status")
            with gr.Column(scale=5, min_width=300):
                with gr.Row():
                    attack = gr.Radio(
                        [(attack_name(each), each) for each in session.attacks], value=next(iter(session.attacks)),
                        label="Attack", elem_id="attack", scale=3, min_width=280,
                    )  # fmt: skip
                    eps = gr.Slider(
                        0, unit * session.largest_eps, unit * session.eps, step=_step(session, unit),
                        label=f"eps ({norm_name(session.norm)}{', in 1/255' if unit > 1 else ''})", elem_id="eps",
                        scale=3, min_width=280,
                    )  # fmt: skip
                attributions = gr.Checkbox(
                    True, label="show attributions (slower)", container=False, elem_id="attributions"
                )
                answer = gr.HTML("", elem_id="answer")
        choice = _Chosen(gallery, number, upload, picture)
        _connect(session, unit, numbers, uploads, page, choice, [attack, eps, attributions], [status, answer])
    return page


class _Chosen(NamedTuple):
    """The components that choose an image, and the image."""

    gallery: Any
    number: Any
    upload: Any
    picture: Any


def _connect(
    session: Session,
    unit: int,
    numbers: list[int],
    uploads: Path,
    page: Any,
    choice: _Chosen,
    settings: list[Any],
    output: list[Any],
) -> None:
    """What happens when a visitor chooses something.

    settings: the components of attack, eps and attributions. output: those of status and answer.
    """
    picture, number, answer = choice.picture, choice.number, output[1]
    shown = [picture, number, *output]

    def attacked(chosen: Picture, attack: str, eps: float, attributions: bool) -> Iterator[str]:
        try:
            for found in session.stages(chosen, attack, eps / unit, attributions):
                yield render_answer(found, attributions)
        except InputError as error:
            yield render_refusal(str(error))

    def from_gallery(attack: str, eps: float, attributions: bool, event: gr.SelectData) -> Iterator[Any]:
        row = numbers[event.index]
        said: Any = row  # once: by the next stage the visitor may have typed another number
        for html in attacked(session.picture(row), attack, eps, attributions):
            yield session.picture(row), said, "", html
            said = gr.skip()

    def from_number(row: Any, attack: str, eps: float, attributions: bool) -> Iterator[Any]:
        try:
            chosen = session.picture(row)
        except InputError as error:
            yield gr.skip(), gr.skip(), render_refusal(str(error)), gr.skip()
            return
        for html in attacked(chosen, attack, eps, attributions):
            yield chosen, gr.skip(), "", html

    def from_upload(path: str, attack: str, eps: float, attributions: bool) -> Iterator[Any]:
        try:
            chosen = session.upload(take_file(Path(path), uploads))
        except InputError as error:
            yield gr.skip(), gr.skip(), render_refusal(str(error)), gr.skip(), None
            return
        for html in attacked(chosen, attack, eps, attributions):
            yield chosen, gr.skip(), "", html, None

    from_gallery.__annotations__["event"] = gr.SelectData
    one_by_one: dict[str, Any] = {
        "trigger_mode": "always_last", "concurrency_id": "session", "show_progress": "minimal"
    }  # fmt: skip
    changes = [each.change for each in settings]
    gr.on([page.load, *changes], attacked, [picture, *settings], answer, api_name="attack", **one_by_one)
    choice.gallery.select(from_gallery, settings, shown, api_visibility="private", **one_by_one)
    number.input(from_number, [number, *settings], shown, api_name="choose", **one_by_one)
    choice.upload.upload(
        from_upload, [choice.upload, *settings], [*shown, choice.upload], api_name="upload", **one_by_one
    )


def _step(session: Session, unit: int) -> float:
    return 1 if session.norm == "l0" else unit * session.eps / STEPS_TO_START


def _thumbnail(session: Session, number: int) -> tuple[NDArray[np.uint8], str]:
    """An image of the data, large enough not to be blurred, and its label."""
    image = session.picture(number)
    pixels = image.pixels.permute(1, 2, 0).numpy()
    opened = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    times = max(1, -(-_SIDE // min(opened.size)))
    opened = opened.resize((opened.width * times, opened.height * times), Image.Resampling.NEAREST)
    opened.thumbnail((2 * _SIDE, 2 * _SIDE))
    return np.asarray(opened.convert("RGB")), session.data.classes[int(session.data.labels[number])]
