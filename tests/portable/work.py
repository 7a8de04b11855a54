"""`python work.py DATA DIRECTORY`: the help of every command, then training, evaluation and prediction, in one process.
Where one fails the process does; of each that is done a line is printed."""

import runpy
import sys
import warnings
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
DOORS = ("train", "evaluate", "predict", "export", "main")


def help_of(*command: str) -> None:
    """Runs `python DOOR.py --help` or `ssd300 WORD --help` here."""
    sys.argv = [*command, "--help"]
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, f"{command}: {stop.code}"
    print("done: help of", " ".join(Path(word).stem for word in command))


def main(data: Path, directory: Path) -> None:
    from pytorch_lightning.trainer.connectors import signal_connector

    from command_line import evaluate, fit, predict, ssd300

    signal_connector._IS_WINDOWS = True  # Lightning asks for the system before it uses a signal, we for the signal
    for door in DOORS:
        help_of(str(PROJECT / f"{door}.py"))
    for word in ssd300.COMMANDS:
        help_of(ssd300.__file__, word)
    common = ["--accelerator", "cpu", "--data_root", str(data), "--num_workers", "1", "--batch_size", "2"]
    run = ["--run_dir", str(directory / "run"), "--model.backbone", "resnet18", "--trainer.max_steps", "2"]
    fit.main([*common, *run, "--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"])
    checkpoint = str(directory / "run" / "checkpoints" / "last.ckpt")
    print("done: training")
    evaluate.main(["--ckpt_path", checkpoint, *common, "--limit", "2", "--report", str(directory / "report")])
    print("done: evaluation")
    picture = str(next((data / "val2017").glob("*.jpg")))
    assert predict.main(["--ckpt_path", checkpoint, picture, "--output", str(directory / "predictions")]) == 0
    print("done: prediction")


if __name__ == "__main__":
    # A text file in the system's encoding, which is not UTF-8 everywhere.
    for room in ("accelerators", "checkpoints", "coco", "command_line", "evaluation", "prediction", "training"):
        warnings.filterwarnings("error", category=EncodingWarning, module=rf"{room}\.")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
