"""The pages lead somewhere: links and their anchors exist, and so do the commands and flags that they name."""

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from command_line.shared import SHORT_FLAGS
from command_line.ssd300 import COMMANDS
from tests.conftest import PROJECT

PAGES = sorted(
    path.relative_to(PROJECT)
    for pattern in ("*.md", "docs/*.md", "docs/*/*.md", "accelerators/*.md", "tests/standin/*.md", "configs/*.md")
    for path in PROJECT.glob(pattern)
)
DOORS = {"train": "fit", "evaluate": "evaluate", "predict": "predict", "export": "export", "main": "published"}
WITH_ALL = ("command_line.fit", "command_line.evaluate")  # whose --help is a part of all flags
TRAINS = ("command_line.benchmark", "command_line.published", "command_line.replay")  # take the flags of train.py too
GENERAL = ("allow_class", "help", "help_all", "config", "print_config")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@cache
def text_of(page: Path) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


@cache
def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text_of(page)), re.MULTILINE)
    texts = (LINK.sub(lambda link: link[0][1 : link[0].index("]")], heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_to_files_and_headings_that_exist(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (PROJECT / page.parent / path).resolve() if path else PROJECT / page
        if not there.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors_of(there.relative_to(PROJECT)):
            broken.append(f"{target}: no such heading")
    assert not broken, f"{page}: {broken}"


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of each command line, of fenced blocks for shells and of inline code; without comments."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "bash", "sh", "console")]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
        for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
            try:
                words = shlex.split(part.strip().removeprefix("$ "))
            except ValueError:  # a quote that stands for something else
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "torchrun"):  # variables, a launcher
                words = words[1:] if words[0] != "torchrun" else from_script(words)
            if words:
                yield words


def from_script(words: list[str]) -> list[str]:
    """What torchrun starts."""
    return next((["python", *words[i:]] for i, word in enumerate(words) if word.endswith(".py")), [])


def module_of(words: list[str]) -> tuple[str | None, list[str]]:
    """The module of ours that a command runs, and its arguments; ("", ...) for one that should be ours and is not."""
    program, *rest = words
    program = program.rpartition("/")[2] if not program.endswith(".py") else program
    if program == "ssd300" and rest and re.fullmatch(r"[a-z]+", rest[0]):
        return COMMANDS.get(rest[0], ("",))[0], rest[1:]
    if re.fullmatch(r"python3?(\.\d+)?", program) and rest:
        if rest[0] == "-m" and len(rest) > 1:
            ours = (PROJECT / rest[1].partition(".")[0]).is_dir()
            return (rest[1] if ours else None), rest[2:]
        program, rest = rest[0], rest[1:]
    if program.endswith(".py") and "/" not in program and program.removesuffix(".py") in DOORS:
        return f"command_line.{DOORS[program.removesuffix('.py')]}", rest
    return None, rest


@cache
def help_of(module: str) -> str:
    """All that a command's help says."""
    main = importlib.import_module(module if module != "accelerators" else "accelerators.__main__").main
    said = io.StringIO()
    flag = "--help_all" if module in WITH_ALL else "--help"
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [module, flag])
        main() if module == "accelerators" else main([flag])
    return said.getvalue() + (help_of("command_line.fit") if module in TRAINS else "")


def is_known(flag: str, module: str) -> bool:
    name = flag.partition("=")[0].rstrip("+").removeprefix("--")
    if module in (*WITH_ALL, *TRAINS) and name in (*SHORT_FLAGS, *GENERAL):
        return True
    parts = name.split(".")
    shown = (".".join(parts[:end]) for end in range(len(parts), min(len(parts), 2) - 1, -1))
    return any(re.search(rf"--{re.escape(each)}(?![\w-])", help_of(module)) for each in shown)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_their_flags_exist(page):
    wrong = []
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for words in commands_in(text_of(page)):
        if words[0] == "make":
            wrong += [f"make {word}: no such target" for word in words[1:2] if word.islower() and word not in targets]
            continue
        module, args = module_of(words)
        if module == "":
            wrong.append(f"ssd300 {words[1]}: no such command")
        elif module in {name for name, _ in COMMANDS.values()}:
            flags = [word for word in args if re.match(r"--[a-z]", word)]
            wrong += [f"{' '.join(words[:3])}: no flag {flag}" for flag in flags if not is_known(flag, module)]
    assert not wrong, f"{page}: {wrong}"


@pytest.mark.parametrize("module", ["command_line.fit", "command_line.evaluate", "command_line.predict", "coco.check"])
def test_a_flag_that_is_not_there_is_seen(module):
    known = {"command_line.fit": "--trainer.max_steps", "coco.check": "--output"}.get(module, "--ckpt_path")
    assert is_known(known, module) and is_known(f"{known}=1", module)
    assert not is_known("--no_such_flag", module) and not is_known("--trainer.no_such_flag", module)


def test_commands_are_found_in_blocks_and_in_lines():
    block = "```bash\nA=1 .venv/bin/ssd300 train --x 1  # --y\nmake demo && python -m coco.check \\\n    DIR\n```\n"
    text = f"{block}`train.py --z`"
    assert [module_of(words) for words in commands_in(text) if words[0] != "make"] == [
        ("command_line.fit", ["--x", "1"]),
        ("coco.check", ["DIR"]),
        ("command_line.fit", ["--z"]),
    ]
