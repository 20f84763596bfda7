"""Values of a JSON object, each checked for its type with a message that names its key."""

import json
from collections.abc import Mapping
from typing import Any

from tsic.errors import CheckpointError

Json = dict[str, Any]

Types = tuple[type | None, ...]
"""JSON types that a value may have; ``None`` stands for null."""

_JSON_NAMES: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def check_type(key: str, value: object, types: Types) -> None:
    """Refuse a value of another JSON type; true and false are no numbers."""
    if (type(value) if value is not None else None) not in types:
        names = " or ".join("null" if one is None else _JSON_NAMES[one] for one in types)
        raise CheckpointError(f"'{key}' must be {names}, got {shown(value)}")


def take_object(values: Json, key: str) -> Json:
    """Return the object under a key, or say that there is none."""
    value = take(values, key)
    check_type(key, value, (dict,))
    assert isinstance(value, dict)
    return value


def take(values: Json, key: str, prefix: str = "") -> Any:
    """Return the value under a key, or say that the key is missing."""
    if key not in values:
        raise CheckpointError(f"key '{prefix}{key}' is missing")
    return values[key]


def shown(value: object) -> str:
    """Show a wrong value in a message, cut to one line."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
