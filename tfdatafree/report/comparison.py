"""What `compare` found, as text."""

from dataclasses import dataclass

import numpy as np

from tfdatafree.report.outputs import OutputComparison
from tfdatafree.report.verdict import Verdict, judge


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare` found; `print` it.

    Attributes:
        n: Number of inputs.
        inputs: What the inputs were.
        outputs: One comparison per output, in the models' order.
    """

    n: int
    inputs: str
    outputs: tuple[OutputComparison, ...]

    @property
    def verdict(self) -> Verdict | None:
        """How good the second model is, in words and one figure."""
        return judge(self.outputs)

    def __str__(self) -> str:
        lines = [] if self.verdict is None else [f"verdict             {self.verdict}"]
        lines.append(f"inputs              {self.n} {self.inputs}")
        for output in self.outputs:
            if len(self.outputs) > 1:
                lines += ["", f"output '{output.name}'"]
            if output.agreement is not None:
                lines.append(f"same argmax         {100 * output.agreement:.2f} % of these inputs")
            lines.append(f"output discrepancy  {output.output_discrepancy:.5f} (0: same direction, 2: opposite)")
            if output.response_discrepancy is not None:
                found = f"{output.response_discrepancy:.5f}"
                lines.append(f"of responses        {found} (the same, less what all inputs have in common)")
            lines.append(f"SQNR                {_decibels(output)}")
            for part in output.parts:
                same = "" if part.agreement is None else f", {100 * part.agreement:.2f} % keep the argmax"
                lines.append(f"  of '{part.name}': {_decibels(part)}{same}")
        return "\n".join(lines)


def _decibels(output: OutputComparison) -> str:
    return "no difference at all" if np.isposinf(output.sqnr_db) else f"{output.sqnr_db:.1f} dB"
