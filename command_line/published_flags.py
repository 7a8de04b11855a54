"""The flags of the published recipe's main.py, and of Cambricon's port of it, in terms of ours.

`FLAGS` is the one list of them: the parser is made from it, and docs/migration.md lists it.
"""

import os
import re
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.shared import with_home
from ssd.model import FEATURE_CHANNELS
from training.ranges import Range, out_of_range

MODES = ("training", "evaluation", "benchmark-training", "benchmark-inference")
RANGES = {  # of the flags that no flag of ours checks
    "benchmark-iterations": Range(1, whole=True),
    "benchmark-warmup": Range(0, whole=True),
    "iterations": Range(-1, whole=True),
    "eval_iters": Range(-1, whole=True),
}
ACCELERATORS = {"MLU": "mlu", "GPU": "cuda", "CPU": "cpu"}


@dataclass(frozen=True)
class Flag:
    """A published flag: its names, argparse's options, and what stands for it here.

    `refused`: has no counterpart; `ours` then says what to use instead.
    """

    names: tuple[str, ...]
    ours: str
    options: dict[str, Any] = field(default_factory=dict)
    refused: bool = False

    @property
    def key(self) -> str:
        return self.names[0].lstrip("-").replace("-", "_")


def _number(kind: type, default: Any) -> dict[str, Any]:
    return {"type": kind, "default": default}


def _several(default: Sequence[int]) -> dict[str, Any]:
    return {"type": int, "nargs": "*", "default": list(default)}


_SWITCH = {"action": "store_true", "default": None}
FLAGS = (
    Flag(("--data", "-d"), "--data_root", {"required": True}),
    Flag(("--mode",), "train.py, evaluate.py", {"choices": MODES, "default": "training"}),
    Flag(("--backbone",), "--model.backbone; in evaluation the file's", {"choices": tuple(FEATURE_CHANNELS)}),
    Flag(("--backbone-path",), "--model.backbone_weights PATH"),
    Flag(("--torchvision-weights-version",), "--model.backbone_weights NAME"),
    Flag(("--checkpoint",), "--ckpt_path, of either format"),
    Flag(("--save",), "writes DIR/epoch_<n>.pt beside the run directory of our own checkpoints"),
    Flag(("--epochs", "-e"), "--max_epochs", _number(int, 65)),
    Flag(("--batch-size", "--bs"), "--batch_size", _number(int, 32)),
    Flag(("--eval-batch-size", "--ebs"), "--data.val_batch_size", _number(int, 32)),
    Flag(
        ("--evaluation",),
        "validates after these epochs; regular ones: --trainer.check_val_every_n_epoch",
        _several((21, 31, 37, 42, 48, 53, 59, 64)),
    ),
    Flag(("--multistep",), "--model.milestones", _several((43, 54))),
    Flag(("--learning-rate", "--lr"), "--model.learning_rate, scaled in the same way", _number(float, 2.6e-3)),
    Flag(("--momentum", "-m"), "--model.momentum", _number(float, 0.9)),
    Flag(("--weight-decay", "--wd"), "--model.weight_decay", _number(float, 5e-4)),
    Flag(("--warmup",), "--model.warmup_steps; without it there is no warm-up", _number(int, 0)),
    Flag(("--num-workers",), "--num_workers; by default the cores of this process, at most 8", _number(int, None)),
    Flag(("--seed", "-s"), "--seed; 0 by default, not a random one", _number(int, None)),
    Flag(("--amp", "--pyamp"), "--precision 16-mixed", _SWITCH),
    Flag(("--no-amp",), "--precision 32-true", {"action": "store_false", "dest": "amp", "default": None}),
    Flag(
        ("--allow-tf32",),
        "on CUDA: torch.backends.cuda.matmul.allow_tf32 and cudnn.allow_tf32; on by default",
        {"action": "store_true", "default": True},
    ),
    Flag(("--no-allow-tf32",), "the same, off", {"action": "store_false", "dest": "allow_tf32", "default": True}),
    Flag(
        ("--data-layout",),
        "--model.channels_last, true or false",
        {"choices": ("channels_last", "channels_first"), "default": "channels_last"},
    ),
    Flag(
        ("--device",),
        "--accelerator mlu, cuda or cpu; auto by default",
        {"choices": tuple(ACCELERATORS), "type": str.upper},
    ),
    Flag(("--no-cuda", "--no-mlu"), "--accelerator cpu", _SWITCH),
    Flag(("--log-interval",), "--trainer.log_every_n_steps", _number(int, 20)),
    Flag(("--json-summary",), "--log_to dllogger"),
    Flag(("--benchmark-iterations",), "only in the benchmark modes", _number(int, 20)),
    Flag(("--benchmark-warmup",), "only in the benchmark modes", _number(int, 20)),
    Flag(("--iterations",), "--trainer.limit_train_batches; the whole epoch by default", _number(int, -1)),
    Flag(("--eval_iters",), "--trainer.limit_val_batches; all by default", _number(int, -1)),
    Flag(("--local_rank", "--local-rank"), "nothing: torchrun says it in the environment", {"type": int}),
    Flag(("--max_bitwidth",), "nothing: FP32 is full width", _SWITCH),
    Flag(("--data-backend",), "nothing: there is one input pipeline", {"choices": ("pytorch",)}),
    Flag(("--cnmix",), "--amp", _SWITCH, refused=True),
    Flag(("--opt_level",), "--amp", refused=True),
    Flag(("--input_data_type",), "--amp or --no-amp", refused=True),
    Flag(("--start_eval_at",), "--evaluation EPOCH ...", refused=True),
    Flag(("--evaluate_every", "--eval_every"), "--evaluation EPOCH ...", refused=True),
    Flag(
        ("--target_map",),
        "--trainer.callbacks+=EarlyStopping with --trainer.callbacks.monitor=mAP --trainer.callbacks.mode=max "
        "--trainer.callbacks.stopping_threshold=MAP",
        refused=True,
    ),
)


def parser() -> ArgumentParser:
    """Of the published flags; abbreviated ones are not taken, since ours pass through unread."""
    made = ArgumentParser(
        prog="main.py",
        allow_abbrev=False,
        description="The published recipe's command line. Flags of train.py (in evaluation: evaluate.py) may follow; "
        "they go there as they are, and win.",
    )
    for flag in FLAGS:
        text = SUPPRESS if flag.refused else f"here: {flag.ours}"
        made.add_argument(*flag.names, **flag.options, help=text)
    return made


def parse(argv: Sequence[str] | None = None) -> tuple[Namespace, list[str]]:
    """The published flags, and what follows for train.py or evaluate.py.

    Raises:
        MisconfigurationException: a flag without a counterpart, naming what to use instead.
    """
    args, more = parser().parse_known_args(with_home(sys.argv[1:] if argv is None else argv))
    for flag in FLAGS:
        if flag.refused and getattr(args, flag.key) is not None:
            raise MisconfigurationException(f"{flag.names[0]} is not taken here. Instead: {flag.ours}")
    values = {flag.names[0].lstrip("-"): getattr(args, flag.key, None) for flag in FLAGS}
    if told := out_of_range(values, RANGES, "--"):
        raise MisconfigurationException(told)
    return args, more


def as_typed(message: str, argv: Sequence[str]) -> str:
    """An error's message on flags of ours that stand for published ones: each with the one that was typed before it."""
    typed = {arg.partition("=")[0] for arg in argv}
    for flag in FLAGS:
        ours = re.match(r"--(?:\w+\.)?(\w+)", flag.ours)
        name = next((name for name in flag.names if name in typed), None)
        if ours and name and not flag.refused and name != f"--{ours[1]}":
            pattern = rf"(?<![\w-])--(?:(?:trainer|model|data)\.)?{ours[1]}(?![\w.-])"
            message = re.sub(pattern, rf"{name} (\g<0>)", message, count=1)
    return message


def train_arguments(args: Namespace, more: Sequence[str] = ()) -> list[str]:
    """The arguments of train.py. `--evaluation`, `--save`, `--json-summary` and TF32 have none there: see main.py."""
    backbone = args.backbone or "resnet50"
    # A resumed run has its first weights behind it.
    pretrained = None if args.checkpoint else _weights_name(backbone, args.torchvision_weights_version)
    weights = args.backbone_path or pretrained
    pairs = {
        "--model.backbone": backbone,
        "--model.backbone_weights": weights,
        "--model.learning_rate": args.learning_rate,
        "--model.momentum": args.momentum,
        "--model.weight_decay": args.weight_decay,
        "--model.warmup_steps": args.warmup,
        "--model.milestones": args.multistep,
        "--model.channels_last": str(args.data_layout == "channels_last").lower(),
        "--max_epochs": args.epochs,
        "--batch_size": args.batch_size,
        "--trainer.log_every_n_steps": args.log_interval,
        "--trainer.benchmark": "true",
        "--trainer.limit_train_batches": args.iterations if args.iterations > 0 else None,
        "--seed": args.seed,
        "--ckpt_path": args.checkpoint,
        # last.ckpt and best.ckpt are enough beside the files of --save
        "--keep_epochs": "false",
    }
    return [*_listed(pairs), *_common(args), *more]


def evaluate_arguments(args: Namespace, more: Sequence[str] = ()) -> list[str]:
    """The arguments of evaluate.py."""
    if args.checkpoint is None:
        raise MisconfigurationException("--mode evaluation needs --checkpoint FILE")
    return [*_listed({"--ckpt_path": args.checkpoint}), *_common(args), *more]


def parameters(args: Namespace) -> dict[str, Any]:
    """The settings of the log's PARAMETER record, under their published names."""
    renamed = {
        "dataset path": "data",
        "checkpoint path": "checkpoint",
        "eval on epochs": "evaluation",
        "lr decay epochs": "multistep",
        "lr warmup": "warmup",
    }
    same: tuple[str, ...] = (
        "mode",
        "device",
        "backbone",
        "backbone path",
        "epochs",
        "batch size",
        "eval batch size",
        "learning rate",
    )
    same += ("momentum", "weight decay", "seed", "num workers")
    names = renamed | {name: name.replace(" ", "_") for name in same}
    return {name: getattr(args, key) for name, key in names.items()} | {"AMP": _amp(args)}


def _common(args: Namespace) -> list[str]:
    """Data, device and precision, the same for both scripts."""
    # Under torchrun as many processes as it started here, on as many machines; otherwise one.
    started = os.environ if torch.distributed.is_torchelastic_launched() else {}
    local = int(started.get("LOCAL_WORLD_SIZE", 1))
    return _listed(
        {
            "--data_root": args.data,
            "--data.val_batch_size": args.eval_batch_size,
            "--num_workers": args.num_workers,
            "--trainer.limit_val_batches": args.eval_iters if args.eval_iters > 0 else None,
            "--accelerator": _accelerator(args),
            "--devices": local,
            "--num_nodes": int(started.get("WORLD_SIZE", 1)) // local,
            "--precision": "16-mixed" if _amp(args) else "32-true",
        }
    )


def _accelerator(args: Namespace) -> str:
    return "cpu" if args.no_cuda else ACCELERATORS.get(args.device, "auto")


def _amp(args: Namespace) -> bool:
    """Without a flag: the published main.py, for CUDA, trains with AMP; the port, which has --device, in FP32."""
    if args.amp is not None:
        return args.amp
    return _accelerator(args) == "auto" and torch.cuda.is_available()


def _weights_name(backbone: str, version: str | None) -> str:
    """Of torchvision; it has no second version of the two small networks."""
    newest = "IMAGENET1K_V1" if backbone in ("resnet18", "resnet34") else "IMAGENET1K_V2"
    return newest if version in (None, "DEFAULT") else version


def _listed(pairs: dict[str, Any]) -> list[str]:
    return [f"{flag}={value}" for flag, value in pairs.items() if value is not None]
