"""Cases of the input fuzz: damaged and malicious checkpoints, and what whoever opens one does with them.

Files of ours, of the published recipe and of torchvision, as torch writes them today and before version 1.6: with
changed bytes, with another structure of the zip file (zip_damage.py), with other instructions in the pickle
(pickle_damage.py), or with other values in place of those that a checkpoint has. Most hold a few tensors, and are
refused at last for what they lack; some hold a whole network, and are taken where the damage does no harm.
"""

import io
import warnings
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
from tests.faults.inputs import expect, remove
from tests.faults.mutations import VALUES, damaged_bytes, places
from tests.faults.odd_values import SETTINGS, TENSORS
from tests.faults.pickle_damage import damaged_pickle, with_pickle
from tests.faults.zip_damage import damaged_zip
from training.pretrained import PretrainedWeightsError, load_backbone

FAMILIES = ("checkpoint bytes",) * 6 + ("checkpoint zip",) * 4 + ("checkpoint pickle",) * 6 + ("checkpoint values",) * 4
NAMES, IDS = ("cat", "ö"), (3, 7)
WHOLE = 20  # one in so many has a whole network


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
    return {"network": module.model, "whole": whole, "small": small, "files": files}


class CheckpointCase:
    """One damaged checkpoint below `root` / "data"; attributes as `inputs.InputCase`."""

    def __init__(self, family: str, rng: Random, root: Path, base: dict[str, Any]) -> None:
        self.rng, self.network = rng, base["network"]
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
                return load_backbone(self.network, "resnet18", str(self.path))
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
        container, key = rng.choice(places(content))
        change = rng.randrange(5)
        if change == 0:
            del container[key]
        elif change == 1:
            container[key] = TENSORS[rng.choice(sorted(TENSORS))]()
        elif change == 2:
            other, place = rng.choice(places(content))
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
