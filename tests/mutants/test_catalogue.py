"""The catalogue: which mutants there are, for what, and what they declare."""

import importlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bpttcheck import Subject, mutants
from bpttcheck.bptt.layer import CellLayer
from bpttcheck.cells import BUILTINS, LSTM, Elman
from bpttcheck.contract import is_cell, is_layer
from bpttcheck.errors import ContractError
from bpttcheck.mutants.base import VALUES
from bpttcheck.problems.problem import REGIMES

NAMES = [*BUILTINS, "elman[relu]", "counting", "layer of elman", "layer of counting"]
CODES = set(
    "sign scale batch-reduction time-reduction transposed missing-path doubled-path truncated "
    "missing-term doubled-term swapped-gates wrong-derivative zeroed-entry broadcast-row clipped "
    "nonlinear precision saturated impure initial-state mask-ignored one-size range".split()
)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_every_declaration_is_well_formed(name, bench):
    found = bench.catalogue(name)
    assert len({mutant.name for mutant in found}) == len(found)
    blocks = set(mutants.anatomy(bench.target(name), bench.sizes(name)).blocks)
    for mutant in found:
        assert mutant.family in mutants.FAMILIES
        assert {mutant.diagnosis, *mutant.also} <= CODES | {""}
        assert set(mutant.regimes) <= set(REGIMES)
        assert set(mutant.blocks) <= blocks
        assert set(mutant.dtypes) <= {"float64", "float32"}
        assert mutant.dtypes
        assert mutant.least_T >= 1
        assert mutant.least_B >= 1
        assert mutant.least_H >= 1
        assert mutant.least_n_in >= 1
        assert mutant.every_T >= 1
        assert mutant.values in {"", *VALUES}
        assert mutant.error > 0
        assert mutant.sentence


@pytest.mark.parametrize("name", NAMES)
def test_plant_gives_what_kind_says(name, bench):
    target = bench.target(name)
    for mutant in bench.catalogue(name):
        wrong = mutant.plant(target)
        assert is_cell(wrong) == (mutant.kind == "cell")
        assert is_layer(wrong) == (mutant.kind == "layer")
        assert Subject(wrong).kind == mutant.kind


def test_a_layer_made_of_a_cell_has_it_as_reference_and_takes_masks(bench):
    cell = LSTM()
    layers = [m.plant(cell) for m in bench.catalogue("lstm") if m.kind == "layer"]
    assert layers
    for layer in layers:
        subject = Subject(layer)
        assert subject.reference is cell
        assert subject.supports_mask
        # The engine's own adjoints would show a checker the right ones.
        assert not hasattr(layer, "adjoints")
        assert not hasattr(layer, "gradients")


@pytest.mark.parametrize("name", NAMES)
def test_every_family_but_those_that_do_not_apply_has_mutants(name, bench):
    present = {mutant.family for mutant in bench.catalogue(name)}
    assert present >= set(mutants.FAMILIES) - {"activation"}
    assert ("activation" in present) == ("elman" in name or "jordan" in name) or "layer" in name


def test_every_file_holds_families_and_every_family_has_its_function():
    folder = Path(mutants.__file__).parent
    files = {path.stem for path in folder.glob("[!_]*.py")} - {"base"}
    assert files == set(mutants._HOMES.values())
    for family, home in mutants._HOMES.items():
        assert callable(getattr(importlib.import_module(f"bpttcheck.mutants.{home}"), family))


def test_families_are_chosen_by_name_in_the_order_given():
    found = mutants.catalogue(Elman(), families=["batch", "sign", "batch"])
    assert list(dict.fromkeys(mutant.family for mutant in found)) == ["batch", "sign"]
    assert len({mutant.name for mutant in found}) == len(found)
    assert mutants.catalogue(Elman(), families=()) == ()


@pytest.mark.parametrize("families", [["sign", "syntax"], "sign"])
def test_an_unknown_family_is_refused(families):
    with pytest.raises(ContractError, match="should be a list of names out of sign, scale"):
        mutants.catalogue(Elman(), families=families)


def test_sizes_must_not_be_empty():
    with pytest.raises(ContractError, match="at least one"):
        mutants.catalogue(Elman(), sizes=())


def test_only_allowed_sizes_are_used_and_declared():
    class EvenOnly(Elman):
        def init(self, rng, n_in, n_hidden):
            assert n_hidden % 2 == 0
            return super().init(rng, n_in, n_hidden)

    sizes = ((2, 2), (3, 4), (6, 6))
    for found in (mutants.catalogue(EvenOnly(), sizes=sizes), mutants.catalogue(EvenOnly())):
        assert found
        assert all(H % 2 == 0 for mutant in found for _, H in mutant.sizes)
    given = mutants.catalogue(EvenOnly(), sizes=sizes)
    assert all(set(mutant.sizes) <= set(sizes) for mutant in given)
    square = next(m for m in given if m.name == "d_params['U'] transposed where it is square")
    assert square.sizes == ((2, 2), (6, 6))


def test_a_target_that_does_not_run_is_refused_with_what_it_said():
    class NoSize(Elman):
        def init(self, rng, n_in, n_hidden):
            raise ValueError("only (16, 16)")

    class Broken(Elman):
        def step(self, params, state, x):
            raise ValueError("no such operation")

    with pytest.raises(ContractError, match=r"only \(16, 16\).*pass sizes="):
        mutants.catalogue(NoSize())
    with pytest.raises(ContractError, match="ValueError: no such operation"):
        mutants.catalogue(Broken())


def test_a_bug_that_changes_nothing_is_not_in_the_catalogue():
    class Memoryless(Elman):
        """Neither reads nor passes on its state; its two biases have one gradient."""

        def init(self, rng, n_in, n_hidden):
            params = super().init(rng, n_in, n_hidden)
            return {"U": params["U"], "b": params["b"], "b_too": params["b"] / 2}

        def step(self, params, state, x):
            y = np.tanh(x @ params["U"].T + params["b"] + params["b_too"])
            return np.zeros_like(state), y, (x, y)

        def step_vjp(self, params, cache, d_state, d_y):
            x, y = cache
            d_z = d_y * (1 - y**2)
            d_b = d_z.sum(axis=0)
            return (
                {"U": d_z.T @ x, "b": d_b, "b_too": d_b.copy()},
                np.zeros_like(d_state),
                d_z @ params["U"],
            )

    names = {mutant.name for mutant in mutants.catalogue(Memoryless())}
    assert "d_y ignored" in names
    assert "d_params['U'] missing" in names
    for absent in ("d_state ignored", "d_state doubled", "sign of d_previous_state", "carry lost",
                   "d_state0 missing", "d_params['b'] and d_params['b_too'] swapped",
                   "masked steps not stopped"):  # fmt: skip
        assert absent not in names


def test_a_target_without_parameters_or_inner_structure_has_a_catalogue():
    class Decay:
        """``s' = s / 2 + sum(x)``: no parameters, a state of one number a row."""

        def init(self, rng, n_in, n_hidden):
            return {}

        def initial_state(self, params, batch_size):
            return np.zeros(batch_size)

        def step(self, params, state, x):
            new = 0.5 * state + x.sum(axis=1)
            return new, new[:, None] ** 2, (new, x.shape)

        def step_vjp(self, params, cache, d_state, d_y):
            new, shape = cache
            d_new = d_state + 2 * new * d_y[:, 0]
            return {}, 0.5 * d_new, np.repeat(d_new[:, None], shape[1], axis=1)

    found = mutants.catalogue(Decay())
    names = {mutant.name for mutant in found}
    assert len(names) == len(found)
    assert {"sign of d_x", "d_y ignored", "carry lost", "d_state0 missing"} <= names
    assert not any("param" in name for name in names)
    assert not {"swapped", "transposed"} & {mutant.family for mutant in found}


def test_a_single_unit_has_no_gates_to_swap():
    found = mutants.catalogue(LSTM(), sizes=((1, 1),))
    assert not any("gate" in mutant.name for mutant in found)
    assert not any("one-size" == mutant.diagnosis for mutant in found)


def test_an_activation_whose_record_no_other_can_read_has_no_mutants_of_it():
    class Named(Elman):
        def step(self, params, state, x):
            h, y, cache = super().step(params, state, x)
            return h, y, {self.activation: cache}

        def step_vjp(self, params, cache, d_state, d_y):
            return super().step_vjp(params, cache[self.activation], d_state, d_y)

    families = {mutant.family for mutant in mutants.catalogue(Named())}
    assert families == set(mutants.FAMILIES) - {"activation"}


def test_a_layer_without_masks_has_no_mutants_of_the_mask():
    class Unmasked(CellLayer):
        supports_mask = False

    families = {mutant.family for mutant in mutants.catalogue(Unmasked(Elman()))}
    assert "masks" not in families
    assert "truncated" in families


def test_a_regime_that_a_mutant_needs_is_declared(bench):
    named = {mutant.name: mutant for mutant in bench.catalogue("lstm")}
    for k in (16, 35, 70, 200):
        assert named[f"only the last {k} steps"].regimes == ("long",)
        assert named[f"only the last {k} steps"].least_T == k + 1
    assert "ordinary" in named["only the last 10 steps"].regimes
    assert named["d_params['b'] times (1 + 1e-12)"].dtypes == ("float64",)
    assert named["d_params['b'] times (1 + 1e-4)"].dtypes == ("float64", "float32")
    assert named["t = T-1 missing in d_params"].time_step == -1


def test_a_mutant_can_be_declared_anew():
    mutant = mutants.catalogue(Elman(), families=["sign"])[0]
    assert replace(mutant, note="seen").note == "seen"


def test_a_catalogue_takes_less_than_half_a_second():
    def seconds():
        start = time.process_time()  # other processes do not count
        mutants.catalogue(LSTM())
        return time.process_time() - start

    assert min(seconds() for _ in range(3)) < 0.5
