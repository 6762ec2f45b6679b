"""A chat model of transformers that runs here and answers several conversations at once.

torch and transformers are imported by the model, not by this module, which `chat` imports by name: texts that no model
of this machine writes do not depend on how one decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xrec_repro.device import pick_device
from xrec_repro.end_tokens import end_ids
from xrec_repro.errors import ModelError
from xrec_repro.profiles.cache import DTYPE
from xrec_repro.profiles.replies import Completion, Messages, decode_reply
from xrec_repro.special_tokens import special_tokens, speller

Settings = dict[str, Any]


class LocalModel:
    """A chat model run here with transformers.

    Args:
        settings: The section ``profiles.chat``.
        seed: Of sampling, which has its own stream for every prompt and attempt.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: The model cannot be loaded or has no chat template.
        ConfigError: ``cuda`` was asked for and is not there.
    """

    def __init__(self, settings: Settings, seed: int, device: str) -> None:
        from xrec_repro.lm.chat import ChatTemplate
        from xrec_repro.lm.load import Place, load_causal, local_folder, require_revision, shown_model
        from xrec_repro.lm.replying import Replying

        self._settings, self._seed = settings, seed
        name, revision = settings["model"], settings["revision"]
        folder = local_folder(name, "profiles.chat")
        require_revision(name, revision, folder, "profiles.chat")
        self._shown = shown_model(name, revision, folder)
        self._device = pick_device(device)
        place = Place(folder or name, revision, name, self._shown)
        model, self._tokenizer = load_causal(place, "profiles.chat.model", dtype=DTYPE)
        self._template = ChatTemplate(self._tokenizer, f"profiles.chat.model: {name}")
        self._spell = speller(special_tokens(self._tokenizer))
        self._model = model.to(self._device).eval()
        ends = end_ids(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        self._stops = dict.fromkeys(ends, "eos")
        self._generation = {
            "decoding": "sampled" if settings["temperature"] else "greedy",
            "batch_size": settings["concurrency"],
            **{key: settings[key] for key in ("temperature", "max_new_tokens")},
            "top_k": 0,
            "top_p": 1.0,
        }
        self._replying = Replying(self._model, self._generation, seed, self._stops)

    def complete(self, asked: Sequence[tuple[list[int], Sequence[object]]]) -> list[Completion]:
        """Answer prompts at once, greedily at temperature 0; in float32 and in slots no answer depends on the others.

        Args:
            asked: Tokens of each prompt (`encode`), and what names its stream of sampling.
        """
        from xrec_repro.explainer.batching import pad_left
        from xrec_repro.explainer.decoding import Sampler, decode
        from xrec_repro.explainer.prompts import Encoded

        prompts, names = [prompt for prompt, _ in asked], ["\n".join(map(str, names)) for _, names in asked]
        if (slots := self._replying.in_slots(dict(zip(names, prompts, strict=True)))) is not None:
            replies = dict(slots)
            decoded = [replies[name] for name in names]
        else:
            decoded = decode(
                self._model,
                self._replying.injector,
                self._replying.adapt(prompts),
                pad_left([Encoded(ids, [], ()) for ids in prompts], next(iter(self._stops), 0), self._device),
                Sampler(self._generation, self._seed, names),
                self._settings["max_new_tokens"],
                self._stops,
            )
        return [self._completion(*one) for one in zip(prompts, decoded, strict=True)]

    def _completion(self, prompt: list[int], new: Any) -> Completion:
        ended = new.finish_reason == "eos"
        said = new.ids[:-1] if ended else new.ids  # an end need not be a special token of the tokenizer
        text = decode_reply(self._tokenizer, said, self._tokenizer.decode(prompt[-32:]))
        return Completion(text, truncated=not ended, model=self._shown)

    def encode(self, messages: Messages) -> list[int]:
        """Return the tokens of a conversation, up to where the model's turn begins.

        Raises:
            ModelError: The chat template refuses the conversation, or it is too long for the model.
        """
        from jinja2 import TemplateError

        # The special tokens of a prompt are the template's: a review that spells one stays text.
        messages = [{**message, "content": self._spell(message["content"])} for message in messages]
        try:
            prompt = self._template.ids(self._template.render(messages))
        except TemplateError as error:
            raise ModelError(
                f"{self._settings['model']}: its chat template refuses the conversation ({error}); choose another model"
            ) from error
        new = self._settings["max_new_tokens"]
        context = getattr(self._model.config, "max_position_embeddings", None)
        if context is not None and len(prompt) + new > context:
            raise ModelError(
                f"{self._settings['model']}: {len(prompt)} prompt and {new} new tokens exceed its context of "
                f"{context}; lower profiles.reviews_per_item or items_per_user, or choose another model"
            )
        return prompt
