"The type checker of the tests: beartype, with an int welcome where a float is asked for."
from functools import partial
from types import FunctionType

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
checked = jaxtyping.jaxtyped


def jaxtyped(fn=None, *, typechecker):
    """jaxtyping's, but for functions without annotations, of which there is nothing to check. It compiles two checks of each, and of one
    within another again whenever the outer is called"""
    if fn is None: return partial(jaxtyped, typechecker=typechecker)
    return fn if isinstance(fn, FunctionType) and not fn.__annotations__ else checked(fn, typechecker=typechecker)


jaxtyping.jaxtyped = jaxtyped  # where its import hook looks for it
