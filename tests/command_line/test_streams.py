"""What the doors print is text: nothing in it, a name from a data set for one, commands the terminal."""

import subprocess
import sys


def printed(code: str) -> str:
    start = "import sys, warnings\nfrom command_line.streams import make_lasting\nmake_lasting()\n"
    return subprocess.run(
        [sys.executable, "-c", start + code], stderr=subprocess.STDOUT, stdout=subprocess.PIPE
    ).stdout.decode()


def test_control_characters_are_written_out_on_both_streams():
    for stream in ("stdout", "stderr"):
        text = printed(rf"print('a\x1b]0;owned\x07\x1b[2J\u202eb\ud800犬', file=sys.{stream})")
        assert text == "a\\x1b]0;owned\\x07\\x1b[2J\\u202eb\\ud800犬\n"


def test_a_warning_has_no_control_character_at_all():
    text = printed(r"warnings.warn('a\x1b[31m\rb')")
    assert "UserWarning: a\\x1b[31m\\rb" in text and "\x1b" not in text


def test_progress_bars_and_colours_work():
    bar = r"'\r\x1b[A\x1b[2K\x1b[32m 50%\x1b[0m\x1b[?25l\n\t'"
    assert printed(f"sys.stderr.write({bar})") == eval(bar)
