"""Weights of the classes in the loss: of chosen ones, or of all by how rare they are."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.names import plain, shown

BALANCED = "balanced"


def weigh_classes(module: pl.LightningModule) -> None:
    """Sets the weights that an SSDModule's `class_weights` asks for in its loss, and says them."""
    setting = module.hparams.class_weights
    if not setting:
        return
    annotations = getattr(module.trainer.datamodule, "train_annotations", None)
    if annotations is None:
        raise MisconfigurationException("--model.class_weights needs a COCODataModule, whose objects it counts")
    weights = class_weights(setting, module.class_names, annotations.training_objects)
    module.loss.class_weights = torch.tensor(weights, dtype=torch.float32, device=module.device)
    if module.trainer.is_global_zero:
        told = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(module.class_names, weights[1:], strict=True))
        print(plain(f"class weights: {told}"))


def class_weights(setting: Mapping[str, float] | str, class_names: Sequence[str], objects: np.ndarray) -> list[float]:
    """Factors of the cross-entropy, of the background (1) and of the C classes.

    Args:
        setting: weights by class name, 1 where there is none; or `balanced`: inverse to the number of objects, 1 in the
            mean over all objects (King and Zeng, 2001; scikit-learn's `class_weight="balanced"`).
        objects: int [C], how many objects of each class there are to train on; classes without any weigh 1.

    Raises:
        MisconfigurationException: a name that is no class.
    """
    if isinstance(setting, str):
        there = objects > 0
        weights = np.ones(len(objects))
        weights[there] = objects.sum() / (there.sum() * objects[there])
        return [1.0, *weights.tolist()]
    for name in setting:
        if name not in class_names:
            raise MisconfigurationException(
                f"--model.class_weights: there is no class {shown(name)}; expected some of "
                f"{', '.join(map(shown, class_names[:20]))}"
            )
    return [1.0, *(float(setting.get(name, 1.0)) for name in class_names)]
