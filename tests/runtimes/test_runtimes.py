import stat

import numpy as np
import pytest
from tiny_models import exported

from tfdatafree.runtimes import tosa
from tfdatafree.runtimes.registry import RUNTIMES, get_runtime
from tfdatafree.runtimes.runtime import RuntimeFailure, lacks_package


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="runtime is 'tflite_micro'; did you mean 'tflite-micro'"):
        get_runtime("tflite_micro")


def test_what_is_missing_says_how_to_get_it(monkeypatch):
    assert lacks_package("no_such_package", "pip install it")() == "not installed: pip install it"
    assert not lacks_package("numpy", "")()
    monkeypatch.delenv(tosa.VARIABLE, raising=False)
    assert (
        RUNTIMES["tosa"].missing().startswith("TFDATAFREE_TOSA_PYTHON is not set: make an environment with pip install")
    )
    monkeypatch.setenv(tosa.VARIABLE, "/no/such/python")
    assert "'/no/such/python', which has no tosa-converter-for-tflite beside it" in RUNTIMES["tosa"].missing()


@pytest.mark.slow
def test_the_programs_of_tosa_are_called_in_turn(tmp_path, monkeypatch):
    """Stand-ins that only copy: the reference model's output is its input."""
    monkeypatch.setenv(tosa.VARIABLE, str(tmp_path / "python"))
    content = exported("plain").built.content
    for program, script in {
        "tosa-converter-for-tflite": "cp $1 $4",
        "tosa-opt": "cp $1 model.tosa",
        "tosa_reference_model": "test -f model.tosa && cp input_0.npy output_0.npy",
    }.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / program).chmod(stat.S_IRWXU)
    assert not RUNTIMES["tosa"].missing()
    example = np.arange(6, dtype=np.int8)
    (output,) = RUNTIMES["tosa"].open(content).run([example]).values()
    np.testing.assert_array_equal(output, example)
    (tmp_path / "tosa-opt").write_text(
        "#!/bin/sh\necho 'model.mlirbc:1: error: tosa.what is no operator' >&2; exit 3\n"
    )
    with pytest.raises(RuntimeFailure, match="tosa-opt ended with 3: .* tosa.what is no operator"):
        RUNTIMES["tosa"].open(content)
