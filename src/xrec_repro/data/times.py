"""Times of reviews that are numbers since 1970: editions of one collection count seconds, milli- or microseconds."""

from collections.abc import Iterable

UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds"}  # by how many of them are a second
_YEAR_10000 = 253_402_300_800
_REVIEWS = (631_152_000, 4_102_444_800)  # a review is from 1990 to 2099; no number is so in two units


def judge_unit(times: Iterable[float], usual: int) -> int:
    """Return the unit, by how many of it are a second, in which most times are those of reviews.

    Args:
        times: The first ones of a file; it is judged as a whole.
        usual: The unit of the collection as it was published, for times that tell nothing.
    """
    counts = dict.fromkeys(UNITS, 0)
    for time in times:
        for unit in UNITS:
            counts[unit] += _is_of_a_review(time / unit)
    return max(counts, key=lambda unit: (counts[unit], unit == usual))


def to_seconds(time: float, unit: int) -> int:
    """Return whole seconds since 1970.

    What is plausible in no unit (0, a time before the web) is taken as it stands.

    Args:
        time: As in the file.
        unit: Of the file (`judge_unit`).

    Raises:
        ValueError: It is past the year 9999, or plausible in another unit than the file's alone; says so.
    """
    seconds = int(time // unit)
    if not _is_of_a_review(seconds) and any(_is_of_a_review(time / other) for other in UNITS):
        raise ValueError(f"no time in {UNITS[unit]}, which the file has: {time}")
    if not -_YEAR_10000 < seconds < _YEAR_10000:
        raise ValueError(f"no time: {seconds} s")
    return seconds


def _is_of_a_review(seconds: float) -> bool:
    return _REVIEWS[0] <= seconds < _REVIEWS[1]
