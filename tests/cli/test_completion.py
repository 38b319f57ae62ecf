"""The scripts that let shells complete: they name what there is, and bash runs its own."""

import shutil
import subprocess

import pytest

from tfdatafree.cli import _COMMANDS, main
from tfdatafree.recipe.recipe import PRESETS
from tfdatafree.targets.registry import TARGETS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_all_commands_flags_and_choices_are_there(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    words = set(script.replace('"', " ").replace("'", " ").replace("=", " ").replace("--", " ").split())
    assert set(_COMMANDS) | set(PRESETS) | set(TARGETS) | {"recipe", "against", "quiet", "help"} <= words


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    cases = {
        ("tfdatafree", "comp"): "compress compare completion",
        ("tfdatafree", "compress", "--target", "=", "ethos"): "ethos-u55 ethos-u65 ethos-u85",
        ("tfdatafree", "compress", "--recipe", "="): " ".join(PRESETS),
        ("tfdatafree", "verify", "--ag"): "--against=",
    }
    calls = [
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _tfdatafree; echo ${{COMPREPLY[@]}}"
        for words in cases
    ]
    done = subprocess.run(["bash", "-c", "\n".join([script, *calls])], capture_output=True, text=True)
    assert done.stdout.splitlines() == list(cases.values()), done.stderr
