"""The tokens that end a text; models tuned for chat have several."""

from collections.abc import Sequence


def end_ids(*given: int | Sequence[int] | None) -> frozenset[int]:
    """Join what a tokenizer and a generation configuration give as ``eos_token_id``: one, a list, or nothing."""
    return frozenset(end for ends in given if ends is not None for end in ([ends] if isinstance(ends, int) else ends))
