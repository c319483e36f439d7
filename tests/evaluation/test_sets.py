"""Each set is read from its own layout, and scores as written here by hand."""

from __future__ import annotations

import json

import pytest

from benchmark_writers import VSI, WRITERS, video, write_all_angles, write_blink, write_vsi_bench
from spatialboost.errors import SpatialBoostError
from spatialboost.evaluation import BENCHMARKS, find_benchmark
from spatialboost.evaluation.benchmark import sums
from spatialboost.evaluation.tables import read_rows


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_row_is_a_question_with_its_images(name, tmp_path):
    rows = WRITERS[name](tmp_path)
    reading = find_benchmark(name).read(tmp_path)
    assert len(reading.questions) == len(rows) and not reading.skipped
    for question in reading.questions:
        images = question.look(3)
        assert images and all(image.mode == "RGB" for image in images)
        benchmark = find_benchmark(name)
        assert benchmark.score(question, question.truth) == 1.0
        assert benchmark.score(question, "no idea, sorry") == 0.0 or name == "view-spatial"


def test_all_sets_have_a_writer():
    assert set(BENCHMARKS) == set(WRITERS)


SCORES = [
    ("vsi-bench", 0, "4", 1.0),
    ("vsi-bench", 0, "There are three.", 0.6),  # relative accuracy 0.75: above 0.5 ... 0.75
    ("vsi-bench", 0, "8", 0.0),
    ("vsi-bench", 4, "C. desk", 1.0),
    ("vsi-bench", 4, "The desk (C)", 0.0),  # only the first word counts
    ("blink", 1, "The answer is (B), as it is brighter.", 1.0),
    ("blink", 1, "C", 0.0),
    ("cv-bench", 0, "(B) 4", 1.0),
    ("cv-bench", 0, "I say B", 0.0),  # begins with the letter I
    ("spar-bench", 0, "It is 2.4 m", 1.0),
    ("spar-bench", 1, "between 9 and 1.8", 1.0),  # of several views, the last number counts
    ("spar-bench", 0, "between 9 and 2.4", 0.0),
    ("spar-bench", 2, "move_right:0.3,move_up:0.1,move_forward:1.2,rotate_left:20,rotate_down:5", 1.0),
    ("spar-bench", 2, "move_right:0.3,move_up:0.4", 0.2),  # one of five pairs of motions is right
    ("spar-bench", 2, "to the right", 0.0),
    ("spar-bench", 3, "B. [3, 4]", 1.0),
    ("view-spatial", 1, "Let me see.\nIt is B.", 1.0),
    ("view-spatial", 1, "B.\nThat is all", 0.0),  # only the last line counts
    ("all-angles", 1, "(B)", 1.0),
    ("all-angles", 1, "To the right.", 1.0),
    ("all-angles", 1, "A or B", 0.0),
]


@pytest.mark.parametrize(("name", "number", "reply", "expected"), SCORES)
def test_scores(name, number, reply, expected, tmp_path):
    WRITERS[name](tmp_path)
    benchmark = find_benchmark(name)
    question = benchmark.read(tmp_path).questions[number]
    assert benchmark.score(question, reply) == pytest.approx(expected)


def means(name, folder, right):
    """The means if just the questions for which `right` holds are answered rightly."""
    benchmark = find_benchmark(name)
    questions = benchmark.read(folder).questions
    return benchmark.means(sums(questions, [float(right(question)) for question in questions]))


def test_means_of_vsi_bench(tmp_path):
    write_vsi_bench(tmp_path)
    found = means("vsi-bench", tmp_path, lambda question: question.cell[-1] == "object_rel_direction_easy")
    assert found["object_rel_direction"] == pytest.approx(1 / 3)  # of three levels
    assert found["overall"] == pytest.approx(1 / 3 / 8) and len(found) == 9


def test_means_of_cv_bench_are_by_source(tmp_path):
    WRITERS["cv-bench"](tmp_path)
    found = means("cv-bench", tmp_path, lambda question: question.cell[1] == "COCO")
    assert found["2D"] == 0.5 and found["3D"] == 0 and found["overall"] == 0.25
    assert found["accuracy"] == pytest.approx(4 / 12) and found["Count"] == 0.5


def test_means_of_spar_bench_and_its_levels(tmp_path):
    WRITERS["spar-bench"](tmp_path)
    found = means("spar-bench", tmp_path, lambda question: question.category == "depth_prediction_oc")
    assert found["low"] == 0.5 and found["middle"] == found["high"] == 0
    assert found["overall"] == pytest.approx(1 / 7)


def test_a_category_without_questions_is_left_out(tmp_path):
    rows = write_vsi_bench(tmp_path)
    table = tmp_path / "some.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows if "direction" not in row["question_type"]))
    found = find_benchmark("vsi-bench").read(table)
    assert len(found.questions) == 14
    scored = find_benchmark("vsi-bench").means(sums(found.questions, [1.0] * 14))
    assert scored["overall"] == 1.0 and "object_rel_direction" not in scored


def test_rows_that_cannot_be_asked_are_skipped_and_named(tmp_path):
    rows = write_vsi_bench(tmp_path)
    bad = [dict(rows[0]) for _ in range(5)]
    bad[0] |= {"id": 90, "question_type": "smell"}
    bad[1] |= {"id": 91, "ground_truth": "0"}
    bad[2] |= {"id": 92, "scene_name": "elsewhere"}
    bad[3] |= {"id": 93, "question_type": "route_planning", "ground_truth": "E", "options": ["A. left", "B. right"]}
    bad[4] |= {"id": 0}
    table = tmp_path / "test.jsonl"
    (tmp_path / "test-00000-of-00001.parquet").unlink()
    table.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]))
    reading = find_benchmark("vsi-bench").read(tmp_path)
    assert len(reading.questions) == 21 and reading.questions[20].id == "0 (test.jsonl:25)"
    reasons = list(reading.skipped.values())
    for reason, text in zip(
        reasons,
        [
            "question_type is 'smell'",
            "expected a number above 0",
            "elsewhere.mp4 is not in",
            "its answer is 'E'",
        ],
        strict=True,
    ):
        assert text in reason
    assert list(reading.skipped) == [f"test.jsonl:{number}" for number in range(21, 25)]


def test_frames_of_a_video_may_be_a_folder(tmp_path):
    from benchmark_writers import picture

    write_vsi_bench(tmp_path, videos=False)
    for scene in ("scannet/scene0", "scannet/scene2", "arkitscenes/scene1", "arkitscenes/scene3"):
        for number in range(3):
            picture(tmp_path / scene / f"{number}.png", 50 * number)
    questions = find_benchmark("vsi-bench").read(tmp_path).questions
    assert [image.getpixel((0, 0))[0] for image in questions[0].look(2)] == [0, 100]


def test_videos_that_are_not_unpacked(tmp_path):
    write_vsi_bench(tmp_path, videos=False)
    (tmp_path / "scannet.zip").write_bytes(b"")
    with pytest.raises(
        SpatialBoostError, match=r"none of the 20 questions .*scene0.mp4 is not in .* unpack scannet.zip"
    ):
        find_benchmark("vsi-bench").read(tmp_path)


def test_cv_bench_reads_images_beside_its_table(tmp_path):
    from benchmark_writers import picture

    for row in (rows := WRITERS["cv-bench"](tmp_path)):
        picture(tmp_path / row["filename"], 9)
        del row["image"]
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    (tmp_path / "test_2d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert find_benchmark("cv-bench").read(tmp_path).questions[3].look(1)[0].getpixel((0, 0)) == (9, 9, 9)


def test_all_angles_as_tsv(tmp_path):
    rows = write_all_angles(tmp_path)
    (tmp_path / "data.json").unlink()
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    (tmp_path / "bench.tsv").write_text("\n".join(lines) + "\n")
    assert [len(question.images) for question in find_benchmark("all-angles").read(tmp_path).questions][:2] == [2, 3]


def test_what_is_no_folder_of_the_benchmark(tmp_path):
    blink = find_benchmark("blink")
    with pytest.raises(SpatialBoostError, match=r"nowhere does not exist; expected the folder of BLINK"):
        blink.read(tmp_path / "nowhere")
    write_all_angles(tmp_path)
    with pytest.raises(
        SpatialBoostError, match=r"is no folder of BLINK: expected \*/val-\*.parquet .* it has data.json"
    ):
        blink.read(tmp_path)
    with pytest.raises(
        SpatialBoostError, match=r"data.json has no column idx, sub_task, prompt, choices, image_1; its"
    ):
        blink.read(tmp_path / "data.json")
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(SpatialBoostError, match=r"data.json cannot be read"):
        find_benchmark("all-angles").read(tmp_path)
    (tmp_path / "val-00000-of-00001.parquet").write_bytes(b"no parquet")
    with pytest.raises(SpatialBoostError, match="cannot be read as parquet"):
        blink.read(tmp_path)
    with pytest.raises(SpatialBoostError, match=r"unknown benchmark 'vsibench'.*Did you mean 'vsi-bench'"):
        find_benchmark("vsibench")


def test_images_of_a_table_are_read_when_they_are_needed(tmp_path):
    write_blink(tmp_path)
    file = tmp_path / "Relative_Depth" / "val-00000-of-00001.parquet"
    row = next(iter(read_rows(file, tmp_path, ())))
    assert "image_1" not in row.values and len(row.pictures["image_1"]) == 1 and not row.pictures["image_2"]


def test_questions_of_the_writer_are_those_of_every_kind():
    from spatialboost.evaluation.sets.vsi_bench import CHOICES, NUMBERS

    assert {kind for kind, *_ in VSI} == {*CHOICES, *NUMBERS}


def test_frames(tmp_path):
    from spatialboost.evaluation.frames import read_frames

    video(tmp_path / "a.mp4", frames=6)
    frames = read_frames(tmp_path / "a.mp4", 3)
    assert [round(frame.getpixel((16, 16))[0] / 40) for frame in frames] == [0, 2, 5]  # linspace, as lmms-eval
    assert len(read_frames(tmp_path / "a.mp4", 99)) == 6
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(SpatialBoostError, match=r"b.mp4 cannot be read as a video"):
        read_frames(tmp_path / "b.mp4", 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpatialBoostError, match="empty has no images"):
        read_frames(tmp_path / "empty", 3)
