"""Numbers as a report writes them."""


def percent(ratio: float | None, digits: int) -> str:
    """A ratio as a percentage with its sign; what rounds to nothing has none."""
    if ratio is None:
        return "–"
    text = f"{100 * ratio:+.{digits}f}"
    return f"{_signed(text)} %"


def money(value: float) -> str:
    """An amount of stake currency, with its sign."""
    return _signed(f"{value:+,.2f}")


def number(value: float | None) -> str:
    """A figure with two decimals."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def _signed(text: str) -> str:
    is_nothing = not text.strip("+-0.,")
    return text[1:] if is_nothing else text.replace("-", "−")
