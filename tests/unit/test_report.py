"""Captions of Snakemake's HTML report: each renders with the configuration, and every file shown has one."""

import copy
import re
from types import SimpleNamespace

import jinja2
import pytest
import yaml
from docutils.core import publish_parts

STEMS = (
    "table1", "table2", "table3", "figure2", "figure2_zoomed", "figure3", "figure4", "embeddings", "groups",
    "costs", "jobs", "sweeps",
    "examples", "claims", "questions", "statistics", "audit", "browse", "workflow",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(root) -> dict:
    return yaml.safe_load((root / "config/config.yaml").read_text(encoding="utf-8"))


def render(root, config: dict, stem: str) -> str:
    """Return a caption's HTML as Snakemake makes it, but strict: a missing key or markup that is wrong is an error."""
    source = (root / f"workflow/report/{stem}.rst").read_text(encoding="utf-8")
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(source).render(snakemake=SimpleNamespace(config=config))
    return publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]


@pytest.mark.parametrize("stem", STEMS)
def test_captions_render_to_text(root, config, stem):
    body = re.sub(r"<[^>]+>", "", render(root, config, stem))
    assert len(body) > 100
    assert not re.search(r"[{}]|``", body)


def test_captions_are_those_of_the_files_shown(root):
    """The stems that the rules mark, read from where they mark them."""
    rules = "".join((root / f"workflow/rules/{name}.smk").read_text(encoding="utf-8") for name in ("paper", "figures"))
    stems = {name.split("/")[-1] for name in re.findall(r'(?:paper|figure)_files\("([\w/]+)"', rules)}
    for name in ("audit", "sweeps"):
        text = (root / f"workflow/rules/{name}.smk").read_text(encoding="utf-8")
        stems |= set(re.findall(r"shown\(.*/(\w+)\.(?:md|png)", text))
    stems |= {f"table{number}" for number in re.findall(r"table_files\((\d)\)", rules)}
    assert stems | {"workflow"} == set(STEMS)
    assert {path.stem for path in (root / "workflow/report").glob("*.rst")} == set(STEMS)


def test_captions_follow_the_configuration(root, config):
    assert config["run"]["name"] in render(root, config, "workflow")
    chosen = copy.deepcopy(config)
    chosen["paper"]["browse"] = {"max_examples": 7, "seed": 3}
    text = " ".join(render(root, chosen, "browse").split())
    assert "profiles; at most 7 examples of a data set, drawn with seed 3. The file" in text
    chosen["paper"]["browse"]["max_examples"] = None
    assert "at most" not in render(root, chosen, "browse")
