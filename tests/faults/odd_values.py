"""What may stand where a checkpoint has a tensor or a setting."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

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
