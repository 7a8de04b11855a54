"""Cases of the input fuzz: damaged and malicious checkpoints, and what whoever opens one does with them.

Files of ours, of the published recipe and of torchvision, as torch writes them today and before version 1.6: with
changed bytes, with another structure of the zip file (zip_damage.py), with other instructions in the pickle
(pickle_damage.py), or with other values in place of those that a checkpoint has. Most hold a few tensors, and are
refused at last for what they lack; some hold a whole network, and are taken where the damage does no harm.
"""

import io
import warnings
from collections import OrderedDict
from pathlib import Path
from random import Random
from typing import Any

import torch

from checkpoints.files import CheckpointError
from checkpoints.finding import resume_path
from checkpoints.progress import progress_after
from checkpoints.published import from_ours
from ssd.parameters import parameter_groups
from ssd_module import SSDModule, load_module
from tests.faults.inputs import Violation, expect, remove
from tests.faults.mutations import VALUES, damaged_bytes
from tests.faults.pickle_damage import damaged_pickle, with_pickle
from tests.faults.zip_damage import damaged_zip
from training.pretrained import PretrainedWeightsError, backbone_weights

FAMILIES = ("checkpoint bytes",) * 6 + ("checkpoint zip",) * 4 + ("checkpoint pickle",) * 6 + ("checkpoint values",) * 4
NAMES, IDS = ("cat", "ö"), (3, 7)
WHOLE = 20  # one in so many has a whole network

# What may stand in place of a value, beside `mutations.VALUES`.
TENSORS = {
    "empty": lambda: torch.empty(0),
    "endless and empty": lambda: torch.empty(0, 2**40),
    "number": lambda: torch.tensor(3.0),
    "not a number": lambda: torch.full((4,), float("nan")),
    "double": lambda: torch.ones(3, dtype=torch.float64),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "half": lambda: torch.ones(3, dtype=torch.float16),
    "boolean": lambda: torch.ones(3, dtype=torch.bool),
    "eight bits": lambda: torch.ones(3).to(torch.float8_e5m2),
    "unsigned": lambda: torch.ones(3, dtype=torch.uint8).to(torch.uint16),
    "expanded": lambda: torch.ones(1).expand(2**40),
    "strided": lambda: torch.ones(100)[::7],
    "sparse": lambda: torch.ones(3, 3).to_sparse(),
    "compressed": lambda: torch.ones(3, 3).to_sparse_csr(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "without storage": lambda: torch.empty(3, device="meta"),
    "parameter": lambda: torch.nn.Parameter(torch.ones(3)),
    "of 25 dimensions": lambda: torch.ones([1] * 25),
    "of 64 dimensions": lambda: torch.ones([1] * 64),
    "module": lambda: torch.nn.Linear(2, 2),
    "type": lambda: torch.float32,
    "device": lambda: torch.device("cuda", 7),
    "array": lambda: torch.ones(3).numpy(),
    "path": lambda: Path("/etc/passwd"),
    "ordered": lambda: OrderedDict(a=1),
    "set": lambda: {1, "a"},
    "bytes": lambda: bytes(3),
    "endless text": lambda: "x" * 3_000_000,
    "shape": lambda: torch.Size([1, 2]),
}
# Names of hyper-parameters and what may stand there.
SETTINGS: dict[str, list[Any]] = {
    "num_classes": [0, -1, 1, 3, 1.0, 1.5, 10**5, 10**9, 2**63, 10**30, True, "2", float("nan"), None, [2]],
    "backbone": ["resnet18", "resnet152", "resnet", "", None, [], {}, 18, "x" * 10_000, "__class__"],
    "class_names": [
        None,
        [],
        "ab",
        ["a"],
        ["a", "a"],
        [1, 2],
        [None, None],
        ["a", "\ud800"],
        {"a": 1},
        7,
        [["a"], "b"],
    ],
    "category_ids": [None, [], "12", [1, 1], [7, 3], [1.5, 2], ["1", "2"], [2**70, 1], [float("inf"), 1], 5, [None, 1]],
    "milestones": [None, [], 5, "43", [5, 3], [1.5], [True], [float("nan")], [2**80], [[1]], {1: 2}],
    "score_threshold": [0, 1, -1, "0.1", None, float("nan"), [0.1]],
    "max_detections": [0, 10**9, 1.5, "9", None],
    "backbone_weights": ["/etc/passwd", 5, "IMAGENET1K_V2"],
    "finetune_from": ["/etc/passwd", 5],
    "channels_last": ["x", None, []],
    "x": [1],
    "self": [1],
    "path": ["/etc/passwd"],
}


def prepare(root: Path, seed: int) -> dict[str, Any]:
    """What the cases are made from: contents by name, whole and small, and files of the small ones."""
    torch.manual_seed(seed)
    module = SSDModule("resnet18", len(NAMES), NAMES, IDS)
    ours = {
        "pytorch-lightning_version": "2.6.0",
        "epoch": 3,
        "global_step": 12,
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "loops": progress_after(3, 12),
        "callbacks": {"Resume": {"random": [1, 2.5, "x"]}},
        "optimizer_states": [_optimizer(module)],
        "lr_schedulers": [{"base_lrs": [0.1, 0.1], "last_epoch": 12, "_last_lr": [0.1, 0.1]}],
    }
    whole = {"ours": ours, "published": from_ours(ours)}
    torchvision = {key.removeprefix("model.backbone."): value for key, value in ours["state_dict"].items()}
    small = {name: _trimmed(content) for name, content in {**whole, "torchvision": torchvision}.items()}
    files = {
        f"{name}, {kind}": _saved(content, kind == "zip")
        for name, content in small.items()
        for kind in ("zip", "legacy")
    }
    return {"whole": whole, "small": small, "files": files}


class CheckpointCase:
    """One damaged checkpoint below `root` / "data"; attributes as `inputs.InputCase`."""

    def __init__(self, family: str, rng: Random, root: Path, base: dict[str, Any]) -> None:
        self.rng = rng
        self.path = root / "data" / "run" / rng.choice(("model.ckpt", "model.pt", "é [1].ckpt"))
        self.own_errors = (CheckpointError, PretrainedWeightsError)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remove(self.path)
        is_whole = rng.randrange(WHOLE) == 0 and family != "checkpoint zip"
        source = rng.choice(sorted(base["whole"] if is_whole else base["small"]))
        self.takes_part = source
        if family == "checkpoint values" or is_whole:
            content = damaged_content(rng, base["whole" if is_whole else "small"][source])
            self.path.write_bytes(_saved(content, rng.random() < 0.7))
            return
        legacy = family != "checkpoint zip" and rng.random() < 0.4
        data = base["files"][f"{source}, {'legacy' if legacy else 'zip'}"]
        if family == "checkpoint zip":
            data = damaged_zip(rng, data)
        elif family == "checkpoint pickle":
            data = with_pickle(rng, data, lambda pickle: damaged_pickle(rng, pickle))
        else:
            data = _damaged_somewhere(rng, data)
        self.path.write_bytes(data)

    def use(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.takes_part == "torchvision":
                return _check_weights(backbone_weights("resnet18", str(self.path)))
            if self.rng.random() < 0.3:
                resume_path(str(self.path), None)
            _check_module(load_module(self.path))


def damaged_content(rng: Random, content: dict[str, Any]) -> dict[str, Any]:
    """The content with up to three values changed; at times with none."""
    content = _copied(content)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        settings = content.get("hyper_parameters")
        if isinstance(settings, dict) and rng.random() < 0.4:
            name = rng.choice(sorted(SETTINGS))
            settings[name] = rng.choice(SETTINGS[name])
            continue
        container, key = rng.choice(_places(content))
        change = rng.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1:
            container[key] = TENSORS[rng.choice(sorted(TENSORS))]()
        elif change == 2:
            other, place = rng.choice(_places(content))
            container[key] = _copied(other[place])
        elif change == 3 and isinstance(container, dict):
            container[rng.choice(("", 5, None, f"{key}.", 2.5, "\ud800", (1, 2), True))] = container.pop(key)
        else:
            container[key] = rng.choice([value for value in VALUES if value != "x" * 100_000])
    return content


def _damaged_somewhere(rng: Random, data: bytes) -> bytes:
    """Mostly where a file's structure is: in its first or last bytes."""
    where = rng.choice(("start", "end", "end", "anywhere", "cut", "spliced", "added", "other"))
    if where == "end":
        return data[:-1500] + damaged_bytes(rng, data[-1500:])
    if where == "cut":
        return data[: rng.randrange(len(data))]
    if where == "spliced":
        return data[: rng.randrange(len(data))] + data[rng.randrange(len(data)) :]
    if where == "added":
        return rng.choice((data + data, data + rng.randbytes(50), rng.randbytes(50) + data, bytes(5000) + data))
    if where == "other":
        return rng.choice((b"", b"\0" * 5000, b"PK\3\4", b"PK\5\6" + bytes(18), b"\x80\x02}.", rng.randbytes(3000)))
    return damaged_bytes(rng, data, first=1500 if where == "start" else None)


def _check_module(module: SSDModule) -> None:
    """What prediction and evaluation need of any checkpoint that is taken."""
    names, ids = module.class_names, module.category_ids
    expect(len(names) == len(ids) == module.hparams.num_classes, f"{len(names)} names, {len(ids)} ids")
    expect(all(type(name) is str for name in names), f"class names {names!r}"[:200])
    expect(all(type(i) is int and -(2**63) <= i < 2**63 for i in ids), f"category ids {ids!r}"[:200])
    expect(len(ids) == len(set(ids)), f"category ids {ids!r}, not each once"[:200])
    expect(0 <= module.hparams.score_threshold < 1, f"score_threshold {module.hparams.score_threshold!r}")
    expect(all(p.dtype == torch.float32 and p.device.type == "cpu" for p in module.parameters()), "not float32")
    expect(module.model.num_classes == len(names), "a network of other classes")


def _check_weights(weights: dict[str, Any]) -> None:
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()):
        raise Violation("no state dict of tensors")


def _optimizer(module: SSDModule) -> dict[str, Any]:
    """The state of its SGD, with a momentum of each parameter."""
    groups = parameter_groups(module.model, 5e-4)
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9).state_dict()
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer["state"] = {i: {"momentum_buffer": torch.zeros_like(p)} for i, p in enumerate(parameters)}
    for group in optimizer["param_groups"]:
        group["initial_lr"] = 0.1
    return optimizer


def _trimmed(value: Any) -> Any:
    """With at most three entries of what has many, and only small tensors."""
    if isinstance(value, dict):
        few = len(value) > 30
        small = ((key, inner) for key, inner in value.items() if not few or _is_small(inner))
        return {key: _trimmed(inner) for (key, inner), _ in zip(small, range(3 if few else 30), strict=False)}
    if isinstance(value, list):
        return [_trimmed(inner) for inner in value[:3]]
    return value


def _is_small(value: Any) -> bool:
    tensors = value.values() if isinstance(value, dict) else [value]
    return all(not isinstance(tensor, torch.Tensor) or tensor.numel() < 200 for tensor in tensors)


def _saved(content: Any, as_zip: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    return file.getvalue()


def _copied(value: Any) -> Any:
    """Its containers anew, its tensors shared."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) below a content."""
    own = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    found = [(content, key) for key, _ in own]
    for _, value in own:
        if isinstance(value, (dict, list)):
            found += _places(value)
    return found
