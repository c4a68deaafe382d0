"""The end of a standalone script about purity: everything twice, compared bit by bit."""

from __future__ import annotations

from string import Template

TWICE = Template('''

def flat(values):
    """Every array in nested dicts and lists, by a name."""
    if isinstance(values, dict):
        return {f"{k} {name}": a for k, v in values.items() for name, a in flat(v).items()}
    if isinstance(values, (list, tuple)):
        return {f"{i} {name}": a for i, v in enumerate(values) for name, a in flat(v).items()}
    return {"": np.asarray(values).copy()}


def copy(values):
    """The same with arrays of its own."""
    if isinstance(values, dict):
        return {key: copy(value) for key, value in values.items()}
    return [copy(v) for v in values] if isinstance(values, list) else values.copy()


def changed(what, before, after):
    """Print the names of the arrays that are not bit by bit the same."""
    one, two = flat(before), flat(after)
    names = [n for n in one if n not in two or one[n].tobytes() != two[n].tobytes()]
    for name in names:
        print(f"{what}: {name}")
    return bool(names)


def once():
    """Forward, backward, and backward again over what the same forward pass kept."""
    given = {"params": params, "xs": xs, "state0": state0, "d_ys": d_ys, "d_state": d_state}
    mine = copy(given)
    ys, state_T, kept = forward(mine["params"], mine["xs"], mine["state0"])
    results = {"ys": copy(ys), "state_T": copy(state_T)}
    spoilt = False
    for name in ("first", "second"):
        back = backward(mine["params"], kept, mine["d_ys"], mine["d_state"])
        results[name] = dict(zip(("d_params", "d_state0", "d_xs"), map(copy, back), strict=True))
        spoilt |= changed("overwritten", given, mine)
    return results, spoilt


print($title)
one, spoilt = once()
two, _ = once()
wrong = changed("another result in a second run", one, two) | spoilt
wrong |= changed("another gradient from the same tape", one["first"], one["second"])
if not wrong:
    print("two runs agree bit by bit: what else was found, a replay tells")
print("still wrong" if wrong else "right now, as far as this file can see")
sys.exit(1 if wrong else 0)
''')
