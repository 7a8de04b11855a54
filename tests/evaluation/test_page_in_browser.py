"""The report's page as a browser shows it: offline, on a wide and a narrow window."""

import json

import pytest
from PIL import Image

from evaluation.report import Slice, write_report
from tests.evaluation.browser import CHROMIUM, Browser
from tests.evaluation.test_metric import random_set
from tests.evaluation.test_thresholds import detected

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]
WIDTHS = (1400, 400)
HOSTILE = [
    '<img src="http://127.0.0.1/x.png">',
    "</script><script>boom()</script>",
    "x" * 90,
    "{{ 7 * 7 }}",
    "é 犬 \x1b",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module", params=[1, 4, 80])
def page(request, tmp_path_factory):
    """The page of a random set of so many classes, some of hostile names."""
    directory = tmp_path_factory.mktemp(f"classes_{request.param}")
    path, results = random_set(directory, classes=request.param, images=60 if request.param < 80 else 300)
    truth = json.loads(path.read_text())
    for category, name in zip(truth["categories"][request.param // 8 :], HOSTILE, strict=False):
        category["name"] = name
    path.write_text(json.dumps(truth))
    for image in truth["images"]:
        Image.new("RGB", (640, 480), (90, 90, 90)).save(directory / image["file_name"])
    annotations, detections = detected(path, results)
    facts = {"ckpt_path": "long/" * 40, "images": len(annotations), "images_in_split": 600, "score_threshold": 0.05}
    slices = [Slice(f"slice {i}", i, dict.fromkeys(SLICED, i / 10)) for i in (1, 2)]
    write_report(directory / "report", annotations, detections, facts, directory, slices=slices)
    return directory / "report" / "index.html"


SLICED = ("mAP", "mAP_50", "mAP_75", "mAP_small", "mAP_medium", "mAP_large", "AR_100")


@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_offline_without_an_error_and_fits_the_window(browser, page, width):
    browser.open(page, width)
    browser.run("Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); })).then(() => 1)")
    assert browser.complaints() == []
    assert browser.run("document.images.length") == 12 + 2 * 24
    assert browser.run("[...document.querySelectorAll('table, svg')].every(e => e.getBoundingClientRect().height > 0)")


def test_a_click_sorts_a_table_and_another_turns_it_round(browser, page):
    browser.open(page, WIDTHS[0])
    column = "[...document.querySelector('#class-table').tBodies[0].rows].map(r => r.cells[{}].{})"
    for place, of in ((0, "textContent"), (3, "dataset.v")):
        orders = []
        for _ in range(2):
            browser.run(f"document.querySelectorAll('#class-table th button')[{place}].click()")
            orders.append(browser.run(column.format(place, of)))
        if of == "dataset.v":
            assert [float(value) for value in orders[0]] == sorted(map(float, orders[0]), reverse=True), "best first"
            assert sorted(map(float, orders[1])) == [float(value) for value in orders[1]]
        assert sorted(orders[0]) == sorted(orders[1]) and (orders[0] != orders[1] or len(orders[0]) == 1)
    assert browser.run("document.querySelectorAll('#class-table th')[3].getAttribute('aria-sort')") == "ascending"


def test_the_confusion_matrix_changes_between_counts_and_shares(browser, page):
    browser.open(page, WIDTHS[0])
    shown = "[...document.querySelectorAll('#matrix span')].filter(e => e.offsetParent).map(e => e.className)"
    before = browser.run(shown)
    browser.run("document.getElementById('shares').click()")
    after = browser.run(shown)
    if "dense" in browser.run("document.getElementById('matrix').className"):
        assert not before and not after and browser.run("document.querySelectorAll('#matrix td[title]').length") > 80
    else:
        assert set(before) == {"count"} and set(after) == {"share"} and len(before) == len(after)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ('<div style="width: 3000px">wide</div>', "px wider than the window"),
        ("<script>boom()</script>", "Uncaught"),
        ('<img src="http://127.0.0.1:9/x.png">', "Content Security Policy"),
        ('<script>console.error("no")</script>', "no"),
    ],
)
def test_a_broken_page_is_seen(browser, page, tmp_path, broken, complaint):
    path = tmp_path / "broken.html"
    path.write_text(page.read_text(encoding="utf-8").replace("<h1>", f"{broken}<h1>"), encoding="utf-8")
    browser.open(path, WIDTHS[1])
    assert any(complaint in each for each in browser.complaints())
