import torch

from ssd.default_boxes import FEATURE_SIZES, ssd300_default_boxes, tie_rank


def test_there_are_8732_boxes_within_the_unit_interval():
    boxes = ssd300_default_boxes()
    assert boxes.shape == (8732, 4) and boxes.dtype == torch.float32
    assert boxes.min() >= 0 and boxes.max() <= 1


def test_boxes_agree_with_the_published_recipe(golden, reference_order):
    expected = torch.from_numpy(golden("default_boxes.npz")["cxcywh"])
    torch.testing.assert_close(ssd300_default_boxes()[reference_order], expected, atol=1e-6, rtol=0)


def test_boxes_run_map_by_map_then_cell_by_cell_row_major_then_by_shape():
    boxes = ssd300_default_boxes()
    first_cell, second_cell = boxes[:4], boxes[4:8]
    assert (first_cell[:, :2] == first_cell[0, :2]).all()
    assert second_cell[0, 0] > first_cell[0, 0] and second_cell[0, 1] == first_cell[0, 1]  # to the right: row-major
    assert boxes[38 * 4, 1] > boxes[0, 1]  # the next row
    second_map = boxes[38 * 38 * 4]
    assert torch.isclose(second_map[2], torch.tensor(45 / 300))
    assert FEATURE_SIZES == (38, 19, 10, 5, 3, 1)


def test_ties_rank_by_shape_before_cell():
    rank = tie_rank(8732, torch.device("cpu"))
    assert rank[4] < rank[1], "the first shape of the second cell comes before the second shape of the first cell"
    assert sorted(rank.tolist()) == list(range(8732))


def test_they_are_made_on_the_cpu_whatever_the_default_device():
    expected = ssd300_default_boxes()
    with torch.device("meta"):
        assert torch.equal(ssd300_default_boxes(), expected)
