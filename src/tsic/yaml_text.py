"""YAML that people write: read by YAML's safe rules, but no key may stand twice."""

from typing import Any

import yaml
from typing_extensions import override


class _Loader(yaml.SafeLoader):
    @override
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(
                    f"key {key.value} stands twice, in lines {lines[key.value]} and {line}; "
                    "remove one"
                )
            lines[key.value] = line
        return node


def load_yaml(text: str) -> Any:
    """Plain values of a text.

    Raises:
        yaml.YAMLError: If it is no valid YAML, or a key of a mapping stands twice.
    """
    return yaml.load(text, _Loader)
