"""Every NumPy and SciPy function handed on to JAX gives what NumPy gives, dtype included."""

from __future__ import annotations

import functools
import re

import jax
import numpy as np
import pytest
import scipy.linalg as sl
import scipy.special as sp
from jax.extend.core import jaxpr_as_fun

from bpttcheck.jax_mode import enable_x64
from bpttcheck.oracles.tracer import functions as _lift_functions
from bpttcheck.oracles.tracer import reach as _lift_reach
from bpttcheck.oracles.tracer import ufuncs as _lift_ufuncs
from bpttcheck.oracles.tracer.trace import lift

# a (3, 4), b (4,), m (4, 4) well conditioned: float64. i (3, 4): int64. f (3, 4): float32.
EXPRESSIONS = """
np.unwrap(a)
np.sinc(a)
np.cov(a)
np.corrcoef(a)
np.percentile(a,30,axis=1)
np.quantile(a,[.1,.5],axis=0)
np.quantile(a,.3,method="lower")
np.nanmean(a,axis=0)
np.nansum(a)
np.nanmax(a,axis=1)
np.nanstd(a)
np.trapezoid(a,axis=1)
np.trapezoid(a,dx=.5)
np.gradient(a,axis=1)
np.gradient(a)[0]
np.ediff1d(a)
np.diff(a,2)
np.cross(a[:,:3],a[:,1:])
np.vander(b)
np.polyval([1.,2,3],a)
np.polyval(b,.5)
np.convolve(b,a[0])
np.correlate(b,a[0],"full")
np.searchsorted(np.sort(b),a)
np.digitize(a,[-1.,0,1])
np.isclose(a,a+1e-9)
np.allclose(a,a)
np.array_equal(a,a)
np.average(a,axis=0,weights=[1.,2,3])
np.float_power(np.abs(a),1.5)
np.geomspace(1,10,4)*a
np.logspace(0,1,4)*a
np.cbrt(a)+np.exp2(a)+np.expm1(a)+np.log1p(np.abs(a))+np.log2(np.abs(a))+np.log10(np.abs(a))
np.sin(a)+np.cos(a)+np.tan(a)+np.arctan(a)+np.arctan2(a,b)+np.sinh(a)+np.cosh(a)+np.arcsinh(a)
np.arctanh(a/9)+np.arcsin(a/9)+np.arccos(a/9)+np.arccosh(a**2+1)
np.deg2rad(a)+np.rad2deg(a)+np.degrees(a)+np.radians(a)
np.copysign(a,b)+np.nextafter(a,b)+np.fabs(a)+np.rint(a)+np.ceil(a)+np.fix(a)+np.around(a,1)
np.ldexp(a,2)+np.frexp(a)[0]+np.frexp(a)[1]
np.spacing(a)
np.signbit(a)
np.isnan(a)|np.isinf(a)|np.isfinite(a)|np.isposinf(a)
np.fmax(a,b)+np.fmin(a,b)+np.minimum(a,b)
np.logaddexp2(a,b)
np.true_divide(i,3)
i//3+i%3
i/2
i*0.5
i**2
i+True
np.power(i,3)
i<<1
i&3|i^1
~i
np.sqrt(i)
np.mean(i)
np.var(i)
np.sum(i,dtype=float)
np.cumsum(i)
np.where(a>0,i,0.5)
np.where(a>0,1,0)
np.concatenate([i,a])
np.stack([i.astype(np.float32),i])
f+i
f*0.1
f*np.float64(.1)
f@f.T
np.dot(f,a.T)
f.sum()
f.mean(axis=0)
np.where(a>0,f,a)
np.einsum("ij,ij->i",f,a)
np.einsum("ij,ij->i",f,i)
np.concatenate([f,i])
np.hypot(f,f)
np.linalg.norm(f)
np.linalg.norm(a,ord=1,axis=1)
np.linalg.norm(m,ord=2)
np.linalg.norm(m,"nuc")
np.linalg.norm(a,np.inf)
np.linalg.slogdet(m)[1]
np.linalg.svd(a)[1]
np.linalg.svd(a,compute_uv=False)
np.linalg.pinv(a)
np.linalg.eigvalsh(m+m.T)
np.linalg.tensorsolve(m,b)
np.linalg.solve(m,b)
np.linalg.cholesky(m@m.T+np.eye(4))
np.linalg.outer(b,b)
np.linalg.vecdot(a,a)
np.linalg.cross(a[:,:3],a[:,1:])
np.linalg.matrix_norm(m)
np.linalg.vector_norm(a,axis=1)
np.linalg.trace(m)
np.vecdot(a,a)
np.matvec(m,b)
np.matrix_transpose(a)*1
np.tril(m,-1)+np.triu(m,1)+np.tri(4)*m
np.kron(a,m)
np.inner(a,a)
np.outer(a,b)
np.tensordot(a,m,1)
np.trace(m,1)
np.fft.ifft(np.fft.fft(a)).real
np.fft.fft2(m).imag
np.abs(np.fft.rfftn(m))
np.fft.fftshift(a)
np.fft.fftfreq(4)*a
np.fft.irfft(np.fft.rfft(a,norm="ortho"),norm="ortho")
np.pad(a,1,mode="reflect")
np.pad(a,((1,0),(0,2)),constant_values=3.)
np.pad(a,2,mode="wrap")
np.pad(a,1,mode="linear_ramp")
np.pad(a,1,mode="mean")
np.pad(a,1,mode="symmetric")
np.roll(a,(1,2),(0,1))
np.roll(a,3)
np.rot90(a)*1
np.tile(a,(2,1,2))
np.repeat(a,[1,2,0],axis=0)
np.repeat(a,2)
np.resize(a,(5,5))
np.insert(a,[1,2],9.,axis=1)
np.delete(a,[0,2],axis=1)
np.append(a,b)
np.take(a,[0,-1],axis=1)
np.take(a,5)
np.take(a,[[1,2],[0,1]],mode="wrap")
a.take([1,-2],axis=-1)
np.take_along_axis(a,np.argsort(a,0),0)
np.lexsort((a[0],a[1]))
np.argsort(a,axis=None)
np.sort(a,axis=None)
np.argmax(a)
np.argmin(a,axis=1,keepdims=True)
np.nanargmax(a)
np.median(a)
np.ptp(a)
np.max(a,axis=(0,1))
a.prod(axis=1)
a.std(ddof=1)
a.var(axis=0,keepdims=True)
a.mean(dtype=np.float32)
a.round(2)
np.all(a>0,axis=0)
np.any(a>0)
np.count_nonzero(a>0,axis=1)
np.isin(i,[1,2])
np.clip(a,b,None)
np.clip(i,1,2.5)
np.clip(a,min=-.5,max=.5)
np.select([a>1,a>0],[a,b],0)
np.choose(i%2,[a,b])
np.interp(a,np.array([-1.,0,2]),np.array([1.,2,0]),left=-5,right=5)
np.interp(.3,np.sort(b),a[0])
np.nan_to_num(a/0.,posinf=1.,neginf=-1.)
np.heaviside(a,.5)
np.sign(a)
np.block([[a,a],[a,a]])
np.dstack([a,a])
np.column_stack([b,b])
np.vstack([b,b])
np.hstack([b,b])
np.meshgrid(b,a[0],indexing="ij")[1]
np.diag(b,1)
np.diag(m,-1)*1
np.diagflat(a)
np.fliplr(a)*1
np.broadcast_to(b,(2,4))+1
np.squeeze(a[:,None])*2
np.unravel_index(np.argmax(a),a.shape)[0]
np.bitwise_count(i)
np.gcd(i,4)
np.real(a)+np.imag(a)
np.conj(a)
np.angle(np.fft.fft(a))
np.einsum("ij->ji",a)*1
np.einsum("ij,jk,k->i",a,m,b)
np.einsum("...i,...i",a,a)
np.einsum(a,[0,1],m,[1,2],[0,2])
np.linalg.multi_dot([a,m,m,b])
np.maximum.reduce(a)
np.logical_and.reduce(a>0,axis=1)
np.minimum.accumulate(a,axis=1)
np.multiply.accumulate(a)
np.add.outer(b,a)
np.sum(a,axis=0,initial=2.)
np.max(a,axis=1,initial=0.,where=a>-1)
np.sum([b,b],axis=0)
np.max([a[0,0],a[0,1]])
np.mean((b,b))
np.add(a,1,dtype=np.float32)
np.multiply(i,2,dtype=float)
np.divide(a,b,where=b>0,out=np.ones_like(a))
np.subtract(a,b,casting="same_kind")
np.modf(a)[0]
np.divmod(a,.3)[1]
a.astype(np.int64)
a.astype(bool)
a.astype(np.float32).dtype.itemsize*a
a.astype("f4")
np.array(a,dtype="f4")
np.float32(2)*f
2*f
np.asarray([a[0,0],2])
np.array([[a[0,0],1],[2,b[0]]])
np.array([a,i])
np.array(a[0,0])
np.ones(4,dtype=int)*a[0,0]
np.full(3,a[0,0])
np.full((2,2),i[0,0])
np.linspace(a[0,0],1,5)
np.r_[b,1,2,b]
np.r_[b[0],b]
np.c_[b,b]
np.c_[a,b[:3]]
sp.expit(a)+sp.logit(sp.expit(a))
sp.erfinv(a/9)+sp.ndtr(a)+sp.ndtri(np.abs(a)/9)
sp.i0(a)+sp.i1(a)+sp.i0e(a)+sp.i1e(a)
sp.entr(np.abs(a))+sp.rel_entr(np.abs(a),2.)+sp.kl_div(np.abs(a),2.)
sp.polygamma(1,1+np.abs(a))
sp.xlog1py(a,b**2)+sp.log1p(b**2)+sp.exp2(a)+sp.exp10(a)+sp.cosm1(a)+sp.cbrt(a)+sp.expm1(a)+sp.sinc(a)
sp.logsumexp(a,axis=1,b=np.abs(a))
sp.logsumexp(a,axis=0,keepdims=True)
sp.softmax(a,axis=0)
sp.softmax(a)
sp.log_softmax(a)
sp.log_softmax(a,axis=1)
sp.softplus(a)
sp.log_expit(a)
sp.expi(np.abs(a))+sp.exp1(np.abs(a))
sp.dawsn(a)
sp.erfcx(a)
sl.solve(m,b)
sl.expm(m)
sl.solve_triangular(np.tril(m)+4*np.eye(4),b,lower=True)
sl.cholesky(m@m.T+np.eye(4))
sl.block_diag(a,m)
sl.toeplitz(b)
sl.inv(m)
sl.det(m)
np.apply_along_axis(lambda v: v*v.sum(),0,a)
np.apply_along_axis(lambda v: v.sum(),1,a)
np.apply_along_axis(np.outer,1,a,b)
np.i0(a)
np.ix_([0,2],[1,3])[0]*a[:,:2].sum()
a[np.ix_([0,2],[1,3])]
a[[0,1],:2]
a[..., [0,-1]]
a[np.array([True,False,True])]
a[:,b.argmax()]
a[i[0,0]%3]
a[i[0]%3, i[0]%4]
a[:, i[0]%4]
b[i%4]
a.flat[3]
np.array(list(a.flat))
max(a.shape)*a
a.T.copy().ravel()
a.T.flatten("F")
a.ravel("F")
a.reshape(4,3,order="F")
np.copy(a.T).ravel()
a.nbytes*a
a.mT*1
np.unstack(a)[1]*1
np.broadcast_shapes((1,4),(3,1))[0]*a
len(a)*a
-a+ +a
abs(a)
a==a
a!=b
(a>b).astype(float)
divmod(a,2)[0]
3-a
3/a
2**a
a.conj()
np.swapaxes(a,0,1)+0
np.exp(1j*a).real
np.abs(np.exp(1j*a)+a)
np.complex128(1j)*a
np.isrealobj(a)*a
np.nanprod(a)+np.nancumsum(a)[0]
np.cumulative_sum(a,axis=1)
np.cumulative_prod(a,axis=1)
np.astype(a,np.float32)
np.permute_dims(a,(1,0))*1
np.concat([a,a])
np.pow(a,2)
np.acos(a/9)
np.bitwise_and(i,1)
np.mod(-a,b)
np.remainder(a,-b)
np.fmod(-a,b)
np.floor_divide(-a,b)
np.positive(a)
np.reciprocal(a)
np.logical_xor(a>0,a>1)
np.logical_not(a>0)
np.amax(a)+np.amin(a)
np.nanmin(a,axis=0)+np.nanvar(a,axis=0)+np.nancumprod(a)[0]+np.nanmedian(a)
np.nanargmin(a,axis=1)
np.isneginf(a)
np.linalg.svdvals(a)
np.linalg.qr(a)[1]
np.linalg.tensorinv(np.reshape(m,(4,2,2)),ind=1)
np.linalg.matmul(a,m)
np.linalg.tensordot(a,m,axes=1)
np.min(a,axis=0)
np.cumprod(a,axis=1)
np.vdot(a,a)
np.concat([a,a])
np.std(a)
np.linalg.matrix_power(m,2)
np.around(a,1)
np.linalg.eigh(m)[0]
np.abs(np.linalg.eigh(m)[1])
np.linalg.eigvalsh(m,UPLO="U")
np.linalg.cholesky(np.tril(m)+8*np.eye(4))
np.linalg.cond(m)
np.fft.hfft(a)
np.fft.ihfft(a).real
np.abs(np.fft.ifft2(m))
np.abs(np.fft.rfft2(m))
np.fft.irfft2(np.fft.rfft2(m))
np.abs(np.fft.fftn(m))
np.abs(np.fft.ifftn(m))
np.fft.irfftn(np.fft.rfftn(m))
np.fft.ifftshift(a)
sl.toeplitz(b)@m
sp.gammaln(1+np.abs(a))
np.mean(a>0)
np.var(i.astype(np.int32))
np.std(a>0,axis=1)
np.average(a>0,axis=0)
np.linalg.norm(i.astype(np.int32))
sl.inv(np.rint(8*m).astype(np.int32))
np.linalg.solve(np.rint(8*m).astype(np.int32),b)
np.sum(i.astype(np.int32)*2**29)
np.cumsum(i.astype(np.int8))
np.einsum("ij->i",i.astype(np.int32))
np.median(i.astype(np.int32))
np.fft.fft(i.astype(np.int32)).real
""".split("\n")[1:-1]
NAMES = {"np": np, "sp": sp, "sl": sl}
FUNCTIONS = {text: eval(f"lambda a, b, m, i, f: {text}", NAMES) for text in EXPRESSIONS}


def point():
    rng = np.random.default_rng(1)
    m = rng.standard_normal((4, 4)) + 2 * np.eye(4)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal(4)
    return a, b, m, rng.integers(1, 6, (3, 4)), rng.standard_normal((3, 4)).astype(np.float32)


@functools.cache
def traced():
    """The value of every expression, or the exception, from one compiled program."""
    programs, found = {}, {}
    with enable_x64(True):
        for text, function in FUNCTIONS.items():
            try:
                programs[text] = jaxpr_as_fun(jax.make_jaxpr(lift(function))(*point()))
            except Exception as error:
                found[text] = error

        def run(arguments):
            return {text: program(*arguments)[0] for text, program in programs.items()}

        cheap = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        return {**found, **jax.jit(run).lower(point()).compile(cheap)(point())}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_function_gives_what_numpy_gives(text):
    with np.errstate(all="ignore"):
        expected = np.asarray(FUNCTIONS[text](*point()))
    got = traced()[text]
    if isinstance(got, Exception):
        raise got
    assert got.dtype == expected.dtype
    close = {2: 1e-2, 4: 1e-5}.get(expected.dtype.itemsize, 1e-12)
    close = close if expected.dtype.kind in "fc" else 0
    scale = abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(got, expected, rtol=close, atol=close * scale)


def test_every_function_that_is_handed_on_stands_in_the_list():
    text = "\n".join(EXPRESSIONS)
    missing = [
        _lift_ufuncs.name_of(function)
        for function in _lift_ufuncs.FORMS
        if not re.search(rf"\b{function.__name__}\(", text)
        and not any(re.search(rf"\b{name}\(", text) for name in aliases(function))
    ]
    assert missing == []


def aliases(function):
    return [name for name, value in vars(np).items() if value is function]


def test_no_function_stands_in_two_tables():
    tables = (
        _lift_ufuncs.FORMS,
        _lift_functions.VIEWS,
        _lift_functions.FACTS,
        _lift_functions.REFUSED,
    )
    seen = [function for table in tables for function in table]
    assert len(seen) == len(set(seen))


def test_every_public_function_of_numpy_has_a_stand_in():
    kinds = type(np.sum), type(np.zeros_like)
    public = [getattr(np, name) for name in np.__all__ if hasattr(np, name)]
    functions = [item for item in public if isinstance(item, kinds)]
    assert len(functions) > 150
    assert all(_lift_reach.substitute(function) is not None for function in functions)
