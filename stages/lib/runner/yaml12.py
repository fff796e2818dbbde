"""PyYAML with the scalars of YAML 1.2, the version that DVC reads.

PyYAML follows YAML 1.1, where ``1e-3`` is text, ``010`` is eight and ``yes`` is true. With it, a stage and DVC would
see different values in one file. The patterns are those of the core schema, YAML 1.2.2 section 10.3.2. What DVC's
parser takes beyond it (``1_000``, ``0b11``, dates) stays text here, and the schema then refuses it.
"""

import re
from typing import Any

import yaml


class Yaml12Loader(yaml.SafeLoader):
    """A safe loader that also refuses a key that stands twice, where PyYAML keeps the last one in silence."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (as PyYAML has it; none of those of YAML 1.1)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dictionary."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                problem = f"the key {key_node.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def load(text: str) -> Any:
    """The content of a YAML document.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=Yaml12Loader)


def _int(loader: Yaml12Loader, node: yaml.ScalarNode) -> int:
    base = {"0o": 8, "0x": 16}.get(node.value[:2], 10)
    return int(node.value, base)


def _float(loader: Yaml12Loader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(?=inf|nan)", "", node.value.lower()))


for _tag, _pattern in {
    "null": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    # DVC's parser wants a sign in the exponent where nothing stands before the point.
    "float": r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+([eE][-+][0-9]+)?"
    r"|[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN",
}.items():
    # None: try the pattern whatever the first character is. The order matters: "1" is an int before it is a float.
    Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), None)
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _int)
Yaml12Loader.add_constructor("tag:yaml.org,2002:float", _float)
