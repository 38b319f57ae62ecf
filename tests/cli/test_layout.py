"""What the command line prints fits the terminal."""

import pytest

from tfdatafree.cli import layout, main


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output a terminal of the width with which it is called."""
    return lambda width: monkeypatch.setattr(layout, "_terminal_width", lambda: width)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_help_fits(width, terminal, capsys):
    terminal(width)
    for arguments in (["--help"], ["compress", "--help"]):
        assert main(arguments) == 0
    text = capsys.readouterr().out
    flags = text.partition("flags:")[2]
    assert max(map(len, flags.splitlines())) <= min(width, 100)
    assert "--representative_data=FOLDER|FILE.npz|.npy" in flags and "Print nothing but errors." in flags


def test_long_lines_are_wrapped_below_themselves_and_lose_no_letter(terminal):
    text = "short\n\n  a layer: " + "word " * 40 + "\n" + "x" * 90
    terminal(60)
    fitted = layout.fitted(text)
    assert "".join(fitted.split()) == "".join(text.split())
    assert max(map(len, fitted.splitlines())) <= 60
    assert fitted.splitlines()[:2] == ["short", ""] and fitted.splitlines()[3].startswith(" " * 6 + "word")


def test_a_file_gets_lines_as_they_are(capsys):
    assert layout.fitted("word " * 100) == "word " * 100
