import contextlib
import copy
import io
import json
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco.annotations import CocoAnnotations
from evaluation.metric import BACKENDS, NUMBERS, CocoMeanAveragePrecision


def update_from_results(metric, results, image_ids, batch=7):
    """Feeds detections in COCO results form (dicts with xywh boxes) to the metric, batch by batch."""
    labels_of = {category: label for label, category in enumerate(metric.annotations.category_ids, start=1)}
    by_image = {image_id: [] for image_id in image_ids}
    for result in results:
        by_image[result["image_id"]].append(result)
    for start in range(0, len(image_ids), batch):
        ids = list(image_ids[start : start + batch])
        most = max(len(by_image[image_id]) for image_id in ids)
        boxes = torch.zeros(len(ids), most, 4, dtype=torch.float64)
        scores = torch.zeros(len(ids), most, dtype=torch.float64)
        labels = torch.zeros(len(ids), most, dtype=torch.int64)
        for row, image_id in enumerate(ids):
            for column, result in enumerate(by_image[image_id]):
                x, y, width, height = result["bbox"]
                boxes[row, column] = torch.tensor([x, y, x + width, y + height], dtype=torch.float64)
                scores[row, column] = result["score"]
                labels[row, column] = labels_of[result["category_id"]]
        metric.update(ids, boxes, scores, labels)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_twelve_numbers_equal_pycocotools_on_the_fixtures(shared_data, tmp_path, backend):
    directory = shared_data("eval_fixtures")
    for case in json.loads((directory / "expected.json").read_text())["cases"]:
        truth = json.loads((directory / case["gt"]).read_text())
        for image in truth["images"]:  # two fixtures leave out what only drawing needs
            image.setdefault("file_name", f"{image['id']}.jpg")
            image.setdefault("width", 1000)
            image.setdefault("height", 1000)
        for index, category in enumerate(truth["categories"]):
            category.setdefault("name", f"class {index}")
        (tmp_path / f"{case['name']}.json").write_text(json.dumps(truth))
        annotations = CocoAnnotations.load(tmp_path / f"{case['name']}.json")
        metric = CocoMeanAveragePrecision(annotations, backend)
        results = json.loads((directory / case["dt"]).read_text())
        update_from_results(metric, results, annotations.image_ids.tolist())
        numbers = metric.compute()
        assert list(numbers.values()) == pytest.approx(case["pycocotools"], abs=1e-12), case["name"]


def random_set(directory, images=40, classes=4, crowd=0.1, seed=0):
    """A random annotation file and detections near its boxes; some images have no annotation, some no detection."""
    rng = np.random.default_rng(seed)
    categories = [{"id": 3 * c + 2, "name": f"c{c}"} for c in range(classes)]
    truth = {"images": [], "annotations": [], "categories": categories}
    results = []
    for image in range(images):
        image_id = int(10**10 + image)  # beyond 32 bits
        truth["images"].append({"id": image_id, "file_name": f"{image}.jpg", "width": 640, "height": 480})
        for _ in range(rng.integers(0, 8)):
            category = categories[rng.integers(classes)]["id"]
            box = np.concatenate((rng.uniform(0, 300, 2), rng.uniform(5, 170, 2)))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": box.round(2).tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.3, 1)),
                    "iscrowd": int(rng.random() < crowd),
                }
            )
            for _ in range(rng.integers(0, 4) if image % 5 else 0):
                near = box + rng.normal(0, 12, 4)
                near[2:] = np.maximum(near[2:], 1)
                other = categories[rng.integers(classes)]["id"] if rng.random() < 0.2 else category
                results.append(
                    {"image_id": image_id, "category_id": other, "bbox": near.tolist(), "score": float(rng.random())}
                )
    path = directory / "truth.json"
    path.write_text(json.dumps(truth))
    return path, results


def pycocotools_numbers(path, results, image_ids=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "bbox")
        evaluator.params.imgIds = truth.getImgIds() if image_ids is None else image_ids
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def test_the_numbers_equal_pycocotools_on_random_sets_with_crowds_and_empty_images(tmp_path):
    path, results = random_set(tmp_path)
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    update_from_results(metric, results, metric.annotations.image_ids.tolist())
    expected = pycocotools_numbers(path, results)
    numbers = metric.compute()
    assert tuple(numbers) == NUMBERS
    assert list(numbers.values()) == pytest.approx(expected.stats.tolist(), abs=1e-12)
    precision = expected.eval["precision"][:, :, :, 0, 2]
    for c, row in enumerate(metric.per_class()):
        assert row["AP"] == pytest.approx(precision[:, :, c].mean(), abs=1e-12)


def test_images_without_annotations_count_through_their_false_positives(tmp_path):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    empty = annotations.image_ids[np.diff(annotations.first) == 0].tolist()
    assert empty
    category = annotations.category_ids[0]
    false = [{"image_id": i, "category_id": category, "bbox": [10, 10, 50, 50], "score": 1.0} for i in empty]

    def mean_ap(results):
        metric = CocoMeanAveragePrecision(annotations)
        update_from_results(metric, results, annotations.image_ids.tolist())
        return metric.compute()["mAP"]

    assert mean_ap(results + false) < mean_ap(results)


def test_only_the_images_given_are_evaluated(tmp_path):
    path, results = random_set(tmp_path)
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    some = metric.annotations.image_ids[:15].tolist()
    update_from_results(metric, [result for result in results if result["image_id"] in some], some)
    expected = pycocotools_numbers(path, [r for r in results if r["image_id"] in some], some)
    assert list(metric.compute().values()) == pytest.approx(expected.stats.tolist(), abs=1e-12)
    assert metric.evaluated_ids.tolist() == some == metric.found_detections.image_ids.tolist()


def test_an_image_given_twice_or_unknown_is_an_error_that_names_it(tmp_path):
    path, _ = random_set(tmp_path, images=3)
    nothing = (torch.zeros(1, 0, 4), torch.zeros(1, 0), torch.zeros(1, 0, dtype=torch.int64))
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    metric.update([10**10], *nothing)
    metric.update([10**10], *nothing)
    with pytest.raises(ValueError, match="image 10000000000 was evaluated 2 times"):
        metric.compute()
    metric.reset()
    metric.update([77], *nothing)
    with pytest.raises(ValueError, match="image 77 is not in"):
        metric.compute()


def test_a_score_that_is_no_number_is_an_error_that_names_the_image(tmp_path):
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(random_set(tmp_path, images=3)[0]))
    metric.update([10**10 + 1], torch.ones(1, 1, 4), torch.full((1, 1), torch.nan), torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="a detection in image 10000000001 has the score NaN"):
        metric.compute()


def test_no_detections_give_zero_and_reset_forgets(tmp_path):
    path, results = random_set(tmp_path)
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    ids = metric.annotations.image_ids.tolist()
    update_from_results(metric, results, ids)
    metric.reset()
    update_from_results(metric, [], ids)
    metric.update([], torch.zeros(0, 9, 4), torch.zeros(0, 9), torch.zeros(0, 9, dtype=torch.int64))  # a batch of none
    assert metric.compute()["mAP"] == 0
    assert metric.evaluated_ids.tolist() == ids


def test_compute_leaves_the_metric_as_it_was_and_copies_go_on_from_there(tmp_path):
    path, results = random_set(tmp_path)
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    ids = metric.annotations.image_ids.tolist()
    update_from_results(metric, [result for result in results if result["image_id"] in ids[:15]], ids[:15])
    half = metric.compute()
    copies = [metric, copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))]
    assert [one.compute() for one in copies] == [half] * 3
    for one in copies:
        update_from_results(one, [result for result in results if result["image_id"] in ids[15:]], ids[15:])
    expected = pycocotools_numbers(path, results).stats
    assert [list(one.compute().values()) for one in copies] == pytest.approx(np.tile(expected, (3, 1)), abs=1e-12)
    assert metric.state_dict() == {}, "a checkpoint holds no detections"


def test_calling_the_metric_gives_the_numbers_of_those_images_and_adds_them(tmp_path):
    path, results = random_set(tmp_path)
    metric, whole = (CocoMeanAveragePrecision(CocoAnnotations.load(path)) for _ in range(2))
    ids = metric.annotations.image_ids.tolist()
    given = []
    whole.update = lambda *batch: given.append(metric(*batch))
    update_from_results(whole, results, ids, batch=20)
    for numbers, some in zip(given, (ids[:20], ids[20:]), strict=True):
        expected = pycocotools_numbers(path, [result for result in results if result["image_id"] in some], some)
        assert list(numbers.values()) == pytest.approx(expected.stats, abs=1e-12)
    assert list(metric.compute().values()) == pytest.approx(pycocotools_numbers(path, results).stats, abs=1e-12)


def evaluate_shard(rank, world_size, path, results, outcome):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{outcome}/rendezvous", rank=rank, world_size=world_size
    )
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    own = metric.annotations.image_ids[rank::world_size].tolist()
    if rank == world_size - 1:
        own = []  # a rank without any image
    elif rank == 0:
        own += metric.annotations.image_ids[world_size - 1 :: world_size].tolist()
    if own:
        update_from_results(metric, [result for result in results if result["image_id"] in own], own)
    (outcome / f"{rank}.json").write_text(json.dumps(metric.compute()))
    metric.reset()
    if rank > 0:
        update_from_results(metric, [], metric.annotations.image_ids[:1].tolist())
    with pytest.raises(ValueError, match=f"image {10**10} was evaluated {world_size - 1} times"):
        metric.compute()
    torch.distributed.barrier()  # torch 2.4's gloo deadlocks if it is destroyed while its thread frees the last tensors
    torch.distributed.destroy_process_group()


def test_every_rank_gets_the_numbers_of_all_ranks_even_one_without_images(tmp_path):
    path, results = random_set(tmp_path)
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(path))
    update_from_results(metric, results, metric.annotations.image_ids.tolist())
    mp.spawn(evaluate_shard, (3, path, results, tmp_path), nprocs=3)  # each refuses an image given by two ranks, too
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == metric.compute()
