"""Which numbers a setting may be: owners keep a table of `Range`s and check it before anything runs."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included unless told otherwise; never NaN or infinite. `whole`: integers only."""

    low: float
    high: float = math.inf
    whole: bool = False
    above: bool = False  # low itself is not allowed
    below: bool = False  # high itself is not allowed

    def __contains__(self, value: Any) -> bool:
        kind: Any = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high and not math.isinf(value)

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if math.isinf(self.high):
            return f"{what} above {self.low:g}" if self.above else f"{what}, at least {self.low:g}"
        return (
            f"{what} from {self.low:g}{' (not itself)' if self.above else ''} to {self.high:g}"
            f"{' (not itself)' if self.below else ''}"
        )


def out_of_range(settings: Mapping[str, Any], ranges: Mapping[str, Range], prefix: str) -> str | None:
    """What to tell a user of the first setting out of its range, None if there is none. A setting that is None, or not
    there, is not set.

    Args:
        ranges: by the settings' names. prefix: of the flags that set them, such as `--model.`.
    """
    for name, allowed in ranges.items():
        value = settings.get(name)
        if value is not None and value not in allowed:
            return f"{prefix}{name} {value}: expected {allowed}"
    return None
