"""Copies between host and device that wait for nothing."""

from __future__ import annotations

import torch

from bench.runtime.transfer import begin_download
from tests.runtime.pretended_cuda.device import PretendedCuda
from tests.runtime.pretended_cuda.tensors import CUDA


def test_a_download_arrives_with_the_next_wait_and_costs_none_of_its_own() -> None:
    with PretendedCuda() as device:
        numbers = torch.full((3,), 2.0, device=CUDA)
        held = begin_download(numbers)
        numbers.fill_(5.0)
        assert bool(held.isnan().all())
        assert device.waits.total() == 0
        assert numbers.tolist() == [5.0] * 3
        assert held.tolist() == [2.0] * 3
        assert device.waits.total() == 1


def test_numbers_of_the_host_are_there_already() -> None:
    numbers = torch.ones(2)
    assert begin_download(numbers) is numbers
