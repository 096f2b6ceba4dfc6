"""Settings in words: what a setting accepts, read off its annotation, in messages and in the reference's tables.

A field's description says only what the setting means. Messages show its first sentence, tables all of it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from mtfscalper import stock_keys

_S = TypeVar("_S", bound=BaseModel)

# Whatever else a schema holds would be left out of the words for it.
_LOW, _HIGH = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
_SCHEMA_WORDED = {"anyOf", "const", "enum", "type", *_LOW, *_HIGH, "pattern", "items", "minItems", "patternProperties"}
_SCHEMA_APART = {"default", "description", "title"}


def accepted_values(model: type[BaseModel], key: str) -> str:
    """The values that a setting accepts, such as ``integer >= 1 or null``.

    :raises TypeError: for a constraint that has no words here
    """
    section = section_of(model, key)
    if section is not None:
        return f"object with {', '.join(section.model_fields)}"
    return _joined(_alternatives(model.model_json_schema()["properties"][key]))


def settings_table(model: type[BaseModel], sections: Mapping[str, str] | None = None) -> str:
    """The settings of a model as a table in Markdown, a row for each.

    :param sections: where the model's keys stand in the config, for those that stand in a section of their own
    """
    rows = ["| key | default | accepted | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        name = f"{sections[key]}.{key}" if sections and key in sections else key
        default = {} if section_of(model, key) else field.get_default()
        # Values as the config's JSON writes them.
        accepted = accepted_values(model, key).replace("'", '"')
        meaning = str(field.description)
        rows.append(f"| `{name}` | {json.dumps(default)} | {accepted} | {meaning[0].upper() + meaning[1:]} |")
    return "\n".join(rows)


def parse_section(
    model: type[_S],
    values: Mapping[str, Any],
    complaints: list[str],
    section: str,
    elsewhere: Mapping[str, str] | None = None,
    also_known: Set[str] = frozenset(),
) -> _S | None:
    """Validate the values of a section of the config.

    :param complaints: gets a line for every wrong key: key, value received, values accepted, remedy
    :param section: where the values stand, such as ``freqai.rl_config``
    :param elsewhere: section of each key that stands in another one
    :param also_known: keys of the section that another model validates
    :return: None if anything is wrong
    """
    try:
        return model.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        known = sorted(set(model.model_fields) | also_known)
        # One complaint a key, however many items of a list are wrong.
        by_key: dict[tuple[int | str, ...], str] = {}
        for detail in error.errors():
            place = detail["loc"]
            # What follows a key is the place in a list, or which of several types was tried.
            key = place[:2] if section_of(model, str(place[0])) else place[:1]
            within = (elsewhere or {}).get(str(place[0]), section)
            by_key.setdefault(key, _complaint(model, within, place, detail["type"], detail["input"], known))
        complaints.extend(by_key.values())
        return None


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of a key that holds settings of its own, None for any other key."""
    annotation: Any = model.model_fields[key].annotation if key in model.model_fields else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def did_you_mean(key: str, known: Sequence[str]) -> str:
    """The remedy for an unknown key: the known one most like it, if one is."""
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "remove it"


def _complaint(
    model: type[BaseModel], section: str, place: tuple[int | str, ...], kind: str, received: Any, known: Sequence[str]
) -> str:
    """One line about one wrong value.

    :param place: where pydantic found it: keys, then the place in a list or a dictionary, or the type tried
    :param kind: pydantic's name of the mistake
    :param known: keys of the section
    """
    head, *rest = place
    name, inner = f"{section}.{head}", section_of(model, str(head))
    if inner is not None and rest:
        return _complaint(inner, name, tuple(rest), kind, received, sorted(inner.model_fields))
    if kind == "extra_forbidden":
        remedy = stock_keys.remedy(section, str(head), received, known) or _moved_within(model, section, str(head))
        remedy = remedy or did_you_mean(str(head), known)
        return f"{name} is {received!r}, an unknown key; accepted: {', '.join(known)}; remedy: {remedy}"
    field = model.model_fields[str(head)]
    if rest and isinstance(rest[0], int):
        name += f"[{rest[0]}]"
    elif rest and get_origin(field.annotation) is dict:
        name += f".{rest[0]}"
    default = field.get_default(call_default_factory=True, validated_data={})
    default, received = (list(value) if isinstance(value, tuple) else value for value in (default, received))
    remedy = (
        "remove the key" if isinstance(default, BaseModel) else f"set it so, or remove it for {_as_written(default)}"
    )
    meaning = str(field.description).split(". ")[0]
    accepted = accepted_values(model, str(head))
    return f"{name} is {_as_written(received)}; accepted: {accepted} ({meaning}); remedy: {remedy}"


def _as_written(value: Any) -> str:
    """A value as the config's JSON writes it, text as in ``accepted``."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)


def _moved_within(model: type[BaseModel], section: str, key: str) -> str | None:
    """The remedy for a key of a section within this one."""
    for name in model.model_fields:
        inner = section_of(model, name)
        if inner is not None and key in inner.model_fields:
            return f"it stands in {section}.{name}: move it there"
    return None


def _lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    # JSON has no tuples, and strict validation of a frozen model takes no list for one.
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _alternatives(schema: Mapping[str, Any]) -> list[str]:
    """Words for a JSON Schema, one item for each kind of value it allows."""
    without_words = sorted(set(schema) - _SCHEMA_WORDED - _SCHEMA_APART)
    if without_words or schema.get("minItems", 1) != 1:
        raise TypeError(
            f"{dict(schema)} holds {without_words or 'minItems'}, which has no words; remedy: add them here"
        )
    if "anyOf" in schema:
        return [words for option in schema["anyOf"] for words in _alternatives(option)]
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return [repr(value) if isinstance(value, str) else json.dumps(value) for value in values]
    match schema["type"]:
        case "null":
            return ["null"]
        case "boolean":
            return ["true", "false"]
        case "string":
            return [_pattern(schema["pattern"]) if "pattern" in schema else "text"]
        case "array":
            items = re.sub(r"^(integer|number)", r"\1s", _joined(_alternatives(schema["items"])))
            return [f"{'non-empty ' if 'minItems' in schema else ''}list of {items}"]
        case "object":
            ((key, value),) = schema["patternProperties"].items()
            return [f"object of {_pattern(key)}: {_joined(_alternatives(value))}"]
        case kind:
            return [f"{kind}{_bounds(schema)}"]


def _joined(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _bounds(schema: Mapping[str, Any]) -> str:
    """The bounds of a number, with a space before them."""
    low, high = (next(((key, schema[key]) for key in keys if key in schema), None) for keys in (_LOW, _HIGH))
    if low and high and schema["type"] == "integer":
        return f" from {low[1] + (low[0] == 'exclusiveMinimum')} to {high[1] - (high[0] == 'exclusiveMaximum')}"
    if low and high:
        opening, closing = "[" if low[0] == "minimum" else "(", "]" if high[0] == "maximum" else ")"
        return f" in {opening}{low[1]:g}, {high[1]:g}{closing}"
    if low:
        return f" {'>=' if low[0] == 'minimum' else '>'} {low[1]:g}"
    if high:
        return f" {'<=' if high[0] == 'maximum' else '<'} {high[1]:g}"
    return ""


def _pattern(pattern: str) -> str:
    """A pattern in words: each of its groups by its name, ``^cuda:(?P<N>[0-9]+)$`` as ``'cuda:N'``."""
    return repr(re.sub(r"\(\?P<(\w+)>[^)]*\)", r"\1", pattern.removeprefix("^").removesuffix("$")))
