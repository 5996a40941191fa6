"""Workarounds that `VAE_LAB_WITHOUT` switches off leave their dependency as it is."""

import importlib.util
import logging
import os

import pytest
import torch
from hydra.core.config_store import ConfigStore

from vae_lab.workarounds import hydra, lightning


@pytest.mark.parametrize(("without", "there"), [("", True), ("all", False), ("hook_name,state_key", False)])
def test_lightning_bases_follow_the_switch(monkeypatch: pytest.MonkeyPatch, without: str, there: bool) -> None:
    monkeypatch.setenv("VAE_LAB_WITHOUT", without)
    spec = importlib.util.spec_from_file_location("again", lightning.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert ("__setattr__" in vars(module.QuickHookName)) == there
    assert ("state_key" in vars(module.QuickStateKey)) == there


@pytest.mark.parametrize("without", ["", "environment"])
def test_environment_workaround_follows_the_switch(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setenv("VAE_LAB_WITHOUT", without)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with lightning.environment():
        os.environ["WANDB_MODE"] = "offline"
        torch.use_deterministic_algorithms(True)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    assert os.environ["WANDB_MODE"] == ("offline" if without else "disabled")
    assert deterministic == bool(without)


@pytest.mark.parametrize("without", ["", "quiet"])
def test_quiet_workaround_follows_the_switch(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setenv("VAE_LAB_WITHOUT", without)
    log = logging.getLogger("pytorch_lightning")
    before = log.level
    with lightning.quiet():
        assert log.level == (before if without else logging.WARNING)
    assert log.level == before


@pytest.mark.parametrize("without", ["", "config_store"])
def test_config_store_workaround_follows_the_switch(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    monkeypatch.setenv("VAE_LAB_WITHOUT", without)
    monkeypatch.setattr(ConfigStore, "__deepcopy__", None, raising=False)
    hydra.share_config_store()
    assert (ConfigStore.__deepcopy__ is None) == bool(without)
