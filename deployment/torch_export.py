"""torch.export: the raw network as a `.pt2` file, for programs that have torch and nothing of this project."""

import warnings
from pathlib import Path

import numpy as np
import torch

from coco.decoding import INPUT_SIZE
from coco.whole_files import replacing
from deployment.about import KEY, About
from deployment.graph import RawGraph


def export(raw: RawGraph, about: About, path: Path) -> None:
    """Writes the file, whole or not at all; what is in `about` lies in it as the extra file `ssd300`.

    Raises:
        OSError: the file cannot be written.
    """
    # The exporter takes a size of 1 for a constant: any number of pictures is shown as two.
    example = torch.zeros(about.batch or 2, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},) if about.batch is None else None
    with torch.no_grad():
        program = torch.export.export(raw, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    with replacing(path, follow=True) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that lie in a larger storage, on devices
        torch.export.save(ep=program, f=file, extra_files={KEY: about.to_text()})


class JustExported:
    """A file that `export` has just written, for its proof.

    Only such a file is opened: `torch.export.load` reads pickles, which can run code, and the doors take no `.pt2`.
    """

    name = "torch_export"

    def __init__(self, path: Path, about: About) -> None:
        self.about = about
        self._network = torch.export.load(path).module()

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 [B, 3, 300, 300] -> offsets and logits."""
        with torch.inference_mode():
            offsets, logits = self._network(torch.from_numpy(images))
        return offsets.numpy(), logits.numpy()
