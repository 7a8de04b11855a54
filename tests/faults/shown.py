"""What terminals, spreadsheets and browsers may get of a name: nothing that they obey."""

import contextlib
import csv
import io
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from command_line.streams import PlainText
from tests.conftest import PROJECT
from tests.faults.inputs import expect

# What a terminal obeys, reorders by or cannot show.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Elements of the report's page.
OURS = set(re.findall(r"<([a-z0-9]+)", (PROJECT / "evaluation" / "page.html.jinja").read_text(encoding="utf-8")))


@contextlib.contextmanager
def terminal() -> Any:
    """What is printed meanwhile, as a terminal gets it from our commands; the value is a function that gives it."""
    stream = io.BytesIO()
    text = PlainText(stream, encoding="utf-8", errors="backslashreplace", write_through=True)

    def shown() -> str:
        text.flush()  # and it lives as long as this function, since it would close the stream
        return stream.getvalue().decode()

    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield shown


def check_shown(text: str, bars: bool = False) -> None:
    """A terminal obeys nothing in the text; but a progress bar may move."""
    if bars:
        text = re.sub(r"\r|\x1b\[[0-9;?]*[AKm]", "", text)
    found = OBEYED.search(text)
    expect(found is None, f"a terminal gets {found and found[0]!r} in {text!r}"[:500])


def check_csv(path: Path, rows: int, columns: tuple[int, ...]) -> None:
    """A spreadsheet gets so many rows, and computes nothing of these columns."""
    with open(path, newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    expect(len(read) == rows + 1 and len({len(row) for row in read}) == 1, f"{path.name} has {len(read)} rows")
    with open(path, newline="", encoding="utf-8") as file:
        expect(file.read().count("\n") == rows + 1, f"{path.name} has rows of several lines")
    for row in read[1:]:
        for text in (row[column] for column in columns):
            start = unicodedata.normalize("NFKC", text).lstrip()[:1]
            expect(start not in ("=", "+", "-", "@") or not start, f"{path.name}: {text!r} is a formula")
            expect(not OBEYED.search(text), f"{path.name}: {text!r}")


def check_page(path: Path) -> None:
    """Nothing on the page is an element, a script or an address but ours."""
    text = path.read_text(encoding="utf-8")
    expect(not OBEYED.search(text), f"{path.name} has control characters")
    reader = _Page()
    reader.feed(text)
    expect(reader.tags <= OURS, f"{path.name} has the elements {reader.tags - OURS}")
    expect(reader.scripts == 1 and not reader.odd, f"{path.name}: {reader.scripts} scripts, {reader.odd}")


class _Page(HTMLParser):
    """The elements of a page, and attributes of them that fetch or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts = 0
        self.odd: list[Any] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            fetches = name in ("src", "href") and not str(value).startswith(("data:image/jpeg;", "data:,", "#"))
            if fetches or name.startswith("on"):
                self.odd.append((tag, name, value))
