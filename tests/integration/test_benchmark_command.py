"""`tsic benchmark` as a user runs it: real engines, each in its process."""

import json
from pathlib import Path
from typing import Any

import pytest

from tsic.checkpoint import save_student
from tsic.cli import main
from tsic.data.classes import ClassTable
from tsic.deploy.benchmark.turns import take_turns
from tsic.deploy.benchmark.worker import Failure, Task
from tsic.deploy.export import writers
from tsic.errors import not_installed
from tsic.student import build_student

pytestmark = pytest.mark.usefixtures("onnx_operators")
ROW_KEYS = {
    *("engine", "precision", "size", "threads", "batch", "images_per_s", "runs"),
    *("latency_ms", "latency_ms_p10", "latency_ms_p90", "latency_ms_with_processing"),
    *("peak_memory_mib", "file_mib", "parameters", "multiply_adds", "share_of_peak"),
}


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """Folder of a narrow compact student with random weights."""
    network = build_student("compact", num_classes=3, options={"width": 0.25}).eval()
    folder = tmp_path / "run"
    folder.mkdir()
    save_student(folder, network, ClassTable.from_names(("ground", "square", "disc")), {})
    return folder


def test_engines_are_measured_and_a_broken_one_is_told(
    capsys: pytest.CaptureFixture[str],
    student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_all_but_openvino(program: Any, kind: Any, *rest: Any) -> None:
        if kind == "openvino":
            raise not_installed("openvino", "openvino")
        writers.write(program, kind, *rest)

    monkeypatch.setattr("tsic.deploy.benchmark.files.write", write_all_but_openvino)
    out = tmp_path / "new" / "speed.json"
    words = ["--size", "64", "96", "--threads", "1", "--rounds", "2", "--seconds", "0.1"]
    words += ["--engines", "eager", "onnxruntime", "openvino", "--precision", "fp32", "int8"]
    words += ["--json", str(out), "--markdown", str(tmp_path / "speed.md")]
    assert main(["benchmark", str(student), *words]) == 0

    text = capsys.readouterr().out
    assert (tmp_path / "speed.md").read_text() == text
    assert "| onnxruntime | int8 " in text
    for precision in ("fp32", "int8"):
        assert (
            f"- not measured: openvino {precision}: openvino is not installed; in tsic's "
            "repository run "
        ) in text
        assert "-m pip install -e '.[openvino]'\n" in text
    written = json.loads(out.read_text())
    rows = {(row["engine"], row["precision"]): row for row in written["rows"]}
    assert set(rows) == {("eager", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")}
    assert {"machine", "command", "versions"} <= set(written)
    for row in rows.values():
        assert set(row) >= ROW_KEYS
        assert row["runs"] >= 2  # one a round
        assert 0 < row["latency_ms_p10"] <= row["latency_ms"] <= row["latency_ms_p90"]
        assert row["images_per_s"] == pytest.approx(1000 / row["latency_ms"])
        assert row["size"] == [64, 96]
        assert row["share_of_peak"] > 0
    int8, exact = rows["onnxruntime", "int8"], rows["onnxruntime", "fp32"]
    assert int8["file_mib"] < exact["file_mib"]
    weights_mib = (student / "student.safetensors").stat().st_size / 2**20
    assert rows["eager", "fp32"]["file_mib"] == weights_mib


def test_a_process_that_cannot_load_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    task = Task("onnxruntime", "fp32", str(broken), (64, 96), 1, 1)
    found = take_turns([task], rounds=1, seconds=0.1, on_progress=lambda done, total: None)
    failure = found[task]
    assert isinstance(failure, Failure)
    assert "broken.onnx' cannot be read" in failure.reason
