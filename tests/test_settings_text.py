"""Settings in words: every constraint of an annotation is said, in complaints and in tables."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from mtfscalper.settings_text import accepted_values, parse_section, settings_table


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Annotated[int, Field(gt=0)] = Field(1, description="how large. In candles")


class MadeUp(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    free: float = Field(0.5, description="any")
    below: Annotated[float, Field(lt=2.5)] = Field(1.0, description="low")
    at_most: Annotated[int, Field(le=9)] = Field(1, description="low")
    above: Annotated[int, Field(gt=3)] | None = Field(None, description="high")
    between: Annotated[int, Field(gt=0, lt=10)] = Field(1, description="within")
    half_open: Annotated[float, Field(ge=0, lt=1.5)] = Field(1.0, description="within")
    one: Literal["a"] = Field("a", description="one")
    mixed: bool | Literal["a", "b"] | Annotated[str, Field(pattern=r"^c(?P<N>\d+)$")] = Field("a", description="many")
    names: tuple[Literal["a", "b"], ...] = Field((), description="a list")
    shares: dict[
        Annotated[str, Field(pattern=r"^(?P<module>[\w.]+):(?P<name>\w+)$")], Annotated[float, Field(ge=0)]
    ] = Field({}, description="shares of each")
    inner: Inner = Field(default_factory=Inner, description="more")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("free", "number"),
        ("below", "number < 2.5"),
        ("at_most", "integer <= 9"),
        ("above", "integer > 3 or null"),
        ("between", "integer from 1 to 9"),
        ("half_open", "number in [0, 1.5)"),
        ("one", "'a'"),
        ("mixed", "true, false, 'a', 'b' or 'cN'"),
        ("names", "list of 'a' or 'b'"),
        ("shares", "object of 'module:name': number >= 0"),
        ("inner", "object with size"),
    ],
)
def test_what_is_accepted_comes_from_the_annotation(key: str, words: str) -> None:
    assert accepted_values(MadeUp, key) == words


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[int, Field(multiple_of=2)],
        Annotated[str, Field(max_length=3)],
        Annotated[tuple[int, ...], Field(min_length=2)],
    ],
)
def test_a_constraint_without_words_is_an_error_and_not_left_out(annotation: Any) -> None:
    class Other(BaseModel):
        key: annotation

    with pytest.raises(TypeError, match="has no words"):
        accepted_values(Other, "key")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (
            {"shares": {"m:n": -1}},
            "made.up.shares.m:n is -1; accepted: object of 'module:name': number >= 0 (shares of ",
        ),
        (
            {"mixed": "d"},
            "made.up.mixed is 'd'; accepted: true, false, 'a', 'b' or 'cN' (many); remedy: set it so, or ",
        ),
        ({"inner": {"size": 0}}, "made.up.inner.size is 0; accepted: integer > 0 (how large); remedy: set it so, or "),
        ({"inner": {"siz": 1}}, "made.up.inner.siz is 1, an unknown key; accepted: size; remedy: did you mean 'size'?"),
        ({"inner": 3}, "made.up.inner is 3; accepted: object with size (more); remedy: remove the key"),
        ({"fre": 1}, "made.up.fre is 1, an unknown key; accepted: above, "),
        # In the words of the config's JSON.
        ({"above": True}, "made.up.above is true; accepted: "),
        ({"one": None}, "some.where.else.one is null; accepted: 'a' (one); remedy: set it so, or remove it for 'a'"),
        ({"one": "b"}, "some.where.else.one is 'b'; accepted: 'a' (one); remedy: set it so, or remove it for 'a'"),
    ],
)
def test_a_complaint_names_the_place_and_what_is_accepted(values: dict[str, Any], complaint: str) -> None:
    complaints: list[str] = []
    elsewhere = {"one": "some.where.else"}
    assert parse_section(MadeUp, values, complaints, "made.up", elsewhere) is None
    (found,) = complaints
    assert found.startswith(complaint)


def test_values_that_are_accepted_are_parsed() -> None:
    complaints: list[str] = []
    parsed = parse_section(MadeUp, {"shares": {"a.b:c": 0.5}, "mixed": "c12", "above": 4}, complaints, "made.up")
    assert complaints == []
    assert parsed == MadeUp(shares={"a.b:c": 0.5}, mixed="c12", above=4)


def test_a_table_has_a_row_for_each_setting() -> None:
    table = settings_table(MadeUp, {"one": "deeper"}).splitlines()
    assert table[:2] == ["| key | default | accepted | meaning |", "|---|---|---|---|"]
    assert len(table) == 2 + len(MadeUp.model_fields)
    assert '| `deeper.one` | "a" | "a" | One |' in table
    assert "| `above` | null | integer > 3 or null | High |" in table
    assert settings_table(Inner).splitlines()[2] == "| `size` | 1 | integer > 0 | How large. In candles |"
