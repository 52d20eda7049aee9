"""``python -m bench.project RUN device=h100 model=vicuna_7b batch=1,4,16``: a run's rounds on another device.

RUN is a run's folder; of a run of several methods, RUN:METHOD or all of them. ``device`` is a GPU of the
table of data sheets, or the file of a profile that ``python -m bench.profile`` measured there: then the model
is the profile's. The table is a projection and says so. ``as=rates`` prints what the rounds say of each
method as settings of ``method=synthetic``, whose cost can be measured there. ``as=experts`` projects a run of
methods that load experts to a larger mixture of experts, whose experts lie across the ``link``:
``as=experts model=mixtral_8x7b_instruct link=pcie5``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from bench.cli import report_mistake
from bench.compose.schema import ModelConfig
from bench.errors import UserError, nearest
from bench.metrics.run_figures import speedup as shown
from bench.metrics.speedups import speedup
from bench.plan.devices import GPUS
from bench.profile.records import load_profile
from bench.project.expert_table import assumptions, expert_table, lead_there, place_of, policies_of
from bench.project.experts import LINKS
from bench.project.passes import LOOPS, Measured, Passes, Roofline
from bench.project.rates import Rates
from bench.project.replay import Source, projected
from bench.records.model import Arm, Run, Sample
from bench.records.store import load_run, load_samples
from bench.records.views import of_method, samples_of
from bench.show.layout import byte_size, markdown_table
from bench.show.waiting import announce

if TYPE_CHECKING:
    from bench.runtime.decoder import Decoder

MODELS = Path(__file__).parents[2] / "conf" / "model"
DEFAULTS = {
    "device": "h100",
    "model": "vicuna_7b",
    "batch": "1",
    "loop": "recorded",
    "link": "pcie5",
    "as": "speedups",
}
EPILOG = "defaults: " + " ".join(f"{key}={value}" for key, value in DEFAULTS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project", description=__doc__, epilog=EPILOG)
    parser.add_argument("run", help="folder of a run, or RUN:METHOD")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help=", ".join(DEFAULTS))
    options = parser.parse_args(arguments)
    announce(f"reading {options.run}; loading torch to count the passes")
    try:
        settings = settings_of(options.settings)
        print(FORMS[settings["as"]](options.run, settings))  # noqa: T201 - the command's result
    except UserError as mistake:
        return report_mistake(mistake)
    return 0


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    """The settings, with what is given over the defaults.

    Raises:
        UserError: If one is unknown, or does not go with a profile.
    """
    given: dict[str, str] = {}
    for text in overrides:
        key, is_set, value = text.partition("=")
        if not is_set or key not in DEFAULTS:
            raise UserError(f"unknown setting {text!r}", f"known: {', '.join(DEFAULTS)}")
        given[key] = value
    settings = DEFAULTS | given
    if is_profile(settings["device"]):
        if beside := [key for key in ("model", "loop") if key in given]:
            raise UserError(f"{beside[0]} cannot be set: it is the profile's", f"leave out {beside[0]}=")
    elif settings["device"] not in GPUS:
        fix = f"{_near(settings['device'], list(GPUS))}; or the .json file of a profile"
        raise UserError(f"unknown device {settings['device']!r}", fix)
    if settings["loop"] not in LOOPS:
        raise UserError(f"unknown loop {settings['loop']!r}", _near(settings["loop"], list(LOOPS)))
    if settings["as"] not in FORMS:
        raise UserError(f"unknown form as={settings['as']!r}", _near(settings["as"], list(FORMS)))
    if settings["link"] not in LINKS:
        raise UserError(f"unknown link {settings['link']!r}", _near(settings["link"], list(LINKS)))
    if not all(part.isdecimal() and int(part) for part in settings["batch"].split(",")):
        raise UserError(f"batch must be numbers above 0, got {settings['batch']!r}", "write batch=1,4,16")
    return settings


def is_profile(device: str) -> bool:
    """Whether the device is given as the file of a profile."""
    return device.endswith(".json")


def _near(wrong: str, known: Sequence[str]) -> str:
    near = nearest(wrong, known)
    return f"{f'did you mean {near}? ' if near else ''}known: {', '.join(known)}"


def projection(place: str, settings: Mapping[str, str]) -> str:
    """The table as text.

    Raises:
        UserError: If the run, the profile or the model's shape is not known.
    """
    passes = passes_of(settings)
    batches = [int(part) for part in settings["batch"].split(",")]
    folder, run, samples, labels = _stored(place)
    rows = [(name, *_speedups(run, samples, name, passes, batches)) for name in labels]
    header = ("method", *(f"batch {batch}" for batch in batches))
    title = (
        f"PROJECTION of {folder} to {passes.describe()}.\n"
        f"Decode speedups; plain decoding: {1e3 * passes.seconds(1, 256):.1f} ms a token.\n"
        f"Acceptance is that of {run.model}; nothing was run there."
    )
    return "\n".join([title, "", *markdown_table(header, rows)])


def rates(place: str, settings: Mapping[str, str]) -> str:
    """What the rounds say of each method, as settings of ``method=synthetic``.

    Raises:
        UserError: If a method drafted too little.
    """
    _, run, samples, labels = _stored(place)
    lines = []
    for label in labels:
        own = samples_of(samples, label) if run.methods else samples
        lines.append(f"{label}: {Rates.of([each for each in own if each.arm is Arm.METHOD]).settings()}")
    return "\n".join(lines)


def experts(place: str, settings: Mapping[str, str]) -> str:
    """What loading experts would cost the model on the device, with its assumptions above.

    Raises:
        UserError: If the run's methods load no experts, the model has none, or the device is a profile.
    """
    if is_profile(settings["device"]) or settings["batch"] != "1":
        raise UserError("as=experts takes a device by its name, and one sequence", "leave out batch=")
    folder, _, label = place.partition(":")
    run, samples = load_run(Path(folder)), list(load_samples(Path(folder)))
    policies = [policy for policy in policies_of(run, samples) if label in ("", policy.label)]
    decoder = _empty(settings["model"])
    tokens = [sample.prompt_tokens + len(sample.ids) // 2 for sample in samples]
    compute_s = _roofline(settings).seconds(1, sum(tokens) // len(tokens))
    target = place_of(decoder, compute_s, LINKS[settings["link"]])
    table = expert_table(policies, target, GPUS[settings["device"]].memory_bytes)
    return "\n".join([*assumptions(target, run.model, lead_there(run, samples), settings), "", *table])


def _stored(place: str) -> tuple[str, Run, list[Sample], list[str]]:
    """A run's folder, the run, its samples, and which of its methods are meant."""
    folder, _, label = place.partition(":")
    run = load_run(Path(folder))
    return (
        folder,
        run,
        list(load_samples(Path(folder))),
        [label] if label else list(run.methods) or [run.method],
    )


def passes_of(settings: Mapping[str, str]) -> Passes:
    """Cost of the model's passes on the device.

    Raises:
        UserError: If the profile, the model or its shape is not known.
    """
    if is_profile(settings["device"]):
        place = Path(settings["device"])
        return Measured(load_profile(place), place)
    return _roofline(settings)


def _empty(name: str) -> Decoder:
    """The model without storage."""
    from torch import bfloat16, device

    from bench.plan.empty_model import find_empty  # loads torch
    from bench.runtime.loading import RuntimeOptions

    file = MODELS / f"{name}.yaml"
    if not file.is_file():
        names = sorted(path.stem for path in MODELS.glob("*.yaml"))
        raise UserError(f"unknown model {name!r}", _near(name, names))
    known: Any = OmegaConf.load(file)
    weights = known.get("weights", "stored")
    model = ModelConfig(path=known.path, revision=known.get("revision"), weights=weights)
    decoder, _ = find_empty(model, RuntimeOptions(device("cpu"), bfloat16, int(known.get("context") or 2048)))
    if decoder is None:
        raise UserError(
            f"the shape of {name} is not known here", "fetch its config.json, or name another model"
        )
    return decoder


def _roofline(settings: Mapping[str, str]) -> Roofline:
    decoder = _empty(settings["model"])
    return Roofline(
        GPUS[settings["device"]],
        settings["model"],
        decoder.pass_parameters,
        decoder.dtype.itemsize,
        decoder.cache.token_bytes,
        LOOPS[settings["loop"]],
        decoder.parameters * decoder.dtype.itemsize,
        decoder.config.vocab * decoder.dtype.itemsize,
    )


def _speedups(
    run: Run, samples: Sequence[Sample], label: str, passes: Passes, batches: Sequence[int]
) -> list[str]:
    part, own = (of_method(run, label), samples_of(samples, label)) if run.methods else (run, samples)
    baseline = [sample for sample in own if sample.arm is Arm.BASELINE]
    method = [sample for sample in own if sample.arm is Arm.METHOD]
    probes = [attempt["probe"] for attempt in run.attempts if "probe" in attempt]
    if not probes:
        raise UserError(f"run {run.run_id} holds no probe of its machine", "it is too old to be projected")
    source = Source.of(
        baseline,
        int(probes[-1]["costs"]["depth"]),
        several_tokens_per_row=bool(part.labels.get("several tokens per row")),
    )
    tokens = max(sample.prompt_tokens + len(sample.ids) for sample in own)
    rows = 1 + max((step.drafted for sample in own for step in sample.rounds), default=0)
    return [
        lack
        if (lack := lacking_memory(passes, tokens, batch, rows))
        else shown(
            speedup(
                projected(baseline, passes, source, batch), projected(method, passes, source, batch)
            ).decode
        )
        for batch in batches
    ]


def lacking_memory(passes: Passes, tokens: int, batch: int, rows: int = 0) -> str | None:
    """Why a batch of sequences of so many tokens does not fit the device; None if it does.

    Counted are the model's weights, caches, and logits of a pass of `rows` rows of each sequence; modules and
    activations come on top.
    """
    needed, memory = passes.needed_bytes(tokens, batch, rows), passes.memory_bytes
    if memory is None or needed <= memory:
        return None
    return f"does not fit: {byte_size(needed)} of {byte_size(memory)}"


FORMS = {"speedups": projection, "rates": rates, "experts": experts}
"""What can be printed, by the value of ``as``."""

if __name__ == "__main__":
    sys.exit(main())
