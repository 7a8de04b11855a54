"""A configuration cannot have code run that the command line did not allow. Each `spy` says whether its module ran."""

import sys
import textwrap

import pytest

from command_line.allowed_classes import AllowedClasses, ClassRefused, take_flag
from command_line.evaluate import EvaluateCLI
from command_line.fit_cli import FitCLI
from command_line.shared import UsageError

MODULE = """
from pathlib import Path
Path("{ran}").touch()
from pytorch_lightning import Callback
class Spy(Callback):
    pass
def function(*args):
    pass
"""
NOT_CALLED = "is no class of callbacks, loggers, profilers, strategies, accelerators or plugins"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A file that is there once the module `spy` was imported, or a command run."""
    (tmp_path / "spy.py").write_text(MODULE.format(ran=tmp_path / "ran"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("spy", None)


@pytest.fixture
def parse(sample, tmp_path):
    def parse(*args, config=""):
        (tmp_path / "c.yaml").write_text(textwrap.dedent(config))
        common = ["--accelerator", "cpu", "--data_root", str(sample), "--run_dir", str(tmp_path / "run")]
        given = ["--config", "c.yaml"] if config else []
        return FitCLI([*common, "--num_workers", "0", "--model.backbone", "resnet18", *given, *args])

    return parse


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ("trainer: {callbacks: [{class_path: spy.Spy}]}", r"trainer\.callbacks\[0\]\.class_path"),
        ("trainer: {callbacks: {class_path: spy.Spy, init_args: {}}}", r"trainer\.callbacks\.class_path"),
        ("trainer: {callbacks: [spy.Spy]}", r"trainer\.callbacks\[0\]"),
        ("trainer: {callbacks: spy.Spy}", r"trainer\.callbacks"),
        ("trainer: {strategy: {class_path: spy.Spy}}", r"trainer\.strategy\.class_path"),
        ("trainer: {profiler: spy.Spy}", r"trainer\.profiler"),
        ("trainer: {plugins: [{class_path: spy.Spy}]}", r"trainer\.plugins\[0\]\.class_path"),
        (
            "trainer: {logger: {class_path: CSVLogger, init_args: {save_dir: x, prefix: {class_path: spy.Spy}}}}",
            r"trainer\.logger\.init_args\.prefix\.class_path",
        ),
        (
            "trainer: {logger: {class_path: TensorBoardLogger, dict_kwargs: {x: {class_path: spy.Spy}}}}",
            r"trainer\.logger\.dict_kwargs\.x\.class_path",
        ),
        (
            "trainer: {callbacks: {class_path: LambdaCallback, init_args: {on_fit_start: spy.function}}}",
            r"trainer\.callbacks\.init_args\.on_fit_start",
        ),
        ("model: &m {class_path: spy.Spy}\ntrainer: {callbacks: *m}", r"model\.class_path"),
        ("allow_class: spy\ntrainer: {callbacks: spy.Spy}", r"trainer\.callbacks"),
    ],
)
def test_a_configuration_imports_nothing_that_the_command_line_did_not_allow(parse, ran, config, key):
    with pytest.raises(UsageError, match=rf"^--config c\.yaml: {key}: spy\.\w+ was not imported.*--allow_class spy "):
        parse(config=config)
    assert not ran.exists()


@pytest.mark.parametrize(
    "args",
    [
        ["--trainer.callbacks", "spy.Spy"],
        ["--trainer.callbacks=[{class_path: spy.Spy}]"],
        ["--trainer.callbacks+=spy.Spy"],
        ["--trainer={callbacks: spy.Spy}"],
    ],
)
def test_what_the_command_line_itself_names_is_the_users_own(parse, ran, args):
    made = parse(*args)
    assert any(type(callback).__name__ == "Spy" for callback in made.trainer.callbacks) and ran.exists()


@pytest.mark.parametrize("config", ["trainer: {callbacks: more.yaml}", "trainer: {callbacks: [more.yaml]}"])
def test_nor_does_a_file_that_a_configuration_names(parse, ran, config):
    (ran.parent / "more.yaml").write_text("class_path: spy.Spy\n")
    older = "No module named 'more'"  # jsonargparse that knows no files in lists
    with pytest.raises(UsageError, match=rf"class_path: spy\.Spy was not imported.*--allow_class spy |{older}"):
        parse(config=config)
    assert not ran.exists()


def test_evaluation_is_held_to_the_same(ran, sample):
    with pytest.raises(UsageError, match=r"^--config c\.yaml: trainer\.callbacks: spy\.Spy was not imported"):
        (ran.parent / "c.yaml").write_text("trainer: {callbacks: spy.Spy}")
        EvaluateCLI(["--ckpt_path", "x.ckpt", "--data_root", str(sample), "--config", "c.yaml"])
    assert not ran.exists()


def test_what_the_command_line_allows_becomes_a_callback(parse, ran):
    made = parse("--allow_class", "spy", config="trainer: {callbacks: [{class_path: spy.Spy}]}")
    assert any(type(callback).__name__ == "Spy" for callback in made.trainer.callbacks) and ran.exists()
    assert "--allow_class spy" in made.resume_command, "so that the run can go on"


def test_allowing_in_one_command_allows_nothing_in_the_next(parse, ran):
    parse("--allow_class=spy")
    with pytest.raises(UsageError, match=r"spy\.Spy was not imported"):
        parse(config="trainer: {callbacks: spy.Spy}")
    assert not ran.exists()


SUBPROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"


@pytest.mark.parametrize(
    "config",
    [
        "trainer: {callbacks: {class_path: torch.hub.load, init_args: {repo_or_dir: x/y, model: z}}}",
        "trainer: {logger: {class_path: torch.load, init_args: {f: x}}}",
        "trainer: {profiler: {class_path: torch.utils.cpp_extension.load, init_args: {name: x, sources: y}}}",
        "trainer: {plugins: [torch.nn.ReLU]}",
        "trainer: {callbacks: pytorch_lightning.Trainer}",
        "trainer: {callbacks: {class_path: pytorch_lightning.LightningModule.load_from_checkpoint}}",
        "trainer: {callbacks: {class_path: LambdaCallback, init_args: {on_fit_start: {class_path: torch.os.system, "
        "init_args: {command: touch ran}}}}}",
        "trainer: {logger: {class_path: TensorBoardLogger, init_args: {save_dir: x, comment: {class_path: "
        f"{SUBPROCESS}, init_args: {{entrypoint: touch, args: [ran], env: {{}}, stdout: null, stderr: null, "
        "local_rank_id: 0}}}}}",
    ],
)
def test_what_is_no_part_of_a_trainer_is_not_called_though_it_is_torchs_or_lightnings(parse, ran, config):
    with pytest.raises(UsageError, match=NOT_CALLED):
        parse(config=config)
    assert not ran.exists()


def test_another_packages_function_is_not_reached_through_an_allowed_one(parse, ran):
    with pytest.raises(UsageError, match=r"torch\.os\.system is posix's|torch\.os\.system is nt's"):
        parse("--trainer.callbacks+=LambdaCallback", "--trainer.callbacks.on_fit_start=torch.os.system")


def test_tags_of_python_objects_are_no_yaml_of_a_configuration(parse, ran):
    with pytest.raises(UsageError, match="python/object/apply"):
        parse(config='trainer: !!python/object/apply:os.system ["touch ran"]')
    assert not ran.exists()


def test_lightnings_and_our_own_classes_need_no_flag(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = parse(
        config="""
        trainer:
          callbacks: [Timer, {class_path: pytorch_lightning.callbacks.EMAWeightAveraging}]
          profiler: simple
          plugins: [{class_path: lightning_fabric.plugins.environments.LightningEnvironment}]
          logger: {class_path: training.dllogger.DLLogger, init_args: {path: log.json}}
        """
    )
    names = {type(callback).__name__ for callback in made.trainer.callbacks}
    assert {"Timer", "EMAWeightAveraging"} <= names and type(made.trainer.logger).__name__ == "DLLogger"


def test_the_other_name_of_lightning_is_answered_with_the_one_that_works():
    with pytest.raises(ClassRefused, match="write pytorch_lightning instead of lightning"):
        AllowedClasses().check({"class_path": "lightning.pytorch.callbacks.Timer"})


def test_names_with_dots_that_name_no_module_are_only_names(parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = "{class_path: ModelCheckpoint, init_args: {filename: best.model, monitor: val.loss, dirpath: here.v2}}"
    made = parse(config=f"run_dir: spy.d\nmodel: {{backbone_weights: os.path}}\ntrainer: {{callbacks: {checkpoint}}}")
    assert any(getattr(callback, "filename", None) == "best.model" for callback in made.trainer.callbacks)


@pytest.mark.parametrize("args", [["--allow_class"], ["--allow_class=*"], ["--allow_class", ""], ["--allow_class=a/b"]])
def test_the_flag_takes_names_alone(args):
    with pytest.raises(ClassRefused, match="--allow_class: expected a package"):
        take_flag(args)


def test_the_flag_can_be_repeated_anywhere():
    args = ["--a", "b", "--allow_class", "x", "--c=d", "--allow-class=y.z"]
    assert take_flag(args) == (["--a", "b", "--c=d"], ("x", "y.z"))
