"""The order of the rooms: which file may import which, held by reading every import of the product.

    doors -> command_line -> prediction -> deployment, ssd_module, datamodule -> training -> evaluation -> checkpoints
    -> ssd | coco

A file imports its own room and rooms further right; accelerators/ stands apart.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

ORDER = (
    ("command_line",),
    ("prediction",),
    ("deployment", "ssd_module", "datamodule"),
    ("training",),
    ("evaluation",),
    ("checkpoints",),
    ("ssd", "coco"),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
APART = "accelerators"
MAY_IMPORT_ACCELERATORS = ("accelerators", "command_line", "prediction")
DOORS = {"train", "evaluate", "predict", "export", "main"}
# Run by `python -m`: like doors they may import any room, and no room imports them.
SCRIPTS = {"coco.check", "coco.convert", "coco.sample", "checkpoints.__main__", "accelerators.__main__"}
ROOMS = {*RANK, APART}


def module_files() -> dict[str, Path]:
    """Module name -> file, of the rooms, the two Lightning classes and the doors."""
    files = {}
    for path in [*PROJECT.glob("*.py"), *(file for room in ROOMS for file in (PROJECT / room).rglob("*.py"))]:
        parts = path.relative_to(PROJECT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


def own_imports(name: str, inside_functions: bool = False) -> Iterator[tuple[str, int]]:
    """The modules of ours that a module imports, with the line; all of them, or those inside functions alone."""
    tree = ast.parse(FILES[name].read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    nodes = [node for function in functions for node in ast.walk(function)] if inside_functions else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                imported = whole if whole in FILES else node.module
                if imported in FILES:
                    yield imported, node.lineno
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name in FILES)


def room_of(name: str) -> str:
    return name.split(".")[0]


def is_allowed(importer: str, imported: str) -> bool:
    source, target = room_of(importer), room_of(imported)
    if imported in DOORS or imported in SCRIPTS:
        return False
    if importer in DOORS or importer in SCRIPTS or source == target:
        return True
    if target == APART:
        return source in MAY_IMPORT_ACCELERATORS
    return source != APART and RANK[source] < RANK[target]


def test_every_module_stands_in_a_room_or_is_a_door():
    strangers = [name for name in FILES if room_of(name) not in ROOMS and name not in DOORS]
    assert not strangers, "no new file at the top"


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_one_way_and_none_hides_in_a_function(name):
    against = [f"line {line}: {imported}" for imported, line in own_imports(name) if not is_allowed(name, imported)]
    assert not against, f"{name} imports against the order of the rooms"
    hidden = [f"line {line}: {imported}" for imported, line in own_imports(name, inside_functions=True)]
    assert not hidden, f"{name} imports a module of ours inside a function"


# Where files are written in place: the home of whole files, the cache's own scheme, checkpoints (torch.save, to a file
# beside), downloads (to one that is gone on from), and logs, which grow by lines.
LOGS = ("training.csv_log", "training.dllogger")
WRITE_IN_PLACE = ("coco.whole_files", "coco.annotation_cache", "checkpoints.files", "checkpoints.download", *LOGS)
OPENED = "file"  # what a file from coco.whole_files is called


def written_in_place(tree: ast.AST) -> list[int]:
    """The lines that write a file under its own name: half of it is there when the writer dies."""
    lines = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        first = ast.unparse(call.args[0]) if call.args else None
        modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        opens = any(isinstance(m, ast.Constant) and set(str(m.value)) & set("wxa+") for m in modes)
        if (
            (isinstance(call.func, ast.Attribute) and name in ("write_text", "write_bytes", "to_csv", "tofile"))
            or (name in ("save", "savefig", "dump") and first not in (None, OPENED, "kept"))
            or (name == "open" and opens and first != OPENED)
        ):
            lines.append(call.lineno)
    return lines


@pytest.mark.parametrize("name", sorted(FILES.keys() - {*WRITE_IN_PLACE}))
def test_every_file_is_written_whole(name):
    lines = written_in_place(ast.parse(FILES[name].read_text()))
    assert not lines, f"{name} writes a file under its own name in lines {lines}; use coco.whole_files"


@pytest.mark.parametrize(
    "line", ["p.write_text('x')", "open(p, 'w')", "open(p, mode='ab')", "picture.save(p)", "figure.savefig(str(p))"]
)
def test_a_file_written_in_place_is_seen(line):
    assert written_in_place(ast.parse(line)) == [1]


def test_no_files_import_one_another_in_a_circle():
    graph = {name: {imported for imported, _ in own_imports(name)} for name in FILES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ("importer", "imported"),
    [("ssd.model", "coco.sampler"), ("training.losses", "ssd_module"), ("ssd.loss", "accelerators.mlu")]
    + [("evaluation.report", "coco.check"), ("command_line.fit", "train"), ("accelerators.mlu", "training.losses")],
)
def test_an_arrow_against_the_order_is_seen(importer, imported):
    assert not is_allowed(importer, imported)
