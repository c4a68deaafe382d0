"""x."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bpttcheck.oracles._extrapolation import Extrapolated, extrapolate
from bpttcheck.oracles._line import Line, Row
from bpttcheck.oracles._program import Program
from bpttcheck.oracles._weighted import flat, require_like, rescale, scaled
from bpttcheck.oracles.estimate import Estimate
from bpttcheck.oracles.recording import Function

Array = NDArray[Any]
FIRST = 0.5
RATIO = 1.7
SHRINK = 4.0
SMALLEST=1e-9
norm=np.linalg.norm
def start(line,noise,maxe):
    p=line.program; eps=p.eps
    h=eps**.25; ceiling=math.inf; probe=None
    while p.evaluations+2<=maxe:
        row=line.row(h)
        if row is None:
            if p.departure is not None and p.departure.from_tie: return None,None,ceiling
            ceiling=h; h/=16; 
            if probe is not None: h=max(h,math.sqrt(h*16*probe.step))
            continue
        size=norm(row.slopes); blur=noise/row.step
        if size==0: return row,max(FIRST,row.step),ceiling
        if probe is not None and norm(row.slopes-probe.slopes)>.3*size+3*noise/probe.step:
            ceiling=h; h=math.sqrt(h*probe.step); 
            if h<3*probe.step: return probe,h,ceiling
            continue
        bend=norm(row.bends)/size
        if bend>.5 and norm(row.bends)>4*blur:
            ceiling=h; h/=16; 
            if probe is not None and h<=probe.step: return probe,row.step,ceiling
            continue
        probe=row
        allowed=.5*row.step/max(bend,blur/size)
        if size<4*blur: allowed=FIRST
        need=max(FIRST,noise/size/(500*eps))
        goal=min(allowed,need,ceiling/2)
        if goal<=FIRST or goal<4*h: return probe,max(goal,row.step),ceiling
        h=goal
    return probe,h,ceiling

def finite_difference(function, point, direction, weights, *, max_evaluations=48):
    require_like("direction", direction, "point", point)
    d = scaled(direction)
    program = Program(function, point)
    w = scaled(weights)
    line = Line(program, d.arrays, flat(w.arrays))
    noise = line.noise()
    ab=lambda n: Estimate(np.asarray(0.), np.asarray(np.inf), program.evaluations, n)
    probe,h,ceiling=start(line,noise,max_evaluations)
    if probe is None: return ab(program.trouble)
    rows=[]; best=None; worse=0
    while program.evaluations + 2 <= max_evaluations:
        row = line.row(h)
        size=norm(probe.slopes)
        if row is None or norm(row.slopes-probe.slopes)>.4*size+4*noise/probe.step:
            rows=[]; best=None; h=h/2.5
            continue
        rows.append(row)
        if len(rows)>1:
            new=extrapolate([r.step for r in rows],[r.slope for r in rows],noise)
            if best is None or new.bar<best.bar: best=new; worse=0
            else: worse+=1
            if best.disagreement<=best.rounding or worse>=2: break
        h=row.step/RATIO
    if best is None: return ab(program.trouble)
    k=w.exponent+d.exponent
    return Estimate(np.asarray(rescale(best.value,k)),np.asarray(rescale(best.bar,k)+5e-324),program.evaluations,"")
