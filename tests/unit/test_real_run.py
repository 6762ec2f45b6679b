"""The command docs/real_run.py: its pages say what resources/measured says, and losses have intervals over users."""

import numpy as np
import pytest

from tests.conftest import load_script
from xrec_repro.config import load_config
from xrec_repro.statistic_settings import Settings


@pytest.fixture(scope="module")
def real_run(root):
    """The command as a module."""
    return load_script(root / "docs/real_run.py")


def test_each_page_is_made_from_its_measured_files(real_run, root):
    measured = [run for run in real_run.PAGES if (real_run.MEASURED / run).is_dir()]
    assert "xrec-small" in measured
    for run in measured:
        name, _ = real_run.PAGES[run]
        assert (root / "docs" / name).read_text(encoding="utf-8") == real_run.page(real_run.MEASURED / run)


def test_a_change_has_the_interval_of_its_users(real_run, root):
    settings = Settings.from_settings(load_config(root / "config/config.yaml")["statistics"])
    before, after = [2.0] * 40, [1.0 + (user % 2) for user in range(10) for _ in range(4)]
    users = np.repeat(np.arange(10), 4)
    alone = real_run._change(after, before, np.arange(40), settings)
    found = real_run._change(after, before, users, settings)
    assert (found["n"], found["before"], found["after"], found["change"]) == (40, 2.0, 1.5, -0.5)
    assert found["high"] - found["low"] > 1.5 * (alone["high"] - alone["low"])


def test_a_run_without_a_page_is_refused(real_run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["real_run.py", "results/mine"])
    with pytest.raises(SystemExit):
        real_run.main()
    assert "results/mine: has no page; those that have: xrec-small, xrec-smollm" in capsys.readouterr().err
