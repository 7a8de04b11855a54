"""What a checkpoint is: format, network, classes, training, numbers, thresholds, data.

python -m checkpoints FILE ...
python -m checkpoints --json FILE

FILE is whatever is taken as a checkpoint: ours, a published .pt file, safetensors, an exported file, or what is
fetched.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.compatibility import check_is_ours, check_shapes, selection_of
from checkpoints.download import sha256
from checkpoints.fetching import local_file
from checkpoints.files import CheckpointError, is_published, read_checkpoint
from checkpoints.operating_point import operating_point, saved_form
from checkpoints.progress import epochs_trained
from checkpoints.published import default_category_ids, missing_for_training, to_ours, without_training
from coco.names import plain
from deployment.engine import ENGINES, is_exported, open_exported
from training.run_checkpoints import best_of

NAMED = 8  # classes


def main(args: Sequence[str] | None = None) -> int:
    """Parses the arguments (those of the process by default) and returns the exit status: 1 where a file is no
    checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m checkpoints", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="a checkpoint, of any form that is taken here")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with everything")
    flags = parser.parse_args(args)
    status = 0
    for name in flags.files:
        try:
            found = facts(name)
        except CheckpointError as error:
            print(f"error: {plain(str(error), lines=True)}", file=sys.stderr)
            status = 1
            continue
        print(json.dumps(found) if flags.json else _in_words(found))
    return status


def facts(name: str | Path) -> dict[str, Any]:
    """What a file says of itself; None where it does not. Plain data for JSON.

    Raises:
        CheckpointError: none that can be used.
    """
    path = local_file(name)
    if is_exported(path):
        return {**_of_file(path), **_exported(path)}
    checkpoint = read_checkpoint(path)
    published = is_published(checkpoint)
    ours = to_ours(without_training(checkpoint), path) if published else checkpoint
    check_is_ours(ours, path)
    try:
        check_shapes(ours)
        run = _published(checkpoint, path) if published else _run(checkpoint)
        return {**_of_file(path), "format": run["format"], **_network(ours, path), **run}
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: what it says of itself cannot be read ({str(error)[:200]})") from None


def _of_file(path: Path) -> dict[str, Any]:
    return {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}


def _exported(path: Path) -> dict[str, Any]:
    about = open_exported(path).about
    return {
        "format": f"exported, {ENGINES[path.suffix.lower()]}, {about.numbers}",
        "outputs": about.form,
        "batch": about.batch,
        "exported_from_sha256": about.checkpoint,
        "versions": {"project": about.version},
        "backbone": about.backbone,
        "class_names": list(about.class_names),
        "category_ids": list(about.category_ids),
        "score_thresholds": about.operating_point and saved_form(about.operating_point),
        "data": about.selection,
    }


def _network(ours: dict[str, Any], path: Path) -> dict[str, Any]:
    settings = ours["hyper_parameters"]
    num_classes = int(settings.get("num_classes", 80))  # as SSDModule's
    names = settings.get("class_names") or [f"class {label}" for label in range(1, num_classes + 1)]
    tensors = [tensor for tensor in ours["state_dict"].values() if isinstance(tensor, Tensor)]
    kinds: Counter[str] = Counter()
    for tensor in tensors:
        kinds[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    point = operating_point(ours, num_classes, path)
    return {
        "backbone": settings.get("backbone", "resnet50"),
        "numbers": dict(kinds.most_common()),
        "class_names": list(map(str, names)),
        "category_ids": list(map(int, settings.get("category_ids") or default_category_ids(num_classes))),
        "score_thresholds": point and saved_form(point),
    }


def _published(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    weights_alone = bool(missing_for_training(checkpoint))
    try:
        resumable = not weights_alone and bool(to_ours(checkpoint, path))
    except CheckpointError:  # of an optimiser that is not read here
        resumable = False
    return {
        "format": "of the published recipe" + (", weights alone" if weights_alone else ""),
        "resumable": resumable,
        "epochs": checkpoint.get("epoch"),
        "steps": checkpoint.get("iteration"),
    }


def _run(checkpoint: dict[str, Any]) -> dict[str, Any]:
    resumable = bool(checkpoint.get("optimizer_states"))
    found: dict[str, Any] = {"format": "of this project", "resumable": resumable}
    if resumable:
        found |= {"epochs": epochs_trained(checkpoint["loops"]["fit_loop"]), "steps": checkpoint["global_step"]}
    else:
        found["format"] += ", weights alone"
    best, made_with = best_of(checkpoint), checkpoint.get("made_with", {})
    mean = checkpoint.get("last_validation", {}).get("mAP")
    return {
        **found,
        "mAP": None if mean is None else float(mean),
        "best": best and {"by": str(best[0]), "value": best[1]},
        "averaged": "current_model_state" in checkpoint,
        "precision": made_with.get("trainer", {}).get("precision"),
        "device": made_with.get("device"),
        "versions": made_with.get("versions"),
        "data": selection_of(checkpoint),
    }


def _in_words(found: dict[str, Any]) -> str:
    """A line a fact, without those that the file does not tell."""
    names, point, best = found["class_names"], found["score_thresholds"], found.get("best")
    shown = {
        **found,
        "bytes": f"{found['bytes'] / 1e6:.1f} MB",
        "numbers": ", ".join(f"{count / 1e6:.2f} M {kind}" for kind, count in found.get("numbers", {}).items()),
        "class_names": f"{len(names)}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}",
        "category_ids": ", ".join(map(str, found["category_ids"][:NAMED])) + (", ..." if len(names) > NAMED else ""),
        "score_thresholds": point and f"per class, by {point['rule']}, chosen on {point['images']} images",
        "mAP": None if found.get("mAP") is None else f"{found['mAP']:.4f}, of the last validation",
        "best": best and f"{best['by']} {best['value']:.4f}, of the run so far",
        "averaged": "the weights are a moving average" if found.get("averaged") else None,
        "versions": ", ".join(f"{name} {version}" for name, version in (found.get("versions") or {}).items()),
        "data": ", ".join(f"{name} {value}" for name, value in (found.get("data") or {}).items() if value),
        "resumable": {True: "yes", False: "no", None: None}[found.get("resumable")],
    }
    told = {name.replace("_", " "): value for name, value in shown.items() if value not in (None, "", {}, [])}
    return "\n".join(f"{name + ':':<21} {plain(str(value))}" for name, value in told.items())


if __name__ == "__main__":
    sys.exit(main())
