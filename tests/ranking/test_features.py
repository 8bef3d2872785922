from dataclasses import replace

import numpy as np
import pytest
from averages import classes

from cryo2d.io.averages import ClassAverages
from cryo2d.ranking.features import FEATURES, Averages, class_features


def test_a_quarter_turn_and_a_mirror_change_nothing():
    # about the centre of an odd box no pixel is left over
    one = classes(box=65)
    turned = replace(one, images=np.rot90(one.images, axes=(1, 2)).copy())
    mirrored = replace(one, images=one.images[:, ::-1].copy())
    for other in (turned, mirrored):
        for name, values in class_features(other).items():
            np.testing.assert_allclose(
                values, class_features(one)[name], atol=0.02, rtol=0.02, err_msg=name
            )


def test_the_contrast_changes_nothing():
    one = classes()
    for name, values in class_features(replace(one, images=one.images * 37.0)).items():
        np.testing.assert_allclose(values, class_features(one)[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("pixel_size", [1.0, 6.0])
def test_the_unit_of_length_changes_nothing(pixel_size):
    one, other = classes(pixel_size=3.0), classes(pixel_size=pixel_size)
    for name, values in class_features(other).items():
        np.testing.assert_allclose(values, class_features(one)[name], atol=1e-6, err_msg=name)


def test_a_finer_pixel_changes_little():
    coarse, fine = (class_features(classes(box=box)) for box in (64, 96))
    for name in ("off_centre", "size", "agreement", "rim", "edges", "pieces"):
        np.testing.assert_allclose(fine[name][:4], coarse[name][:4], atol=0.25, err_msg=name)


def test_every_feature_is_there_with_what_is_unknown_as_nan():
    one = classes()
    bare = class_features(replace(one, columns={}, rings=None))
    assert list(bare) == list(FEATURES)
    unknown = {name for name, values in bare.items() if np.isnan(values).all()}
    assert {"resolution", "agreement", "certainty", "ambiguity", "unsupported"} <= unknown
    assert np.isfinite(bare["edges"]).all()
    assert all(len(values) == len(one) for values in bare.values())


def test_each_flaw_moves_its_feature():
    found = class_features(classes())
    view, blurred, moved, crowded, noise = range(5)
    assert found["edges"][blurred] < found["edges"][view] - 0.2
    assert found["off_centre"][moved] > found["off_centre"][view] + 0.3
    assert found["pieces"][crowded] > found["pieces"][view]
    assert found["second"][crowded] > found["second"][view] + 0.3
    assert found["beyond"][crowded] > found["beyond"][view]
    assert found["unsupported"][noise] > found["unsupported"][view]
    assert found["resolution"][noise] < found["resolution"][view]


def test_a_hollow_particle_ends_at_its_wall_and_a_neighbour_lies_beyond():
    rows, columns = (np.indices((64, 64)) - 32).astype(float)

    def shell(x: float, y: float) -> np.ndarray:
        return np.exp(-((np.hypot(columns - x, rows - y) - 12.0) ** 2) / 8.0)

    alone, beside = shell(0, 0), shell(0, 0) + shell(32, 0)
    images = np.stack([alone] * 7 + [beside]).astype(np.float32)
    images *= np.hypot(rows, columns) < 30
    seen = Averages(ClassAverages(images, 3.0, {}))
    assert 13 < seen.reach < 20
    found = class_features(seen.classes)
    assert (found["second"][:7] == 0).all()
    assert found["second"][7] > 0.6


def test_an_elongated_particle_has_no_neighbour():
    rows, columns = (np.indices((64, 64)) - 32).astype(float)
    rod = np.exp(-((rows / 4.0) ** 2)) / (1.0 + np.exp((np.abs(columns) - 20.0) / 1.5))
    round_one = np.exp(-(rows**2 + columns**2) / 72.0)
    images = np.stack([round_one] * 3 + [rod]).astype(np.float32)
    assert class_features(ClassAverages(images, 3.0, {}))["second"][3] < 0.2
