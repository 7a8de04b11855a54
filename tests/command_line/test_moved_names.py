"""Names of before the rooms: the error names the new one, the new one is there, and the docs list them."""

import importlib
import re

import pytest

from command_line.evaluate import EvaluateCLI
from command_line.fit_cli import FitCLI
from command_line.moved_names import MOVED
from command_line.shared import UsageError
from tests.conftest import PROJECT


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_the_new_name_is_there(new):
    module, _, name = new.rpartition(".")
    assert hasattr(importlib.import_module(module), name)


def test_an_old_class_path_in_a_config_is_answered_with_the_new_one(tmp_path):
    config = tmp_path / "old.yaml"
    config.write_text("trainer:\n  logger:\n    class_path: dllogger.DLLogger\n    init_args: {path: log.json}\n")
    with pytest.raises(UsageError, match=r"dllogger\.DLLogger is now training\.dllogger\.DLLogger"):
        FitCLI(["--config", str(config)])
    with pytest.raises(UsageError, match=r"pictures\.DetectionPictures is now training\.pictures"):
        EvaluateCLI(["--trainer.callbacks", "pictures.DetectionPictures"])


def test_the_docs_list_every_moved_name():
    table = (PROJECT / "docs" / "migration.md").read_text().split("## Names that moved")[1]
    assert dict(re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", table, re.MULTILINE)) == MOVED
