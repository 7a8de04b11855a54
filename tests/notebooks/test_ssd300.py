"""notebooks/ssd300.ipynb: from data to an exported model, as a reader runs it; and as GitHub shows it."""

import json
import os

import pytest

from coco.sample import write_sample
from tests.conftest import PROJECT

NOTEBOOK = PROJECT / "notebooks" / "ssd300.ipynb"
TINY = """
EPOCHS = 1
MORE = ["--model.backbone", "thin", "--trainer.limit_train_batches", "2", "--num_workers", "0"]
import tests.thin
"""


def test_it_is_short_and_its_outputs_are_small_and_of_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]
    assert len(cells) == 15 and len(text) < 400_000
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    printed = "".join(line for output in outputs for line in output.get("text", []))
    assert "mAP" in printed and not any(word in printed for word in ("/home/", "/root/", "/tmp/", "Error", "Warning"))


@pytest.mark.extras
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason="needs the extra [notebook]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    import nbformat
    from nbclient import NotebookClient

    write_sample(tmp_path / "data" / "sample", train_images=24, val_images=10)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    settings.source += TINY
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "notebook" / "model.onnx").stat().st_size > 100_000
    assert (tmp_path / "runs" / "notebook" / "report" / "index.html").is_file()
