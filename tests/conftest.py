"""What all tests share: one torch thread per worker, the device under test, a seed per test."""

import os

import pytest
import torch


def pytest_configure(config):
    # xdist already runs one worker per core; torch threads on top of that would only fight each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device named by the environment variable DEVICE, `cpu` by default."""
    return torch.device(os.environ.get("DEVICE", "cpu"))


@pytest.fixture(autouse=True)
def seed():
    """The same random numbers in every run of a test, alone or in a suite."""
    torch.manual_seed(0)
