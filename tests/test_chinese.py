"""The Chinese pages stay in step with the English ones: headings, commands, code and figures, section by section.

What a failure says is all that there is to do. Who writes no Chinese puts the missing words into the section that is
named, in an English sentence: a reader has it then, and somebody translates it.
"""

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.test_docs import FENCE, INLINE, LINK

PAIRS = [("README.md", "README.zh-CN.md"), ("docs/mlu.md", "docs/mlu.zh-CN.md")]
FIGURE = re.compile(r"(?<![\w.-])\d+(?:[.,]\d+)*")
HEADING = re.compile(r"^(#+) +(.+)$", re.MULTILINE)


def sections(text: str) -> list[tuple[int, str, str]]:
    """(depth, heading, text below it) of each heading that is not in code."""
    hidden = FENCE.sub(lambda block: re.sub(r"^#", "\0", block[0], flags=re.MULTILINE), text)
    found = list(HEADING.finditer(hidden))
    ends = [heading.start() for heading in found[1:]] + [len(hidden)]
    return [
        (len(heading[1]), heading[2], hidden[heading.end() : end].replace("\0", "#"))
        for heading, end in zip(found, ends, strict=True)
    ]


def code_lines(section: str) -> list[str]:
    """Of the blocks, without comments, which are translated."""
    blocks = (block for _, block in FENCE.findall(section))
    return [line.partition(" #")[0].rstrip() for block in blocks for line in block.splitlines()]


def in_line(section: str) -> set[str]:
    return set(INLINE.findall(FENCE.sub("", section)))


def figures(section: str) -> set[str]:
    """Numbers outside of code and addresses."""
    text = LINK.sub(" ", INLINE.sub(" ", FENCE.sub("", section)))
    return {number.rstrip(".,") for number in FIGURE.findall(text)}


def links(section: str) -> set[str]:
    """Files that are linked; a Chinese page stands for the English one."""
    targets = (target.partition("#")[0] for target in LINK.findall(FENCE.sub("", section)))
    return {Path(target.replace(".zh-CN", "")).name for target in targets if target}


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_chinese_page_has_the_headings_code_figures_and_links_of_the_english_one(english, chinese):
    texts = [(PROJECT / name).read_text(encoding="utf-8") for name in (english, chinese)]
    assert all(f"]({Path(other).name})" in text for text, other in zip(texts, (chinese, english), strict=True))
    ours, theirs = map(sections, texts)
    assert [depth for depth, _, _ in ours] == [depth for depth, _, _ in theirs], (
        f"{chinese}: its headings are {[name for _, name, _ in theirs]}; give it those of {english}, in their order: "
        f"{[name for _, name, _ in ours]}"
    )
    todo = []
    for (_, name, section), (_, its_name, its_section) in zip(ours, theirs, strict=True):
        place = f"{chinese}, section {its_name!r} ({english}: {name!r})"
        if code_lines(section) != code_lines(its_section):
            todo.append(f"{place}: copy the code blocks of the English section, and keep or translate their comments")
        for what, of in (("code", in_line), ("figures", figures), ("links to", links)):
            here, there = of(section) - {chinese, english}, of(its_section) - {chinese, english}
            both = {Path(chinese).name, Path(english).name}  # each links the other
            if missing := sorted(here - there - both):
                todo.append(f"{place}: write {what} {', '.join(missing)}, as the English section does")
            if extra := sorted(there - here - both):
                todo.append(f"{place}: take out {what} {', '.join(extra)}, which the English section has not")
    assert not todo, "\n".join(["", *todo])


def test_a_figure_or_flag_that_is_not_translated_is_seen():
    english, chinese = "- `--a 1` is 2.5 times as fast\n", "- `--a 1` 快 2.4 倍\n"
    assert figures(english) == {"2.5"} and figures(chinese) == {"2.4"} and in_line(english) == in_line(chinese)
