"""A small file of YAML costs little, and is read as jsonargparse reads it."""

import pytest
import yaml

from command_line.config_text import MAX_VALUES, load_text
from command_line.fit_cli import FitCLI
from command_line.shared import UsageError


def aliases(first: str, line: str, levels: int) -> str:
    lines = [f"a0: &a0 {first}", *(line.format(i=i, before=i - 1) for i in range(1, levels))]
    return "\n".join(lines) + f"\ntrainer: {{callbacks: *a{levels - 1}}}\n"


TOO_MUCH = {
    "lists of lists": (aliases("[x, x, x]", "a{i}: &a{i} [*a{before}, *a{before}, *a{before}]", 30), "1000 values"),
    "merged keys": (aliases("{x: 1}", "a{i}: &a{i} {{<<: [*a{before}, *a{before}], k{i}: 1}}", 40), "1000 values"),
    "within itself": ("trainer: {callbacks: &a [*a]}\n", "within what it names"),
    "a long chain": (aliases("[x]", "a{i}: &a{i} [*a{before}]", 40), "30 deep"),
    "many": (f"trainer: {{callbacks: [{'x, ' * MAX_VALUES}]}}\n", "1000 values"),
    "deep": (f"trainer: {{callbacks: {'[' * 200}{']' * 200}}}\n", "30 deep"),
    "deeper than the parser of YAML goes": (f"trainer: {{callbacks: {'[' * 10**5}}}\n", "nesting|deep"),
    "long": (f"# {'x' * 2**20}\n", "characters"),
    "longer than is read": (f"# {'x' * 5 * 2**20}\n", "bytes"),
    "a number of many digits": (f"trainer: {{max_epochs: {'9' * 5000}}}\n", "digits"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_configuration_that_stands_for_too_much_is_refused_by_its_name(tmp_path, name):
    text, told = TOO_MUCH[name]
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=told) as refused:
        FitCLI(["--config", str(tmp_path / "c.yaml")])
    assert "c.yaml" in str(refused.value) or "Problems parsing config" in str(refused.value)


def test_so_is_a_file_that_it_names_and_a_value_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TOO_MUCH["lists of lists"][0]
    (tmp_path / "more.yaml").write_text(text)
    for value in ("more.yaml", text):
        with pytest.raises(UsageError, match="more than 1000 values"):
            FitCLI(["--trainer.callbacks", value])


def test_values_are_those_of_jsonargparse():
    assert load_text("{a: 1e-3, b: [yes, 2020-01-01], c: &x {d: null}, e: *x}") == {
        **{"a": 0.001, "b": [True, "2020-01-01"], "c": {"d": None}, "e": {"d": None}}
    }
    with pytest.raises(yaml.YAMLError):
        load_text("[")
