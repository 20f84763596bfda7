"""The benchmark's parts: statistics, counts, turns, the machine and the report."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tsic.cli import main
from tsic.deploy.benchmark import machine
from tsic.deploy.benchmark.plan import Plan, _rebuilt, run_plan
from tsic.deploy.benchmark.report import BenchmarkReport
from tsic.deploy.benchmark.turns import Measured, Spread, multiply_adds, spread, take_turns
from tsic.deploy.benchmark.worker import (
    MATRIX_PRODUCT,
    Failure,
    Task,
    Turn,
    failure_of,
    timed_runs,
)
from tsic.errors import ConfigError
from tsic.files import write_json


def task(engine: str, precision: str = "fp32") -> Task:
    return Task(engine, precision, f"{engine}-{precision}", (64, 96), 2, 1)


class TestSpread:
    def test_values_by_hand(self) -> None:
        # Sorted: 10, 20, 30, 40, 100 ms; p10 lies 0.4 of the way from the first to the second,
        # p90 0.6 of the way from the fourth to the last.
        found = spread([0.040, 0.010, 0.100, 0.030, 0.020])
        assert found == Spread(median=30.0, p10=14.0, p90=76.0, fastest=10.0, runs=5)

    def test_one_run_is_its_own_spread(self) -> None:
        assert spread([0.002]) == Spread(median=2.0, p10=2.0, p90=2.0, fastest=2.0, runs=1)


class TestMultiplyAdds:
    def test_known_layers(self) -> None:
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 10 * 12 * 8 * 3 * 9
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1, groups=4),  # 10 * 12 * 16 * 2 * 9
            nn.Conv2d(16, 5, 1),  # 10 * 12 * 5 * 16
        )
        assert multiply_adds(network, (20, 24)) == 120 * (216 + 288 + 80)

    def test_matrix_products_count(self) -> None:
        class Attention(nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                tokens = images.flatten(2)  # (1, 3, 20)
                return tokens.transpose(1, 2) @ tokens  # (20, 3) times (3, 20)

        assert multiply_adds(Attention(), (4, 5)) == 20 * 3 * 20


class TestTurns:
    def test_runs_until_the_time_is_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []
        clock = itertools.count()  # each look at it takes a second
        monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
        latencies = timed_runs(lambda: calls.append(1), seconds=5.5)
        # Looks: 0 begins; 1, 2 around the first run; 3 < 5.5; 4, 5 around the second; 6 ends.
        assert latencies == (1.0, 1.0)
        assert len(calls) == 2
        assert len(timed_runs(lambda: None, seconds=0)) == 1

    def test_engines_take_turns_and_a_failure_stops_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        class FakeWorker:
            def __init__(self, task: Task) -> None:
                self.name = task.engine

            def load(self) -> Failure | None:
                asked.append(f"load {self.name}")
                return Failure("not here") if self.name == "absent" else None

            def take_turn(self, seconds: float) -> Turn | Failure:
                asked.append(f"{self.name} {seconds}")
                if self.name == "dying" and len(asked) > 6:
                    return Failure("died")
                return Turn((0.001, 0.003), (0.005,), 7.0)

            def stop(self) -> None:
                asked.append(f"stop {self.name}")

        monkeypatch.setattr("tsic.deploy.benchmark.turns._Worker", FakeWorker)
        tasks = [task("eager"), task("absent"), task("dying")]
        told: list[tuple[int, int]] = []
        found = take_turns(
            tasks, rounds=3, seconds=0.5, on_progress=lambda done, total: told.append((done, total))
        )
        loads = ["load eager", "load absent", "load dying"]
        turns = ["eager 0.5", "dying 0.5"] * 2 + ["eager 0.5"]
        assert asked == [*loads, *turns, *[f"stop {one.engine}" for one in tasks]]
        assert told == [(number, 12) for number in range(1, 13)]
        assert found[tasks[0]] == Measured(
            Spread(2.0, 1.0, 3.0, 1.0, 6), Spread(5.0, 5.0, 5.0, 5.0, 3), 7.0
        )
        assert found[tasks[1]] == Failure("not here")
        assert found[tasks[2]] == Failure("died")

    def test_reasons_are_one_line(self) -> None:
        assert failure_of(ConfigError("no compiler")) == Failure("no compiler")
        assert failure_of(ValueError("a\n  b")) == Failure("ValueError: a b")


class TestMachine:
    def test_flags_of_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = {"flags": "fpu avx2 sse4_2 amx_bf16 fma"}
        monkeypatch.setattr(machine, "_cpu_facts", lambda: facts)
        assert machine.cpu_flags() == ["avx2", "fma", "amx_bf16"]
        assert machine.has_bf16()
        facts = {"Features": "fp asimd asimddp"}
        assert machine.cpu_flags() == ["asimd", "asimddp"]
        assert not machine.has_bf16()
        facts = {}  # not Linux
        assert machine.cpu_flags() == []
        assert machine.describe_machine()["cpu"]

    def test_integer_product_is_exact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "MATRIX_SIDE", 48)
        drawn = []
        draw = torch.randint

        def remember(*args: Any, **kwargs: Any) -> torch.Tensor:
            drawn.append(draw(*args, **kwargs))
            return drawn[-1]

        monkeypatch.setattr(torch, "randint", remember)
        product = np.asarray(machine.matrix_product("int8", 1)())
        weights, left = (one.numpy().astype(np.int32) for one in drawn)
        assert np.array_equal(product, [left @ weights])

    def test_versions_of_what_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "_PACKAGES", ("torch", "no-such-package"))
        found = machine.package_versions()
        assert found == {"torch": torch.__version__.split("+")[0], "no-such-package": None}


@pytest.fixture
def report() -> BenchmarkReport:
    """Eager at 100 ms, ONNX Runtime at 40 ms and in int8 at 25 ms, products at 5 ms."""
    facts = {
        "cpu": "A CPU",
        "flags": ["avx2"],
        "cores": 2,
        "memory_gib": 8.0,
        "system": "Linux",
        "python": "3.12",
        "load": 0.0,
    }
    model = {"name": "fpn", "encoder": "resnet18", "classes": 3, "parameters": 2_500_000}
    made = BenchmarkReport(facts, {"torch": "2", "nncf": None}, "tsic benchmark x", model, ["How."])

    def at(milliseconds: float) -> Spread:
        return Spread(milliseconds, milliseconds - 1, milliseconds + 2, milliseconds - 1.5, 9)

    found: dict[Task, Measured | Failure] = {
        task("eager"): Measured(at(100), at(150), 64.0),
        task("onnxruntime"): Measured(at(40), at(90), None),
        task("onnxruntime", "int8"): Measured(at(25), None, 32.0),
        task("openvino"): Failure("openvino is not installed"),
        task(MATRIX_PRODUCT): Measured(Spread(6, 5, 7, 5, 9), None, None),
    }
    made.add(found, 1024**3, {"onnxruntime-int8": 2.5})
    return made


class TestReport:
    def test_rows(self, report: BenchmarkReport, tmp_path: Path) -> None:
        write_json(tmp_path / "b.json", report.to_dict())
        written = json.loads((tmp_path / "b.json").read_text())
        assert written["command"] == "tsic benchmark x"
        eager, exact, int8 = written["rows"]
        assert (exact["engine"], exact["precision"]) == ("onnxruntime", "fp32")
        assert (exact["size"], exact["threads"], exact["batch"]) == ([64, 96], 2, 1)
        spread_ms = [exact[f"latency_ms{end}"] for end in ("_p10", "", "_p90")]
        assert spread_ms == [39, 40, 42]
        assert exact["images_per_s"] == 25
        assert exact["latency_ms_with_processing"] == 90
        assert exact["times_eager"] == 2.5
        assert exact["multiply_adds"] == 1024**3
        # The network's multiply-adds are those of one product, whose fastest took 5 ms.
        assert exact["bound_ms"] == pytest.approx(5)
        assert exact["share_of_peak"] == pytest.approx(5 / 40)
        assert eager["peak_memory_mib"] == 64
        assert int8["file_mib"] == 2.5
        assert int8["share_of_peak"] is None  # no product in int8 was measured
        assert int8["latency_ms_with_processing"] is None
        assert written["failures"][0]["reason"] == "openvino is not installed"
        assert written["matrix_products"][0]["multiply_adds_per_s"] == pytest.approx(
            1024**3 / 0.005
        )

    def test_several_images_at_a_time(self, report: BenchmarkReport) -> None:
        report.rows.clear()
        four = replace(task("eager"), batch=4)
        product = replace(task(MATRIX_PRODUCT), batch=4)
        fastest = Spread(6, 5, 7, 5, 9)
        report.add(
            {
                four: Measured(Spread(50, 49, 51, 48, 9), Spread(80, 70, 90, 60, 9), None),
                product: Measured(fastest, None, None),
            },
            1024**3,
            {},
        )
        (row,) = report.rows
        assert row["images_per_s"] == 80
        assert row["images_per_s_with_processing"] == 50
        assert row["bound_ms"] == pytest.approx(20)  # four of 5 ms
        assert row["share_of_peak"] == pytest.approx(20 / 50)
        assert "4.29 G multiply-adds take" in report.to_markdown()

    def test_files_of_the_user_s_are_not_compared(self, report: BenchmarkReport) -> None:
        """They may be of another student."""
        told = report.to_markdown().splitlines()[-3]
        report.rows.append({**report.rows[1], "file": "other.onnx", "times_eager": 9.0})
        assert report.to_markdown().splitlines()[-3] == told
        assert "| onnxruntime, other.onnx" in report.to_markdown()

    def test_markdown(self, report: BenchmarkReport) -> None:
        lines = report.to_markdown().splitlines()
        assert lines[0] == "## fpn on resnet18"
        assert lines[2].startswith(
            "2.50 M parameters, 3 classes. Measured on A CPU (avx2), 2 cores"
        )
        assert "torch 2, nncf missing. Load when it began: 0.00. How." in lines[2]
        assert "### 64x96, 2 threads, batch 1" in lines
        table = [line for line in lines if line.startswith("|")]
        assert len({len(line) for line in table}) == 1
        assert [cell.strip() for cell in table[3].strip("|").split("|")] == [
            *("onnxruntime", "fp32", "40.0", "39.0 to 42.0", "25.0", "2.50", "12 %", "90.0"),
            *("-", "-"),
        ]
        assert "Fastest in fp32: onnxruntime, 2.50 x eager." in lines[-3]
        assert "int8: onnxruntime 1.60 x its fp32." in lines[-3]
        assert "5.0 ms in fp32 (214.7 G/s)" in lines[-3]
        assert lines[-1] == "- not measured: openvino fp32: openvino is not installed"

    def test_a_setting_that_only_failed_is_told(self, report: BenchmarkReport) -> None:
        report.rows.clear()
        text = report.to_markdown()
        assert "### 64x96, 2 threads, batch 1\n\n- not measured: openvino fp32" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "the following arguments are required: STUDENT; see tsic benchmark --help"),
        (["x", "--engines", "onnx"], "--engines 'onnx' is unknown; did you mean 'onnxruntime'?"),
        (["x", "--precision", "int4"], "--precision 'int4' is unknown; did you mean 'int8'?"),
        (["x", "--threads", "0"], "--threads, --batch and --rounds must be at least 1"),
        (["x", "--size", "64", "-1"], "--size, --threads, --batch and --rounds must be at least 1"),
        (["x", "--seconds", "0"], "--seconds must be above 0 and at most 60, got 0.0"),
        (["nothing"], "no student at 'nothing'"),
        (["nothing.onnx"], "no exported file at 'nothing.onnx'"),
        (["nothing.onnx", "--precision", "int8"], "'nothing.onnx' is measured as it was exported"),
    ],
)
def test_mistakes_get_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *words]) == 2
    text = capsys.readouterr().err
    assert expected in text
    assert len(text.splitlines()) == 1


def test_a_file_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed:
        path = Path("a.onnx")
        size = (64, 96)
        only_batch = 1

    monkeypatch.setattr("tsic.deploy.benchmark.plan._open", lambda plan: (None, [Fixed()]))
    plan = Plan("a.onnx", (), ((32, 48),), (1,), (), ("eager",), ("fp32",), 1, 0.1)
    with pytest.raises(
        ConfigError, match=r"'a.onnx' takes 1 images of 64x96 at a time, not 1 of 32x48"
    ):
        run_plan(plan)


def test_nothing_to_measure_is_refused() -> None:
    plan = Plan("student", (), ((32, 48),), (1,), (), ("eager",), ("int8",), 1, 0.1)
    with pytest.raises(ConfigError, match="no engine of eager computes in int8"):
        run_plan(plan)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "owner/name", "options": {"trust_remote_code": True}},
        {"name": "owner/name", "options": {"config": {"auto_map": {"AutoConfig": "a.B"}}}},
        {"name": "my_networks:Tiny"},
        {"name": "nothing"},
    ],
)
def test_a_file_s_description_runs_no_code(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object, **__: object) -> None:
        raise AssertionError("something was fetched or imported")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", built)
    monkeypatch.setattr("importlib.import_module", built)
    model: Any = SimpleNamespace(path=Path("a.onnx"), metadata={"spec": spec | {"num_classes": 3}})
    assert _rebuilt(model) is None
