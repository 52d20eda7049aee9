"""SWIFT and Draft & Verify for tests: the values of their yaml, except for what a test changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.compose.settings import Settings
from methods.skipping.draft_verify import DraftVerify
from methods.skipping.swift import Swift
from tests.harness import CONF, composed_settings


def yaml_of(name: str) -> dict[str, Any]:
    """Parameters of ``conf/method/<name>.yaml``, interpolations left out."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "method" / f"{name}.yaml"), resolve=False)
    assert isinstance(node, dict)
    return {
        str(key): None if "${" in str(value) else value for key, value in node.items() if key != "_target_"
    }


def swift(**changes: Any) -> Swift:
    """Searching on short answers, without the optimiser."""
    return Swift(**{**yaml_of("swift"), "window": 6, "bayes_interval": 0, "max_score": 2.0, **changes})


def draft_verify(**changes: Any) -> DraftVerify:
    """With every odd layer of a small model skipped."""
    sets = {"skip_attention": [1, 3], "skip_mlp": [1, 3, 5]}
    return DraftVerify(**{**yaml_of("draft_verify"), **sets, **changes})


def tiny_settings(method: str, results: Path) -> Settings:
    """A run over all built-in prompts of the embedded model, once."""
    overrides = [f"method={method}", "task=spec_bench", "task.limit=null", "max_new_tokens=96"]
    overrides += ["measure.repeats=1", f"results_dir={results}"]
    return composed_settings(*overrides)
