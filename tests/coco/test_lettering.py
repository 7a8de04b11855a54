"""Class names of every script in pictures. Whatever fonts a machine has, these tests look at one of their own."""

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from coco import lettering
from coco.lettering import drawable_names, text_size, write

DEJAVU = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # no Chinese in it


@pytest.fixture
def fonts(monkeypatch):
    """Makes a machine whose only installed fonts are those given."""

    def use(*files, named=None):
        monkeypatch.setattr(lettering, "_installed", lambda: iter(map(str, files)))
        if named:
            monkeypatch.setenv("SSD_FONT", str(named))
        else:
            monkeypatch.delenv("SSD_FONT", raising=False)
        for cached in (lettering._files, lettering._file_with, lettering.drawable_names):
            cached.cache_clear()

    yield use
    for cached in (lettering._files, lettering._file_with, lettering.drawable_names):
        cached.cache_clear()


def drawn(text):
    picture = Image.new("L", (200, 40))
    write(ImageDraw.Draw(picture), (0, 0), text, 20, 255)
    return np.asarray(picture)


def test_letters_that_pillows_own_font_lacks_come_from_one_that_is_installed(fonts):
    fonts(DEJAVU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawable_names(("кот", "rose", "سيارة"), (1, 2, 3)) == ("кот", "rose", "سيارة")
    assert not np.array_equal(drawn("кот"), drawn("дом")) and drawn("кот").any()


def test_without_a_font_the_category_id_is_drawn_and_one_warning_names_the_class(fonts):
    fonts(DEJAVU)
    with pytest.warns(UserWarning, match=r"2 class name\(s\), 红色, 绿色: .*category id.*SSD_FONT") as told:
        assert drawable_names(("红色", "rose", "绿色"), (7, 8, 90)) == ("id 7", "rose", "id 90")
        drawable_names(("红色", "rose", "绿色"), (7, 8, 90))
    assert len(told) == 1


def test_a_font_that_is_named_is_used(fonts):
    fonts()
    with pytest.warns(UserWarning, match="кот"):
        assert drawable_names(("кот",), (1,)) == ("id 1",)
    fonts(named=DEJAVU)
    assert drawable_names(("кот",), (1,)) == ("кот",)


def test_a_named_file_that_is_no_font_is_left_out_with_a_warning(fonts, tmp_path):
    (tmp_path / "font.ttf").write_text("no font")
    fonts(DEJAVU, named=tmp_path / "font.ttf")
    with pytest.warns(UserWarning, match=r"SSD_FONT=.*font\.ttf"):
        assert drawable_names(("кот",), (1,)) == ("кот",)


def test_a_letter_that_no_font_has_is_a_question_mark_in_other_texts(fonts):
    fonts(DEJAVU)
    assert np.array_equal(drawn("a红b"), drawn("a?b"))


@pytest.mark.parametrize("text", ["", " ", "a\nb", "\x1b[31m", "\udce9", "\u202eabc", "e\u0301", "a" * 5000])
def test_any_text_is_drawn_on_one_line(fonts, text):
    fonts(DEJAVU)
    (name,) = drawable_names((text,), (1,))
    assert text_size(name, 20)[1] < 40 and text_size(name, 20)[0] < 1200
    drawn(name)


def test_letters_of_several_fonts_stand_on_one_line(fonts):
    fonts(DEJAVU)
    bottom = np.flatnonzero(drawn("aж").any(axis=1)).max()
    assert bottom == np.flatnonzero(drawn("a").any(axis=1)).max()
