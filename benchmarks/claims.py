"""What the benchmarks show: one claim a line of the table, one file of results each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What a benchmark shows.

    Attributes:
        title: What is measured.
        peer: What it is measured against.
        goal: The smallest ratio that is good enough; None where the number is for information.
        script: The script that measures it, without its suffix.
        why: Why the goal is missed where it is; shown on the page only then.
    """

    title: str
    peer: str
    goal: float | None
    script: str
    why: str = ""


CLAIMS = {
    "kcore": Claim("k-core of the released Yelp graph", "networkx.k_core, its graph built beforehand", 30, "kcore"),
    "kcore_stream": Claim(
        "k-core stage on 100 million power-law interactions, Parquet to Parquet", "a limit of 300 s", 1, "kcore_stream"
    ),
    "kcore_memory": Claim("The same stage: peak memory", "a limit of 12 GB", 1, "kcore_stream"),
    "lightgcn_edge_index": Claim(
        "LightGCN training step (4 layers, 64 dimensions, batch 1,024, Adam)",
        "torch-geometric's LightGCN on edge_index",
        15,
        "lightgcn",
    ),
    "lightgcn_csr": Claim("LightGCN training step", "torch-geometric's LightGCN on a CSR adjacency", 3, "lightgcn"),
    "lightgcn_coo": Claim(
        "LightGCN training step",
        "COO products with autograd, as in XRec's code",
        10,
        "lightgcn",
        why="the eight sparse products of a step alone, at the speed of MKL's on CSR, take about a tenth of the peer's "
        "whole step; the rest of ours are zeroed gradients, Adam and a copy a product",
    ),
    "generation": Claim("Explanations, greedy, batch 32", "model.generate at batch 1, the same hooks", 8, "generation"),
    "generation_plain": Claim(
        "Explanations, greedy, batch 32", "model.generate on the same padded batches of 32", None, "generation"
    ),
    "pepler": Claim(
        "PEPLER's texts, greedy, batch 32, 98 tokens",
        "the whole prefix read again each step, as its code does",
        8,
        "pepler",
    ),
    "tuning": Claim("Tuning step, best batch, in samples/s", "batch 1 with logits everywhere", 2, "tuning"),
    "usr": Claim("USR of 4,000 texts", "a list of the different texts, searched for each", None, "scoring"),
    "usr_linear": Claim("USR of 8 n texts in at most 16 times the time of n", "that bound", 1, "scoring"),
    "corpus": Claim(
        "USR, DIV and FCR of 2,000 texts", "loops over texts and pairs, as in the published codes", 100, "scoring"
    ),
    "corpus_limit": Claim("USR, DIV and FCR of 32,000 texts", "a limit of 5 s", 1, "scoring"),
    "peter_decoding": Claim(
        "PETER (published sizes), greedy, with a cache",
        "the prefix read again at each step, as by the authors",
        10,
        "peter",
    ),
    "peter_epoch": Claim(
        "A training epoch of PETER (published sizes)",
        "the plain loop over nn.TransformerEncoder: full padding, words scored at all places",
        1,
        "peter",
    ),
    "bertscore": Claim(
        "BERTScore of released predictions",
        "bert_score as it comes, batches of 64",
        1.5,
        "scoring",
        "The package too reads each different text once, sorted by length. What both do is float32 products, three "
        "quarters of the time on a CPU and nearly at its peak rate.",
    ),
    "bartscore": Claim(
        "BARTScore of released predictions",
        "what BARTScore's code does: batches of 4 in the order given, the slow tokenizer, log-softmax everywhere",
        1.5,
        "scoring",
        "Products of matrices are nine tenths of the time, and on a CPU batches of 4 reach nearly their full rate: "
        "little but the padding, 15 % of the peer's tokens, can be saved.",
    ),
    "bleurt": Claim(
        "BLEURT of released predictions",
        "BLEURT's own batching: 16 in the order given, every pair padded to the checkpoint's 512 tokens",
        1.5,
        "scoring",
    ),
    "bleurt_longest": Claim(
        "BLEURT of released predictions",
        "all pairs in one batch, padded to the longest, as bleurt-pytorch's README shows",
        1.5,
        "scoring",
    ),
    "judge": Claim(
        "The judge's mean score from the logits (`expected`), in batches",
        "model.generate of a reply of 3 tokens (two digits and the end), one prompt after the other",
        5,
        "scoring",
        "Ours takes less than reading each prompt once, but on a CPU that reading is most of the time of a short reply "
        "too: no way that reads all prompts can be five times faster.",
    ),
    "judge_limit": Claim(
        "The judge's mean score from the logits (`expected`), in batches",
        "model.generate of a reply of 8 tokens (the configured limit), one prompt after the other",
        None,
        "scoring",
    ),
    "overhead": Claim(
        "Snakemake, starts and imports in a run of the demo",
        "a limit of 10 % of its time",
        1,
        "overhead",
        "Every job is a process of its own, so that each can be run again, resumed and charged alone: some forty "
        "import torch and transformers, for 3 to 6 s each. Snakemake itself takes 3 s in all.",
    ),
    "gpu_generation": Claim("3,000 Amazon explanations, Llama-2-7B's shape, bf16", "a limit of 180 s", 1, "gpu"),
    "gpu_tuning": Claim("One epoch of 95,841 samples, Llama-2-7B's shape, bf16", "a limit of 24 min", 1, "gpu"),
    "gpu_batching": Claim(
        "Tuning step, best batch, Llama-2-7B's shape, bf16", "batch 1 with logits everywhere", 5, "gpu"
    ),
    "gpu_slots_single": Claim(
        "A token of a single text in a slot, fast, Llama-2-7B's shape, bf16",
        "a limit of 1 / 0.55 times what reading all weights takes at the measured bandwidth",
        1,
        "gpu_slots",
    ),
    "gpu_slots_fast": Claim(
        "Explanations in slots, fast, best number, Llama-2-7B's shape, bf16",
        "transformers' generate, static cache, compiled, batch 256",
        1.2,
        "gpu_slots",
    ),
    "gpu_slots_exact": Claim(
        "Explanations in slots, exact, best number, Llama-2-7B's shape, bf16",
        "transformers' generate, static cache, compiled, batch 256",
        0.8,
        "gpu_slots",
    ),
    "gpu_slots_all_fast": Claim(
        "3,000 Amazon explanations in slots, fast, Parquet and setting up included", "a limit of 25 s", 1, "gpu_slots"
    ),
    "gpu_slots_all_exact": Claim(
        "3,000 Amazon explanations in slots, exact, Parquet and setting up included",
        "a limit of 25 s",
        1,
        "gpu_slots",
        "Products in tiles of one order of sums take longer than cuBLAS's: a step of 384 slots 25.3 ms, not 22.0.",
    ),
}

# Measurements without a goal, by script and result.
FINDINGS = {
    "gpu_probe": "What changes the bits of a row in a decoding step of Llama-2-7B's shape in bf16, and what it costs",
    "gpu_workflow": "The tiny workflow on a GPU and on the CPU",
    "smollm_writer": "SmolLM2-135M-Instruct as profile writer: which of its replies are the JSON that is asked for",
    "smollm_judge": "SmolLM2-135M-Instruct as judge: which of its replies are numbers, and what `expected` reads",
}
