"""The published flags in terms of ours."""

import re

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.published_flags import FLAGS, as_typed, evaluate_arguments, parse, train_arguments
from tests.conftest import PROJECT


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def translated(*flags, evaluate=False):
    """Our arguments as a dict; what follows the translation is left as it is."""
    args, more = parse(["--data", "my data", *flags])
    arguments = (evaluate_arguments if evaluate else train_arguments)(args, more)
    return dict(argument.split("=", 1) if "=" in argument else (argument, None) for argument in arguments)


def test_the_defaults_are_the_recipes():
    ours = translated()
    assert ours["--data_root"] == "my data" and ours["--model.backbone"] == "resnet50"
    assert ours["--model.backbone_weights"] == "IMAGENET1K_V2"
    assert (ours["--max_epochs"], ours["--batch_size"], ours["--data.val_batch_size"]) == ("65", "32", "32")
    assert (ours["--model.milestones"], ours["--model.warmup_steps"]) == ("[43, 54]", "0")
    assert (ours["--model.momentum"], ours["--model.weight_decay"]) == ("0.9", "0.0005")
    assert (ours["--devices"], ours["--num_nodes"], ours["--accelerator"]) == ("1", "1", "auto")


def test_the_rate_stays_per_32_images_since_ours_is_scaled_alike():
    assert translated("--bs", "256")["--model.learning_rate"] == "0.0026"


def test_every_training_flag_arrives():
    flags = "--bs 8 --ebs 4 -e 3 --multistep 1 2 --lr 0.01 -m 0.8 --wd 0.1 --warmup 300 --num-workers 2 -s 7"
    flags += " --backbone resnet18 --backbone-path w.pth --data-layout channels_first --log-interval 5 --iterations 9"
    ours = translated(*flags.split())
    expected = {
        "--batch_size": "8",
        "--data.val_batch_size": "4",
        "--max_epochs": "3",
        "--model.milestones": "[1, 2]",
        "--model.learning_rate": "0.01",
        "--model.momentum": "0.8",
        "--model.weight_decay": "0.1",
        "--model.warmup_steps": "300",
        "--num_workers": "2",
        "--seed": "7",
        "--model.backbone": "resnet18",
        "--model.backbone_weights": "w.pth",
        "--model.channels_last": "false",
        "--trainer.log_every_n_steps": "5",
        "--trainer.limit_train_batches": "9",
    }
    assert {flag: ours[flag] for flag in expected} == expected


def test_a_checkpoint_is_resumed_from_in_training():
    assert translated("--checkpoint", "a b.pt")["--ckpt_path"] == "a b.pt"


def test_a_checkpoint_is_what_evaluation_evaluates():
    ours = translated("--mode", "evaluation", "--checkpoint", "a.pt", "--ebs", "4", evaluate=True)
    assert (ours["--ckpt_path"], ours["--data.val_batch_size"]) == ("a.pt", "4")
    assert not any(flag.startswith("--model.") for flag in ours), "the network comes from the file"
    with pytest.raises(MisconfigurationException, match="--mode evaluation needs --checkpoint FILE"):
        translated("--mode", "evaluation", evaluate=True)


@pytest.mark.parametrize(
    ("flags", "cuda", "precision"),
    [
        ((), True, "16-mixed"),
        ((), False, "32-true"),
        (("--device", "GPU"), True, "32-true"),
        (("--no-amp",), True, "32-true"),
        (("--amp",), False, "16-mixed"),
        (("--device", "MLU"), False, "32-true"),
        (("--device", "mlu", "--pyamp"), False, "16-mixed"),
        (("--no-cuda",), True, "32-true"),
    ],
)
def test_precision_is_that_of_the_main_whose_flags_are_used(monkeypatch, flags, cuda, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert translated(*flags)["--precision"] == precision


def test_devices_are_those_that_torchrun_started(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    ours = translated("--local_rank", "3")
    assert (ours["--devices"], ours["--num_nodes"]) == ("8", "2")


def test_a_process_that_lightning_started_asks_for_what_the_first_one_did(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # and no LOCAL_WORLD_SIZE: nobody ran torchrun
    args, more = parse(["--data", "d", "--devices", "2"])
    assert train_arguments(args, more)[-2:] == ["--devices", "2"], "our own flags come last, and win"
    assert "--num_nodes=1" in train_arguments(args, more)


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if flag.refused], ids=lambda flag: flag.names[0])
def test_a_flag_without_counterpart_is_refused_with_what_to_use_instead(flag):
    value = [] if flag.options.get("action") else ["1"]
    with pytest.raises(MisconfigurationException, match=re.escape(f"{flag.names[0]} is not taken here. Instead: --")):
        parse(["--data", "d", flag.names[0], *value])


def test_a_single_iteration_is_one_batch():
    ours = translated("--iterations", "1", "--eval_iters", "1")
    assert ours["--trainer.limit_train_batches"] == ours["--trainer.limit_val_batches"] == "1", "1.0 would be all"


def test_the_documentation_lists_the_flags():
    table = (PROJECT / "docs" / "migration.md").read_text().split("## Flags")[1].split("\n## ")[0]
    expected = [
        f"| {', '.join(f'`{name}`' for name in flag.names)} | {'refused: ' if flag.refused else ''}{flag.ours} |"
        for flag in FLAGS
    ]
    assert [line for line in table.splitlines() if line.startswith("| `")] == expected


@pytest.mark.parametrize("flag", ["--benchmark-iterations", "--benchmark-warmup", "--iterations", "--eval_iters"])
def test_counts_out_of_range_are_refused_by_the_flag_as_it_is_typed(flag):
    with pytest.raises(MisconfigurationException, match=f"^{flag} -7: expected a whole number, at least"):
        parse(["--data", "d", flag, "-7"])


def test_a_tilde_after_an_equals_sign_is_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    args, more = parse(["--data=~/coco", "--save=~/models", "--run_dir=~/run"])
    assert (args.data, args.save, more) == (
        "/home/somebody/coco",
        "/home/somebody/models",
        ["--run_dir=/home/somebody/run"],
    )


def test_a_message_on_our_flags_begins_with_the_published_one_that_was_typed():
    told = "--model.learning_rate -1.0: expected a number above 0"
    assert as_typed(told, ["--lr=-1"]) == f"--lr ({told.split()[0]}) -1.0: expected a number above 0"
    assert as_typed(told, ["--learning-rate", "-1"]).startswith("--learning-rate (--model.learning_rate) -1.0")
    assert as_typed(told, ["--model.learning_rate", "-1"]) == told, "ours was typed"
    assert as_typed("--ckpt_path x.pt: no such file", ["--checkpoint", "x.pt"]).startswith("--checkpoint (--ckpt_path)")
    assert as_typed("--seed -1: expected", ["--seed", "-1"]) == "--seed -1: expected"
    assert as_typed("use a smaller --data.batch_size", ["--batch-size-x", "2"]) == "use a smaller --data.batch_size"
