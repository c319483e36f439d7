"""The retrieval probe on tiny sets of the true layouts, with features that know the answer and with noise."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torchmetrics.retrieval import RetrievalMAP

from retrieval_writers import by_definition, save_image, write_amstertime, write_met, write_revisited
from spatialboost.boosting import boost
from spatialboost.errors import SpatialBoostError
from spatialboost.probes import features as features_module
from spatialboost.probes.features import Features, read_features
from spatialboost.probes.retrieval import CHANCE, RetrievalProbe, retrieval_probe
from spatialboost.probes.retrieval_sets import ImageList, open_retrieval
from spatialboost.probes.run import run_probe
from spatialboost.probes.token_store import TokenStore


def as_features(vectors: np.ndarray) -> Features:
    tokens = torch.from_numpy(np.asarray(vectors, np.float32))
    return Features(tokens[:, None], tokens, (1, 1), (16, 16), 0, "none")


def tiny_vit(class_token: bool = True) -> VisionTransformer:
    torch.manual_seed(0)
    pool = "token" if class_token else "avg"
    return VisionTransformer(
        img_size=16, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0, class_token=class_token,
        global_pool=pool,
    )  # fmt: skip


def test_revisited_sets_are_measured_by_their_rules(tmp_path) -> None:
    truth = write_revisited(tmp_path)
    found = open_retrieval(tmp_path)
    rng = np.random.default_rng(5)
    database, queries = rng.normal(size=(12, 6)), rng.normal(size=(4, 6))
    result = run_probe(
        RetrievalProbe(), {"mine": (as_features(database), as_features(queries))}, found.database, found.queries
    )
    settings = {"easy": ("easy", "junk hard"), "medium": ("easy hard", "junk"), "hard": ("hard", "junk easy")}
    for name, (right, ignored) in settings.items():
        expected = []
        for number, entry in enumerate(truth["gnd"]):
            cosine = database @ queries[number] / np.linalg.norm(database, axis=1)
            lists = [{int(each) for key in keys.split() for each in entry[key]} for keys in (right, ignored)]
            if lists[0]:
                expected.append(by_definition(np.argsort(-cosine).tolist(), *lists))
        assert len(expected) == (3 if name == "easy" else 4)
        assert result.values("mine", f"map_{name}") == [pytest.approx(np.mean(expected), abs=1e-9)]
        assert result.settings[f"queries of map_{name}"] == len(expected)
    assert result.settings["set"] == "roxford5k" and set(result.metrics) == {"map_hard", "map_medium", "map_easy"}
    assert len(result.rows[0].per_view) == 4


def test_queries_are_cut_out_by_their_boxes(tmp_path) -> None:
    write_revisited(tmp_path)
    found = open_retrieval(tmp_path)
    whole = np.asarray(Image.open(tmp_path / "jpg" / "radcliffe_000001.jpg"))
    assert (found.queries[1].image_HW3 == whole[1:8, 2:10]).all()
    assert found.database is not None and found.database[0].image_HW3.shape == (12, 16, 3)


@pytest.mark.parametrize(("class_token", "token"), [(True, "class token"), (False, "mean patch token")])
def test_an_encoder_runs_and_its_token_is_named(tmp_path, class_token: bool, token: str) -> None:
    write_revisited(tmp_path, name="rparis6k")
    encoder = tiny_vit(class_token)
    result = retrieval_probe({"mine": encoder}, tmp_path, image_size=16)
    assert result.settings["token"] == token and result.names == ["mine", CHANCE]
    assert (
        retrieval_probe({"mine": encoder}, tmp_path, image_size=16, token="mean").settings["token"].startswith("mean")
    )
    if not class_token:
        with pytest.raises(SpatialBoostError, match="no class token; take mean or auto"):
            retrieval_probe({"mine": encoder}, tmp_path, image_size=16, token="class")


def test_met_by_gap_with_a_classifier_chosen_on_its_own_queries(tmp_path) -> None:
    write_met(tmp_path)
    found = open_retrieval(tmp_path)
    rng = np.random.default_rng(0)
    labels, known = found.queries.rules.labels
    assert labels.tolist() == [7, 7, 30, 30, 111, 111] and found.queries.rules.tuning == range(5)
    centre = {label: rng.normal(size=8) for label in (7, 30, 111)}
    database = np.stack([centre[label] for label in labels])
    queries = np.stack([centre[label] if label != -1 else rng.normal(size=8) for label in known])
    mine = {"oracle": (as_features(database), as_features(queries))}
    result = run_probe(RetrievalProbe(), mine, found.database, found.queries)
    assert [result.values("oracle", name) for name in ("gap", "gap_known", "accuracy")] == [[1.0]] * 3
    assert result.values(CHANCE, "gap")[0] < 0.8 and "5 queries" in result.settings["neighbours chosen by"]
    queries[5] = centre[30]  # a test query of exhibit 7 looks like exhibit 30
    result = run_probe(RetrievalProbe(), mine | {"oracle": (mine["oracle"][0], as_features(queries))}, *reversed(
        [found.queries, found.database]))  # fmt: skip
    assert result.values("oracle", "accuracy") == [pytest.approx(2 / 3)]
    assert len(open_retrieval(tmp_path, mini=True).database) == 4


def test_met_without_queries_to_choose_on_takes_the_nearest_image(tmp_path) -> None:
    write_met(tmp_path, tuning=False)
    result = retrieval_probe({"mine": tiny_vit()}, tmp_path, image_size=16)
    assert result.settings["neighbours chosen by"] == "none, 1" and result.rows[0].chosen["neighbours"] == 1


def test_amstertime_looks_both_ways(tmp_path) -> None:
    write_amstertime(tmp_path)
    found = open_retrieval(tmp_path)
    rng = np.random.default_rng(2)
    old, new = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    result = run_probe(RetrievalProbe(), {"mine": (as_features(new), as_features(old))}, found.database, found.queries)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (old, new)]
    cosine = unit[0] @ unit[1].T
    one = [1 / (1 + (row > row[number]).sum()) for number, row in enumerate(cosine)]
    other = [1 / (1 + (row > row[number]).sum()) for number, row in enumerate(cosine.T)]
    assert result.values("mine", "map_old_new") == [pytest.approx(np.mean(one))]
    assert result.values("mine", "map_new_old") == [pytest.approx(np.mean(other))]
    assert result.values("mine", "map") == [pytest.approx(np.mean(one + other))]
    assert (
        len(result.settings["left out"]) == 1
        and "0005.jpg: it has no image of its name" in result.settings["left out"][0]
    )


def test_class_folders_agree_with_torchmetrics(tmp_path) -> None:
    labels = []
    for label, num in enumerate((4, 3, 1, 5)):
        for number in range(num):
            save_image(tmp_path / f"class{label}" / f"{number}.png", 10 * label + number)
            labels.append(label)
    found = open_retrieval(tmp_path)
    assert found.database is None
    vectors = np.random.default_rng(7).normal(size=(13, 5))
    both = as_features(vectors)
    result = run_probe(RetrievalProbe(), {"mine": (both, both)}, None, found.queries)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    label = np.array(labels)
    others = [(query, other) for query in range(13) for other in range(13) if query != other and labels[query] != 2]
    query, other = np.array(others).T
    expected = RetrievalMAP()(
        torch.tensor(1 + (unit[query] * unit[other]).sum(1)),  # torchmetrics wants positive scores
        torch.tensor(label[query] == label[other]),
        torch.tensor(query),
    )
    assert result.values("mine", "map") == [pytest.approx(expected.item(), abs=1e-6)]
    assert result.settings["queries of map"] == 12  # the only image of its class has nothing to find
    row = retrieval_probe(boost(tiny_vit()), tmp_path, image_size=16)
    assert row.gain("map").mean == 0 and row.views_won() == 0.5  # all ties


def test_images_that_cannot_be_read_are_named_and_the_rest_keeps_its_numbers(tmp_path) -> None:
    truth = write_revisited(tmp_path)
    found = open_retrieval(tmp_path)
    lost = int(truth["gnd"][1]["hard"][0])
    (tmp_path / "jpg" / f"{truth['imlist'][lost]}.jpg").write_bytes(b"broken")
    database = np.random.default_rng(1).normal(size=(12, 6))
    queries = np.random.default_rng(2).normal(size=(4, 6))
    there = np.delete(np.arange(12), lost)
    mine = {"mine": (as_features(database[there]), as_features(queries))}
    result = run_probe(RetrievalProbe(), mine, found.database, found.queries)
    expected = []
    for number, entry in enumerate(truth["gnd"]):
        cosine = database @ queries[number] / np.linalg.norm(database, axis=1)
        ranked = [each for each in np.argsort(-cosine).tolist() if each != lost]
        lists = [{int(each) for key in keys for each in entry[key]} - {lost} for keys in (("hard",), ("junk", "easy"))]
        expected.append(by_definition(ranked, *lists))
    assert result.values("mine", "map_hard") == [pytest.approx(np.mean(expected))]
    assert len(result.settings["left out"]) == 1 and truth["imlist"][lost] in result.settings["left out"][0]


def test_features_on_disk_give_the_same_result(tmp_path, monkeypatch) -> None:
    write_revisited(tmp_path)
    encoder = tiny_vit()
    held = retrieval_probe({"mine": encoder}, tmp_path, image_size=16)
    monkeypatch.setattr(features_module, "TokenStore", lambda: TokenStore(limit=500))
    features = read_features(encoder, open_retrieval(tmp_path).database, image_size=16, patches=False)
    assert features.tokens.on_disk and features.cls_VD is not None and features.cls_VD.shape == (12, 48)
    on_disk = retrieval_probe({"mine": encoder}, tmp_path, image_size=16)
    assert on_disk.rows[0].metrics == held.rows[0].metrics


def test_noise_is_at_chance(tmp_path) -> None:
    for label in range(4):
        for number in range(10):
            save_image(tmp_path / f"class{label}" / f"{number}.png", 10 * label + number, (4, 4))
    noise = as_features(np.random.default_rng(3).normal(size=(40, 64)))
    result = run_probe(RetrievalProbe(), {"noise": (noise, noise)}, None, open_retrieval(tmp_path).queries)
    assert abs(result.values("noise", "map")[0] - result.values(CHANCE, "map")[0]) < 0.06
    assert 0.2 < result.values(CHANCE, "map")[0] < 0.4


def test_wrong_folders_say_what_is_missing(tmp_path) -> None:
    with pytest.raises(SpatialBoostError, match="is not a folder"):
        open_retrieval(tmp_path / "nowhere")
    (tmp_path / "jpg").mkdir()
    with pytest.raises(SpatialBoostError, match=r"has 0 files gnd_\*.pkl; expected one"):
        open_retrieval(tmp_path)
    truth = {"imlist": ["a"], "qimlist": ["q"], "gnd": [{"bbx": [0, 0, 5, 5], "easy": [3], "hard": [], "junk": []}]}
    file = tmp_path / "gnd_roxford5k.pkl"
    file.write_bytes(pickle.dumps(truth))
    with pytest.raises(SpatialBoostError, match="does not fit together: 1 images, 1 queries"):
        open_retrieval(tmp_path)
    file.write_bytes(pickle.dumps({"imlist": ["a"]}))
    with pytest.raises(SpatialBoostError, match="has another form"):
        open_retrieval(tmp_path)


def test_wrong_lists_of_met_and_amstertime(tmp_path) -> None:
    met = tmp_path / "met"
    write_met(met)
    (met / "ground_truth" / "testset.json").write_text(json.dumps([{"path": "test_other/0.jpg"}]))
    with pytest.raises(SpatialBoostError, match="has no query with MET_id"):
        open_retrieval(met)
    (met / "ground_truth" / "testset.json").write_text(json.dumps([{"file": "test_other/0.jpg"}]))
    with pytest.raises(SpatialBoostError, match=r"has another form .*path"):
        open_retrieval(met)
    (met / "ground_truth" / "mini_MET_database.json").unlink()
    with pytest.raises(SpatialBoostError, match=r"mini_MET_database.json is missing"):
        open_retrieval(met, mini=True)
    for name in ("old", "new"):
        save_image(tmp_path / "amstertime" / name / f"{name}.png", 0)
    with pytest.raises(SpatialBoostError, match="0 of the same name; expected pairs"):
        open_retrieval(tmp_path / "amstertime")


def test_one_class_only_and_images_that_are_nowhere(tmp_path) -> None:
    save_image(tmp_path / "one" / "cat" / "0.png", 0)
    with pytest.raises(SpatialBoostError, match="1 class folders with images, so that every image would be relevant"):
        open_retrieval(tmp_path / "one")
    save_image(tmp_path / "one" / "dog" / "0.png", 0)
    with pytest.raises(SpatialBoostError, match="no class has two images"):
        open_retrieval(tmp_path / "one")
    write_revisited(tmp_path / "set")
    for file in (tmp_path / "set" / "jpg").iterdir():
        file.unlink()
    with pytest.raises(SpatialBoostError, match="none of 12 database and query images can be read"):
        retrieval_probe({"mine": tiny_vit()}, tmp_path / "set", image_size=16)
    with pytest.raises(SpatialBoostError, match=r"expected those of `open_retrieval"):
        run_probe(RetrievalProbe(), {"mine": tiny_vit()}, None, ImageList([]))
