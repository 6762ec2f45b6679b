"""XRec (Ma et al., 2024) and its variants: a frozen language model, fed by adapted embeddings of a recommender.

`xrec_fit` and `xrec_write` do the work, on the parts in `xrec_repro.explainer`.
"""

from typing import Any, ClassVar

from xrec_repro.methods.base import Method


class XRec(Method):
    """XRec; what its variants leave out, the sections prompt, embeddings and injection say."""

    needs = frozenset({"embeddings", "llm", "profiles"})
    sections = ("prompt", "embeddings", "adapter", "injection", "tuning", "llm")
    gpu = True
    trained = True
    trained_on = frozenset({"embeddings"})  # without them nothing is adapted: the language model explains alone
    modules: ClassVar = {"fit": "xrec_repro.methods.xrec_fit", "write": "xrec_repro.methods.xrec_write"}

    @property
    def parts(self) -> dict[str, Any]:
        """What `xrec_repro.explainer.assemble` makes an explainer of, beside the settings."""
        return {
            "settings": dict(self.run.sections),
            "domain": self.run.domain,
            "embeddings": self.run.inputs.get("embeddings"),
            "llm_folder": self.run.inputs.get("llm"),
            "seed": self.run.seed,
            "device": self.run.device,
        }


METHOD = XRec
