"""Conversations as a tokenizer's own chat template writes them."""

from typing import Any

from jinja2 import TemplateError

from xrec_repro.errors import ModelError
from xrec_repro.special_tokens import special_tokens

Messages = list[dict[str, str]]

# Llama 3's templates write a date into the system turn: 3.1 this one, 3.2 today's. Said aloud, it is always this one.
_DATE = "26 Jul 2024"
_SAMPLE = "Sample."  # stands for a message that templates neither trim nor change


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: Of transformers.
        name: Of the model, for errors.

    Attributes:
        takes_system: Whether the template shows a system message; if not (it refuses or drops it, as Gemma's), the
            system text is put at the head of the user's message.

    Raises:
        ModelError: The tokenizer has none.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name
        if not tokenizer.chat_template:
            raise ModelError(f"{name} has no chat template; choose a model that is tuned for chat")
        self.takes_system = True
        try:
            self.takes_system = _SAMPLE in self.render(_conversation(_SAMPLE, "Hello."))
        except TemplateError:
            self.takes_system = False

    def render(self, messages: Messages, prompt: bool = True) -> str:
        """Write a conversation that begins with a system message.

        Args:
            messages: role and content of each.
            prompt: Whether the beginning of the model's next turn is written too.

        Raises:
            TemplateError: The template refuses it.
        """
        if not self.takes_system:
            (system, user), rest = messages[:2], messages[2:]
            messages = [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *rest]
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, date_string=_DATE
        )

    def ids(self, text: str) -> list[int]:
        """Return the tokens of what was written; the template has already written the special ones."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class Turns:
    """One question and its answer, an assistant's turn, for a model that learns to answer or does.

    What the template writes between the beginning of the turn and its text belongs to the text where it is white space
    (the space of Llama 2 and Mistral, which their tokenizers join with the first word), else to the prompt (the empty
    thought of Qwen 3).

    Args:
        template: The chat template.

    Attributes:
        end: Id of the token that ends a turn.

    Raises:
        ModelError: The template refuses such a conversation, or ends a turn with no special token.
    """

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        asked = _conversation("S.", "U.")
        try:
            prompt, opening = template.render(asked), self._opening("S.", "U.")
            tail = template.render([*asked, _said(_SAMPLE)], prompt=False).rpartition(_SAMPLE)[2]
        except TemplateError as error:
            raise ModelError(
                f"{template.name}: its chat template refuses a user's message and an answer ({error}); take another "
                f"model, or set prompt.template to fixed"
            ) from error
        lead = opening.removeprefix(prompt)
        self._lead = lead if opening.startswith(prompt) and not lead.strip() else ""
        special = special_tokens(template.tokenizer)
        marks = sorted((tail.find(mark), -len(mark), mark) for mark in special if mark in tail)
        if not marks or tail[: marks[0][0]].strip():
            raise ModelError(
                f"{template.name}: its chat template ends a turn with {tail!r}, in which its tokenizer knows no "
                f"special token; correct the tokenizer's special tokens, or set prompt.template to fixed"
            )
        place, _, mark = marks[0]
        self._tail, self.end = tail[:place] + mark, template.tokenizer.convert_tokens_to_ids(mark)

    def ids(self, system: str, user: str, answer: str | None = None) -> list[int]:
        """Return the tokens up to where the answer begins; or, given one, up to the token that ends its turn."""
        prompt = self._opening(system, user).removesuffix(self._lead)
        return self._template.ids(prompt if answer is None else f"{prompt}{self._lead}{answer.strip()}{self._tail}")

    def _opening(self, system: str, user: str) -> str:
        whole = self._template.render([*_conversation(system, user), _said(_SAMPLE)], prompt=False)
        return whole.rpartition(_SAMPLE)[0]


def _conversation(system: str, user: str) -> Messages:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _said(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}
