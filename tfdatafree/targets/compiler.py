"""Asks a device's own compiler, if it is installed: it knows more than the profile."""

import dataclasses
from typing import NamedTuple

from tfdatafree.errors import ExportError
from tfdatafree.targets import aot, vela
from tfdatafree.targets.target import Target, TargetCheck


class Verdict(NamedTuple):
    """What is known of a file on a target.

    Attributes:
        check: By the device's compiler; by the profile where there is none, or it fails, with the message.
        compiled: The compiler's figures; None without them.
        hint: How to get the compiler, or what it lacks; "" for nothing.
    """

    check: TargetCheck
    compiled: vela.NpuSizes | aot.CompiledForChip | None = None
    hint: str = ""


def ask_compiler(check: TargetCheck, content: bytes, target: Target) -> Verdict:
    """Lets the compiler of `target` decide about the file `content`; `check` is the profile's result.

    If the profile refuses the same operator, its reason stays, because it says what to do.
    """
    compiled: vela.NpuSizes | aot.CompiledForChip
    try:
        if target.accelerator is not None:
            if not vela.vela_is_installed():
                return Verdict(check, hint=f"Vela can tell memory, time and the compiled size. {vela.HOW_TO_GET_VELA}")
            by, reasons = "Vela", " (Vela)"
            compiled = vela.compile_for_npu(content, accelerator=target.accelerator)
        elif target.vendor_compiler is not None:
            if hint := _missing(target):
                return Verdict(check, hint=hint)
            by, reasons = f"LiteRT's compiler for {target.vendor_compiler.chip}", ""
            compiled = aot.compile_for_chip(content, target.vendor_compiler)
            check = dataclasses.replace(check, partitions=compiled.partitions)
        else:
            return Verdict(check)
    except ExportError as error:
        return Verdict(dataclasses.replace(check, trouble=str(error)))
    refused = {key: check.refused.get(key, f"{reason}{reasons}") for key, reason in compiled.left.items()}
    # A compiler that made a file computes what it took, whatever the profile's rule for the rest is.
    return Verdict(dataclasses.replace(check, refused=refused, by=by, one_piece=False, all_or_none=False), compiled)


def _missing(target: Target) -> str:
    """What LiteRT's ahead-of-time compiler for `target` lacks; "" for nothing."""
    compiler = target.vendor_compiler
    assert compiler is not None
    if not aot.is_installed(compiler):
        return f"LiteRT's compiler can tell what this chip takes. It needs {compiler.install}."
    if not compiler.chip:
        names = ", ".join(f"{target.name}-{chip}" for chip in aot.chips(compiler))
        return f"LiteRT's compiler for {target.title} is installed; name a chip to ask it: {names}."
    return ""
