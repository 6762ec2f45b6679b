"""The collaborative adapter: a dense mixture of experts from recommender space to the language model's space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MoEAdapter(nn.Module):
    """Dense mixture of linear experts (XRec section 3.3; shapes and noise as in its public code).

    ``out = sum_e g_e(x) · W_e (dropout_e(x) - b_e)``, ``g = softmax(x · W_gate + ε · (softplus(x · W_noise) + c))``.
    All experts are used for every input: there is no top-k in spite of the original's class name. The noise term is
    there in training only; its matrices start at zero, so its standard deviation starts at softplus(0) + c = 0.703
    for the c = 0.01 that both papers print as the noise factor.

    Args:
        inputs: Width of the recommender's embeddings (64 in the study).
        outputs: Width of the language model (4096 for Llama-2-7b).
        experts: Number of experts (8 in the study).
        dropout: Dropout on the input, with its own mask for each expert.
        noise_epsilon: c above.
        gate: ``learned``, or ``uniform``: all experts weigh the same, without noise, and stay so.
        gate_noise: ``learned`` (W_noise is trained, as coded), ``frozen`` (the noise keeps its first standard
            deviation) or ``none``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        experts: int = 8,
        dropout: float = 0.2,
        noise_epsilon: float = 0.01,
        gate: str = "learned",
        gate_noise: str = "learned",
    ) -> None:
        super().__init__()
        self.shape = {"inputs": inputs, "outputs": outputs, "experts": experts}
        self.dropout, self.noise_epsilon = dropout, noise_epsilon
        self.noisy = gate == "learned" and gate_noise != "none"
        self.bias = nn.Parameter(torch.zeros(experts, inputs))
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        # A gate that starts at zero weighs all experts alike: left untrained, it is uniform.
        self.w_gate = nn.Parameter(torch.zeros(inputs, experts), requires_grad=gate == "learned")
        self.w_noise = nn.Parameter(torch.zeros(inputs, experts), requires_grad=self.noisy and gate_noise == "learned")

    def reset(self, generator: torch.Generator, bias_std: float = 0.0) -> "MoEAdapter":
        """Draw the experts' weights from N(0, 0.02²), and their biases; gates start at zero.

        Args:
            generator: Of the draws.
            bias_std: Standard deviation of the biases; 0 as in the original code, whose adapters can say the same for
                all embeddings only as far as their biases have learnt to.
        """
        with torch.no_grad():
            self.weight.copy_(torch.empty(self.weight.shape).normal_(0, 0.02, generator=generator))
            for parameter in (self.bias, self.w_gate, self.w_noise):
                parameter.zero_()
            if bias_std:
                self.bias.copy_(torch.empty(self.bias.shape).normal_(0, bias_std, generator=generator))
        return self

    def gates(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the experts' weights, [B, E]; `noise` is standard normal, [B, E], or None for none."""
        logits = x @ self.w_gate
        if noise is not None:
            logits = logits + noise * (F.softplus(x @ self.w_noise) + self.noise_epsilon)
        return logits.softmax(dim=-1)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Adapt embeddings.

        Args:
            x: Embeddings of the recommender, [B, inputs].
            noise: Standard normal draws, [B, E], to use in training in place of fresh ones.

        Returns:
            Adapted embeddings, [B, outputs].
        """
        if self.training and noise is None and self.noisy:
            noise = torch.randn(x.shape[0], self.shape["experts"], device=x.device, dtype=x.dtype)
        gates = self.gates(x, noise if self.training else None)
        per_expert = x.unsqueeze(1).expand(-1, self.shape["experts"], -1)
        per_expert = F.dropout(per_expert, self.dropout, self.training) - self.bias
        weighted = (gates.unsqueeze(-1) * per_expert).flatten(1)  # [B, E·inputs]
        return weighted @ self.weight.transpose(1, 2).flatten(0, 1)  # one product over all experts


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a state dict of the original code (``experts.3.lin.weight`` …) to this module's stacked names."""
    experts = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("experts."))
    return {
        "bias": torch.stack([state[f"experts.{e}.bias"] for e in range(experts)]),
        "weight": torch.stack([state[f"experts.{e}.lin.weight"] for e in range(experts)]),
        "w_gate": state["w_gate"],
        "w_noise": state["w_noise"],
    }


class AdapterPair(nn.Module):
    """The two adapters of XRec, one for users and one for items."""

    def __init__(self, user: MoEAdapter, item: MoEAdapter) -> None:
        super().__init__()
        self.user, self.item = user, item

    def forward(self, user_embeddings: Tensor, item_embeddings: Tensor) -> Tensor:
        """Adapt both sides of a batch: [B, inputs] each to [B, 2, outputs], user first."""
        return torch.stack([self.user(user_embeddings), self.item(item_embeddings)], dim=1)
