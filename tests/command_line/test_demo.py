"""The demo page in headless Chromium: upload, boxes, threshold, a broken file; nothing is asked of another host."""

import shutil
import sys
import time

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import demo
from prediction.detector import Detector
from tests.evaluation.browser import CHROMIUM, Browser


def test_without_a_run_or_gradio_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "require", lambda: None)
    with pytest.raises(MisconfigurationException, match=r"no checkpoint is named, .*make demo"):
        demo.main([])
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MisconfigurationException, match=r"needs Gradio.*pip install -e '.\[demo\]'"):
        demo.main(["any.ckpt"])


@pytest.fixture(scope="module")
def page(thin_detector, tmp_path_factory):
    """The address of a page, in a browser."""
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    from prediction.demo_page import launch, make_page

    directory = tmp_path_factory.mktemp("demo")
    examples = demo._examples(directory / "examples")
    blocks = make_page(Detector(thin_detector, "cpu"), "thin.ckpt", examples, directory)
    browser = Browser(tmp_path_factory.mktemp("profile"), offline=False)
    yield browser, launch(blocks, demo.HERE, None)
    browser.close()
    blocks.close()


def wait_for(browser, script, seconds=60):
    """Until the expression is true."""
    end = time.monotonic() + seconds
    while not (value := browser.run(script)):
        assert time.monotonic() < end, f"{script}: still {value!r}"
        time.sleep(0.2)
    return value


def upload(browser, *paths):
    found = browser.call("Runtime.evaluate", expression="document.querySelector('input[type=file]')")
    browser.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found["result"]["objectId"])


PICTURES = "[...document.querySelectorAll('#found .thumbnail-item img')].filter(i => i.naturalWidth > 100).length"
TOLD = "document.body.innerText"


@pytest.mark.extras
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1400, 420])
def test_a_picture_is_uploaded_and_its_boxes_are_shown(page, sample, tmp_path, width):
    browser, address = page
    browser.open(address, width)
    wait_for(browser, "document.querySelector('input[type=file]') !== null")
    upload(browser, sample / "val2017" / "000000000001.jpg")
    wait_for(browser, f"/detections: \\d+, in pictures: 1/.test({TOLD})")
    wait_for(browser, f"{PICTURES} === 1")
    assert browser.complaints(address) == []
    browser.screenshot(tmp_path / f"demo_{width}.png")


@pytest.mark.extras
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_broken_file_gives_a_message_and_the_others_are_shown(page, sample, tmp_path):
    browser, address = page
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    shutil.copy(sample / "val2017" / "000000000002.jpg", tmp_path / "good.jpg")
    browser.open(address, 1400)
    wait_for(browser, "document.querySelector('input[type=file]') !== null")
    upload(browser, tmp_path / "broken.jpg", tmp_path / "good.jpg")
    wait_for(browser, f"{TOLD}.includes('broken.jpg: not an image file')")
    wait_for(browser, f"{PICTURES} === 1")
