"""Training stands apart from decoding: importing a method imports no trainer, and each method has its own."""

from __future__ import annotations

import pytest

from bench.prove.source import decoding_modules
from methods.core.base import FullTrainable, ModelTrainer, ModuleTrainer, Trainable
from tests.methods.hamburger.hamburgers import unattached as hamburger
from tests.methods.hamburger.hamburgers import verified
from tests.methods.hidden_transfer.transfers import unattached as hidden_transfer
from tests.methods.m2r2.test_m2r2 import unattached as m2r2
from tests.methods.medusa.test_medusa import medusa

METHODS = {
    "methods.hamburger.draft": hamburger,
    "methods.hamburger.verified": verified,
    "methods.hidden_transfer.draft": hidden_transfer,
    "methods.m2r2.draft": m2r2,
    "methods.medusa.draft": medusa,
}


def test_importing_a_method_imports_no_training_code() -> None:
    """A proof hashes what a method imports: an edit of a loss must leave a certificate valid."""
    hashed = [decoding_modules(f"{name}.Method", "static") for name in METHODS]
    imported = {name for modules in hashed for name in modules}
    assert set(METHODS) <= imported
    last = {name.rpartition(".")[2] for name in imported}
    assert not last & {"module", "trainer", "verified_trainer", "groups", "distillation", "trained_layer"}


@pytest.mark.parametrize("name", METHODS)
def test_each_has_a_trainer(name: str) -> None:
    method = METHODS[name]()
    if isinstance(method, FullTrainable):
        assert isinstance(method.model_trainer(), ModelTrainer)
    else:
        assert isinstance(method, Trainable)
        assert isinstance(method.trainer(), ModuleTrainer)
