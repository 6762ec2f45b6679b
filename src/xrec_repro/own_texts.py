"""Texts of a file of predictions whose pair the split lacks: with an id of their own, and of a user nobody knows."""

_MARK = "own-"


def own_id(row: int, count: int) -> str:
    """Return the example id of the text in a row of so many."""
    return f"{_MARK}{row:0{len(str(count))}d}"


def is_own(example_id: str) -> bool:
    """Whether an example id is that of such a text."""
    return example_id.startswith(_MARK)
