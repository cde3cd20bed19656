"""YAML that remembers where everything stands.

The text becomes PyYAML's nodes, which know their lines and columns, and these become plain values.
What YAML allows and a config has no use for is a mistake: keys that are no text, keys twice, tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from serving.configfile.mistakes import ConfigError, Mistake, Path

# Aliases can spread a few lines out to more than any memory holds.
_MAX_VALUES = 100_000
_STANDARD = "tag:yaml.org,2002:"
_MERGE = f"{_STANDARD}merge"
_SCALARS = {f"{_STANDARD}{kind}" for kind in ("null", "bool", "int", "float", "str")}
_KINDS = {"null": "nothing", "bool": "a boolean", "int": "a number", "float": "a number"}

_Pairs = dict[str, tuple[yaml.ScalarNode, yaml.Node]]


class _Loader(yaml.SafeLoader):
    """PyYAML's own, without dates: `version: 2026-01-31` is text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class Document:
    """A config file that was read: its values, and where each stands."""

    def __init__(self, text: bytes, file: str) -> None:
        """Raises ConfigError where the text is not YAML, or more than a config's part of it."""
        self.file = file
        self._mistakes: list[Mistake] = []
        self._loader, self._root = _composed(text, file)
        # By the identity of nodes: an alias is the node that it stands for.
        self._pairs: dict[int, _Pairs] = {}
        self._values: dict[int, tuple[Any, int]] = {}
        self._open: set[int] = set()
        try:
            self.values, size = self._value(self._root, ())
        except RecursionError:
            raise ConfigError([_at(self._root, (), "is nested too deeply")], file) from None
        if size > _MAX_VALUES:
            problem = f"has more than {_MAX_VALUES} values once its aliases are spread out"
            self._mistakes.append(_at(self._root, (), problem))
        if self._mistakes:
            raise ConfigError(self._mistakes, file)

    def located(self, mistake: Mistake) -> Mistake:
        """The mistake with its line and column: of its path, or of what is nearest to that."""
        node: yaml.Node = self._root
        last_key: yaml.Node | None = None
        for index, part in enumerate(mistake.path):
            child: yaml.Node | None = None
            if isinstance(part, str) and isinstance(node, yaml.MappingNode):
                last_key, child = self._pairs[id(node)].get(part, (None, None))
            elif isinstance(part, int) and isinstance(node, yaml.SequenceNode):
                last_key, child = None, node.value[part] if part < len(node.value) else None
            if child is None:
                break
            if mistake.of_key and index == len(mistake.path) - 1 and last_key is not None:
                child = last_key
            node = child
        return _at(node, mistake.path, mistake.message)

    # Building

    def _value(self, node: yaml.Node, path: Path) -> tuple[Any, int]:
        """The value of a node, and how many values that is."""
        if id(node) in self._open:
            self._mistakes.append(_at(node, path, "holds an alias of itself"))
            return None, 1
        if id(node) not in self._values:
            self._open.add(id(node))
            self._values[id(node)] = self._built(node, path)
            self._open.remove(id(node))
        return self._values[id(node)]

    def _built(self, node: yaml.Node, path: Path) -> tuple[Any, int]:
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_STANDARD}map":
            found = {
                key: self._value(value, (*path, key))
                for key, (_, value) in self._children(node, path).items()
            }
            return {key: value for key, (value, _) in found.items()}, _sum(found.values())
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_STANDARD}seq":
            items = [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
            return [value for value, _ in items], _sum(items)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node, path), 1
        tag = node.tag.replace(_STANDARD, "!!")
        self._mistakes.append(_at(node, path, f"the tag {tag!r} has no meaning in a config"))
        return None, 1

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            kind = _KINDS[node.tag.removeprefix(_STANDARD)]
            self._mistakes.append(_at(node, path, f"{node.value!r} is not {kind}"))
            return None

    def _children(self, node: yaml.MappingNode, path: Path) -> _Pairs:
        """The pairs of a mapping, those that it merges included; its own win."""
        if id(node) in self._pairs:
            return self._pairs[id(node)]
        own: _Pairs = {}
        merged: _Pairs = {}
        for key_node, value in node.value:
            if key_node.tag == _MERGE:
                for source in self._merged(value, path):
                    merged = {**self._children(source, path), **merged}
                continue
            key = self._key(key_node, path)
            if key in own:
                first = own[key][0].start_mark.line + 1
                message = f"is here twice, first in line {first}"
                self._mistakes.append(_at(key_node, (*path, key), message))
            else:
                own[key] = key_node, value
        self._pairs[id(node)] = {**merged, **own}
        return self._pairs[id(node)]

    def _merged(self, node: yaml.Node, path: Path) -> Iterator[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if isinstance(source, yaml.MappingNode) and id(source) not in self._open:
                yield source
            else:
                message = "'<<' merges a mapping, or a list of mappings, from elsewhere"
                self._mistakes.append(_at(source, path, message))

    def _key(self, node: yaml.Node, path: Path) -> str:
        kind = node.tag.removeprefix(_STANDARD)
        if kind in _KINDS:
            problem = f"the key {node.value!r} is {_KINDS[kind]} in YAML: put it in quotes"
            self._mistakes.append(_at(node, path, problem))
        elif not isinstance(node, yaml.ScalarNode) or kind != "str":
            self._mistakes.append(_at(node, path, "a key must be text"))
        return str(node.value)


def _composed(text: bytes, file: str) -> tuple[_Loader, yaml.Node]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        raise ConfigError([_unreadable(text, error)], file) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_mistake(error)], file) from None
    except RecursionError:
        raise ConfigError([Mistake((), "is nested too deeply", line=1, column=1)], file) from None
    if root is None:
        message = "is empty; a config has at least 'applications:', a list"
        raise ConfigError([Mistake((), message, line=1, column=1)], file)
    return loader, root


def _syntax_mistake(error: yaml.MarkedYAMLError) -> Mistake:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem)
    if "'\\t'" in problem:
        problem = "a tab stands where YAML has spaces only"
    elif "mapping values are not allowed" in problem:
        problem = "a ':' that YAML does not expect: indent as the lines around, or quote the text"
    elif error.context and error.context_mark:
        problem = f"{error.context} (line {error.context_mark.line + 1}), {problem}"
    place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return Mistake((), f"is not YAML: {problem}", line=place[0], column=place[1])


def _unreadable(text: bytes, error: yaml.reader.ReaderError) -> Mistake:
    """Of bytes that are no text, or characters that YAML does not allow."""
    if error.encoding == "unicode":
        code = ord(error.character) if isinstance(error.character, str) else error.character
        before = text.decode(errors="replace")[: error.position]
        message = f"is not YAML: the character U+{code:04X} is not allowed"
    else:
        before = text[: error.position].decode(errors="replace")
        message = "is not YAML: not UTF-8 text"
    line = before.count("\n") + 1
    return Mistake((), message, line=line, column=len(before) - before.rfind("\n"))


def _at(node: yaml.Node, path: Path, message: str) -> Mistake:
    mark = node.start_mark
    return Mistake(path, message, line=mark.line + 1, column=mark.column + 1)


def _sum(items: Iterable[tuple[Any, int]]) -> int:
    return 1 + sum(size for _, size in items)
