"""The `.pt2` file: any batch, proven, with what travels with it; and no door opens one, since that reads pickles."""

import json

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from deployment import torch_export
from deployment.engine import TorchEngine
from deployment.proof import prove, synthetic_pictures
from prediction.exported import load_detector


@pytest.mark.parametrize("batch", [None, 2])
def test_it_finds_what_our_own_network_finds_and_is_opened_by_no_door(raw, about, tmp_path, batch):
    path = tmp_path / "model.pt2"
    torch_export.export(raw, about("raw", batch), path)
    engine = torch_export.JustExported(path, about("raw", batch))
    seen = prove(engine, TorchEngine(raw, about("raw")), synthetic_pictures(9))
    assert seen.first is None and seen.agreeing == seen.detections > 500
    extra = {"ssd300": ""}
    network = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["ssd300"])["class_names"][0] == "disc"
    offsets, logits = network(torch.from_numpy(np.zeros((2, 3, 300, 300), np.uint8)))
    assert offsets.shape == (2, 8732, 4) and logits.shape == (2, 8732, 5)
    assert b".py" not in path.read_bytes()
    with pytest.raises(MisconfigurationException, match=r"model\.pt2: is for other programs that have torch"):
        load_detector(path)
