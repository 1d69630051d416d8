"""Show annotations as the source spells them: `ArrayLike`, `Float[Array, "... classes"]`.

Evaluated, they would be unions that fill a page. Parameters with a sentinel as default (Linen's
`parent`) are left out.
"""

import inspect


class _Source(str):
    """An annotation that is printed without quotes."""

    __repr__ = str.__str__


def _as_in_source(app, what, name, obj, options, signature, returns):
    """autodoc's event: give the text of the signature and of the returned annotation."""
    if what not in {"function", "method", "class"} or not signature:
        return None
    found = inspect.signature(obj)
    if what == "class" and [*found.parameters] == ["args", "kwargs"]:  # of NNX's metaclass
        what, found = "method", inspect.signature(obj.__init__)
    parameters = [
        p.replace(annotation=_source(p.annotation), default=_default(p.default))
        for p in found.parameters.values()
        if not (what == "method" and p.name == "self") and " object at 0x" not in repr(p.default)
    ]
    returned = found.return_annotation
    shown = found.replace(parameters=parameters, return_annotation=found.empty)
    if inspect.isclass(obj) or returned in (found.empty, None, "None"):
        return str(shown), None
    return str(shown), str(_source(returned))


def _source(annotation):
    return _Source(annotation) if isinstance(annotation, str) else annotation


def _default(value):
    """`float32`, not `<class 'jax.numpy.float32'>`, which is no Python."""
    named = (
        repr(value).startswith("<")
        and hasattr(value, "__name__")
        and value is not inspect.Parameter.empty
    )
    return _Source(value.__name__) if named else value


def setup(app):
    """Listen to autodoc."""
    app.connect("autodoc-process-signature", _as_in_source)
    return {"parallel_read_safe": True}
