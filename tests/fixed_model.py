"""Tiny chat models of transformers that always give one reply, however they are asked."""

import itertools
import string
from collections.abc import Sequence
from pathlib import Path

TURN = "§"  # how the model's turn begins
UNK, END, OTHER_END = "<unk>", "<end>", "<turn_end>"
TEMPLATE = f"{{% for m in messages %}}{{{{ m['role'] + ':' + m['content'] + ' ' }}}}{{% endfor %}}{TURN}"


def fixed_model(
    folder: Path, pieces: Sequence[str], *, context: int = 4096, special: Sequence[str] = (), opened: str = ""
) -> Path:
    """Save a Llama that looks at its last token alone and replies with these pieces, a token each.

    Args:
        folder: Where.
        pieces: What it says, all different; `END` and `OTHER_END` may be among them.
        context: Tokens that it reads.
        special: Pieces that are special tokens of the tokenizer.
        opened: What the chat template writes at the beginning of the model's turn.
    """
    import torch
    from tokenizers import Regex, Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    chain = [(opened or TURN)[-1], *pieces]
    words = list(dict.fromkeys([UNK, END, OTHER_END, *string.printable, *chain]))
    raw = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=UNK))
    raw.pre_tokenizer, raw.decoder = Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=UNK, eos_token=END, model_input_names=["input_ids", "attention_mask"]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = TEMPLATE + opened
    tokenizer.save_pretrained(folder)
    width = len(words) + len(words) % 2
    sizes = {"hidden_size": width, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(len(words), **sizes, max_position_embeddings=context, bos_token_id=None, eos_token_id=1)
    model = LlamaForCausalLM(config)
    index = {word: place for place, word in enumerate(words)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        model.model.embed_tokens.weight.fill_diagonal_(1.0)
        for one, two in itertools.pairwise(chain):
            model.lm_head.weight[index[two], index[one]] = 1.0
    model.generation_config.eos_token_id = [1, 2]
    model.save_pretrained(folder)
    return folder
