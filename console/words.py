"""Numbers as people read them."""

_UNITS = (("TB", 1000**4), ("GB", 1000**3), ("MB", 1000**2), ("KB", 1000))


def count_of(number: int, word: str) -> str:
    """A number with its word: 1 instance, 2,000 instances."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes as people read them: 1.8 MB."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """A time span in its two largest units: 3 h 5 min."""
    whole = max(int(seconds), 0)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((number for number, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return " ".join(f"{amount} {unit}" for amount, unit in parts[first : first + 2] if amount) or "0 s"


def rate(count: float, seconds: float) -> str:
    """So many within so many seconds, by the second or, if that is less than one, by the minute."""
    by_second = count / seconds
    return f"{by_second:.1f}/s" if by_second >= 1 else f"{by_second * 60:.1f}/min"
