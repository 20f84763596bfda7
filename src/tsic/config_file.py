"""The only reader and writer of configurations in YAML."""

import dataclasses
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import jsonargparse
import yaml

from tsic.command_line import Parser
from tsic.config import RunConfig
from tsic.config_rules import Broken, broken_in_run
from tsic.config_words import near_key, normalised
from tsic.errors import ConfigError, nearest
from tsic.files import at_home, write_text
from tsic.recipes import RECIPES
from tsic.yaml_text import load_yaml

jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)

C = TypeVar("C")


@dataclass(frozen=True, eq=False)
class Schema(Generic[C]):
    """A kind of configuration.

    Attributes:
        kind: Its dataclass.
        verb: The command that takes it.
        broken: What types do not express, of a configuration in which it does not hold.
        recipes: Presets by the value of the key ``recipe``; none if there is no such key.
        gone: Keys that earlier versions wrote into every run, and the only value they could have.
    """

    kind: type[C]
    verb: str
    broken: Callable[[C], Broken]
    recipes: Mapping[str, Mapping[str, Any]]
    gone: Mapping[str, Any]

    def require_rules(self, config: C) -> None:
        """Refuse values that cannot work, together.

        Raises:
            ConfigError: Naming each and what it may be.
        """
        if broken := list(self.broken(config)):
            raise ConfigError("; ".join(broken))


def known_keys(config_class: type = RunConfig, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration, sections included."""
    keys = []
    for item in dataclasses.fields(config_class):
        keys.append(prefix + item.name)
        if dataclasses.is_dataclass(item.type):
            assert isinstance(item.type, type)
            keys += known_keys(item.type, f"{prefix}{item.name}.")
    return keys


def load_config(
    path: str | Path | None, overrides: Sequence[str] = (), verb: Parser | None = None
) -> RunConfig:
    """Read a run's configuration; see ``read_config``."""
    return read_config(RUN, path, overrides, verb)


def read_config(
    schema: Schema[C],
    path: str | Path | None,
    overrides: Sequence[str] = (),
    verb: Parser | None = None,
) -> C:
    """Read a configuration: defaults, recipe, parent file, file, then overrides.

    Args:
        schema: What kind of configuration.
        path: YAML file that states differences from the defaults; it may name one parent, relative
            to itself, as ``base: other.yaml``. ``None`` starts from the defaults.
        overrides: Command-line words, ``--data.root DIR`` or ``--data.root=DIR``.
        verb: Whose words these are: a misspelt one may mean one of its options.

    Returns:
        The complete configuration.

    Raises:
        ConfigError: Naming every unknown key with the nearest right one, and every wrong value.
    """
    kind: Any = schema.kind
    fields = dataclasses.fields(kind)
    sections = {
        item.name: dict[str, Any]() for item in fields if dataclasses.is_dataclass(item.type)
    }
    written = _merge(sections, _read_file(Path(path)) if path is not None else {})
    for name in sections:
        if not isinstance(written[name], Mapping):
            raise ConfigError(f"{name} must hold keys and values, got {written[name]!r}")
    for key, value in schema.gone.items():
        section, _, name = key.partition(".")
        if written[section].get(name) == value:
            written[section] = {k: v for k, v in written[section].items() if k != name}
    words = normalised(overrides)
    typed = [word[2:] for word in words[::2]]
    _refuse_unknown(schema, [key for key, _ in _leaves(written)], typed, path, verb)
    return _checked(schema, _merge(_recipe(schema, written, words), written), words)


def with_values(schema: Schema[C], config: C, values: Mapping[str, Any]) -> C:
    """Change some dotted keys of a configuration.

    Raises:
        ConfigError: As ``read_config``.
    """
    _refuse_unknown(schema, [], list(values), None)
    words = [
        word
        for key, value in values.items()
        for word in (f"--{key}", value if isinstance(value, str) else json.dumps(value))
    ]
    return _checked(schema, to_plain(config), words)


def _checked(schema: Schema[C], merged: Mapping[str, Any], words: Sequence[str]) -> C:
    config = _parse(schema, merged, words)
    empty = [
        f"{key} must be of type {kind.__name__}, got None"
        for key, value in _leaves(to_plain(config))
        if value is None and isinstance(kind := _type_of(schema.kind, key), type)
    ]
    if empty:
        raise ConfigError("; ".join(empty))
    schema.require_rules(config)
    return config


def _recipe(
    schema: Schema[C], written: Mapping[str, Any], words: Sequence[str]
) -> Mapping[str, Any]:
    """The preset that is asked for."""
    if not schema.recipes:
        return {}
    said = dict(zip(words[::2], words[1::2], strict=True))  # of a word said twice the last
    recipe = said.get("--recipe") or written.get("recipe", "cycle")
    if not isinstance(recipe, str) or recipe not in schema.recipes:
        raise ConfigError(f"recipe '{recipe}' is unknown; {nearest(str(recipe), schema.recipes)}")
    return schema.recipes[recipe]


def save_config(config: Any, path: Path) -> None:
    """Write the fully resolved configuration; ``read_config`` reads it back equal."""
    write_text(path, yaml.safe_dump(to_plain(config), sort_keys=False))


def to_plain(config: Any) -> dict[str, Any]:
    """The configuration as nested dictionaries of plain YAML values."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def differences(one: C, other: C) -> list[str]:
    """Dotted keys whose values differ, as ``key: one -> other``."""
    left, right = (dict(_leaves(to_plain(config))) for config in (one, other))
    return [
        f"{key}: {left.get(key)} -> {right.get(key)}"
        for key in sorted({*left, *right})
        if left.get(key) != right.get(key)
    ]


@cache  # to build one takes a tenth of a second and more
def parser(schema: Schema[C]) -> jsonargparse.ArgumentParser:
    """The typed parser of every key, which also writes ``--help``."""
    built = jsonargparse.ArgumentParser(prog=schema.verb, exit_on_error=False, default_env=False)
    built.add_argument("--config", action="config", help="YAML file of differences from defaults")
    built.add_class_arguments(schema.kind)
    return built


def _read_file(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping merged over its parent's; ``below`` are the files that have it as a base."""
    if path.is_dir():
        raise ConfigError(f"configuration '{path}' is a folder; name a YAML file")
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise ConfigError(
            f"configuration file '{path}' does not exist; {nearest(path.name, siblings)}"
        )
    try:
        written = load_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"'{path}' is no UTF-8 text; give a YAML file") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        why = f" in line {where.line + 1}; check indentation and quotes" if where else f": {error}"
        raise ConfigError(f"'{path}' is not valid YAML{why}") from error
    if not isinstance(written, dict):
        raise ConfigError(f"'{path}' must hold keys and values, got a {type(written).__name__}")
    written = _from_home(_nested(written, path))
    base = written.pop("base", None)
    if not base:
        return written
    if not isinstance(base, str):
        raise ConfigError(f"'{path}': base must name one file, got {base!r}")
    parent = path.parent / base
    below = (*below, path.resolve())
    if parent.resolve() in below:
        raise ConfigError(f"'{path}' has itself as a base, through base: {base}; remove that line")
    return _merge(_read_file(parent, below), written)


def _nested(written: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Keys with dots as sections, in which they count as what stands there."""
    nested: dict[str, Any] = {}
    for key, value in written.items():
        for name in reversed(str(key).split(".")):
            value = {name: value}
        twice = {one for one, _ in _leaves(nested)} & {one for one, _ in _leaves(value)}
        if twice:
            raise ConfigError(f"'{path}': key {min(twice)} stands twice; remove one")
        nested = _merge(nested, value)
    return nested


def _from_home(written: Any) -> Any:
    """What is written, with paths in the user's folder spelled out."""
    if isinstance(written, dict):
        return {key: _from_home(value) for key, value in written.items()}
    return at_home(written) if isinstance(written, str) else written


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        if value is None and isinstance(inner, Mapping):
            continue  # a section whose keys are all commented out says nothing
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(inner, value) if both else value  # type: ignore[arg-type]
    return merged


def _leaves(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every leaf; `student.options` is one leaf."""
    for key, value in nested.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and dotted != "student.options":
            yield from _leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _refuse_unknown(
    schema: Schema[C],
    written: Sequence[str],
    typed: Sequence[str],
    path: str | Path | None,
    verb: Parser | None = None,
) -> None:
    """Name all unknown keys of the file and of the command line, each with the nearest."""
    known = known_keys(schema.kind)
    wrong = [
        f"'{key}'{source} ({near_key(key, choices)})"
        for keys, source, choices in (
            (written, f" in '{path}'", known),
            (typed, "", [*known, *(verb.options if verb else ())]),
        )
        for key in keys
        if key not in known and not key.startswith("student.options.")
    ]
    if wrong:
        plural = "keys" if len(wrong) > 1 else "key"
        told = verb.prog if verb else schema.verb
        raise ConfigError(f"unknown {plural} {'; '.join(wrong)}; see {told} --help")


def _parse(schema: Schema[C], merged: Mapping[str, Any], words: Sequence[str]) -> C:
    """Types checked by jsonargparse; on a mistake, every leaf is tried alone to name them all."""
    typed = parser(schema)
    arguments = [f"--config={yaml.safe_dump(dict(merged))}"] if merged else []
    try:
        with redirect_stderr(io.StringIO()):
            parsed = typed.parse_args([*arguments, *words])
    except jsonargparse.ArgumentError as error:
        leaves = [
            *_leaves(merged),
            *((key[2:], value) for key, value in zip(words[::2], words[1::2], strict=True)),
        ]
        wrong = [f"{key} {why}" for key, value in leaves if (why := _why_wrong(schema, key, value))]
        raise ConfigError("; ".join(wrong) or str(error)) from error
    built = typed.instantiate(parsed)
    kind: Any = schema.kind
    return kind(**{item.name: built[item.name] for item in dataclasses.fields(kind)})


def _why_wrong(schema: Schema[C], key: str, value: Any) -> str | None:
    """What is wrong with one value, in one line; ``None`` when it is right."""
    word = value if isinstance(value, str) else json.dumps(value, default=str)  # YAML has dates
    try:
        with redirect_stderr(io.StringIO()):
            parser(schema).parse_args([f"--{key}={word}"])
    except jsonargparse.ArgumentError:
        expected = _type_of(schema.kind, key)
        if get_origin(expected) is Literal:
            rule = f"must be one of {', '.join(map(str, get_args(expected)))}"
        else:
            rule = f"must be {_words_of(expected)}"
        return f"{rule}, got {value!r}"
    return None


def _words_of(kind: Any) -> str:
    """A type as a user writes its values."""
    inner = [one for one in get_args(kind) if one is not type(None)]
    if len(inner) < len(get_args(kind)):
        return f"{_words_of(inner[0])}, or null"
    if get_origin(kind) is tuple and Ellipsis not in inner:
        return f"a list of {len(inner)} {inner[0].__name__}, quoted on the command line: '[1, 2]'"
    return f"of type {kind.__name__ if isinstance(kind, type) and not inner else kind}"


def _type_of(here: Any, key: str) -> Any:
    """Declared type of a dotted key."""
    for name in key.split("."):
        here = next(item.type for item in dataclasses.fields(here) if item.name == name)
    return here


RUN = Schema(RunConfig, "tsic train", broken_in_run, RECIPES, {"objective.ignore_index": 255})
