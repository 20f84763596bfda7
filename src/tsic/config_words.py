"""Keys of a configuration as words of a command line."""

from collections.abc import Sequence

from tsic.errors import ConfigError, nearest


def words_of(
    sections: Sequence[str], overrides: Sequence[str], but: tuple[str, ...] = ()
) -> list[str]:
    """Those overrides that are about some sections of a configuration.

    Args:
        sections: Names of sections.
        overrides: Words of a command line.
        but: Beginnings of keys that are left out all the same.
    """
    words = normalised(overrides)
    return [
        word
        for key, value in zip(words[::2], words[1::2], strict=True)
        if key[2:].partition(".")[0] in sections and not key[2:].startswith(but)
        for word in (key, value)
    ]


def normalised(words: Sequence[str]) -> list[str]:
    """Overrides as alternating ``--key`` and value, with underscores in keys.

    Raises:
        ConfigError: If a word is no key, or a key has no value.
    """
    flat: list[str] = []
    for word in words:
        if word.startswith("--") and len(flat) % 2 == 0:
            key, equals, value = word.partition("=")
            flat += ["--" + key[2:].replace("-", "_"), *([value] if equals else [])]
        elif len(flat) % 2 == 1:
            flat.append(word)
        else:
            raise ConfigError(
                f"'{word}' must follow a key such as --max_steps; quote lists: '[1,2]'"
            )
    if len(flat) % 2:
        raise ConfigError(f"{flat[-1]} must be followed by a value")
    return flat


_ELSEWHERE = {
    "backbone": "student.encoder",
    "epochs": "max_steps",
    "gpus": "trainer.devices",
    "iterations": "max_steps",
    "learning_rate": "optim.lr",
    "lora": "teacher.lora_rank",
}
"""What other tools call some keys, by the last part of the name."""


def near_key(key: str, known: Sequence[str]) -> str:
    """Ask whether the known key that is nearest to an unknown one was meant."""
    meant = _ELSEWHERE.get(key.rpartition(".")[2])
    if meant in known:
        return f"did you mean '{meant}'?"
    answer = nearest(key, known).split("? ")[0]
    return f"{answer}?" if answer.startswith("did you mean") else "nothing near it"
