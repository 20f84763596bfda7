import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.metrics import jaccard_score, recall_score
from torch import Tensor

from tsic.checkpoint import load_student, save_student
from tsic.cli import main
from tsic.data.classes import ClassTable
from tsic.data.dataset import SegmentationDataset
from tsic.data.readers import open_dataset
from tsic.deploy import inference
from tsic.deploy.inference import WHOLE, View
from tsic.deploy.model import Gives
from tsic.errors import ConfigError, DataError, ShapeError
from tsic.evaluation.boundary import boundary_counts
from tsic.evaluation.evaluate import Report, ScorerModel, Trimap, evaluate
from tsic.files import write_json
from tsic.grid import Size
from tsic.student import build_student

Array = npt.NDArray[Any]
WEIGHTS = np.array([[1.0, 0.5, 1.0], [2.0, 0.2, 0.1], [0.2, 0.3, 1.9]])
STRIDE = 4


def score(images: Tensor) -> Tensor:
    """A linear network on averages of 4x4 pixels."""
    pooled = torch.nn.functional.avg_pool2d(images, STRIDE)
    return torch.einsum("kc,bchw->bkhw", torch.tensor(WEIGHTS, dtype=torch.float32), pooled)


def enlarged(scores: Array, axis: int) -> Array:
    """Bilinear by 4 along one axis: cell centres, borders repeated."""
    at = ((np.arange(scores.shape[axis] * STRIDE) + 0.5) / STRIDE - 0.5).clip(
        0, scores.shape[axis] - 1
    )
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, scores.shape[axis] - 1)
    weight = (at - low).reshape([-1 if d == axis else 1 for d in range(3)])
    return scores.take(low, axis) * (1 - weight) + scores.take(high, axis) * weight


def by_hand(root: Path, split: str) -> dict[str, Any]:
    """The same network and its scores in NumPy, from the files."""
    inter, union, right, seen = np.zeros(3), np.zeros(3), 0, 0
    for file in sorted((root / split / "images").iterdir()):
        image = np.asarray(Image.open(file)).astype(float) / 255
        mask = np.asarray(Image.open(root / split / "masks" / file.name))
        pooled = image.reshape(16, STRIDE, 24, STRIDE, 3).mean((1, 3))
        scores = enlarged(enlarged(pooled @ WEIGHTS.T, 0), 1)
        predicted, valid = scores.argmax(-1), mask != 255
        for k in range(3):
            inter[k] += ((predicted == k) & (mask == k)).sum()
            union[k] += (((predicted == k) | (mask == k)) & valid).sum()
        right += (predicted == mask).sum()
        seen += valid.sum()
    return {
        "miou": 100 * (inter / union).mean(),
        "pixel_accuracy": 100 * right / seen,
        "per_class_iou": dict(zip(("ground", "square", "disc"), 100 * inter / union, strict=True)),
    }


@pytest.fixture
def dataset(folder_dataset: Path) -> SegmentationDataset:
    return open_dataset("folder", folder_dataset, "train")


def test_evaluate_equals_an_independent_computation(
    dataset: SegmentationDataset, folder_dataset: Path
) -> None:
    expected = by_hand(folder_dataset, "train")
    report = evaluate(score, dataset)
    assert 20 < expected["miou"] < 95
    assert report.miou == pytest.approx(expected["miou"])
    assert report.pixel_accuracy == pytest.approx(expected["pixel_accuracy"])
    assert report.per_class_iou == pytest.approx(expected["per_class_iou"])
    assert report.images == 6
    assert report.confusion.sum() == 6 * 63 * 96


def test_evaluate_shows_one_image_at_a_time_without_gradient(dataset: SegmentationDataset) -> None:
    seen: list[tuple[int, ...]] = []
    progress: list[tuple[int, int]] = []

    def watching(images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        assert images.dtype == torch.float32
        assert 0.5 < images.max() <= 1
        seen.append(tuple(images.shape))
        return score(images)

    evaluate(watching, dataset, on_progress=lambda done, total: progress.append((done, total)))
    assert seen == [(1, 3, 64, 96)] * 6
    assert progress == [(done, 6) for done in range(1, 7)]
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("classes", [2, 4])
def test_evaluate_refuses_a_network_of_other_classes(
    dataset: SegmentationDataset, classes: int
) -> None:
    message = rf"the network knows {classes} classes, but .*shapes has 3; evaluate on data with"
    with pytest.raises(DataError, match=message):
        evaluate(lambda images: torch.zeros(1, classes, 4, 4), dataset)


class Seeing:
    """A `Model` that tells the drawn shapes by their colour, two pixels aside; gives labels."""

    gives: Gives = "labels"
    only_size: Size | None = None
    only_batch: int | None = 2
    resize: Size | None = None
    device = torch.device("cpu")

    def __init__(self, names: tuple[str, ...] = ("ground", "square", "disc")) -> None:
        self.classes = ClassTable.from_names(names)

    def __call__(self, images: Tensor) -> Tensor:
        assert len(images) == 2
        colours = torch.tensor([[90, 120, 90], [200, 60, 50], [50, 80, 210]]) / 255
        distance = (images[:, None] - colours[None, :, :, None, None]).square().sum(2)
        return distance.argmin(1).roll(2, -1)


def read_all(dataset: SegmentationDataset, model: Seeing) -> tuple[Array, Array]:
    """Labels and predictions of all images, ``(N, H, W)`` each."""
    pairs = [dataset.read(i) for i in range(len(dataset))]
    truth = np.stack([labels.numpy() for _, labels in pairs])
    shown = [torch.stack([image, image]).float() / 255 for image, _ in pairs]
    return truth, np.stack([model(images)[0].numpy() for images in shown])


def test_every_score_of_a_model_equals_scikit_learn(dataset: SegmentationDataset) -> None:
    report = evaluate(Seeing(), dataset, boundary=True, trimap=2)
    truth, guess = read_all(dataset, Seeing())
    valid = truth != 255
    near = np.zeros_like(valid)
    for i, one in enumerate(truth):
        for value in np.unique(one):
            mask = one == value
            kept = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=2, border_value=1)
            near[i] |= mask & ~kept
    for band, iou in (
        (valid, report.per_class_iou),
        (valid & near, report.trimap.per_class_iou(report.class_names) if report.trimap else {}),
    ):
        expected = 100 * jaccard_score(truth[band], guess[band], average=None)
        assert list(iou.values()) == pytest.approx(list(expected))
    assert 80 < report.miou < 99
    accuracy = 100 * recall_score(truth[valid], guess[valid], average=None)
    assert list(report.per_class_accuracy.values()) == pytest.approx(list(accuracy))
    assert report.mean_accuracy == pytest.approx(accuracy.mean())
    counts = sum(
        boundary_counts(torch.from_numpy(g).to(torch.uint8), torch.from_numpy(t), 3)
        for g, t in zip(guess, truth, strict=True)
    )
    assert isinstance(counts, Tensor)
    assert report.boundary_iou is not None
    assert report.boundary_iou == pytest.approx(100 * (counts[0] / counts[1]).mean().item())
    assert 20 < report.boundary_iou < report.miou - 10


def test_views_reach_the_model(dataset: SegmentationDataset) -> None:
    seen: list[tuple[int, ...]] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return score(images)

    view = View(crop=(32, 48), stride=(32, 48), flip=True)
    report = evaluate(watching, dataset, view=view)
    assert {shape[1:] for shape in seen} == {(3, 32, 48)}
    assert sum(shape[0] for shape in seen) >= 6 * 4 * 2
    assert report.view == view
    assert report.confusion.sum() == 6 * 63 * 96
    with pytest.raises(ConfigError, match="answers with labels"):
        evaluate(Seeing(), dataset, view=view)


def test_large_images_are_shown_as_predict_shows_them(
    dataset: SegmentationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = View(crop=(32, 32), stride=(24, 24))
    monkeypatch.setattr(inference, "WHOLE_PIXELS", 64 * 96 - 1)
    monkeypatch.setattr(inference, "WINDOWS", windows)
    report = evaluate(score, dataset)
    assert report.view == windows
    assert torch.equal(report.confusion, evaluate(score, dataset, view=windows).confusion)
    assert not torch.equal(report.confusion, evaluate(score, dataset, view=WHOLE).confusion)
    resized = ScorerModel(score, dataset, "cpu", resize=(32, 48))
    assert evaluate(resized, dataset).view == WHOLE, "it has never seen a part of an image"


def test_evaluate_refuses_what_cannot_be_scored(dataset: SegmentationDataset) -> None:
    ours = "ground, square, disc"
    for names in (("a", "b"), ("disc", "square", "ground")):
        told = f"the model knows the classes {', '.join(names)}, but '.*shapes' has {ours}; "
        with pytest.raises(DataError, match=told):
            evaluate(Seeing(names), dataset)
    for one, other in ((dataset.root, dataset), (Seeing(), str(dataset.root))):
        with pytest.raises(ConfigError, match=r"shapes' is a path; open it with tsic\."):
            evaluate(one, other)  # type: ignore[arg-type]
    for answer, got in ((torch.zeros(3, 4, 4), r"\(3, 4, 4\)"), (score, "function")):
        with pytest.raises(ShapeError, match=rf"with scores \(1, K, h, w\), got {got}; "):
            evaluate(lambda images, answer=answer: answer, dataset)  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"in training mode, .*call its eval\(\) first"):
        evaluate(torch.nn.Conv2d(3, 3, 1), dataset)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Conv2d(3, 3, 1)).eval()
    network[0].train()
    with pytest.raises(ConfigError, match="in training mode"):
        evaluate(network, dataset)
    with pytest.raises(ConfigError, match="trimap must be at least 1 pixel, got 0"):
        evaluate(Seeing(), dataset, trimap=0)


def test_a_damaged_file_is_named(dataset: SegmentationDataset) -> None:
    dataset.samples[3].image.write_bytes(b"no image")
    with pytest.raises(DataError, match=dataset.samples[3].image.name):
        evaluate(score, dataset)


REPORT = Report(("road", "car", "tram"), torch.tensor([[6, 2, 0], [0, 2, 0], [0, 0, 0]]), 5)
FULL = replace(
    REPORT,
    view=View(crop=(8, 9), flip=True),
    boundary=torch.tensor([[3, 1, 0], [4, 2, 0]]),
    trimap=Trimap(3, torch.tensor([[2, 1, 0], [1, 0, 0], [0, 0, 0]])),
)


def test_report_to_dict_holds_percent_by_name_and_null_for_absent_classes(tmp_path: Path) -> None:
    expected = {
        "miou": pytest.approx(62.5),
        "mean_accuracy": pytest.approx(87.5),
        "pixel_accuracy": pytest.approx(80.0),
        "per_class_iou": {"road": pytest.approx(75.0), "car": pytest.approx(50.0), "tram": None},
        "per_class_accuracy": {"road": pytest.approx(75), "car": pytest.approx(100), "tram": None},
        "confusion_matrix": [[6, 2, 0], [0, 2, 0], [0, 0, 0]],
        "images": 5,
        "view": {"crop": None, "stride": None, "flip": False, "scales": [1.0]},
    }
    assert REPORT.to_dict() == expected
    write_json(tmp_path / "evaluation.json", REPORT.to_dict())
    assert json.loads((tmp_path / "evaluation.json").read_text()) == expected
    asked_for = {
        "boundary_iou": pytest.approx(62.5),
        "per_class_boundary_iou": {"road": 75.0, "car": 50.0, "tram": None},
        "trimap_px": 3,
        "trimap_iou": pytest.approx(25.0),
        "per_class_trimap_iou": {"road": 50.0, "car": 0.0, "tram": None},
        "view": {"crop": [8, 9], "stride": [5, 6], "flip": True, "scales": [1.0]},
    }
    assert FULL.to_dict() == expected | asked_for
    nowhere = replace(FULL, trimap=Trimap(3, torch.zeros(3, 3, dtype=torch.int64)))
    assert nowhere.to_dict()["trimap_iou"] is None
    assert nowhere.to_table().splitlines()[5].split("|")[5].strip() == "-", "the mean"


def test_report_to_table_has_a_row_per_class_and_the_means() -> None:
    assert REPORT.to_table().splitlines() == [
        "| class          | IoU % | accuracy % |",
        "|----------------|------:|-----------:|",
        "| road           | 75.00 |      75.00 |",
        "| car            | 50.00 |     100.00 |",
        "| tram           |     - |          - |",
        "| mean           | 62.50 |      87.50 |",
        "| pixel accuracy |       |      80.00 |",
    ]
    assert FULL.to_table().splitlines()[:3] == [
        "| class          | IoU % | accuracy % | boundary IoU % | IoU % within 3 px |",
        "|----------------|------:|-----------:|---------------:|------------------:|",
        "| road           | 75.00 |      75.00 |          75.00 |             50.00 |",
    ]
    assert FULL.to_table().splitlines()[-1] == (
        "| pixel accuracy |       |      80.00 |                |                   |"
    )


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Weights of a random student of the drawn shapes."""
    network = build_student("compact", num_classes=3, options={"width": 0.25})
    classes = ClassTable.from_names(("ground", "square", "disc"))
    return save_student(tmp_path, network, classes, {}).weights


def test_the_command_scores_in_windows_and_writes_both_files(
    student: Path,
    folder_dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    data = ["--data.name", "folder", "--data.root", str(folder_dataset), "--threads", "3"]
    json_file, table = tmp_path / "new" / "scores.json", tmp_path / "scores.md"
    view = ["--crop", "32", "48", "--stride", "16", "24", "--flip", "--scales", "0.5", "1"]
    files = ["--json", str(json_file), "--markdown", str(table)]
    asked = [*view, "--boundary", "--trimap", "3", *files]
    assert main(["evaluate", str(student), *data, *asked]) == 0
    assert capsys.readouterr().out == table.read_text()
    assert threads == [3]
    assert "| IoU % within 3 px |" in table.read_text()
    written = json.loads(json_file.read_text())
    expected = evaluate(
        load_student(student),
        open_dataset("folder", folder_dataset, "val"),
        view=View((32, 48), (16, 24), flip=True, scales=(0.5, 1.0)),
        boundary=True,
        trimap=3,
    )
    assert written == expected.to_dict()
    assert written["view"]["scales"] == [0.5, 1.0]


def test_the_run_s_class_table_is_for_the_run_s_data_alone(
    folder_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, root = tmp_path / "own.yaml", str(folder_dataset)
    table.write_text("classes: [a, b, c]")
    network = build_student("compact", num_classes=3, options={"width": 0.25})
    save_student(tmp_path, network, ClassTable.from_names(("a", "b", "c")), {})
    data = {"name": "folder", "root": root, "classes": str(table)}
    (tmp_path / "config.yaml").write_text(json.dumps({"data": data}))
    assert main(["evaluate", str(tmp_path)]) == 0
    assert "| a  " in capsys.readouterr().out
    other = ["--data.name", "folder", "--data.root", root]
    assert main(["evaluate", str(tmp_path), *other]) == 2
    assert "knows the classes a, b, c, but" in capsys.readouterr().err


def test_a_student_by_name_has_no_data_in_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("data: {name: folder, root: elsewhere}\n")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "zoo:camvid-compact"]) == 2
    assert "say --data.name and --data.root" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--stride", "8", "8"], "say crop, too"),
        (["--crop", "8"], "expected 2 arguments"),
        (["--trimap", "0"], "--trimap must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--scales", "-1"], "scales must be ratios above 0"),
        (["--data.root", "here"], "that tells its data; say --data.name\n"),
        ([], "has no config.yaml beside it that tells its data; say --data.name and --data.root"),
    ],
)
def test_the_command_tells_mistakes_in_one_sentence(
    student: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(student), *words]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1
