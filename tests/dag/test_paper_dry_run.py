"""The study at full scale, dry: every path resolves, and nothing is trained that the study took ready-made."""

import pytest

from tests.dag.test_dry_runs import dry_run, jobs

DATASETS = ("amazon", "yelp", "google")
METRICS = ("llamascore", "bertscore", "bartscore", "bleurt", "usr", "bleu", "rouge", "distinct")


@pytest.mark.parametrize("cloned", [True, False])
def test_the_paper_explains_twelve_experiments_and_tunes_eleven(root, tmp_path, cloned):
    folder = tmp_path / "work"
    folder.mkdir()
    if cloned:
        for dataset in DATASETS:
            (tmp_path / "XRec/data" / dataset).mkdir(parents=True)
    found = jobs(dry_run(root, folder, "--cores", "8", "--configfile", str(root / "config/paper.yaml")))
    assert found["generate_explanations"] == found["score_explanations"] == 12
    assert all(found[f"score_{metric}"] == 12 for metric in METRICS)
    assert found["train_method"] == 11
    assert found["train_recommender"] == found["import_release"] == found["split_interactions"] == len(DATASETS)
    assert found["fetch_release"] == len(DATASETS)  # from the clone, where it has the right files
    assert found["make_table1"] == found["make_table2"] == found["make_table3"] == 1
    assert not {"pretrain_lm", "train_bart", "train_bleurt", "train_judge"} & set(found)
