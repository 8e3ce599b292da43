"""What a training of the weights themselves takes of the memory, in bytes by part: stated before it begins."""

from pathlib import Path

from msgspec import Struct
from safetensors import safe_open

from streams.errors import Invalid
from workers.trainer.merge import weight_files

FP32 = 4


class ModelSize(Struct, frozen=True, kw_only=True):
    """What of a model its memory follows from. `learning`: how many of the `weights` learn; `layers`: so many of them are
    learned."""

    weights: int
    learning: int
    layers: int
    width: int
    inner: int  # of a layer's feed-forward part
    heads: int
    key_width: int  # of all key heads together
    vocabulary: int


class Memory(Struct, frozen=True):
    """Bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations

    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


def full_memory(size: ModelSize, tokens: int, longest: int) -> Memory:
    """Of a step in fp32 whose largest batch has `tokens` tokens, padding included, in rows of at most `longest`.

    Gradients are as large as what learns, AdamW's two moments twice that (Rajbhandari et al. 2020, arXiv 1910.02054, section 3.1,
    in fp32 throughout). Kept for the backward pass are of a token in each layer: what enters and leaves both norms, the attention
    and the feed-forward part (8 widths), queries and keys and values, four inner widths, and of each head the weights of
    attention twice (Korthikanti et al. 2022, arXiv 2205.05198, section 4.1, without dropout, every number in fp32); and of the
    output layer one slice of logits, twice.
    """
    per_token = 8 * size.width + size.width + 2 * size.key_width + 4 * size.inner + 2 * size.heads * longest
    logits = 2 * min(tokens, 128) * size.vocabulary
    return Memory(
        weights=FP32 * size.weights,
        gradients=FP32 * size.learning,
        optimizer=2 * FP32 * size.learning,
        activations=FP32 * (tokens * size.layers * per_token + logits),
    )


def size_of(folder: Path, config: dict[str, int], upper_layers: float) -> ModelSize:
    """Of the model in `folder`, by the headers of its files alone. `config`: as its config.json says. Raises Invalid for what that
    does not say."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    missing = [name for name in names if not isinstance(config.get(name), int)]
    if missing:
        raise Invalid(f"{folder.name}: its config.json says no {missing[0]}")
    count, width, inner, heads, vocabulary = (config[name] for name in names)
    layers = max(1, round(count * upper_layers))
    upper = tuple(f".layers.{number}." for number in range(count - layers, count))
    weights = learning = 0
    for file_name in weight_files(folder):
        with safe_open(folder / file_name, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                numbers = 1
                for length in file.get_slice(name).get_shape():
                    numbers *= length
                weights += numbers
                learning += numbers if layers == count or any(part in name for part in upper) else 0
    key_heads = config.get("num_key_value_heads") or heads
    return ModelSize(
        weights=weights,
        learning=learning,
        layers=layers,
        width=width,
        inner=inner,
        heads=heads,
        key_width=width // heads * key_heads,
        vocabulary=vocabulary,
    )


def check_room(memory: Memory, there: int) -> None:
    """Raise Invalid, naming the parts, if a machine with memory of `there` bytes can never do it."""
    if memory.total <= there:
        return
    named = sorted(memory.parts().items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {_gb(size)}" for name, size in named)
    raise Invalid(f"it would take {_gb(memory.total)} of memory ({parts}), and this machine has {_gb(there)}")


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
