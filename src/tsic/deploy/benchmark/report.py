"""What a benchmark found: rows for a program, tables for a reader."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsic.deploy.benchmark.turns import Measured, products_per_second
from tsic.deploy.benchmark.worker import MATRIX_PRODUCT, Failure, Task
from tsic.markdown import to_markdown

Row = dict[str, Any]

_HEADINGS = (
    *("engine", "precision", "ms", "p10 to p90", "images/s", "x eager", "of peak"),
    *("ms with processing", "memory MiB", "file MiB"),
)


@dataclass
class BenchmarkReport:
    """Everything that was measured, and what could not be.

    Args:
        machine: As `tsic.deploy.benchmark.machine.describe_machine` tells it.
        versions: Versions of the packages.
        command: The words that measure it again.
        model: What was measured: ``name``, ``encoder``, ``classes``, ``parameters``.
        notes: Sentences on how it was measured.
        rows: One per engine, precision, size, number of threads and batch.
        products: Multiply-adds per second of a matrix product, per precision and threads.
        failures: What could not be measured, with the reason.
    """

    machine: dict[str, Any]
    versions: dict[str, str | None]
    command: str
    model: dict[str, Any]
    notes: list[str]
    rows: list[Row] = field(default_factory=list)
    products: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)

    def add(
        self,
        found: Mapping[Task, Measured | Failure],
        multiply_adds: int | None,
        files_mib: Mapping[str, float],
    ) -> None:
        """Take in what was found at one size, number of threads and batch.

        Args:
            found: What each task found.
            multiply_adds: Of one image; ``None`` if unknown.
            files_mib: Size of each task's file, by its path.
        """
        per_second: dict[str, float] = {}
        for task, one in found.items():
            if isinstance(one, Failure):
                self.failures.append(_setting(task) | {"reason": one.reason})
            elif task.engine == MATRIX_PRODUCT:
                per_second[task.precision] = products_per_second(one)
                self.products.append(
                    _setting(task) | {"multiply_adds_per_s": per_second[task.precision]}
                )
        networks = {
            task: one
            for task, one in found.items()
            if isinstance(one, Measured) and task.engine != MATRIX_PRODUCT
        }
        eager = [one.network.median for task, one in networks.items() if task.engine == "eager"]
        for task, one in networks.items():
            row = _setting(task) | _times(task, one)
            row |= {
                "peak_memory_mib": one.peak_memory_mib,
                "file_mib": files_mib.get(task.path),
                "parameters": self.model["parameters"],
                "multiply_adds": multiply_adds,
                "times_eager": eager[0] / one.network.median if eager else None,
                **_limit(task, one, multiply_adds, per_second.get(task.precision)),
            }
            self.rows.append(row)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the JSON file; times are milliseconds, sizes MiB."""
        return {
            "machine": self.machine,
            "command": self.command,
            "versions": self.versions,
            "model": self.model,
            "notes": self.notes,
            "rows": self.rows,
            "matrix_products": self.products,
            "failures": self.failures,
        }

    def to_markdown(self) -> str:
        """The machine, a table per size, threads and batch, and what is physically left."""
        parts = [f"## {self._title()}", self._about()]
        settings = {_key(row): row for row in (*self.rows, *self.failures)}
        for key, setting in settings.items():
            rows = [row for row in self.rows if _key(row) == key]
            parts.append(f"### {_heading(setting)}")
            if rows:
                parts.append(to_markdown([_HEADINGS, *map(_cells, rows)], texts=2))
                parts.append(" ".join([*_ratios(rows), *self._left(rows)]))
            failures = [row for row in self.failures if _key(row) == key]
            reasons = [f"{_name(row)} {row['precision']}: {row['reason']}" for row in failures]
            parts.append("\n".join(f"- not measured: {one}" for one in reasons))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _title(self) -> str:
        on = f" on {self.model['encoder']}" if self.model.get("encoder") else ""
        return f"{self.model['name']}{on}"

    def _about(self) -> str:
        machine = self.machine
        flags = ", ".join(machine["flags"]) or "no vector flags known"
        load = "" if machine["load"] is None else f" Load when it began: {machine['load']:.2f}."
        versions = ", ".join(f"{name} {is_ or 'missing'}" for name, is_ in self.versions.items())
        known = self.model["parameters"]
        size = "" if known is None else f"{known / 1e6:.2f} M parameters, "
        return (
            f"{size}{self.model['classes']} classes. Measured on {machine['cpu']} ({flags}), "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, Python "
            f"{machine['python']}; {versions}.{load} {' '.join(self.notes)}\n\n"
            f"    {self.command}"
        )

    def _left(self, rows: Sequence[Row]) -> list[str]:
        """What the arithmetic alone takes, as fast as this machine multiplies matrices."""
        bounds = {row["precision"]: row["bound_ms"] for row in rows if row["bound_ms"]}
        if not bounds:
            return []
        count = rows[0]["multiply_adds"] * rows[0]["batch"]
        told = ", ".join(
            f"{bound:.1f} ms in {precision} ({count / bound / 1e6:.1f} G/s)"
            for precision, bound in bounds.items()
        )
        return [
            f"{count / 1e9:.2f} G multiply-adds take, at the speed of this machine's matrix "
            f"product, {told}."
        ]


def _setting(task: Task) -> Row:
    return {
        "engine": task.engine,
        "precision": task.precision,
        "file": task.file,
        "size": list(task.size),
        "threads": task.threads,
        "batch": task.batch,
    }


def _key(row: Row) -> tuple[int, ...]:
    return (*row["size"], row["threads"], row["batch"])


def _times(task: Task, one: Measured) -> Row:
    """Latencies without processing, then with it."""
    found: Row = {}
    for suffix, times in (("", one.network), ("_with_processing", one.processed)):
        found |= {
            f"latency_ms{suffix}": times.median if times else None,
            f"latency_ms_p10{suffix}": times.p10 if times else None,
            f"latency_ms_p90{suffix}": times.p90 if times else None,
            f"images_per_s{suffix}": 1000 * task.batch / times.median if times else None,
            f"runs{suffix}": times.runs if times else 0,
        }
    return found


def _limit(task: Task, one: Measured, multiply_adds: int | None, per_second: float | None) -> Row:
    """Time of the multiply-adds alone, and which share of the latency that is."""
    if not multiply_adds or not per_second:
        return {"bound_ms": None, "share_of_peak": None}
    bound_ms = 1000 * multiply_adds * task.batch / per_second
    return {"bound_ms": bound_ms, "share_of_peak": bound_ms / one.network.median}


def _heading(row: Row) -> str:
    height, width = row["size"]
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
    return f"{height}x{width}, {threads}, batch {row['batch']}"


def _cells(row: Row) -> tuple[str, ...]:
    share = row["share_of_peak"]
    return (
        _name(row),
        row["precision"],
        f"{row['latency_ms']:.1f}",
        f"{row['latency_ms_p10']:.1f} to {row['latency_ms_p90']:.1f}",
        f"{row['images_per_s']:.1f}",
        _number(row["times_eager"], 2),
        "-" if share is None else f"{100 * share:.0f} %",
        _number(row["latency_ms_with_processing"], 1),
        _number(row["peak_memory_mib"], 0),
        _number(row["file_mib"], 1),
    )


def _name(row: Row) -> str:
    return row["engine"] if row["file"] is None else f"{row['engine']}, {row['file']}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ratios(rows: Sequence[Row]) -> list[str]:
    """The two ratios that a choice of engine rests on, of the student's own rows."""
    said = []
    own = [row for row in rows if row["file"] is None]  # files may give or take something else
    exact = [row for row in own if row["precision"] == "fp32" and row["times_eager"]]
    if len(exact) > 1:
        best = max(exact, key=lambda row: row["times_eager"])
        said.append(f"Fastest in fp32: {best['engine']}, {best['times_eager']:.2f} x eager.")
    base = {row["engine"]: row["latency_ms"] for row in own if row["precision"] == "fp32"}
    faster = [
        f"{row['engine']} {base[row['engine']] / row['latency_ms']:.2f} x its fp32"
        for row in own
        if row["precision"] == "int8" and row["engine"] in base
    ]
    return [*said, f"int8: {', '.join(faster)}."] if faster else said
