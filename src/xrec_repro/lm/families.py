"""Where the parts of a language model lie, in each of the families that slots read."""

from typing import Any

import torch
from torch import Tensor

_ROTARY = ("default", "linear", "llama3", "yarn")  # those whose angles depend on the place alone


class Rotary:
    """Llama, Mistral and Qwen2.

    Args:
        model: A causal language model.
        ops: What is done between products, `lm.torch_ops` or `lm.kernels`.

    Attributes:
        layers: The model's.
        last: The norm behind them.
        width: Of a head.
        heads: Of keys and values.
        scale: Of the scores of attention.
    """

    def __init__(self, model: Any, ops: Any) -> None:
        self.ops, self._inner = ops, model.model
        self.layers, self.last = self._inner.layers, self._inner.norm
        attention = self.layers[0].self_attn
        self.width, self.scale, self.heads = attention.head_dim, attention.scaling, model.config.num_key_value_heads

    @staticmethod
    def unfit(config: Any, room: int) -> str | None:
        """Return why a configuration cannot be read so, with texts of so many tokens; None if it can."""
        rotary = (getattr(config, "rope_scaling", None) or {}).get("rope_type", "default")
        window = getattr(config, "sliding_window", None)
        if config.hidden_act != "silu" or rotary not in _ROTARY or (window is not None and window < room):
            return "of its activation, rotary embedding or a window shorter than the text"
        return None

    def angles(self, room: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of so many places, each [room, width]."""
        weight = self._inner.embed_tokens.weight
        sides = self._inner.rotary_emb(weight, torch.arange(room, device=weight.device)[None])
        return sides[0][0].contiguous(), sides[1][0].contiguous()

    def embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """Return what the first layer reads, [1, N, hidden], of tokens and their places, [N]."""
        return self._inner.embed_tokens(ids[None])

    def norms(self, layer: Any) -> tuple[Any, Any]:
        """Return a layer's norms, of what attention and of what the MLP reads."""
        return layer.input_layernorm, layer.post_attention_layernorm

    def norm(self, x: Tensor, branch: Tensor | None, module: Any) -> tuple[Tensor, Tensor]:
        """Add a branch to the residual stream, [1, N, hidden]; return the sum, and it normalised."""
        return self.ops.norm(x, branch, module)

    def project(self, layer: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, [1, N, heads * width], contiguous."""
        heads = layer.self_attn
        return heads.q_proj(h), heads.k_proj(h), heads.v_proj(h)

    def join(self, layer: Any, seen: Tensor) -> Tensor:
        """Return what attention adds to the residual stream."""
        return layer.self_attn.o_proj(seen)

    def mlp(self, layer: Any, h: Tensor) -> Tensor:
        """Return what the MLP adds to it."""
        mlp = layer.mlp
        return mlp.down_proj(self.ops.gated(mlp.gate_proj(h), mlp.up_proj(h)))


class Gpt2(Rotary):
    """GPT-2: learned positions and no rotation, LayerNorm, one product for queries, keys and values.

    What torch does between the products it does row by row, on a GPU too.
    """

    def __init__(self, model: Any, ops: Any) -> None:
        self.ops, self._inner = ops, model.transformer
        self.layers, self.last = self._inner.h, self._inner.ln_f
        self.width, self.heads = self.layers[0].attn.head_dim, model.config.num_attention_heads
        self.scale = self.width**-0.5

    @staticmethod
    def unfit(config: Any, room: int) -> str | None:
        """See `Rotary.unfit`."""
        scaled = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
        if config.activation_function != "gelu_new" or not scaled or config.add_cross_attention:
            return "of its activation, its scaling of attention or its attention to another model"
        return None

    def angles(self, room: int) -> tuple[Tensor, Tensor]:
        """Return those of no rotation, with which turning changes nothing."""
        cosine = self._inner.wte.weight.new_ones(room, self.width)
        return cosine, torch.zeros_like(cosine)

    def embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """See `Rotary.embed`."""
        return self._inner.wte(ids[None]) + self._inner.wpe(places)

    def norms(self, layer: Any) -> tuple[Any, Any]:
        """See `Rotary.norms`."""
        return layer.ln_1, layer.ln_2

    def norm(self, x: Tensor, branch: Tensor | None, module: Any) -> tuple[Tensor, Tensor]:
        """See `Rotary.norm`."""
        x = x if branch is None else x + branch
        return x, module(x)

    def project(self, layer: Any, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Rotary.project`."""
        q, k, v = layer.attn.c_attn(h).chunk(3, dim=-1)
        return q.contiguous(), k.contiguous(), v.contiguous()

    def join(self, layer: Any, seen: Tensor) -> Tensor:
        """See `Rotary.join`."""
        return layer.attn.c_proj(seen)

    def mlp(self, layer: Any, h: Tensor) -> Tensor:
        """See `Rotary.mlp`."""
        return layer.mlp.c_proj(layer.mlp.act(layer.mlp.c_fc(h)))


FAMILIES: dict[str, type[Rotary]] = {"llama": Rotary, "mistral": Rotary, "qwen2": Rotary, "gpt2": Gpt2}
