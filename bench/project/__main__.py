"""``python -m bench.project RUN device=h100 model=vicuna_7b batch=1,4,16``: a run's rounds on another device.

RUN is a run's folder; of a run of several methods, RUN:METHOD or all of them. The table is a projection and
says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.cli import report_mistake
from bench.compose.schema import ModelConfig
from bench.errors import UserError, nearest
from bench.metrics.run_figures import speedup as shown
from bench.metrics.speedups import speedup
from bench.plan.devices import GPUS
from bench.project.replay import LOOPS, Passes, Source, projected
from bench.records.model import Arm, Run, Sample
from bench.records.store import load_run, load_samples
from bench.records.views import of_method, samples_of
from bench.show.layout import markdown_table
from bench.show.waiting import announce

MODELS = Path(__file__).parents[2] / "conf" / "model"
DEFAULTS = {"device": "h100", "model": "vicuna_7b", "batch": "1", "loop": "recorded"}
EPILOG = "defaults: " + " ".join(f"{key}={value}" for key, value in DEFAULTS.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.project", description=__doc__, epilog=EPILOG)
    parser.add_argument("run", help="folder of a run, or RUN:METHOD")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="device, model, batch, loop")
    options = parser.parse_args(arguments)
    announce(f"reading {options.run}; loading torch to count the passes")
    try:
        print(projection(options.run, settings_of(options.settings)))  # noqa: T201 - the command's result
    except UserError as mistake:
        return report_mistake(mistake)
    return 0


def settings_of(overrides: Sequence[str]) -> dict[str, str]:
    """The settings, with what is given over the defaults.

    Raises:
        UserError: If one is unknown.
    """
    settings = dict(DEFAULTS)
    for text in overrides:
        key, is_set, value = text.partition("=")
        if not is_set or key not in DEFAULTS:
            raise UserError(f"unknown setting {text!r}", f"known: {', '.join(DEFAULTS)}")
        settings[key] = value
    for key, known in (("device", list(GPUS)), ("loop", list(LOOPS))):
        if settings[key] not in known:
            raise UserError(f"unknown {key} {settings[key]!r}", _near(settings[key], known))
    if not all(part.isdecimal() and int(part) for part in settings["batch"].split(",")):
        raise UserError(f"batch must be numbers above 0, got {settings['batch']!r}", "write batch=1,4,16")
    return settings


def _near(wrong: str, known: Sequence[str]) -> str:
    near = nearest(wrong, known)
    return f"{f'did you mean {near}? ' if near else ''}known: {', '.join(known)}"


def projection(place: str, settings: Mapping[str, str]) -> str:
    """The table as text.

    Raises:
        UserError: If the run or the model's shape is not known.
    """
    passes = passes_of(settings)
    batches = [int(part) for part in settings["batch"].split(",")]
    folder, _, label = place.partition(":")
    run, samples = load_run(Path(folder)), load_samples(Path(folder))
    labels = [label] if label else list(run.methods) or [run.method]
    rows = [(name, *_speedups(run, samples, name, passes, batches)) for name in labels]
    header = ("method", *(f"batch {batch}" for batch in batches))
    step_ms = 1e3 * passes.seconds(1, 256)
    title = (
        f"PROJECTION of {folder} to {settings['model']} on {passes.gpu.title}: decode speedups by a\n"
        f"roofline of its data sheet, {settings['loop']} loop; plain decoding: {step_ms:.1f} ms a token.\n"
        f"Acceptance is that of {run.model}; nothing was run there."
    )
    return "\n".join([title, "", *markdown_table(header, rows)])


def passes_of(settings: Mapping[str, str]) -> Passes:
    """Cost of the model's passes on the device.

    Raises:
        UserError: If the model or its shape is not known.
    """
    from torch import bfloat16, device

    from bench.plan.empty_model import find_empty  # loads torch
    from bench.runtime.loading import RuntimeOptions

    file = MODELS / f"{settings['model']}.yaml"
    if not file.is_file():
        names = sorted(path.stem for path in MODELS.glob("*.yaml"))
        raise UserError(f"unknown model {settings['model']!r}", _near(settings["model"], names))
    known: Any = OmegaConf.load(file)
    weights = known.get("weights", "stored")
    model = ModelConfig(path=known.path, revision=known.get("revision"), weights=weights)
    decoder, _ = find_empty(model, RuntimeOptions(device("cpu"), bfloat16, int(known.get("context") or 2048)))
    if decoder is None:
        raise UserError(
            f"the shape of {settings['model']} is not known here",
            "fetch its config.json, or name another model",
        )
    return Passes(
        GPUS[settings["device"]],
        decoder.pass_parameters,
        decoder.dtype.itemsize,
        decoder.cache.token_bytes,
        LOOPS[settings["loop"]],
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
    return [
        shown(
            speedup(
                projected(baseline, passes, source, batch), projected(method, passes, source, batch)
            ).decode
        )
        for batch in batches
    ]


if __name__ == "__main__":
    sys.exit(main())
