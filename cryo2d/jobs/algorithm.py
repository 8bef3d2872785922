"""The algorithm that the settings describe: schedules, E-step, solver and optimizer."""

import logging
from collections.abc import Callable
from dataclasses import replace

from hydra.utils import instantiate
from omegaconf import DictConfig

from cryo2d.em.anneal import ResolutionRamp, Uncertainty
from cryo2d.em.clamp import ClampedSolver
from cryo2d.em.faint import Faint
from cryo2d.em.given import KeepPoses
from cryo2d.em.marginal import Marginalise
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.population import Reseed
from cryo2d.em.posterior import Expectation, maximise
from cryo2d.em.prior import CountRegularizer, FrcRegularizer, LocalRegularizer
from cryo2d.em.solve import Recenter, WienerSolver
from cryo2d.em.upright import Upright
from cryo2d.physics.preprocess import TRANSFER
from cryo2d.training.assembly import EmSettings, Frame
from cryo2d.training.judge import SAMPLE, Judge

log = logging.getLogger(__name__)

RAMP = 0.7  # part of the online iterations in which the resolution of the alignment rises
SHAPED = 0.15  # part of the online iterations after which averages have taken shape
NEVER = 1 << 62
FEW_CLASSES = 20  # up to here poses are marginalised unless model.force_max says otherwise
FINEST, MOST_SHIFT = 15.0, 0.06  # detail (Angstrom) and shift (of the box) classes are compared to
NEAR = 0.1  # of the mask's radius: how far around a pixel the half-sets are compared


def em_settings(
    cfg: DictConfig, frame: Frame, known: KeepPoses | None, independent: float
) -> EmSettings:
    """Schedules and choices of the E-step."""
    optimizer = cfg.optimizer
    ramp = ResolutionRamp(
        min(frame.first_rings, frame.align_rings), frame.align_rings, RAMP * optimizer.iterations
    )
    last = round(RAMP * optimizer.iterations)
    return EmSettings(
        uncertainty=uncertainty_of(cfg),
        rings=ramp if optimizer.iterations else lambda _: frame.align_rings,
        first_ring=frame.first_ring,
        step_size=instantiate(optimizer.step_size),
        transfer=TRANSFER[cfg.model.ctf],
        expectation=known or expectation_of(cfg),
        scale_per_particle=cfg.model.scale_per_particle,
        hard_last=optimizer.hard_last,
        gather_junk=cfg.model.gather_junk,
        independent=independent,
        parting=last if cfg.model.independent_halves else NEVER,
        centring=last if cfg.model.shift_prior and known is None else NEVER,
        perturb_poses=cfg.model.perturb_poses,
        seed=cfg.seed,
        judge=judge_of(cfg, known),
        faint=None if known else faint_of(cfg),
    )


def judge_of(cfg: DictConfig, known: KeepPoses | None) -> Judge | None:
    """What tells in the end how sure classes are, if it is not the E-step alone."""
    wanted: bool | None = cfg.model.cross_posteriors
    if wanted is False or known is not None:
        return None
    return Judge(Marginalise(), None if wanted else SAMPLE)


def expectation_of(cfg: DictConfig) -> Expectation:
    """The E-step: poses are summed over for few classes, maximised for many.

    Before the particles decide that, they are summed over from given averages, which could only be
    spoiled, and maximised from random ones, which say nothing yet.
    """
    if forces_max(cfg) and not (faint_of(cfg) and cfg.model.initial_references):
        return maximise
    return Marginalise()


def forces_max(cfg: DictConfig) -> bool:
    """Whether only the best pose of each class counts."""
    asked: bool | None = cfg.model.force_max
    return cfg.model.num_classes > FEW_CLASSES if asked is None else asked


def faint_of(cfg: DictConfig) -> Faint | None:
    """Whether particles decide how poses are taken, as long as no setting says it."""
    if cfg.model.force_max is not None or not forces_max(cfg):
        return None
    return Faint(max(3, round(SHAPED * cfg.optimizer.iterations)), Marginalise(), maximise)


def uncertainty_of(cfg: DictConfig) -> Uncertainty:
    """Schedule of the uncertainty factor; without numbers it follows the online iterations."""
    optimizer = cfg.optimizer
    start, length = optimizer.anneal_start, optimizer.anneal_iterations
    schedule = Uncertainty(
        cfg.model.icuf,
        0.1 * optimizer.iterations if start is None else start,
        0.75 * optimizer.iterations if length is None else length,
    )
    end = schedule(max(0, optimizer.iterations + optimizer.full_iterations - 1))
    if end > 1.0:
        log.warning(
            "The uncertainty factor only falls to %.2f: the run ends before the annealing does "
            "(optimizer.anneal_start, .anneal_iterations).",
            end,
        )
    return schedule


def solver_of(cfg: DictConfig, frame: Frame) -> WienerSolver:
    """What makes averages of the sums."""
    model, grid, solvent = cfg.model, frame.grid, frame.solvent
    regularizer = instantiate(cfg.optimizer.regularizer) or (
        FrcRegularizer(full=model.full_frc) if model.frc_regularizer else CountRegularizer()
    )
    if model.clamp_solvent:
        return ClampedSolver(grid, solvent, regularizer, positive=model.non_negative)
    wanted = model.local_regularizer is not False
    local = LocalRegularizer(NEAR * solvent.outer) if wanted else None
    return WienerSolver(grid, solvent, regularizer, local)


def optimizer_maker(cfg: DictConfig, frame: Frame) -> Callable[[ClassModel], OnlineEM]:
    """Builds the optimizer of a model."""
    model, solver = cfg.model, solver_of(cfg, frame)
    # an average that moves leaves particles behind whose shifts are fixed
    centred = model.recenter and model.align
    recenter = Recenter(model.recenter_threshold, model.recenter_binary) if centred else None
    # what the last iteration finds refers to averages that stand upright
    second_last = cfg.optimizer.iterations + cfg.optimizer.full_iterations - 2
    upright = Upright(frame.grid, second_last) if model.align_filaments else None
    total = cfg.optimizer.iterations
    rings = min(frame.ring(FINEST), frame.align_rings)
    reseed = instantiate(cfg.optimizer.reseed, total=total, _convert_="all")
    if isinstance(reseed, Reseed) and (model.scale_per_particle or not forces_max(cfg)):
        reseed = replace(reseed, contrast=False)
    merge = instantiate(
        cfg.optimizer.merge,
        total=total,
        rings=rings,
        max_shift=MOST_SHIFT * frame.box,
        _convert_="all",
    )

    def make(classes: ClassModel) -> OnlineEM:
        return OnlineEM(
            classes,
            solver=solver,
            noise=NoiseModel(white=model.noise == "white"),
            recenter=recenter,
            merge=merge,
            reseed=reseed,
            variety_rings=rings,
            upright=upright,
            seed=cfg.seed,
        )

    return make
