"""Which classes a configuration may name: naming one imports its module and calls it, code of whoever wrote the file.

It may name what the Trainer takes (callbacks, loggers, profilers, strategies, accelerators, plugins) out of this
project, Lightning and torch. Everything else is refused before it is imported, unless the command line, where no
configuration can write, names it: as a value (`--trainer.callbacks+=my_package.MyCallback`), or by `--allow_class`.
"""

import importlib.util
import inspect
import os
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_loader
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import CheckpointIO, ClusterEnvironment, LayerSync, Precision
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.names import shortened
from command_line.config_text import MAX_CHARACTERS, ConfigTextError, load_text

FLAG = "--allow_class"
ROOMS = ("accelerators", "checkpoints", "coco", "command_line", "evaluation", "prediction", "ssd", "training")
ROOTS = (*ROOMS, "pytorch_lightning", "lightning_fabric", "torch", "torchvision", "torchmetrics")
KINDS = Accelerator, Callback, CheckpointIO, ClusterEnvironment, LayerSync, Logger, Precision, Profiler, Strategy
SLOTS = ("class_path", "accelerator", "callbacks", "logger", "plugins", "profiler", "strategy")
# Parts of a whole configuration without a setting that is a class or a function: numbers, names and paths.
PLAIN = ("data", "model", "config", "run_dir", "ckpt_path", "json", "report", "pictures")


class ClassRefused(MisconfigurationException):
    """A class path that a configuration may not name."""


def take_flag(args: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The other arguments, and the values of `--allow_class`: packages, modules or classes.

    Raises:
        ClassRefused: a value that is none of them.
    """
    others, names, is_value = [], [], False
    for arg in args:
        flag, equals, value = arg.partition("=")
        if is_value or (flag.replace("-", "_") == FLAG.replace("-", "_") and equals):
            names.append(arg if is_value else value)
            is_value = False
        elif flag.replace("-", "_") == FLAG.replace("-", "_"):
            is_value = True
        else:
            others.append(arg)
    if is_value or not all(_is_dotted(f"x.{name}") for name in names):
        wrong = "nothing" if is_value else next(name for name in names if not _is_dotted(f"x.{name}"))
        raise ClassRefused(f"{FLAG}: expected a package, a module or a class, such as my_package, but got {wrong}")
    return others, tuple(names)


class AllowedClasses:
    """What one command allows.

    Args:
        names: packages, modules and classes beside `ROOTS`; of these any class or function.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.names = tuple(sorted(set(names)))
        self.typed: set[str] = set()  # class paths that are values of the command line
        self.refused: ClassRefused | ConfigTextError | None = None  # by the reader; jsonargparse may hold it back
        # jsonargparse's mode of reading values, configurations, and the files that they name.
        self.parser_mode = " ".join(("yaml allowing", *self.names))
        set_loader(self.parser_mode, self._read, exceptions=(yaml.YAMLError,))

    def check_arguments(self, args: Sequence[str]) -> None:
        """Looks at all that the arguments say, configurations in files included, before a parser reads them.

        Raises:
            ClassRefused, ConfigTextError: naming the file or flag, the key and the class.
        """
        key = ""
        for arg in args:
            value = arg
            if arg.startswith("--"):
                flag, equals, value = arg.partition("=")
                key = flag.removeprefix("--").rstrip("+")
                if not equals:
                    continue
            if key == "config":
                self._check_file(value)
            elif key.partition(".")[0] == "trainer":
                self._take_typed(value, key)
                self._check_text(value, f"--{key}", key)

    def check(self, content: Any, where: str = "", key: str = "") -> None:
        """Raises ClassRefused for the first class path, at any depth of plain values, that is not allowed.

        Args:
            where: the file or flag, for the message. key: of the content, with dots.
        """
        for place, value in _texts(content, key):
            name = place.rpartition(".")[2].partition("[")[0].rstrip("+")
            if _is_dotted(value) and (name == "class_path" or _can_be_imported(value)):
                place = f"{where}{': ' if where and place else ''}{shortened(place)}"
                self._check_path(value, place, is_class=name in SLOTS)

    def _read(self, text: str) -> Any:
        try:
            content = load_text(text)
            if not isinstance(content, str):
                self.check(content, where="a value or a file of the arguments")
        except (ClassRefused, ConfigTextError) as error:
            self.refused = self.refused or error
            raise
        return content

    def _take_typed(self, text: str, key: str) -> None:
        try:
            self.typed |= {value for _, value in _texts(load_text(text), key) if _is_dotted(value)}
        except (ConfigTextError, yaml.YAMLError):
            self.typed |= {text} if _is_dotted(text) else set()

    def _check_file(self, path: str) -> None:
        if os.path.getsize(path) > 4 * MAX_CHARACTERS:
            raise ConfigTextError(f"--config {path}: {os.path.getsize(path)} bytes; is this a configuration?")
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeError):
            return  # the parser says so
        self._check_text(text, f"--config {path}")

    def _check_text(self, text: str, where: str, key: str = "") -> None:
        try:
            content = load_text(text)
        except ConfigTextError as error:
            raise ConfigTextError(f"{where}: {error}") from None
        except yaml.YAMLError:
            content = text  # the parser says so, where it is to be YAML
        self.check(content, "" if key else where, f"--{key}" if key else "")

    def _check_path(self, path: str, place: str, is_class: bool) -> None:
        told = f"{place}: {shortened(path)}"
        if any(f"{path}.".startswith(f"{name}.") for name in self.names):
            return
        root = path.partition(".")[0]
        if root == "lightning":
            raise ClassRefused(f"{told} is another package's; write pytorch_lightning instead of lightning.pytorch")
        if root not in ROOTS:
            if path in self.typed:
                return
            raise ClassRefused(
                f"{told} was not imported: by itself a configuration may only name classes of this project, of "
                f"pytorch_lightning and of torch. If you trust that code: {FLAG} {root} on the command line"
            )
        try:
            found = pkgutil.resolve_name(path)
        except (ImportError, AttributeError, ValueError, OSError, RuntimeError):
            return  # the parser says so
        if is_class and not (inspect.isclass(found) and issubclass(found, KINDS)):
            raise ClassRefused(
                f"{told} was not called: it is no class of callbacks, loggers, profilers, strategies, accelerators or "
                f"plugins. If you know what it does: {FLAG} {path} on the command line"
            )
        home = getattr(found, "__module__", None) or type(found).__module__
        if not is_class and home.partition(".")[0] not in ROOTS:
            raise ClassRefused(f"{told} is {shortened(home)}'s. If you trust it: {FLAG} {path} on the command line")


def _texts(content: Any, key: str) -> Iterator[tuple[str, str]]:
    """Each text within plain values, with its key; of a whole configuration without those of `PLAIN`."""
    if isinstance(content, str):
        if key not in ("trainer", "--trainer"):  # the name of a file with its settings
            yield key, content.strip()
    elif isinstance(content, dict):
        for name, value in content.items():
            place = f"{key}.{name}" if key else str(name)
            inner = _texts(value, place)
            yield from ((at, text) for at, text in inner if place.partition(".")[0] not in PLAIN or "class_path" in at)
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _texts(value, f"{key}[{index}]")


def _is_dotted(text: str) -> bool:
    return "." in text and all(part.isidentifier() for part in text.split("."))


def _can_be_imported(path: str) -> bool:
    """Whether there is a module of that name; looked for, not imported."""
    try:
        return importlib.util.find_spec(path.partition(".")[0]) is not None
    except ValueError:  # of __main__, which is there
        return True
