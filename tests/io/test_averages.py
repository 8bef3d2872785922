from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset

from cryo2d.errors import InputError
from cryo2d.io.averages import (
    ClassAverages,
    Rings,
    read_class_averages,
    write_class_averages,
)
from cryo2d.io.mrc import write_stack


def test_averages_are_written_for_relion_and_cryosparc(tmp_path: Path, images: np.ndarray) -> None:
    columns = {
        "count": np.array([5, 0, 15, 10, 10, 10]),
        "resolution": np.array([8.0, np.inf, 7.5, 9, 9, 9]),
        "mean_posterior": np.linspace(0, 1, 6).astype(np.float32),
    }
    write_class_averages(tmp_path, ClassAverages(images, 1.5, columns))
    with mrcfile.open(tmp_path / "class_averages.mrcs") as file:
        np.testing.assert_array_equal(file.data, images)
        assert file.voxel_size.x == pytest.approx(1.5)
    classes = starfile.read(tmp_path / "class_averages.star", always_dict=True)["model_classes"]
    assert classes["rlnReferenceImage"].tolist()[5] == "000006@class_averages.mrcs"
    np.testing.assert_allclose(classes["rlnClassDistribution"], columns["count"] / 50)
    np.testing.assert_allclose(classes["rlnEstimatedResolution"], columns["resolution"])
    np.testing.assert_array_equal(classes["cryo2dCount"], columns["count"])
    np.testing.assert_array_equal(
        classes["cryo2dMeanPosterior"].to_numpy(np.float32), columns["mean_posterior"]
    )
    dataset = Dataset.load(str(tmp_path / "class_averages.cs"))
    assert dataset["blob/path"].tolist() == ["class_averages.mrcs"] * 6
    np.testing.assert_array_equal(dataset["blob/idx"], np.arange(6))
    np.testing.assert_array_equal(dataset["blob/shape"], [[16, 16]] * 6)
    np.testing.assert_allclose(dataset["blob/psize_A"], 1.5)
    np.testing.assert_allclose(dataset["blob/res_A"], columns["resolution"])
    np.testing.assert_array_equal(dataset["cryo2d/count"], columns["count"])


def test_no_class_at_all(tmp_path: Path) -> None:
    none = ClassAverages(np.zeros((0, 8, 8), np.float32), 1.0, {"count": np.zeros(0)})
    write_class_averages(tmp_path, none)
    assert len(Dataset.load(str(tmp_path / "class_averages.cs"))) == 0


def test_what_is_written_is_read(tmp_path: Path, images: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "count": np.arange(6),
        "resolution": np.array([8.0, np.inf, 7.5, 9, 9, 9]),
        "mean_posterior": np.array([np.nan, *rng.uniform(size=5)]),
    }
    rings = Rings(rng.uniform(-1, 1, (6, 8)).astype(np.float32), np.arange(1, 9) / 32)
    before = ClassAverages(images, 1.5, columns, rings, iteration=7)
    write_class_averages(tmp_path, before)
    after = read_class_averages(tmp_path)
    assert after.columns.pop("share").sum() == pytest.approx(1)
    assert after.columns.keys() == columns.keys()
    for name, values in columns.items():
        np.testing.assert_array_equal(after.columns[name], values)
    assert (after.pixel_size, after.iteration) == (1.5, 7)
    np.testing.assert_array_equal(after.images, images)
    assert after.rings is not None
    np.testing.assert_array_equal(after.rings.frc.astype(np.float32), rings.frc)
    np.testing.assert_allclose(after.rings.frequency, rings.frequency)


def test_some_classes_keep_their_numbers_and_values(tmp_path: Path, images: np.ndarray) -> None:
    columns = {"class_number": np.arange(1, 7), "share": np.linspace(0, 0.3, 6)}
    rings = Rings(np.linspace(0, 1, 18).reshape(6, 3), np.arange(1, 4) / 10)
    some = ClassAverages(images, 2.0, columns, rings).take(np.array([1, 4]))
    write_class_averages(tmp_path, some, name="chosen")
    after = read_class_averages(tmp_path, name="chosen")
    np.testing.assert_array_equal(after.images, images[[1, 4]])
    assert after.columns["class_number"].tolist() == [2, 5]
    np.testing.assert_array_equal(after.columns["share"], columns["share"][[1, 4]])
    np.testing.assert_allclose(after.rings.frc, rings.frc[[1, 4]], atol=1e-7)
    assert Dataset.load(str(tmp_path / "chosen.cs"))["uid"].tolist() == [2, 5]


def test_a_stack_of_another_length_is_refused(tmp_path: Path, images: np.ndarray) -> None:
    write_class_averages(tmp_path, ClassAverages(images, 1.0, {"count": np.ones(6)}))
    write_stack(tmp_path / "class_averages.mrcs", images[:5], 1.0)
    with pytest.raises(InputError, match="5 images in class_averages.mrcs and 6 rows"):
        read_class_averages(tmp_path)
