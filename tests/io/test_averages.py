from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
from cryosparc.dataset import Dataset

from cryo2d.io.averages import write_class_averages


def test_averages_are_written_for_relion_and_cryosparc(tmp_path: Path, images: np.ndarray) -> None:
    columns = {
        "count": np.array([5, 0, 15, 10, 10, 10]),
        "resolution": np.array([8.0, np.inf, 7.5, 9, 9, 9]),
        "mean_posterior": np.linspace(0, 1, 6).astype(np.float32),
    }
    write_class_averages(tmp_path, images, 1.5, columns)
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
    write_class_averages(tmp_path, np.zeros((0, 8, 8), np.float32), 1.0, {"count": np.zeros(0)})
    assert len(Dataset.load(str(tmp_path / "class_averages.cs"))) == 0
