"""Scores of boxes against pycocotools, and of classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from qzd_ext.detections import Classes, Detections
from qzd_ext.errors import DataError
from qzd_ext.manifest import Labels
from qzd_tools.data.coco import Annotation, BoxDataset, ClassDataset, Picture
from qzd_tools.validate.scoring import STATISTICS, match_categories, score_boxes, score_classes

CATEGORIES = {1: "person", 3: "traffic light", 7: "cat"}


def detections(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int32)
    )


def dataset(annotations: list[Annotation], images: int) -> BoxDataset:
    pictures = tuple(Picture(Path(f"{i}.png"), i) for i in range(1, images + 1))
    return BoxDataset(Path("instances.json"), pictures, CATEGORIES, tuple(annotations))


def made_up(seed: int, images: int = 12, clutter: int = 5) -> tuple[BoxDataset, list[Detections]]:
    """Boxes at random, and detections that find most of them roughly, with crowds and empty images."""
    rng = np.random.default_rng(seed)
    annotations: list[Annotation] = []
    found: list[Detections] = []
    for image in range(1, images + 1):
        boxes, scores, classes = [], [], []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (float(v) for v in rng.uniform(5, 120, 4))
            number = int(rng.choice(list(CATEGORIES)))
            crowd = int(rng.random() < 0.1)
            annotations.append(Annotation(len(annotations) + 1, image, number, (x, y, w, h), None, crowd))
            if rng.random() < 0.8:
                shift = rng.normal(0, 4, 4)
                boxes.append([x + shift[0], y + shift[1], x + w + shift[2], y + h + shift[3]])
                scores.append(float(rng.random()))
                classes.append(list(CATEGORIES).index(number))
        for _ in range(rng.integers(0, clutter)):
            x, y = rng.uniform(0, 100, 2)
            boxes.append([x, y, x + 20, y + 20])
            scores.append(float(rng.random()))
            classes.append(int(rng.integers(0, 3)))
        order = np.argsort(-np.array(scores), kind="stable")
        found.append(
            detections([boxes[i] for i in order], [scores[i] for i in order], [classes[i] for i in order])
        )
    return dataset(annotations, images), found


LABELS = Labels(names=tuple(CATEGORIES.values()))


@pytest.mark.parametrize(("seed", "clutter"), [(0, 5), (1, 5), (2, 1), (3, 30), (4, 600)])
def test_score_boxes_equals_pycocotools_on_result_files(tmp_path: Path, seed: int, clutter: int) -> None:
    truth, found = made_up(seed, clutter=clutter)
    score = score_boxes(truth, match_categories(LABELS, CATEGORIES), found, 0.5)
    document = {
        "images": [{"id": p.truth} for p in truth.pictures],
        "categories": [{"id": i, "name": n} for i, n in CATEGORIES.items()],
        "annotations": [
            {
                "id": a.id,
                "image_id": a.image_id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.bbox[2] * a.bbox[3],
                "iscrowd": a.iscrowd,
            }
            for a in truth.annotations
        ],
    }
    results = [
        {
            "image_id": p.truth,
            "category_id": list(CATEGORIES)[c],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": s,
        }
        for p, one in zip(truth.pictures, found, strict=True)
        for (x0, y0, x1, y1), s, c in zip(
            one.boxes.tolist(), one.scores.tolist(), one.class_ids.tolist(), strict=True
        )
    ]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    (tmp_path / "results.json").write_text(json.dumps(results))
    coco = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [None if value < 0 else value for value in evaluation.stats]
    assert list(score.metrics) == list(STATISTICS)
    assert list(score.metrics.values()) == expected


def test_score_boxes_counts_a_match_when_annotation_id_is_zero() -> None:
    truth = dataset([Annotation(0, 1, 7, (10, 10, 40, 40))], 1)
    found = [detections([[10, 10, 50, 50]], [0.9], [2])]
    score = score_boxes(truth, match_categories(LABELS, CATEGORIES), found, 0.5)
    assert score.main == pytest.approx(1)
    assert score.found == (1,)


def test_score_boxes_gives_zero_when_nothing_is_found() -> None:
    truth = dataset([Annotation(1, 1, 7, (10, 10, 40, 40))], 2)
    score = score_boxes(truth, match_categories(LABELS, CATEGORIES), [Detections.empty()] * 2, 0.5)
    assert score.metrics["map"] == 0.0
    assert score.metrics["map_large"] is None
    assert [(c.label, c.instances, c.metrics["ap"]) for c in score.classes] == [
        ("person", 0, None), ("traffic light", 0, None), ("cat", 1, 0.0),
    ]  # fmt: skip
    assert score.found == (0, 0)


@pytest.mark.parametrize(("confidence", "count"), [(0.3, 1), (0.31, 0)])
def test_found_counts_objects_from_the_published_score_on(confidence: float, count: int) -> None:
    truth = dataset([Annotation(1, 1, 7, (10, 10, 40, 40))], 1)
    found = [detections([[10, 10, 50, 50]], [0.30000001], [2])]
    score = score_boxes(truth, match_categories(LABELS, CATEGORIES), found, confidence)
    assert score.found == (count,)


@pytest.mark.parametrize(
    ("names", "by_class", "note"),
    [
        (("person", "traffic light", "cat"), (1, 3, 7), ""),
        (("cat", "Person", "traffic_light"), (7, 1, 3), ""),
        (("person", "", "traffic light", "", "cat"), (1, None, 3, None, 7), ""),
        (("person",), (1,), "knows 1 of the dataset's 3 categories"),
        (("person", "cat", "traffic light", "whale"), (1, 7, 3, None), "does not have them: whale"),
    ],
    ids=["same", "other order and spelling", "unused indices", "a part", "more"],
)
def test_match_categories_goes_by_name(
    names: tuple[str, ...], by_class: tuple[int | None, ...], note: str
) -> None:
    categories = match_categories(Labels(names=names), CATEGORIES)
    assert categories.by_class == by_class
    assert note in categories.note
    assert bool(note) == bool(categories.note)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("person", "stoplight", "cat"), ["stoplight", "traffic light"]),
        (("whale",), ["whale", "person, traffic light, cat"]),
        (("cat", "Cat"), ["two classes of the same name"]),
        (("",), ["does not have: none"]),
    ],
    ids=["contradiction", "nothing in common", "doubled", "no names"],
)
def test_match_categories_refuses_names_that_contradict(names: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        match_categories(Labels(names=names), CATEGORIES)
    for word in words:
        assert word in str(caught.value)


def test_match_categories_shortens_long_lists() -> None:
    with pytest.raises(DataError, match="and 5 more"):
        match_categories(Labels(names=tuple(f"thing {i}" for i in range(25))), CATEGORIES)


def test_score_classes_counts_first_and_first_five() -> None:
    pictures = tuple(Picture(Path(f"{i}.png"), truth) for i, truth in enumerate((0, 0, 6, 2)))
    truth = ClassDataset(Path("labels.txt"), pictures, tuple("abcdefg"))
    ranks = [(0, 1, 2, 3, 4, 5, 6), (1, 0, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 6, 5), (2, 1, 0, 3, 4, 5, 6)]
    scores = np.linspace(0.9, 0.1, 7, dtype=np.float32)
    found = [Classes(scores.copy(), np.array(rank, np.int32)) for rank in ranks]
    score = score_classes(truth, found)
    assert score.metrics == {"top1": 0.5, "top5": 0.75}
    assert score.main == 0.5
    assert [(c.label, c.instances, c.metrics["top1"]) for c in score.classes] == [
        ("a", 2, 0.5), ("c", 1, 1.0), ("g", 1, 0.0),
    ]  # fmt: skip
    assert score.found == (1, 0, 0, 1)
