"""Choose the program for the losses of a linear cross-entropy: XLA or kernels."""

from __future__ import annotations

from functools import partial

from jsoftmax.vocabulary.linear._linear_arguments import Fixed, Moving, Rows, Rule
from jsoftmax.vocabulary.linear._linear_by_kernel import check, losses_by_kernel, refusals
from jsoftmax.vocabulary.linear._outcome import Outcome
from jsoftmax.vocabulary.linear._outcomes import outcomes

Platforms = frozenset[str] | None  # that use kernels; None for all, if named


def platforms_of(implementation: str | None, rows: Rows, are_sized: bool) -> Platforms:
    """Return the platforms that compute the losses by kernels.

    Raises:
        ValueError: for an unknown name.
        NotImplementedError: for options that kernels do not support.
    """
    problem = rows.function, rows.rule, rows.moving, rows.fixed
    if implementation == "pallas":
        if are_sized:
            raise NotImplementedError(
                f"jsoftmax.{rows.function}: implementation='pallas' takes neither `block_tokens` "
                "nor `block_classes`: its blocks fit the chip. Leave them out."
            )
        check(*problem)
        return None
    if implementation not in (None, "xla"):
        raise ValueError(
            f"jsoftmax.{rows.function}: `implementation` must be None, 'xla' or 'pallas', got "
            f"{implementation!r}."
        )
    if implementation == "xla" or are_sized or any(refusals(*problem).values()):
        return frozenset()
    from jsoftmax.kernels import case_of, chosen

    platforms = chosen(
        "linear loss",
        "linear loss gradient",
        shape=(*rows.moving.features.shape, rows.fixed.numbers.shape[-1]),
        dtype=rows.moving.kernel.dtype,
        case=case_of(1),
    )
    if platforms:
        try:
            check(*problem)
        except NotImplementedError:  # wider than the shape of the record, and too wide
            return frozenset()
    return platforms


def outcomes_by(platforms: Platforms, rule: Rule, moving: Moving, fixed: Fixed) -> Outcome:
    """Compute the losses of all tokens, and statistics where the rule asks for them."""
    if platforms is None:
        return losses_by_kernel(True, rule, moving, fixed)
    if not platforms:
        return _by_xla(rule, moving, fixed)
    from jsoftmax.kernels import by_record

    kernel, xla = partial(losses_by_kernel, False, rule), partial(_by_xla, rule)
    return by_record(platforms, kernel, xla, moving, fixed)


def _by_xla(rule: Rule, moving: Moving, fixed: Fixed) -> Outcome:
    return outcomes(rule, moving, fixed)[0]._replace(weight=None)
