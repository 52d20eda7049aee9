"""The settings of one run: the step from Hydra's tree to dataclasses; nothing below knows of Hydra.

A method and a task are a `Component`: a constructor and its parameters.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bench import PACKAGE_PREFIX
from bench.compose import components as rules
from bench.compose.automatic_model import AUTOMATIC, settle_model
from bench.compose.components import Component
from bench.compose.schema import (
    ChatConfig,
    Config,
    MeasureConfig,
    ModelConfig,
    RuntimeConfig,
    SamplingConfig,
    plain_name,
)
from bench.compose.tuned import with_tuned
from bench.records.model import Arm
from bench.runtime.package_index import PREFIX as FETCH_PREFIX

_PROMPTS_OF_OTHERS = {"auto": "official", "builtin": "natural"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is set for one run.

    Args:
        methods: The methods under test by label; the label of a single one is ``method``. A component's name
            is that of its yaml file.
        task: The questions; its name is that of its yaml file.
        plan: Whether to print what would be done instead of doing it.
        plan_device: GPU that the plan estimates for; None is this machine's.
        config: The resolved tree as plain dicts and lists, for the record; ``package:`` paths as written.
    """

    methods: Mapping[str, Component]
    task: Component
    model: ModelConfig
    chat: ChatConfig
    sampling: SamplingConfig
    runtime: RuntimeConfig
    measure: MeasureConfig
    seed: int
    max_new_tokens: int
    results_dir: Path
    plan: bool
    plan_device: str | None
    config: Mapping[str, Any]

    @property
    def method(self) -> Component:
        """The method of a run that has one."""
        (method,) = self.methods.values()
        return method

    @property
    def first_line(self) -> str:
        """What a start says before it loads anything."""
        names = ", ".join(self.methods) if self.is_arena else self.method.name
        place = f"{names} on {self.task.name}, model {self.model.name}"
        return f"{place}: records are read, torch and model loaded; warm-up and measuring come next"

    @property
    def is_arena(self) -> bool:
        """Whether it is a run of several methods, which ``methods=`` names."""
        return list(self.methods) != [Arm.METHOD]

    @property
    def has_control(self) -> bool:
        """Whether the baseline decodes a second time, as an arm of its own."""
        return self.is_arena if self.measure.control is None else self.measure.control

    @property
    def has_eager_arm(self) -> bool:
        """Whether there is an eager arm: it is switched on, and the baseline is not that loop already."""
        return self.measure.eager and self.runtime.tier != "eager"


def prepared(
    composed: DictConfig, choices: Mapping[str, str | None]
) -> tuple[DictConfig, Mapping[str, str | None]]:
    """The tree with its model fetched and with the tuned settings of its method."""
    if composed.tuned is not None:
        composed = with_tuned(composed, str(choices.get("method")))
    path = str(OmegaConf.select(composed, "model.path", default=""))
    is_settled = choices.get("model") != AUTOMATIC and not path.startswith(FETCH_PREFIX)
    return (composed, choices) if is_settled else settle_model(composed, choices)


def settings_from(composed: DictConfig, choices: Mapping[str, str | None]) -> Settings:
    """The settings of one run, from Hydra's tree without its own ``hydra`` node.

    `choices` is the chosen option of every config group (``hydra.runtime.choices``), such as the method's.

    Raises:
        UserError: If a key is unknown, or a value is missing or breaks its rule.
    """
    rules.require_known(composed)
    rules.require_complete(composed)
    settled = _settled(composed)
    tree: Config = OmegaConf.to_object(settled)  # type: ignore[assignment]  # the schema's type
    plain: dict[str, Any] = OmegaConf.to_container(settled, resolve=True)  # type: ignore[assignment]
    return Settings(
        methods={Arm.METHOD.value: Component.from_node("method", choices.get("method"), plain["method"])},
        task=Component.from_node("task", choices.get("task"), plain["task"]),
        model=tree.model,
        chat=tree.chat,
        sampling=tree.sampling,
        runtime=tree.runtime,
        measure=tree.measure,
        seed=tree.seed,
        max_new_tokens=tree.max_new_tokens,
        results_dir=Path(tree.results_dir),
        plan=tree.bench.plan,
        plan_device=tree.bench.device,
        config=plain,
    )


def modules_of(modules: str | None, model: str) -> str:
    """Folder with one subfolder of trained modules per method; by default where ``bench.train`` puts them."""
    return modules or f"results/train/{model}"


def _settled(composed: DictConfig) -> DictConfig:
    """`composed` with model name, modules and prompt source; unless set they follow from ``model.path``."""
    settled = copy.deepcopy(composed)
    model, path = settled.model, str(settled.model.path)
    model.name = model.name or plain_name(Path(path.removeprefix(PACKAGE_PREFIX)).resolve().name)
    model.modules = modules_of(model.modules, model.name)
    followed = {"auto": "builtin"} if path.startswith(PACKAGE_PREFIX) else _PROMPTS_OF_OTHERS
    model.prompts = followed.get(model.prompts, model.prompts)
    model.questions = None if model.prompts == "official" else model.questions
    return settled
