"""PETER+: PETER with words that are given beside user and item; see docs/baselines.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from xrec_repro.methods.peter import Peter, PeterSettings
from xrec_repro.plugins import Positive

if TYPE_CHECKING:
    from xrec_repro.examples import Example


@dataclass(frozen=True, kw_only=True)
class PeterPlusSettings(PeterSettings):
    """Settings of PETER+.

    Attributes:
        given: The words: the true ``feature`` of the example, also of a test example (the authors), the
            ``item_profile`` or the ``user_profile`` (our reading of the XRec paper, which "adapted" it to sentences and
            does not say to which); ``auto``: the feature where all examples have one, else the item's profile.
        given_words: Of them at most; longer ones are cut.
    """

    given: Literal["auto", "feature", "item_profile", "user_profile"] = "auto"
    given_words: Positive = 64


class PeterPlus(Peter):
    """PETER, to which words are given."""

    Settings = PeterPlusSettings
    needs = frozenset({"profiles"})

    def given(self, examples: "Sequence[Example]") -> dict[str, Any]:
        """Return what it is given.

        Raises:
            DataError: No example has it.
        """
        from xrec_repro.errors import DataError

        chosen = self.settings.given
        if chosen == "auto":
            chosen = "feature" if all(example.feature for example in examples) else "item_profile"
        if not any(getattr(example, chosen) for example in examples):
            raise DataError(
                f"examples: all lack the {chosen.replace('_', ' ')} that methods.{self.run_name} is given; "
                "use data that have it, or set another `given`"
            )
        return {"given": chosen, "given_words": self.settings.given_words}


METHOD = PeterPlus
