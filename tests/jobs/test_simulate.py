from omegaconf import OmegaConf

from cryo2d.jobs.simulate import run


def test_simulates_the_settings_of_the_group_into_the_run_folder(tmp_path):
    settings = {"num_particles": 6, "box": 32, "pixel_size": 6.0, "num_micrographs": 2}
    cfg = OmegaConf.create({"seed": 5, "simulation": settings | {"seed": "${seed}"}})
    run(cfg, tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["particles.mrcs", "particles.star", "truth.npz"]
