"""Checks that all options share."""


def require_choice(owner: object, name: str, choices: tuple) -> None:
    value = getattr(owner, name)
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}; choose one of {listed}.")


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
