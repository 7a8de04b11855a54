"""Score thresholds per class in a checkpoint, ours or a published `.pt` file: added to what is there, and read."""

from pathlib import Path
from typing import Any, NamedTuple

from checkpoints import safe_weights
from checkpoints.files import CheckpointError, read_checkpoint, write_durably

KEY = "operating_point"


class OperatingPoint(NamedTuple):
    """The thresholds that prediction uses by default, and where they come from. Evaluation never uses them."""

    rule: str  # how they were chosen: `f1` or `precision=0.9`
    thresholds: tuple[float, ...]  # C, in [0, 1); a detection of label l scores above thresholds[l - 1]
    images: int  # on which they were chosen
    annotations: str  # digest of their annotation file

    def __str__(self) -> str:
        low, high = min(self.thresholds), max(self.thresholds)
        return f"{self.rule} per class, {low:.3f} to {high:.3f}, chosen on {self.images} images"


def save_operating_point(path: str | Path, point: OperatingPoint) -> None:
    """Writes the point into a checkpoint file, whole or not at all; all else in it stays, and one there is replaced.

    Raises:
        CheckpointError: it cannot be read, or written.
    """
    place = Path(path).resolve()  # of a link, the file behind it
    checkpoint = read_checkpoint(place)
    save = safe_weights.save if safe_weights.is_safetensors(place) else None
    write_durably({**checkpoint, KEY: saved_form(point)}, place, save)


def saved_form(point: OperatingPoint) -> dict[str, Any]:
    """Plain data, which a checkpoint has under `KEY`."""
    return {**point._asdict(), "thresholds": list(point.thresholds)}


def operating_point(checkpoint: dict[str, Any], num_classes: int, name: str | Path) -> OperatingPoint | None:
    """The point in the content of a checkpoint, None where it has none. name: for messages.

    Raises:
        CheckpointError: one that cannot be used.
    """
    if (saved := checkpoint.get(KEY)) is None:
        return None
    try:
        thresholds = tuple(saved["thresholds"])
        known = OperatingPoint(str(saved["rule"]), thresholds, int(saved["images"]), str(saved["annotations"]))
        usable = len(thresholds) == num_classes and all(type(t) is float and 0 <= t < 1 for t in thresholds)
    except (LookupError, TypeError, ValueError, OverflowError):
        usable = False
    if not usable:
        raise CheckpointError(
            f"{name}: its `{KEY}` has no thresholds in [0, 1) for {num_classes} classes. Write them anew: evaluate.py "
            "--operating_point f1 --save_thresholds true"
        )
    return known
