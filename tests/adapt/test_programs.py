from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bpttcheck.adapt import from_custom_vjp
from bpttcheck.adapt import programs as module
from bpttcheck.adapt.programs import LIVE_PROGRAMS, Programs, live_programs, precision

MAPS = Path("/proc/self/maps")


def a_cell():
    @jax.custom_vjp
    def step(params, state, x):
        new = jnp.tanh(x @ params["W"].T + state @ params["U"].T)
        return new, new

    def bwd(saved, cotangents):
        return jax.vjp(step.fun, *saved)[1](cotangents)

    step.defvjp(lambda *arguments: (step(*arguments), arguments), bwd)
    return from_custom_vjp(step, init={"W": ("n_hidden", "n_in"), "U": ("n_hidden", "n_hidden")})


def run(cell, n_hidden=2):
    params = cell.init(np.random.default_rng(0), 3, n_hidden)
    new, y, cache = cell.step(params, cell.initial_state(params, 2), np.ones((2, 3)))
    return cell.step_vjp(params, cache, new, y)


@pytest.mark.nightly
def test_the_memory_maps_of_sixty_living_subjects_stay_few():
    if not MAPS.exists():
        pytest.skip("this system has no /proc/self/maps to count")
    cells = [a_cell() for _ in range(60)]
    for cell in cells[:5]:
        run(cell)
    before = len(MAPS.read_text().splitlines())
    for cell in cells:
        run(cell)
    assert live_programs() <= LIVE_PROGRAMS
    # Unbounded, 120 programs would take more than 2,000.
    assert len(MAPS.read_text().splitlines()) - before < 40 * LIVE_PROGRAMS


def test_programs_die_with_their_subject():
    gc.collect()
    before = live_programs()
    cell = a_cell()
    run(cell)
    assert live_programs() > min(before, LIVE_PROGRAMS - 1)
    del cell
    gc.collect()
    assert live_programs() <= before


def test_the_least_recently_used_program_is_dropped_first(monkeypatch):
    monkeypatch.setattr(module, "LIVE_PROGRAMS", 2)
    monkeypatch.setattr(module, "_EVERY", type(module._EVERY)())
    one, other = Programs(), Programs()
    built = []

    def build(key):
        return lambda: built.append(key) or key

    one.get("a", build("a"))
    other.get("b", build("b"))
    one.get("a", build("a"))
    other.get("c", build("c"))
    assert built == ["a", "b", "c"]
    assert one.get("a", build("a")) == "a"
    assert other.get("b", build("b")) == "b"
    assert built == ["a", "b", "c", "b"]
    assert live_programs() == 2


def test_a_shape_is_compiled_once():
    cell = a_cell()
    run(cell)
    held = live_programs()
    for _ in range(3):
        run(cell)
    assert live_programs() == held


def test_a_copy_compiles_its_own_programs():
    original = Programs()
    original.get("a", object)
    for duplicate in (copy.deepcopy(original), pickle.loads(pickle.dumps(original))):
        assert duplicate is not original
        assert not duplicate.held


def test_the_64_bit_mode_is_on_for_float64_alone_and_off_again_afterwards():
    before = bool(jax.config.jax_enable_x64)
    with precision([np.zeros(1, np.float32), np.zeros(1)]):
        assert jnp.zeros(1, float).dtype == np.float64
    with precision([np.zeros(1, np.float32), np.zeros(1, np.int64)]):
        assert bool(jax.config.jax_enable_x64) is before
    assert bool(jax.config.jax_enable_x64) is before
