"""Asking a model on a page in the browser, of this machine alone (extra ``demo``).

The page is reached at 127.0.0.1 only and fetches nothing from elsewhere. What is uploaded lies in a
temporary folder for ten minutes at most, and not longer than the server runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kit.data.images import MAX_PIXELS, open_image
from kit.errors import ImageError, UserError, need_extra
from kit.evaluate.ask import ask, checked_question, mode_of, record_of, require_model
from kit.evaluate.ask_config import AskConfig

if TYPE_CHECKING:
    import gradio as gr

    from kit.evaluate.answering import Predictor

HOST = "127.0.0.1"
LARGEST_FILE = 64  # megabytes of an upload
KEPT_FOR = 600  # seconds that it lies there
PURPOSE = (
    "Its answer, the boxes that it claims, and what it answers when they are taken out of the "
    "image. Not for clinical use."
)
WAITING = 8  # questions that wait while one is answered


def ask_or_serve(config: AskConfig) -> int:
    """``medvqa ask``: answer on the terminal, or on a page; returns the exit code."""
    return serve(config) if config.serve else ask(config)


def serve(config: AskConfig) -> int:
    """Answer on a page until told to stop (Ctrl-C or SIGTERM)."""
    stop = threading.Event()
    with running(config) as url:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        print(f"ask at {url} (Ctrl-C ends it)", flush=True)
        stop.wait()
    return 0


@contextlib.contextmanager
def running(config: AskConfig) -> Iterator[str]:
    """The address of the page, which is there for so long.

    Raises:
        UserError: gradio is not installed, the port is taken, or there is no such model.
    """
    need_extra("gradio", "demo")
    require_port(config.port)
    require_model(config)

    from kit.evaluate.replies import opened

    with tempfile.TemporaryDirectory(prefix="medvqa-") as folder:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        with opened(config) as predictor:
            page = page_of(config, lambda image, words: answered(predictor, config, image, words))
            try:
                _, url, _ = page.launch(
                    **page.look, server_name=HOST, server_port=config.port, share=False,
                    max_file_size=f"{LARGEST_FILE}mb", show_error=True, ssr_mode=False, pwa=False,
                    mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[],
                    prevent_thread_lock=True, inbrowser=False, quiet=True,
                )  # fmt: skip
                yield url
            finally:
                page.close(verbose=False)


def require_port(port: int) -> None:
    """
    Raises:
        UserError: nothing can listen there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = f"port {port} cannot be used: {error.strerror}"
            fix = f"choose another: --port {port + 1 if 1024 <= port < 65535 else 7860}"
            raise UserError(what, where=f"{HOST}:{port}", fix=fix) from error


def page_of(config: AskConfig, answer: Callable[[str | None, str | None], str]) -> gr.Blocks:
    """The page as a ``gradio.Blocks``, with its ``look`` for launching it. ``answer`` gives the
    HTML for the path of an image and a question."""
    import gradio as gr

    from kit.demo.answer_page import CSS, NOTHING

    model = Path(config.adapter or config.base_model).resolve().name
    limit = f"up to {LARGEST_FILE} MB and {MAX_PIXELS // 10**6} megapixels"
    with gr.Blocks(
        title="medvqa ask", analytics_enabled=False, delete_cache=(KEPT_FOR // 10, KEPT_FOR)
    ) as page:
        gr.Markdown(f"## Ask {model} about an image\n{PURPOSE}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                image = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], height=300,
                    label=f"image, {limit}", buttons=[],
                )  # fmt: skip
                # whatever it is, ``open_image`` judges it: gradio's own reading has other limits
                image.preprocess = lambda payload: payload.path if payload else None
                question = gr.Textbox(
                    label="question", lines=1, max_lines=6, submit_btn=False,
                    placeholder="Is there a nodule in the left lung?", autofocus=True,
                )  # fmt: skip
                button = gr.Button("Ask", variant="primary")
            with gr.Column(scale=2, min_width=320):
                result = gr.HTML(NOTHING, padding=False, min_height=120)
        gr.on(
            [button.click, question.submit], answer, [image, question], result,
            concurrency_limit=1, api_visibility="private", show_progress="full",
        )  # fmt: skip
    page.queue(max_size=WAITING, default_concurrency_limit=1)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page.look = {"theme": gr.themes.Default(**fonts), "css": CSS}
    return page


def answered(
    predictor: Predictor, config: AskConfig, image: str | None, question: str | None
) -> str:
    """The HTML of the answer to a question about an uploaded image, or of what is wrong with
    them. Nothing of the image is kept."""
    from kit.counterfactual.images import ImageCache
    from kit.demo.answer_page import answer_html, mistake_html
    from kit.evaluate.replies import replies
    from kit.model.lengths import require_room

    try:
        record = record_of(checked_image(image), checked_question(question or ""))
        require_room(
            [record], predictor.processor, [mode_of(config)], predictor.model, config.max_new_tokens
        )
        own = ImageCache(predictor.processor, config.inpainting)
        predictor = dataclasses.replace(predictor, image_cache=own)
        [(_, [reply])] = replies(predictor, [record], config)
        return answer_html(reply, config.inpainting)
    except UserError as error:
        return mistake_html(error)


def checked_image(image: str | None) -> str:
    """The path of an image that can be read.

    Raises:
        UserError: it cannot, or there is none.
    """
    if not image:
        raise UserError("there is no image", fix="choose one, or paste it")
    if not Path(image).exists():
        raise UserError("the image is no longer kept", fix="choose it again")
    try:
        open_image(image)
    except ImageError as error:
        raise UserError(f"the file {error.what}", fix=error.fix) from error
    return image
