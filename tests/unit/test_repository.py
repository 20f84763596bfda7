"""Facts that keep the repository's files, its documentation and its imports honest."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import tsic
from tsic.config import RunConfig
from tsic.config_file import RUN, Schema, known_keys, load_config, read_config, to_plain
from tsic.pretrain.config import PRETRAIN, PretrainConfig

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tsic"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# Each heavy library enters through these modules alone; those of `LAZY` import it in a function.
DOORS = {
    "transformers": {
        "tsic.teacher.attention",
        "tsic.teacher.mobile_sam",
        "tsic.teacher.norms",
        "tsic.teacher.released",
        "tsic.teacher.sam",
        "tsic.teacher.small",
        "tsic.networks.hugging_face",
    },
    "timm": {"tsic.networks.smp", "tsic.teacher.mobile_sam", "tsic.teacher.norms"},
    "segmentation_models_pytorch": {"tsic.networks.smp"},
    "lightning": {
        "tsic.data.loader",
        "tsic.training.module",
        "tsic.training.callbacks",
        "tsic.training.cost",
        "tsic.training.pace",
        "tsic.training.watch",
        "tsic.training.keep",
        "tsic.training.stopping",
        "tsic.training.loop",
        "tsic.pretrain.module",
        "tsic.pretrain.pictures",
    },
    "torchmetrics": {"tsic.training.diagnostics", "tsic.pretrain.module"},
    "skimage": {"tsic.pretrain.proposals", "tsic.pretrain.regions"},
    "jsonargparse": {"tsic.config_file"},
    "yaml": {
        "tsic.config_file",
        "tsic.data.class_file",
        "tsic.data.readers.yolo",
        "tsic.deploy.card",
        "tsic.yaml_text",
    },
    "filelock": {"tsic.files"},
    "scipy": {"tsic.compare.statistics", "tsic.data.readers.voc"},
    "safetensors": {"tsic.checkpoint", "tsic.teacher.sam"},
    "matplotlib": {"tsic.report", "tsic.compare.report"},
    "jinja2": {"tsic.report"},
    "rich": {"tsic.training.callbacks", "tsic.progress"},
}
LAZY = {"tsic.networks.hugging_face", "tsic.networks.smp"}

# What the cycle joins does not know of one another; prompts are what the teacher is asked with.
STRANGERS = {
    "tsic.student": {"tsic.prompt", "tsic.teacher", "tsic.losses"},
    "tsic.prompt": {"tsic.student", "tsic.teacher", "tsic.losses"},
    "tsic.losses": {"tsic.student", "tsic.prompt", "tsic.teacher"},
    "tsic.teacher": {"tsic.student", "tsic.losses"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(path: Path, *, only_top: bool = False) -> set[str]:
    """Dotted names of the modules that a file imports."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if only_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            names |= inner or {node.module}
    return names


def requirements() -> dict[str, str]:
    """Lower bound of every direct dependency, by normalised name."""
    found = {}
    for text in (*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]):
        match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", text)
        assert match, f"'{text}' has no plain lower bound"
        found[normalised(match[1])] = match[2]
    return found


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    rows = (line.split("==") for line in lines if not line.startswith("#"))
    return {normalised(package): pinned for package, pinned in rows}


def normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def numbers(release: str) -> tuple[int, ...]:
    parts = [int(part) for part in re.findall(r"\d+", release)]
    return (*parts, *[0] * (4 - len(parts)))


def documented_keys(page: str = "train.md") -> Iterator[tuple[str, str]]:
    """Key and default of every row of a page's tables."""
    text = (ROOT / "docs" / page).read_text()
    for row in re.finditer(r"^\| `([\w.]+)` \| `([^`]+)` \|", text, flags=re.MULTILINE):
        yield row[1], row[2]


def leaf(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def sections() -> set[str]:
    return {key.split(".")[0] for key in known_keys() if "." in key}


class TestDocumentation:
    def test_nothing_tells_to_install_another_project(self) -> None:
        """PyPI's tsic is none of this one."""
        files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/*.py")]
        assert [one for one in files if re.search(r"install '?tsic\b", one.read_text())] == []

    def test_train_page_lists_every_key_and_no_other(self) -> None:
        written = [key for key, _ in documented_keys()]
        assert sorted(written) == sorted(set(known_keys()) - sections())

    def test_train_page_states_the_defaults(self) -> None:
        defaults = to_plain(RunConfig())
        told = {key: yaml.safe_load(cell) for key, cell in documented_keys()}
        assert told == {key: leaf(defaults, key) for key in told}

    def test_pretrain_page_lists_every_key_with_its_default(self) -> None:
        shared = [key for key in known_keys(PretrainConfig) if key.startswith("trainer")]
        own = set(known_keys(PretrainConfig)) - {*shared, "source", "optim"}
        told = {key: yaml.safe_load(cell) for key, cell in documented_keys("pretrain.md")}
        defaults = to_plain(PretrainConfig())
        assert told == {key: leaf(defaults, key) for key in own}

    def test_paper_page_states_the_recipes(self) -> None:
        text = (ROOT / "docs" / "paper.md").read_text()
        rows = re.findall(
            r"^\| `((?:teacher|objective)\.\w+)` \| (.+) \| (.+) \| (.+) \|$", text, re.MULTILINE
        )
        recipes = ("release", "paper", "cycle")
        resolved = [to_plain(load_config(None, ["--recipe", recipe])) for recipe in recipes]
        told = {row[0]: [yaml.safe_load(cell.strip("`")) for cell in row[1:]] for row in rows}
        true = {key: [leaf(config, key) for config in resolved] for key in known_keys()}
        assert {key: true[key] for key in told} == told
        differing = {
            key
            for key, values in true.items()
            if key.startswith(("teacher.", "objective."))
            and any(value != values[0] for value in values)
        }
        assert differing - set(told) == set()

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_links_lead_to_files(self, page: Path) -> None:
        targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
        assert [one for one in targets if not (page.parent / one).exists()] == []

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_make_targets_exist(self, page: Path) -> None:
        rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        named = re.findall(r"`make ([a-z][\w-]*)", page.read_text())
        assert sorted(set(named) - set(rules)) == []

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_yaml_examples_of_a_run_hold_known_keys(self, page: Path) -> None:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            example = yaml.safe_load(block)
            if not set(example) <= {*known_keys(), "base"}:
                continue  # a classes file
            for key, value in example.items():
                inner = value if isinstance(value, dict) else {}
                assert [one for one in inner if f"{key}.{one}" not in known_keys()] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_configuration_loads(path: Path) -> None:
    schema: Schema[Any] = PRETRAIN if path.parent.name == "pretrain" else RUN
    assert read_config(schema, path).max_steps >= 1


class TestInstallation:
    def test_oldest_constraints_are_the_lower_bounds(self) -> None:
        assert pins("constraints-oldest.txt") == requirements()

    def test_tested_versions_satisfy_the_lower_bounds(self) -> None:
        tested = pins("constraints.txt")
        short = {
            name: (tested.get(name), bound)
            for name, bound in requirements().items()
            if name not in tested or numbers(tested[name]) < numbers(bound)
        }
        assert short == {}

    @pytest.mark.parametrize("name", ["Makefile", "constraints.txt", "constraints-oldest.txt"])
    def test_nothing_names_a_download_address(self, name: str) -> None:
        assert re.findall(r"\w+://\S+|--(?:index|extra|find)\S+", (ROOT / name).read_text()) == []

    def test_every_dependency_says_why(self) -> None:
        text = (ROOT / "pyproject.toml").read_text()
        block = text[text.index("dependencies = [") : text.index("[project.scripts]")]
        rows = [line for line in block.splitlines() if line.startswith('    "')]
        assert len(rows) == len(PROJECT["project"]["dependencies"])
        assert [row for row in rows if "# " not in row] == []

    def test_version_is_told_once(self) -> None:
        assert version("tsic") == PROJECT["project"]["version"]
        assert getattr(tsic, "__version__", version("tsic")) == PROJECT["project"]["version"]


class TestImports:
    def test_heavy_libraries_have_their_doors(self) -> None:
        users: dict[str, set[str]] = {library: set() for library in DOORS}
        for module, path in MODULES.items():
            for library in {name.split(".")[0] for name in imported(path)} & set(DOORS):
                users[library].add(module)
        assert users == DOORS

    def test_lazy_doors_stay_closed_on_import(self) -> None:
        for module in LAZY:
            top = {name.split(".")[0] for name in imported(MODULES[module], only_top=True)}
            assert top & set(DOORS) == set()

    def test_parts_of_the_cycle_do_not_know_each_other(self) -> None:
        met = [
            (module, name)
            for part, strangers in STRANGERS.items()
            for module, path in MODULES.items()
            if module == part or module.startswith(f"{part}.")
            for name in imported(path)
            if any(name == one or name.startswith(f"{one}.") for one in strangers)
        ]
        assert met == []

    def test_no_module_imports_one_that_imports_it(self) -> None:
        graph = {module: imported(path) & set(MODULES) for module, path in MODULES.items()}
        for package in [name for name, path in MODULES.items() if path.name == "__init__.py"]:
            # A package that only collects its parts stands behind them.
            graph[package] -= {package}
        order = list(TopologicalSorter(graph).static_order())  # raises CycleError
        assert order.index("tsic.errors") < order.index("tsic.cli")

    @pytest.mark.parametrize(
        ("statement", "absent"),
        [
            ("import tsic", ["torch", "numpy"]),
            ("import tsic.cli; tsic.cli.main(['--help'])", ["torch", "numpy", "rich"]),
            # A trained student needs torch and its encoder's library, and nothing of training.
            (
                "import tsic.checkpoint",
                ["transformers", "lightning", "timm", "jsonargparse", "matplotlib"],
            ),
        ],
    )
    def test_light_imports_stay_light(self, statement: str, absent: list[str]) -> None:
        code = f"import json, sys; {statement}; print(); print(json.dumps(list(sys.modules)))"
        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        loaded = json.loads(answer.stdout.splitlines()[-1])
        assert sorted(set(loaded) & set(absent)) == []
