"""The settings of every job: what each may hold, and the report of all that is wrong.

The values live in conf/; this table has their names and ranges. To add a setting, give it a value
and a comment in conf/ and a line here.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cryo2d.errors import InputError, Problem
from cryo2d.jobs.conflicts import COMMAND_LINE, as_typed, conflicts
from cryo2d.jobs.rules import (
    Choice,
    Condition,
    Devices,
    Even,
    Flag,
    Object,
    Objects,
    OrNull,
    Real,
    Rule,
    Several,
    Text,
    Whole,
)
from cryo2d.jobs.sweep import DIRECTION

OPEN = (Object, Objects)

LIKE = 0.7
"""Likeness (0 to 1) from which a name may be the one that was meant."""

RUN: Mapping[str, Rule] = {
    "debug": Flag(),
}

RANDOM: Mapping[str, Rule] = {
    "seed": OrNull(Whole(most=2**32 - 1)),
}

DATA: Mapping[str, Rule] = {
    "data.path": OrNull(Text("a .star, .cs or .mrcs file")),
    "data.passthrough": Several(Text("a .cs file")),
    "data.invert": Flag(),
    "data.pixel_size": OrNull(Real(above=0, unit="A")),
    "data.int8_signed": Flag(),
    "data.window": Flag(),
    "data.window_inner": Real(above=0, most=1.5, unit="fraction of the half box"),
    "data.window_outer": Real(above=0, most=1.5, unit="fraction of the half box"),
    "data.ignore_dc": Flag(),
    "data.remove_ramp": Flag(),
    "data.cache": Text("ram, a folder, or off (in quotes in a yaml file)"),
    "data.max_particles": OrNull(Whole(1)),
    "data.max_bad_fraction": Real(least=0, most=1),
}

MODEL: Mapping[str, Rule] = {
    "model.num_classes": Whole(1),
    "model.max_resolution": Real(above=0, unit="A"),
    "model.max_align_resolution": OrNull(Real(above=0, unit="A")),
    "model.min_align_resolution": OrNull(Real(above=0, unit="A")),
    "model.icuf": Real(least=1),
    "model.mask_diameter": OrNull(Real(above=0, unit="A")),
    "model.mask_diameter_outer": OrNull(Real(above=0, unit="A")),
    "model.remove_neighbours": Flag(),
    "model.recenter": Flag(),
    "model.recenter_threshold": Real(least=0, most=1),
    "model.recenter_binary": Flag(),
    "model.force_max": OrNull(Flag()),
    "model.align_filaments": Flag(),
    "model.ctf": Choice("full", "flip", "none"),
    "model.zeropad": Real(least=1, most=4),
    "model.frc_regularizer": Flag(),
    "model.full_frc": Flag(),
    "model.local_regularizer": OrNull(Flag()),
    "model.clamp_solvent": Flag(),
    "model.non_negative": Flag(),
    "model.scale_per_particle": Flag(),
    "model.noise": Choice("coloured", "white"),
    "model.gather_junk": Flag(),
    "model.independent_halves": Flag(),
    "model.cross_posteriors": OrNull(Flag()),
    "model.initial_references": OrNull(Text("an .mrcs file")),
    "model.initial_scale": Real(above=0),
    "model.align": Flag(),
    "model.perturb_poses": Flag(),
    "model.max_shift": OrNull(Real(least=0, unit="A")),
    "model.shift_prior": Flag(),
}

OPTIMIZER: Mapping[str, Rule] = {
    "optimizer.iterations": Whole(),
    "optimizer.batch_per_class": Whole(1),
    "optimizer.batch_growth": Real(least=1),
    "optimizer.full_iterations": Whole(),
    "optimizer.hard_last": Flag(),
    "optimizer.anneal_start": OrNull(Whole()),
    "optimizer.anneal_iterations": OrNull(Whole()),
    "optimizer.step_size": Object(),
    "optimizer.merge": OrNull(Object()),
    "optimizer.reseed": OrNull(Object()),
    "optimizer.regularizer": OrNull(Object()),
}

DUPLICATES: Mapping[str, Rule] = {
    "post.remove_duplicates": OrNull(Flag()),
    "post.min_separation": Real(least=0, unit="A"),
    "post.micrograph_pixel_size": OrNull(Real(above=0, unit="A")),
}

POST: Mapping[str, Rule] = {
    **DUPLICATES,
    "post.sort": Flag(),
    "post.plot_order": Choice("similarity", "size"),
}

HARDWARE: Mapping[str, Rule] = {
    "hardware.devices": Devices(),
    "hardware.timeout": Real(above=0, unit="min"),
    "hardware.threads": OrNull(Whole(1)),
    "hardware.memory_fraction": Real(above=0, most=1),
    "hardware.trainer": Object(),
}

SIMULATION: Mapping[str, Rule] = {
    "simulation.num_particles": Whole(1),
    "simulation.box": Even(16),
    "simulation.pixel_size": Real(above=0, unit="A"),
    "simulation.num_molecules": Whole(1, 8),
    "simulation.molecules": OrNull(Several(Text("the name of a molecule"))),
    "simulation.rarest": Real(above=0, most=1),
    "simulation.num_tubes": Whole(0, 4),
    "simulation.tube_step": Real(above=0, unit="A"),
    "simulation.views": OrNull(Whole(1)),
    "simulation.snr": Real(above=0),
    "simulation.junk_fraction": Real(least=0, most=0.99),
    "simulation.junk": Several(Text("a kind of junk")),
    "simulation.neighbours": Real(least=0),
    "simulation.crowding": Real(least=0, most=6),
    "simulation.micelle": Real(least=0),
    "simulation.defocus_min": Real(unit="A"),
    "simulation.defocus_max": Real(unit="A"),
    "simulation.astigmatism": Real(least=0, unit="A"),
    "simulation.phase_shift": Real(unit="degree"),
    "simulation.voltage": Real(above=0, unit="kV"),
    "simulation.cs": Real(least=0, unit="mm"),
    "simulation.amplitude_contrast": Real(least=0, most=1),
    "simulation.b_factor": Real(least=0, unit="A^2"),
    "simulation.scale_spread": Real(least=0),
    "simulation.shift_sigma": Real(least=0, unit="A"),
    "simulation.num_optics_groups": Whole(1),
    "simulation.num_micrographs": Whole(1),
    "simulation.gradient": Real(least=0),
    "simulation.float16": Flag(),
    "simulation.seed": OrNull(Whole()),
}

SOURCE: Mapping[str, Rule] = {
    "run": OrNull(Text("the folder of a classification")),
    "data.path": OrNull(Text("a .star or .cs file")),
    "data.passthrough": Several(Text("a .cs file")),
}

CLASSIFICATION: Mapping[str, Rule] = {
    **DATA,
    **MODEL,
    **OPTIMIZER,
    **POST,
    **HARDWARE,
    **RANDOM,
    **RUN,
    "logger": Objects(),
    "callbacks": Objects(),
    "resume": OrNull(Text("the folder of a run")),
}

SETTINGS: Mapping[str, Mapping[str, Rule]] = {
    "classify": {**CLASSIFICATION, **SIMULATION, "objective": Choice(*DIRECTION)},
    "relion": {
        **CLASSIFICATION,
        "data.path": Text("a .star file (--in_parts particles.star)"),
    },
    "live": {
        **CLASSIFICATION,
        "watch": OrNull(Text("a folder or a .star file")),
        "live.first": OrNull(Whole(1)),
        "live.visits": Whole(1),
        "live.old_share": Real(least=0, most=0.9),
        "live.poll": Real(above=0, unit="s"),
        "live.patience": Real(least=0, unit="s"),
        "live.idle": OrNull(Real(above=0, unit="s")),
        "live.pattern": Text("the names of files, as *.star"),
    },
    "simulate": {**SIMULATION, **RANDOM, **RUN},
    "reconstruct": {
        **SOURCE,
        "data.invert": OrNull(Flag()),
        "data.int8_signed": Flag(),
        "average.pixel_size": OrNull(Real(above=0, unit="A")),
        "average.box": OrNull(Even(16)),
        "model.mask_diameter": OrNull(Real(above=0, unit="A")),
        "model.mask_diameter_outer": OrNull(Real(above=0, unit="A")),
        "model.remove_neighbours": OrNull(Flag()),
        "model.ctf": OrNull(Choice("full", "flip", "none")),
        "model.recenter": Flag(),
        "hardware.device": Choice("auto", "cpu", "cuda"),
        "hardware.threads": OrNull(Whole(1)),
        "hardware.memory": Real(above=0, unit="GB"),
        **RANDOM,
        **RUN,
    },
    "compare": {
        "runs": Several(Text("the folder of a run or of a sweep")),
        "measure": OrNull(
            Choice(
                *("agreement", "median_resolution", "effective_classes", "mean_posterior"),
                *(name for name in DIRECTION if name != "effective_classes"),
            )
        ),
        "reference": OrNull(Whole()),
        "min_stability": Real(least=0, most=1),
        **RUN,
    },
    "rerun": {
        "run": Text("the folder of a finished run (cryo2d rerun outputs/classify/RUN)"),
        "changed_input": Flag(),
        "trusted": Several(Text("the name of a class")),
        **RUN,
    },
    "convert": {
        "data.path": Text("a .star, .cs or .mrcs file (data.path=particles.star)"),
        "data.passthrough": Several(Text("a .cs file")),
        "out": OrNull(Text("a .star or .cs file")),
        "recenter": Flag(),
        "micrograph_pixel_size": OrNull(Real(above=0, unit="A")),
        **RUN,
    },
    "rebalance": {
        "run": Text("the folder of a classification (run=outputs/classify/RUN)"),
        "factor": Real(least=0, most=1),
        "most": OrNull(Whole(1)),
        "least": Whole(),
        "keep": Choice("random", "best"),
        "superclasses.min_correlation": Real(least=0, most=1),
        "superclasses.number": OrNull(Whole(1)),
        "superclasses.mirror": Flag(),
        "superclasses.max_shift": Real(least=0, unit="A"),
        "superclasses.mask_diameter": OrNull(Real(above=0, unit="A")),
        "superclasses.register": Flag(),
        **RANDOM,
        **RUN,
    },
    "rank": {
        "run": Text("the folder of a classification (run=outputs/classify/RUN)"),
        "ranker": OrNull(Text("the ranker.json of cryo2d train_ranker")),
        "references": OrNull(Text("a volume, map.mrc")),
        **RUN,
    },
    "train_ranker": {
        "classifications": Whole(4),
        "particles": Whole(100),
        "min_good": Real(least=0, most=1),
        "min_likeness": Real(least=0, most=1),
        "max_clutter": Real(least=0),
        "gap": Real(least=0, most=0.2),
        **RANDOM,
        **RUN,
    },
    "subset": {
        **SOURCE,
        "rules": OrNull(Condition("class_posterior > 0.5 and shift < 30")),
        "mixture": OrNull(Text("the name of a column")),
        "worse": OrNull(Choice("low", "high")),
        **RUN,
    },
    "deduplicate": {
        "data.path": Text("a .star or .cs file (data.path=particles.star)"),
        "data.passthrough": Several(Text("a .cs file")),
        **DUPLICATES,
        **RUN,
    },
    "select": {
        "run": Text("the folder of a classification (run=outputs/classify/...)"),
        "rules": OrNull(Condition("resolution < 12 and count > 200")),
        "classes": OrNull(Several(Whole(1))),
        "templates": Flag(),
        "host": Text("an address or a host name"),
        "port": OrNull(Whole(1, 65535)),
        **RUN,
    },
}


def is_known(job: str, key: str) -> bool:
    """Whether a dotted key is a setting of the job, a group of them, or part of a free object."""
    return any(
        name == key or name.startswith(f"{key}.") or (_is_open(rule) and key.startswith(f"{name}."))
        for name, rule in SETTINGS[job].items()
    )


def _is_open(rule: Rule) -> bool:
    """Whether a setting has parts of its own."""
    return isinstance(rule.rule if isinstance(rule, OrNull) else rule, OPEN)


def unknown(job: str, key: str, value: object, also: tuple[str, ...] = ()) -> Problem:
    """The problem of a key that the job does not have, with the nearest keys it has.

    Args:
        job: name of the job.
        key: the dotted key.
        value: what it was set to, None for nothing.
        also: further names that may have been meant.
    """
    near = nearest(key, (*SETTINGS[job], *also))
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return Problem(
        file=COMMAND_LINE,
        found=key if value is None else f"{key}={as_typed(value)}",
        expected=f"a setting of the job {job}{hint}",
        action=f"correct the name; cryo2d settings job={job} lists all",
    )


def nearest(word: str, names: tuple[str, ...], count: int = 3) -> list[str]:
    """The names most like a word; a dotted name is also compared by its last part alone."""
    leaf = word.rsplit(".", 1)[-1]
    whole, last = (difflib.SequenceMatcher(None, "", text) for text in (word, leaf))
    scores = {}
    for name in names:
        whole.set_seq1(name)
        last.set_seq1(name.rsplit(".", 1)[-1])
        # a bound that costs a tenth of the ratio itself
        if max(whole.quick_ratio(), last.quick_ratio()) < LIKE - 0.01:
            continue
        # Keys of one group begin alike: whole names are compared only where the group is missing.
        of_whole = whole.ratio()
        scores[name] = max(last.ratio(), 0 if "." in word else of_whole) + 0.01 * of_whole
    best = max(scores.values(), default=0.0)
    close = [name for name, score in scores.items() if score >= max(LIKE, best - 0.1)]
    return sorted(close, key=lambda name: -scores[name])[:count]


def check(job: str, cfg: DictConfig) -> None:
    """Refuse a composed configuration that the job cannot run.

    Raises:
        InputError: with every unknown, missing or wrong setting.
    """
    found = list(problems(job, cfg))
    if found:
        raise InputError(found)


def problems(job: str, cfg: DictConfig) -> Iterator[Problem]:
    """Every unknown, missing or wrong setting of a composed configuration."""
    rules = SETTINGS[job]
    values = dict(_leaves(cfg, rules))
    for key in [key for key in values if key not in rules]:
        yield unknown(job, key, values[key])
    for key, rule in rules.items():
        if key not in values:
            yield Problem(COMMAND_LINE, f"no {key}", rule.expected, f"keep {key}")
        elif not rule.accepts(values[key]):
            shown = f"{key}={as_typed(values[key])}"
            yield Problem(COMMAND_LINE, shown, rule.expected, f"correct {key}")
    yield from conflicts(values)


def _leaves(
    node: DictConfig, rules: Mapping[str, Rule], above: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values, down to the keys of the table and no deeper."""
    for name in map(str, node):
        key = f"{above}{name}"
        value = None if OmegaConf.is_missing(node, name) else node[name]
        inner = any(rule_key.startswith(f"{key}.") for rule_key in rules)
        if isinstance(value, DictConfig) and inner:
            yield from _leaves(value, rules, f"{key}.")
        elif OmegaConf.is_config(value):
            # Unresolved: inside free objects are values that exist only once a run has its folder.
            yield key, OmegaConf.to_container(value, resolve=False)
        else:
            yield key, value
