"""The demo's page in Gradio: drop zone, threshold, classes; drawn pictures, a table and files to take away."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.decoding import ImageError
from prediction.demo import detect
from prediction.detector import DEFAULT_THRESHOLD, Detector

LARGEST = "500mb"  # of an upload
HOUR = 3600  # s; the age at which copies of uploads and results go
COLUMNS = ("file", "frame", "class", "score", "left", "top", "right", "bottom")
FONTS = ["system-ui", "sans-serif"]  # the machine's: Gradio's own come from another host
# What a browser may load: what this page serves. Gradio's names a script and fonts of other hosts.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'"
)
STYLE = """
footer { display: none !important }
.whole .grid-wrap { max-height: none !important; min-height: 0 !important; height: auto !important }
.whole .thumbnail-item { aspect-ratio: auto !important; height: auto !important }
"""


def make_page(detector: Detector, title: str, examples: Sequence[Path], directory: Path) -> Any:
    """A `gradio.Blocks`. Each visitor's results are below `directory` until the next ones, or until the visitor goes.

    Args:
        title: what is said to be shown, such as the checkpoint's path. examples: pictures to begin with.
    """
    import gradio as gr

    module = detector.module
    own = module.operating_point is not None

    def show(files: list[str] | None, threshold: float, by_class: bool, classes: list[str], before: str | None) -> Any:
        _remove(before)
        if not files:
            hidden = gr.update(value=None, visible=False)
            return {told: "", pictures: hidden, clip: hidden, table: None, saved: None, kept: None}
        output = Path(tempfile.mkdtemp(dir=directory))
        try:
            found = detect(detector, files, output, None if by_class else threshold, classes)
        except (MisconfigurationException, ImageError) as error:
            raise gr.Error(str(error), duration=None) from None
        for problem in found.problems:
            gr.Warning(problem, duration=None)
        some = 1 if len(found.pictures) < 2 else 2
        return {
            told: "  \n".join([f"**{found.told}**", *map(_plain, found.problems)]),
            pictures: gr.update(value=found.pictures or None, visible=bool(found.pictures), columns=some),
            clip: gr.update(value=found.videos[0] if found.videos else None, visible=bool(found.videos)),
            table: found.rows,
            saved: found.tables,
            kept: str(output),
        }

    def of_slider(*asked: Any) -> Any:
        files, threshold, _, *others = asked
        return {**show(files, threshold, False, *others), by_class: False}

    with gr.Blocks(title="SSD300", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"## SSD300\n{_plain(title)}: {len(module.class_names)} classes, on {detector.device}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(file_count="multiple", file_types=["image", "video"], label="Pictures, or a video")
                threshold = gr.Slider(0.05, 0.95, DEFAULT_THRESHOLD, step=0.01, label="Lowest score")
                by_class = gr.Checkbox(own, label="the checkpoint's own for each class, instead", visible=own)
                names = [(name, f"id:{i}") for name, i in zip(module.class_names, module.category_ids, strict=True)]
                classes = gr.Dropdown(names, value=[], multiselect=True, label="Classes (none: all of them)")
                paths = [str(path) for path in examples]
                offered = gr.Gallery(
                    paths, columns=3, height="auto", allow_preview=False, label="Examples", elem_classes="whole"
                )
            with gr.Column(scale=2, min_width=300):
                told = gr.Markdown()
                pictures = gr.Gallery(
                    label="Found",
                    height="auto",
                    object_fit="contain",
                    visible=False,
                    format="png",
                    elem_id="found",
                    elem_classes="whole",
                )
                clip = gr.Video(label="Found", visible=False)
                table = gr.Dataframe(headers=list(COLUMNS), label="Detections", interactive=False)
                saved = gr.File(label="COCO results, images, table", interactive=False)
        kept = gr.State(None, delete_callback=_remove)
        asked, shown = [files, threshold, by_class, classes, kept], [told, pictures, clip, table, saved, kept]
        on_device: Any = {"concurrency_id": "device", "concurrency_limit": 1}
        for change in (files.change, by_class.input, classes.change):
            change(show, asked, shown, **on_device)
        threshold.release(of_slider, asked, [*shown, by_class], **on_device)
        offered.select(_chosen(gr, paths), None, files)
    return page


def _remove(directory: str | None) -> None:
    if directory:
        shutil.rmtree(directory, ignore_errors=True)


def _chosen(gr: Any, paths: Sequence[str]) -> Any:
    """What a click on an example puts into the drop zone."""

    def choose(event: Any) -> list[str]:
        return [paths[event.index]]

    choose.__annotations__["event"] = gr.SelectData  # by which Gradio knows what to give
    return choose


def launch(page: Any, host: str, port: int | None) -> str:
    """Serves the page from threads of this process, and returns its address.

    Raises:
        MisconfigurationException: the address or the port cannot be had.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            max_file_size=LARGEST,
            prevent_thread_lock=True,
            ssr_mode=False,
            theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
            css=STYLE,
            app_kwargs={"middleware": [Middleware(_Policy)]},
        )
    except OSError as error:
        raise MisconfigurationException(f"--host {host} --port {port}: {error}") from None
    return address


class _Policy:
    """Adds `POLICY` to every answer (ASGI middleware)."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def _plain(text: str) -> str:
    """Text as it is, where Markdown is expected."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]()#+-.!|<>~$&" else letter for letter in text)
