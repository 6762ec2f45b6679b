import copy
import subprocess
import sys

import pytest
import yaml

from xrec_repro.config import READ, complete, gpus_of_a_job, load_config, merge, raw_files, settings
from xrec_repro.config_files import check_files
from xrec_repro.config_rules import check_config
from xrec_repro.data.formats import SOURCES
from xrec_repro.data.readers import OWN_COLUMNS
from xrec_repro.errors import ConfigError
from xrec_repro.sections import configuration_schema


@pytest.fixture
def config(root):
    return load_config(root / "config/config.yaml")


def changed(config, path, value):
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    place = config
    for key in parents:
        place = place[key]
    place[last] = value
    return config


def test_the_default_configuration_and_every_overlay_are_valid(root, config):
    check_config(config)
    overlays = [*(root / "config").glob("*.yaml"), root / "tests/tiny.yaml"]
    assert len(overlays) >= 3
    for overlay in overlays:
        check_config(load_config(root / "config/config.yaml", overlay))


def test_the_night_of_smollm2_is_make_real_with_all_variants_and_all_texts(root):
    small, whole = (
        load_config(root / "config/config.yaml", root / f"config/xrec-{name}.yaml") for name in ("small", "smollm")
    )
    assert {pair.partition("/")[0] for pair in whole["run"]["experiments"]} == {"amazon", "yelp"}
    assert set(small["run"]["experiments"]) < set(whole["run"]["experiments"])
    for config in (small, whole):
        del config["run"], config["defaults"]["split"], config["defaults"]["tuning"]["batch_size"]  # more texts, larger
    assert small == whole


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "experiments.no_profile.overrides.promt",
            {},
            "no_profile.overrides.promt: unknown key.*did you mean 'prompt'",
        ),
        ("experiments.xrec.overrides.tuning", {"epoch": 1}, "xrec.overrides.tuning.epoch: unknown key.*'epochs'"),
        ("experiments.xrec.overrides.kcore", {"k_user": 3}, "xrec.overrides.kcore: shared by all experiments"),
        ("run.experiments", ["glassbox/xrek"], "names 'xrek', which is not in experiments.*did you mean 'xrec'"),
        ("run.experiments", ["glasbox/xrec"], "names 'glasbox', which is not in datasets"),
        ("defaults.prompt.template", "old", "defaults.prompt.template: 'old' is not one of code, fixed"),
        (
            "datasets.glassbox.overrides.prompt.template",
            "chat",
            "prompt.template: no scratch model knows a chat template",
        ),
        ("defaults.llm.source", "package", "glassbox/xrec: llm.package must be set when llm.source is 'package'"),
        ("defaults.llm.package", {"name": "a"}, "defaults.llm.package.*version"),
        ("defaults.split.ratios", [0.8, 0.1, 0.2], "glassbox/xrec: split.ratios must add up to 1, not 1.1"),
        ("defaults.tuning.epochs", 0, "defaults.tuning.epochs: 0 is less than the minimum"),
        ("defaults.llm.source", "hub", "glassbox/xrec: llm.repo must be set when llm.source is 'hub'"),
        ("defaults.profiles.backend", "published", "profiles.backend: glassbox has no published profiles"),
        ("defaults.profiles.backend", "chat", "profiles.chat.model must be set for the chat backend"),
        ("datasets.glassbox.source", "yelp", "datasets.glassbox.paths.reviews: a yelp data set needs it"),
        ("datasets.glassbox.source", "table", "datasets.glassbox.paths.reviews: a table data set needs it"),
        ("datasets.glassbox.columns", {"user": "u"}, "datasets.glassbox.columns: those of glassbox are known"),
        ("datasets.glassbox.columns", {"usr": "u"}, "datasets.glassbox.columns.usr: unknown key.*did you mean 'user'"),
        ("datasets.glassbox.columns", {"user": None}, "datasets.glassbox.columns.user: None is not of type 'string'"),
        ("datasets.glassbox.paths", {"reviews": []}, "datasets.glassbox.paths.reviews: "),
        ("defaults.read.translated", "both", "defaults.read.translated: 'both' is not one of translation, original"),
        ("datasets.glassbox.overrides.llm.scratch.templates", ["code"], "llm.scratch.templates: add 'fixed'"),
        ("runs", {}, "runs: unknown key.*did you mean 'run'"),
        ("scatter.generation", 0, "scatter.generation: 0 is less than the minimum of 1"),
        ("scatter.judging", 2.5, "scatter.judging: 2.5 is not of type 'integer'"),
        ("scatter.scoring", 2, "scatter.scoring: unknown key"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(config, path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(changed(config, path, value))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("revision", ["main", "a" * 39, "A" * 40])
def test_a_hub_model_is_pinned_to_a_commit(config, revision):
    config["defaults"]["llm"] |= {"source": "hub", "repo": "some/model", "revision": revision}
    with pytest.raises(ConfigError, match=rf"llm.revision: '{revision}' does not pin 'some/model'.*40-digit commit"):
        check_config(config)
    config["defaults"]["llm"]["revision"] = "a" * 40
    check_config(config)


def test_a_job_asks_for_a_gpu_where_it_will_use_one(tmp_path):
    there, absent = tmp_path, tmp_path / "absent"
    asked = {
        (device, path): gpus_of_a_job({"device": device}, path)
        for device in ("auto", "cpu", "cuda")
        for path in (there, absent)
    }
    assert {case for case, gpus in asked.items() if gpus} == {("cuda", there), ("cuda", absent), ("auto", there)}


def test_a_missing_default_is_named(config):
    del config["defaults"]["generation"]["top_k"]
    with pytest.raises(ConfigError, match="defaults.generation.top_k: missing"):
        check_config(config)


def test_an_entry_may_leave_out_what_is_empty_and_is_complete_for_all_other_code(tmp_path, root, config):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "run: {experiments: [d/mine]}\nexperiments: {mine: {}}\ndatasets: {d: {source: glassbox, domain: book}}"
    )
    loaded = load_config(root / "config/config.yaml", overlay)
    check_config(loaded)
    assert loaded["experiments"]["mine"] == {
        "label": "mine",
        "method": "xrec",
        "published_model": None,
        "overrides": {},
    }
    assert loaded["datasets"]["d"] == config["dataset_defaults"] | {
        "label": "d",
        "source": "glassbox",
        "domain": "book",
    }
    assert loaded["experiments"]["xrec"] == config["experiments"]["xrec"]
    loaded["experiments"]["mine"]["overrides"]["prompt"] = {}  # no two entries share a mapping
    assert complete({"experiments": {"a": {}}})["experiments"]["a"]["overrides"] == {}
    with pytest.raises(ConfigError, match="datasets.d: 'domain' is a required property"):
        check_config(complete(merge(config, {"datasets": {"d": {"source": "glassbox"}}})))


@pytest.mark.parametrize("section", ["datasets", "experiments"])
@pytest.mark.parametrize("value", [None, [], {"a": None}, {"a": "b"}])
def test_what_is_no_entry_is_refused_and_not_completed(config, section, value):
    with pytest.raises(ConfigError, match=rf"{section}[^ ]*: .*is not of type 'object'"):
        check_config(complete(config | {section: value}))


UNREADABLE = {
    "bad": (b"a: [1", "not valid YAML in line 1"),
    "list": (b"- 1", "a configuration is a mapping of keys to values, not list"),
    "text": (b"hello", "a configuration is a mapping of keys to values, not str"),
    "empty": (b"", "there is nothing in it"),
    "comment": (b"# later\n", "there is nothing in it"),
    "latin1": ("a: 1\nb: caf\xe9".encode("latin-1"), "line 2: not UTF-8 at byte 11; save it as UTF-8"),
    "utf16": ("a: 1".encode("utf-16"), "line 1: not UTF-8 at byte 0"),
    "binary": (bytes(range(128)), "not valid YAML: unacceptable character #x0000"),
    "tabs": (b"a:\n\tb: 1\n", "not valid YAML in line 2: .*with blanks in place of tabs"),
    "two": (b"a: 1\n---\nb: 2\n", "not valid YAML in line 2: .*another document; correct it to one document"),
    "date": (b"a: 2020-13-45", "a value cannot be read .month must be in 1..12.*put it in quotes"),
    "digits": (b"a: " + b"9" * 5000, "a value cannot be read .Exceeds the limit"),
    "deep": (b"a: " + b"[" * 500, "a value cannot be read .maximum recursion depth"),
    "alias": (b"a: *b", "not valid YAML in line 1: found undefined alias 'b'"),
    "itself": (b"a: &a [*a]", "line 1: an anchor that holds itself"),
    "code": (b"a: !!python/object:os.system x", "not valid YAML in line 1: could not determine a constructor"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "overlay.yaml"
    path.write_bytes(content)
    for read in (load_config, lambda *paths: check_files(paths)):
        with pytest.raises(ConfigError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path):
    for path, message in (
        (tmp_path / "none.yaml", "no such configuration file"),
        (tmp_path, "a folder, not a configuration file; name a file in it"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics:\n  use: [usr]\nrun: {}\nmetrics:\n  use: [bleu]\n", "metrics: given twice, in lines 1 and 4"),
        ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3\n", "a.b.c: given twice, in lines 3 and 5"),
        ("a: {x: 1, 'x': 2}", "a.x: given twice, in line 1,"),
        ("a: [{y: 1}, {x: 1,\n x: 2}]", "a.1.x: given twice, in lines 1 and 2"),
        ("yes: 1\ntrue: 2", "True: given twice, in lines 1 and 2"),
        ("b: &b {x: 1}\nc:\n  <<: *b\n  <<: *b\n", r"c.<<: given twice, in lines 3 and 4, .*write one <<: \[\*one"),
        ("b: &b\n  x: 1\n  x: 2\nc: {<<: *b}\n", "b.x: given twice, in lines 2 and 3"),
        ('{\n\t"a": 1,\n\t"a": 2\n}', "a: given twice, in lines 2 and 3"),
    ],
)
def test_a_key_given_twice_is_an_error_that_names_its_lines(tmp_path, text, message):
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    for read in (load_config, lambda *paths: check_files(paths)):
        with pytest.raises(ConfigError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("b: &b {x: 1, y: 2}\nc: {<<: *b, x: 3}\nd: [*b, *b]", {"c": {"x": 3, "y": 2}, "d": [{"x": 1, "y": 2}] * 2}),
        ("a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b]}", {"c": {"x": 1, "y": 2}}),
        ("\ufeffa: 1", {"a": 1}),
        ('{\n\t"a": {"b": 1e-4, "c": "x"}\n}', {"a": {"b": 1e-4, "c": "x"}}),  # in YAML, 1e-4 is a text
    ],
)
def test_anchors_merge_keys_byte_order_marks_and_json_are_read(tmp_path, text, value):
    (tmp_path / "overlay.yaml").write_text(text, encoding="utf-8")
    loaded = load_config(tmp_path / "overlay.yaml")
    assert {key: loaded[key] for key in value} == value
    check_files([tmp_path / "overlay.yaml"])


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("defaults.tuning.learning_rate", NAN, "defaults.tuning.learning_rate: nan is not a number to compute with"),
        ("defaults.tuning.learning_rate", INFINITY, "defaults.tuning.learning_rate: inf is not a number"),
        ("recommenders.lightgcn.weight_decay", INFINITY, "recommenders.lightgcn.weight_decay: inf is not"),
        ("defaults.kcore.rating_above", -INFINITY, "defaults.kcore.rating_above: -inf is not"),
        ("defaults.split.ratios", [NAN, 0.1, 0.1], "defaults.split.ratios.0: nan is not"),
        ("defaults.tuning.epochs", INFINITY, "defaults.tuning.epochs: inf is not"),
        ("emissions.node_power_kw", {"n1": NAN}, "emissions.node_power_kw.n1: nan is not"),
        ("experiments.xrec.overrides.tuning", {"learning_rate": NAN}, "xrec.overrides.tuning.learning_rate: nan"),
        ("metrics.gptscore.timeout_s", INFINITY, "metrics.gptscore.timeout_s: inf is not"),
        ("defaults.tuning.learning_rate", True, "defaults.tuning.learning_rate: True is not of type 'number'$"),
        ("defaults.tuning.epochs", True, "defaults.tuning.epochs: True is not of type 'integer'$"),
        ("defaults.split.ratios", [0.8, 0.2, False], "defaults.split.ratios.2: False is not of type 'number'$"),
        ("defaults.tuning.epochs", 5.0, "defaults.tuning.epochs: 5.0 is not of type 'integer'; write 5$"),
        ("defaults.tuning.learning_rate", "1e-4", "'1e-4' is not of type 'number'; write 1.000000e-04$"),
        ("defaults.tuning.epochs", "two", "defaults.tuning.epochs: 'two' is not of type 'integer'$"),
        (
            "recommenders.lightgcn.dim",
            10**12,
            "lightgcn.dim: 10+ is greater than the maximum of 2147483647",
        ),
        ("recommenders.lightgcn.dim", 10**30, "recommenders.lightgcn.dim: an integer of 100 bits is more than any"),
        ("compute.threads", 2**31, "compute.threads: 2147483648 is greater than the maximum"),
        ("run.seeds", [2**32], "run.seeds.0: 4294967296 is greater than the maximum"),
        ("defaults.split.seed", -1, "defaults.split.seed: -1 is less than the minimum of 0"),
        ("defaults.kcore.k_user", 2**40, "defaults.kcore.k_user: 1099511627776 is greater than the maximum"),
        ("emissions.node_power_kw", {7: 0.5}, "emissions.node_power_kw.7: a key is a text, not int; put it in quotes"),
        ("metrics.bertscore.model", "scratch", "metrics.bertscore.model: no run trains one"),
        (
            "metrics.bertscore.rescale",
            True,
            r"rescale: true finds the baseline of a hub repository \(with its revision\) alone",
        ),
    ],
)
def test_what_is_no_number_of_that_kind_is_refused(config, path, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_config(changed(config, path, value))
    assert "\n" not in str(caught.value)


def test_the_hint_for_a_number_in_words_is_a_number(config):
    check_config(changed(config, "defaults.tuning.learning_rate", yaml.safe_load("1.000000e-04")))


def test_dictionaries_merge_and_lists_replace():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert merge(base, {"a": {"y": [9]}, "c": 4}) == {"a": {"x": 1, "y": [9]}, "b": 3, "c": 4}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 3}


def test_an_overlay_may_add_experiments_to_the_list(root, tmp_path):
    base = root / "config/config.yaml"
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("run: {experiments: {add: [glassbox/eq12, glassbox/xrec]}}\nexperiments: {eq12: {}, other: {}}\n")
    second.write_text("run: {name: more, experiments: {add: [glassbox/other]}}\n")
    listed = load_config(base)["run"]["experiments"]
    config = load_config(base, first, second)
    check_config(config)
    assert config["run"]["experiments"] == [*listed, "glassbox/eq12", "glassbox/other"]
    assert config["run"]["name"] == "more"


@pytest.mark.parametrize(
    "value", ["{add: glassbox/xrec}", "{add: []}", "{add: [glassbox/xrec], drop: [x]}", "{more: [glassbox/xrec]}"]
)
def test_another_form_of_experiments_is_refused(root, tmp_path, value):
    path = tmp_path / "overlay.yaml"
    path.write_text(f"run: {{experiments: {value}}}\n")
    with pytest.raises(ConfigError, match=r"run\.experiments: neither a list nor {add: \[names\]}"):
        load_config(root / "config/config.yaml", path)


def test_settings_overlay_data_set_then_experiment(config):
    config["datasets"]["glassbox"]["overrides"] = {"tuning": {"epochs": 7}, "prompt": {"template": "fixed"}}
    config["experiments"]["no_profile"]["overrides"]["tuning"] = {"batch_size": 2}
    chosen = settings(config, "glassbox", "no_profile")
    assert chosen["tuning"]["epochs"] == 7
    assert chosen["tuning"]["batch_size"] == 2
    assert chosen["prompt"] == {"profiles": False, "template": "fixed"}
    assert settings(config, "glassbox")["prompt"]["profiles"] is True


def test_the_configuration_module_stays_light(root):
    """The Snakefile imports it in every job."""
    heavy = {"torch", "transformers", "pandas", "sklearn", "torch_geometric"}
    code = f"import sys, xrec_repro.config, xrec_repro.provenance; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_jobs_of_transformers_import_nothing_for_what_they_do_not_use():
    """Each would pay a second or two for it."""
    code = """if True:
        import sys
        from xrec_repro.job import _Sparing
        sys.meta_path.insert(0, _Sparing)
        from transformers import LlamaForCausalLM
        print({"pandas", "scipy", "sklearn"} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistics": {"primary": "bertscore_f1"}}, r"statistics\.primary"),
        ({"statistics": {"primary": ["usr", "usr"]}}, r"statistics\.primary"),
        ({"paper": {"figures": {"sizes": {"figure5": [3, 4]}}}}, r"paper\.figures\.sizes"),
        ({"paper": {"figures": {"sizes": {"figure4": [3]}}}}, r"paper\.figures\.sizes\.figure4"),
        ({"paper": {"figures": {"sizes": {"figure4": [3, 0]}}}}, r"paper\.figures\.sizes\.figure4"),
        ({"paper": {"figures": {"captions": "no"}}}, r"paper\.figures\.captions"),
    ],
)
def test_impossible_figures_and_primary_metrics_are_refused(config, change, message):
    with pytest.raises(ConfigError, match=message):
        check_config(merge(config, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "worse"}, r"claim3\.kind: 'worse' is not one of better, unique"),
        ({"at_least": 1}, r"claim3\.at_least: not of this kind; a rule of kind better has against, aspects, system"),
        ({"aspects": None}, r"claim3\.aspects: missing; a rule of kind better has"),
        ({"hold": "most"}, r"claim3\.hold: 'most' is not valid"),
        ({"hold": 0}, r"claim3\.hold: 0 is not valid"),
        ({"against": ["PETER+"]}, r"claim3: 'PETER\+' is not in claims\.systems \(did you mean 'PETER'\?\)"),
        ({"metrics": ["bertscor_f1"]}, r"claim3\.metrics names 'bertscor_f1', which no metric gives \(did you mean"),
    ],
)
def test_rules_of_claims_that_cannot_be_judged_are_refused(config, change, message):
    rule = config["claims"]["rules"]["claim3"] | change
    config["claims"]["rules"]["claim3"] = {
        key: value for key, value in rule.items() if value is not None or key not in change
    }
    with pytest.raises(ConfigError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("paper.questions.ranks", [50, 10], r"paper\.questions\.ranks: \[50, 10\] do not rise; sort them"),
        ("paper.questions.metrics", ["charm"], r"paper\.questions\.metrics names 'charm', which no metric gives"),
        ("paper.sparsity.metrics", ["blert"], r"paper\.sparsity\.metrics names 'blert', .*did you mean 'bleurt'"),
        ("paper.figure2.metrics", [["usr"], ["uss"]], r"paper\.figure2\.metrics names 'uss', .*did you mean 'usr'"),
        ("methods.mine", {"kind": "bar"}, r"methods\.mine\.kind: 'bar' is not one of att2seq"),
        ("methods.mine", {"module": "not_there"}, r"methods\.mine\.module: not_there cannot be imported"),
    ],
)
def test_what_could_only_fail_after_all_training_is_refused_before(config, path, value, message):
    with pytest.raises(ConfigError, match=message):
        check_config(changed(config, path, value))


def test_figures_may_have_sizes_and_no_metric_need_be_primary(config):
    change = {"statistics": {"primary": []}, "paper": {"figures": {"captions": False, "sizes": {"sweeps": [7, 4.5]}}}}
    check_config(merge(config, change))
    check_config(merge(config, {"statistics": {"primary": None}}))


@pytest.mark.parametrize(
    "change",
    [
        {"statistics": {"reference": "xrek"}},
        {"paper": {"figure3": {"experiments": ["xrek"]}}},
        {"paper": {"tables": {"table2": ["xrec", "xrek"]}}},
        {"claims": {"systems": {"XRec": {"experiment": "xrek"}}}},
    ],
)
def test_an_unknown_experiment_in_the_paper_s_sections_is_named(config, change):
    with pytest.raises(ConfigError, match=r"names 'xrek', which is not in experiments \(did you mean 'xrec'\?\)"):
        check_config(merge(config, change))


@pytest.mark.parametrize(
    ("section", "key"),
    [("tables", "table1"), ("tables", "table2"), ("figure3", "experiments"), ("embeddings", "experiments")],
)
def test_a_list_of_experiments_that_do_not_run_is_refused_unless_it_is_the_default(config, section, key):
    config["run"]["experiments"] = ["glassbox/xrec", "glassbox/no_embeddings"]
    check_config(config)  # the default lists name no_profile and fixed_moe
    check_config(merge(config, {"paper": {section: {key: ["no_embeddings"]}}}))
    place = rf"paper\.{section}\.{key} names 'no_profile', which is not in run\.experiments"
    for names in (["xrec", "no_profile", "fixed_moe"], ["no_profile"]):
        with pytest.raises(ConfigError, match=place + ".*; add it there, or take it off the list; null shows all$"):
            check_config(merge(config, {"paper": {section: {key: names}}}))


def test_overrides_of_one_data_set_reach_that_one_alone(config):
    more = {"experiments": {"xrec": {"per_dataset": {"glassbox": {"adapter": {"experts": 3}}}}}}
    more = merge(config, more)
    check_config(more)
    assert settings(more, "glassbox", "xrec")["adapter"]["experts"] == 3
    assert settings(more, "glassbox", "no_profile")["adapter"]["experts"] == 8
    wrong = merge(config, {"experiments": {"xrec": {"per_dataset": {"glasbox": {}}}}})
    with pytest.raises(ConfigError, match=r"experiments.xrec.per_dataset.glasbox: not in datasets \(did you mean"):
        check_config(wrong)


def test_a_chat_model_that_runs_here_is_pinned_by_a_commit(config):
    chat = {"base_url": None, "model": "owner/name", "revision": "main"}
    change = {"defaults": {"profiles": {"backend": "chat", "chat": chat}}}
    with pytest.raises(ConfigError, match="profiles.chat.revision: 'main' is no commit; give its 40 digits"):
        check_config(merge(config, change))
    check_config(merge(merge(config, change), {"defaults": {"profiles": {"chat": {"revision": "a" * 40}}}}))
    served = {"base_url": "http://127.0.0.1:1/v1"}  # what a server serves has whatever name its user gives it
    check_config(merge(merge(config, change), {"defaults": {"profiles": {"chat": served}}}))


def own_data(config, **entry):
    """Return the configuration with a table of the user's own and nothing else to run."""
    config = changed(config, "run.experiments", ["mine/xrec"])
    config["datasets"]["mine"] = {"source": "table", "domain": "book"} | entry
    return config


def test_an_entry_needs_its_source_and_domain_and_no_more(config):
    extractive = {"profiles": {"references": "extractive"}}
    config = own_data(config, paths={"reviews": "r.csv"}, columns={"user": "who", "city": None}, overrides=extractive)
    check_config(config)
    entry = complete(config)["datasets"]["mine"]
    assert entry["label"] == "mine" and entry["download"] is None and entry["published_as"] is None
    assert entry["columns"] == config["dataset_defaults"]["columns"] | {"user": "who", "city": None}
    assert set(config["datasets"]["mine"]) == {"source", "domain", "paths", "columns", "overrides"}
    with pytest.raises(ConfigError, match=r"mine/xrec: profiles.references: table has no published texts; use chat or"):
        check_config(own_data(config, paths={"reviews": "r.csv"}))


def test_lists_and_patterns_stand_for_files_in_order(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.csv", "a.csv", ".hidden.csv", "deep/c.csv", "with [1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.csv").mkdir()

    def found(reviews, **paths):
        return raw_files(complete(own_data(config, paths={"reviews": reviews} | paths)))["mine"]

    assert found("none.csv") == {"reviews": ["none.csv"], "items": []}  # Snakemake says that it is missing
    assert found("[ab].csv", items=["b.csv", "a.csv"]) == {"reviews": ["a.csv", "b.csv"], "items": ["b.csv", "a.csv"]}
    assert found(["b.csv", "*.csv"])["reviews"] == ["b.csv", "a.csv", "with [1].csv"]
    assert found(f"{tmp_path}/**/c.csv")["reviews"] == [f"{tmp_path}/deep/c.csv"]
    assert found("with [[]1].csv")["reviews"] == ["with [1].csv"]
    with pytest.raises(ConfigError, match=r"mine.paths.items: no file matches 'x\*', seen from .*check the path"):
        found("a.csv", items="x*")


def test_readers_schema_and_configuration_know_the_same_sources(config):
    known = configuration_schema()["properties"]["datasets"]["additionalProperties"]["properties"]["source"]["enum"]
    assert set(READ) == set(SOURCES) == set(known) - {"glassbox", "release"}
    assert config["dataset_defaults"]["columns"] == OWN_COLUMNS


def test_files_of_data_sets_that_do_not_run_need_not_be_there(config):
    config["datasets"]["mine"] = {"source": "table", "domain": "book", "paths": {"reviews": "nowhere/*"}}
    assert raw_files(complete(config)) == {}
