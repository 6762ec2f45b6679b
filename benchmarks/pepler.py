"""PEPLER's texts, decoded with a cache by XRec's decoder, against reading the whole prefix again."""

import argparse

import torch
from harness import arguments, compare, record, run
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from xrec_repro.explainer.decoding import Sampler
from xrec_repro.methods.pepler_model import Prompted, first_vectors
from xrec_repro.methods.pepler_write import explain

BATCH, NEW_TOKENS, BOS = 32, 98, 1  # 96 words, a space and the end
SHAPE = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 8192}
SMALL = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 300}


def cached(module: Prompted, prompts: Tensor, steps: int) -> list[list[int]]:
    """Decode in batches as the workflow does; no token ends a text, as none does in the authors' loop."""
    texts = []
    for part in prompts.split(BATCH):
        sampler = Sampler({"decoding": "greedy"}, 1, [str(row) for row in range(len(part))])
        texts += [one.ids for one in explain(module, part, BOS, sampler, steps, {})]
    return texts


@torch.no_grad()
def recomputed(module: Prompted, prompts: Tensor, steps: int) -> list[list[int]]:
    """Decode as the authors' code does: each step reads the prompt and all words so far, and makes logits of all."""
    texts = []
    for part in prompts.split(BATCH):
        ids = torch.full((len(part), 1), BOS)
        for _ in range(steps):
            embeds = torch.cat([part, module.lm.get_input_embeddings()(ids)], dim=1)
            logits = module.lm(inputs_embeds=embeds, use_cache=False).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        texts += ids[:, 1:].tolist()
    return texts


def main(args: argparse.Namespace) -> None:
    """Compare all tokens, then the times."""
    shape, steps, count = (SMALL, 6, 5) if args.smoke else (SHAPE, NEW_TOKENS, args.examples)
    torch.manual_seed(0)
    # Weights wide enough that logits differ clearly.
    config = GPT2Config(**shape, n_positions=128, initializer_range=0.1, bos_token_id=BOS, eos_token_id=BOS)
    lm = GPT2LMHeadModel(config).eval()
    tables = [first_vectors(kind, range(count), shape["n_embd"], 1) * 10 for kind in ("user", "item")]
    module = Prompted(lm, *tables).eval()
    prompts = torch.stack([module.users, module.items], dim=1).detach()
    texts = cached(module, prompts, steps)
    assert texts == recomputed(module, prompts, steps), "other tokens"
    facts = {"texts compared": count, "distinct among them": len({tuple(text) for text in texts}), "tokens each": steps}
    data = ", ".join(f"{key} {value}" for key, value in shape.items())
    times = compare(
        lambda: cached(module, prompts, steps), lambda: recomputed(module, prompts, steps), args.rounds, warm_up=False
    )
    record(args, "pepler", times, f"GPT-2 of random weights ({data}), batch {BATCH}, {steps} tokens a text", facts)


def options() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--examples", type=int, default=BATCH, help="how many texts (default: %(default)s)")
    return parser


if __name__ == "__main__":
    run(main, options())
