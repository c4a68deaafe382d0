"""Makes plain NumPy step functions traceable by JAX, without changing their code.

User code gets a proxy in place of an ndarray.
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from bpttcheck import trees
from bpttcheck.errors import Declined, InternalError
from bpttcheck.oracles.error_origin import as_numpy, natively, on_behalf, raise_defect
from bpttcheck.oracles.tracer import refusals
from bpttcheck.oracles.tracer.arguments import is_traced
from bpttcheck.oracles.tracer.call import overwrite, perform, perform_known, rearrange, wrap
from bpttcheck.oracles.tracer.functions import call_function, call_method
from bpttcheck.oracles.tracer.index import get_item, put_item
from bpttcheck.oracles.tracer.kept import unchanged
from bpttcheck.oracles.tracer.memory import (
    ArrayProxy,
    Buffer,
    Selection,
    constant,
    fill_with_dummies,
)
from bpttcheck.oracles.tracer.reach import UserNamespaces, swapped
from bpttcheck.oracles.tracer.run import (
    TracingRun,
    current,
    decided,
    decline,
    raised_on_purpose,
    running,
    where_raised,
)
from bpttcheck.oracles.tracer.ufuncs import call_ufunc
from bpttcheck.oracles.tracer.watch import NumpyCall, Watch, observed, observed_method
from bpttcheck.oracles.tracer.writes import sort_in_place

# All threads share the user's modules: one trace at a time. A nested trace is allowed.
_LOCK = threading.RLock()


def lift(function: Callable[..., Any], watch: Watch | None = None) -> Callable[..., Any]:
    """Turn a function of NumPy arrays into one of JAX arrays, to trace, differentiate and batch.

    Args:
        function: NumPy code on trees of arrays, such as
            ``lambda params, state, x: cell.step(params, state, x)[:2]``. It returns a tree of
            arrays and numbers.
        watch: observes each operation on arrays as it is traced, or None.

    Returns:
        The same function on trees whose leaves are JAX arrays or tracers. It must be called in
        64-bit mode, and gives leaves of the dtypes that NumPy gives. When called it raises
        :class:`bpttcheck.errors.Declined`, naming the line of user code, for what cannot be traced
        and for any error but those that user code raises on purpose, and
        :class:`bpttcheck.errors.InternalError` for a defect of the tracer.
    """

    def lifted(*args: Any, **kwargs: Any) -> Any:
        if jnp.result_type(float) != np.float64:
            raise Declined("JAX in 32-bit mode", remedy="with jax.enable_x64(True): ...")
        with _LOCK:
            reach = UserNamespaces(function)
            run = TracingRun(make=TracedArray, namespaces=reach.namespaces, watch=watch)
            try:
                with unchanged(reach), running(run), swapped(reach):
                    result = _trace(run, function, args, kwargs)
                if run.refusal is not None:
                    raise run.refusal
            finally:
                # Its traceback refers to the run: a cycle, freed by the garbage collector only.
                run.refusal = None
        return result

    return lifted


def _trace(run: TracingRun, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    wrapped = functools.partial(enter, run)
    inputs = [trees.map_leaves(wrapped, arg) for arg in args]
    named = {name: trees.map_leaves(wrapped, arg) for name, arg in kwargs.items()}
    try:
        return trees.map_leaves(leave, on_behalf(function, *inputs, **named))
    except (Declined, InternalError):
        raise
    except Exception as error:
        if run.refusal is not None:
            return None  # user code turned it into another error; the caller raises the first one
        if raised_on_purpose(run, error):
            raise
        raise_defect("tracing the step", error, run.namespaces)
        what = f"{type(error).__name__} while JAX traced the step: {_short(error)}"
        raise Declined(what, where=where_raised(run, error)) from error


def enter(run: TracingRun, leaf: Any) -> Any:
    """A wrapper around an argument."""
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        return leaf
    value = leaf if isinstance(leaf, jax.Array) else constant(leaf)
    owner = np.empty(value.shape, value.dtype)
    fill_with_dummies(owner)
    buffer = Buffer(
        owner, value.astype(owner.dtype), layout_known=owner.ndim < 2, lone=owner.ndim == 0
    )
    return wrap(run, owner, buffer)


def leave(leaf: Any) -> Any:
    """A JAX array from what user code returned."""
    if isinstance(leaf, ArrayProxy):
        return jnp.asarray(leaf.read())
    if isinstance(leaf, Selection):
        what = "z[mask] returned for a mask that depends on values"
        decline(what, "np.where(mask, a, b)", where=getattr(leaf, "where", ""))
    if isinstance(leaf, jax.Array):
        return leaf
    if isinstance(leaf, (np.ndarray, np.generic, bool, int, float)):
        return constant(leaf)
    return decline(
        f"the step returned {type(leaf).__name__}", "arrays, in tuples, NamedTuples or dicts"
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


METHODS = frozenset(
    "all any argmax argmin argsort choose clip compress conj conjugate cumprod cumsum diagonal dot "
    "max mean min nonzero prod put ravel repeat round searchsorted squeeze std sum swapaxes take "
    "trace var argpartition".split()
)


def _of_shadow(name: str) -> Any:
    return property(operator.attrgetter(f"shadow.{name}"), doc=f"NumPy's {name}.")


class TracedArray(ArrayProxy, NDArrayOperatorsMixin):
    """An array of the step that behaves as NumPy's, views and writes included."""

    __slots__ = ()

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What ``isinstance`` sees: NumPy's own type."""
        return type(self.shadow)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """NumPy's protocol for ufuncs."""
        if any(isinstance(item, Selection) for item in inputs):
            return NotImplemented
        return call_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """NumPy's protocol for its other functions."""
        return call_function(function, args, kwargs)

    def __getitem__(self, index: Any) -> Any:
        return get_item(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        put_item(self, index, value)

    def __len__(self) -> int:
        return len(self.shadow)

    def __iter__(self) -> Iterator[Any]:
        return (self[row] for row in range(len(self.shadow)))

    def __getattr__(self, name: str) -> Any:
        """A method that NumPy also has as a function, or a refusal."""
        if name.startswith("__") or not hasattr(self.shadow, name):
            kind = type(self.shadow).__name__
            as_numpy(AttributeError(f"{kind!r} object has no attribute {name!r}"))
        if not callable(getattr(self.shadow, name)) or name == "data":
            return getattr(self.shadow, name) if self.known else refusals.refuse_attribute(name)
        return lambda *args, **kwargs: self._method(name, args, kwargs)

    def _method(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        if not is_traced(self, args, kwargs):
            return perform_known(
                lambda a, *b, **c: getattr(a, name)(*b, **c), (self, *args), kwargs
            )
        if name in ("conj", "conjugate") and self.shadow.dtype.kind != "c":
            return rearrange(lambda a: a.conjugate(*args, **kwargs), (self,))
        if name in METHODS:
            return call_method(self, name, args, kwargs)
        return refusals.refuse_attribute(name)

    def __bool__(self) -> bool:
        if self.known:
            return bool(self.shadow)
        answer = decided("bool", self.shadow.dtype, self.read)
        return refusals.refuse_branch() if answer is None else bool(answer)

    def __float__(self) -> float:
        return float(self.shadow) if self.known else refusals.refuse_number("float")

    def __int__(self) -> int:
        return int(self.shadow) if self.known else self._integer("int")

    def __index__(self) -> int:
        return operator.index(self.shadow) if self.known else self._integer("index")

    def _integer(self, kind: str) -> int:
        answer = decided(kind, self.shadow.dtype, self.read)
        return refusals.refuse_number(kind) if answer is None else answer

    def __complex__(self) -> complex:
        return complex(self.shadow) if self.known else refusals.refuse_number("complex")

    def __hash__(self) -> int:
        return hash(self.shadow) if self.known else refusals.refuse_number("hash")

    def __round__(self, *_: Any) -> Any:
        return refusals.refuse_number("round")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """A plain ndarray; only for a constant."""
        if not self.known:
            refusals.refuse_conversion()
        plain = np.array(self.shadow, dtype)
        # Writes to the copy would be lost silently.
        plain.flags.writeable = bool(copy)
        return plain

    def __repr__(self) -> str:
        """The numbers of a constant; else dtype and shape."""
        if self.known:
            return repr(self.shadow)
        return f"<traced {self.shadow.dtype} array of shape {self.shadow.shape}>"

    def __str__(self) -> str:
        return str(self.shadow) if self.known else repr(self)

    def __format__(self, spec: str) -> str:
        return format(self.shadow, spec) if self.known else repr(self)

    def __copy__(self) -> Any:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.copy()

    @property
    def shape(self) -> tuple[int, ...]:
        """As NumPy's; assigning to it reshapes in place."""
        return self.shadow.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        if not self.buffer.layout_known and self.shadow.ndim > 1:
            decline("an assignment to .shape of an array whose layout is not known", "z.reshape")
        self._route = self._cache = None
        self.shadow = self.shadow.reshape(shape, copy=False)

    dtype = _of_shadow("dtype")
    ndim = _of_shadow("ndim")
    size = _of_shadow("size")
    nbytes = _of_shadow("nbytes")
    itemsize = _of_shadow("itemsize")
    flags = _of_shadow("flags")  # clearing ``writeable`` works
    strides = _of_shadow("strides")

    @property
    @observed(lambda array: NumpyCall("np.transpose", np.transpose, (array,), {}))
    def T(self) -> Any:
        """The transposed view."""
        return rearrange(np.transpose, (self,))

    @property
    @observed(lambda array: NumpyCall("np.matrix_transpose", lambda a: a.mT, (array,), {}))
    def mT(self) -> Any:
        """The view with the last two axes swapped."""
        return rearrange(lambda array: array.mT, (self,))

    @property
    def real(self) -> Any:
        """The real part."""
        return call_function(np.real, (self,), {})

    @property
    def imag(self) -> Any:
        """The imaginary part."""
        return call_function(np.imag, (self,), {})

    @property
    def flat(self) -> FlatView:
        """The entries in C order."""
        return FlatView(self)

    @flat.setter
    def flat(self, value: Any) -> None:
        FlatView(self)[:] = value

    @observed_method("copy")
    def copy(self, order: Any = "C") -> Any:
        """A copy, in C order unless told otherwise."""
        return rearrange(lambda array: array.copy(order), (self,))

    @observed_method("flatten")
    def flatten(self, order: Any = "C") -> Any:
        """A flat copy."""
        return rearrange(lambda array: array.flatten(order), (self,))

    @observed_method("reshape")
    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        """A view in another shape, or a copy where NumPy needs one."""
        return rearrange(lambda array: array.reshape(*shape, **kwargs), (self,))

    @observed_method("transpose")
    def transpose(self, *axes: Any) -> Any:
        """A view with the axes in another order."""
        return rearrange(lambda array: array.transpose(*axes), (self,))

    @observed_method("view")
    def view(self, *dtype: Any) -> Any:
        """A view of the same dtype."""
        if dtype and np.dtype(dtype[0]) != self.shadow.dtype:
            decline(f"a view as {np.dtype(dtype[0])}", "z.astype(dtype)")
        return rearrange(lambda array: array.view(), (self,))

    @observed_method("astype")
    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """The array in another dtype."""
        if np.dtype(dtype) == self.shadow.dtype:
            return rearrange(lambda array: array.astype(array.dtype, *args, **kwargs), (self,))
        native: Callable[..., Any] = lambda array: array.astype(dtype, *args, **kwargs)  # noqa: E731
        return perform(native, lambda value: value, (self,))

    def fill(self, value: Any) -> None:
        """Set every entry."""
        self[...] = value

    @observed_method("sort")
    def sort(self, axis: int = -1, **kwargs: Any) -> None:
        """Sort in place."""
        sort_in_place(self, axis, **kwargs)

    def setflags(self, **flags: Any) -> None:
        """NumPy's ``setflags``."""
        self.shadow.setflags(**flags)


def _put(array: Any, index: Any, value: Any) -> None:
    array.flat[index] = value


class FlatView:
    """``z.flat``: entries in C order; reads are copies, writes go through."""

    def __init__(self, array: TracedArray) -> None:
        self._array = array

    def __len__(self) -> int:
        return self._array.size

    def __iter__(self) -> Iterator[Any]:
        return iter(self._array.flatten())

    def __getitem__(self, index: Any) -> Any:
        found = self._array.flatten()[index]
        return found.copy() if isinstance(found, TracedArray) and found.ndim else found

    @observed(
        lambda self, i, value: NumpyCall("z.flat[...] = ...", _put, (self._array, i, value), {})
    )
    def __setitem__(self, index: Any, value: Any) -> None:
        array = self._array
        places: Any = natively(operator.getitem, np.arange(array.size), index)

        def native(scratch: Any, value: Any) -> None:
            scratch.flat[index] = value

        def form(whole: Any, value: Any) -> Any:
            value = jnp.asarray(value)
            value = value.reshape(places.shape) if value.ndim else value
            flat = whole.reshape(-1).at[places].set(value.astype(whole.dtype))
            return flat.reshape(whole.shape)

        if np.ndim(value) and np.size(value) != places.size:
            decline("z.flat set to fewer or more entries than it has", "as many entries")
        overwrite(native, form, array, (value,))


def _in_place(ufunc: np.ufunc) -> Callable[[TracedArray, Any], Any]:
    def operate(self: TracedArray, other: Any) -> Any:
        if not isinstance(self.shadow, np.ndarray):
            return NotImplemented  # a scalar is immutable: Python falls back to a + b
        if self.buffer.lone and not self.known:
            return _replaced(self, ufunc(self, other))
        return ufunc(self, other, out=(self,))

    return operate


def _replaced(number: TracedArray, result: Any) -> Any:
    """A single number from outside after ``s += a``: a new value; the old must not be read."""
    run = current()
    if run is None or result.dtype != number.dtype or np.ndim(result):
        decline("a number given from outside is changed in place", "s = s + a")
    value = result.read() if isinstance(result, ArrayProxy) else np.array(result)
    number.buffer.spent = True
    owner = np.zeros((), number.dtype)
    buffer = Buffer(owner, value, lone=True)
    return wrap(run, owner, buffer)


for _name, _ufunc in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "matmul": np.matmul,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "and": np.bitwise_and,
    "xor": np.bitwise_xor,
    "or": np.bitwise_or,
}.items():
    setattr(TracedArray, f"__i{_name}__", _in_place(_ufunc))
