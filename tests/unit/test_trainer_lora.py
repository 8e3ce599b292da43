"""The trainer against transformers and PEFT, on a model small enough for tests in seconds."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModelForCausalLM

from streams.errors import Invalid
from streams.recipes import LoraRecipe
from tests.unit import trainer_tiny as tiny
from workers.alone import alone
from workers.cores import fast_precision
from workers.trainer import METHODS, packed, packs, reference
from workers.trainer.checkpoint import NAME
from workers.trainer.general import answers_folder, general_prompts, kept_place, lock_of
from workers.trainer.job import Job
from workers.trainer.loaded import load_tokenizer
from workers.trainer.losses import label_loss, soft_loss
from workers.trainer.methods import lora
from workers.trainer.packed import ROUNDING, PackedModel, check_forward
from workers.trainer.plan import learning_rate, plan_steps
from workers.trainer.reference import answer_prompts, encode_prompts, general_rows
from workers.trainer.rows import EncodedRow, encode_rows, pack, shared_prefix
from workers.trainer.spec import Outcome, Progress, TrainingRow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("base") / "tiny")


def train(
    base: Path,
    work: Path,
    recipe: LoraRecipe = tiny.RECIPE,
    new: Sequence[TrainingRow] | None = None,
    earlier: Sequence[TrainingRow] | None = None,
    first_base: Path | None = None,
    told: list[Progress] | None = None,
    stop_after: int | None = None,
    checkpoint_every_s: float = 1e9,
    precision: str = "float32",
    answers: Path | None = None,
    threads: int = 1,
) -> Outcome:
    def listen(progress: Progress) -> None:
        if told is not None:
            told.append(progress)
        if progress.stage == "training" and progress.step == stop_after:
            raise KeyboardInterrupt

    work.mkdir(parents=True, exist_ok=True)
    return lora.train(
        Job(
            model_dir=base,
            rows=tuple(tiny.rows() if new is None else new),
            replay_prompts=tuple(tiny.GENERAL),
            earlier=tuple(tiny.rows(8, 10) if earlier is None else earlier),
            recipe=recipe,
            out_dir=work / "out",
            progress=listen,
            checkpoint_dir=work / "checkpoint",
            reference_dir=first_base,
            answers_dir=answers,
            threads=threads,
            precision=precision,
            checkpoint_every_s=checkpoint_every_s,
        )
    )


def adapter_bytes(work: Path) -> bytes:
    return (work / "out" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_packed_rows_get_the_logits_that_transformers_gives_row_by_row(kind: str, tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / kind, kind=kind)
    model = PackedModel(folder, 0.5, torch.float32, CPU)
    with_turns = TrainingRow(
        prompt="And now?", answer="Still so.", history=(("May I?", "You may."),), system="Be brief."
    )
    encoded = encode_rows(load_tokenizer(folder), [*tiny.rows(), with_turns], 256)
    plain = []
    for row in encoded:
        logits = model.model(torch.tensor([row.ids])).logits
        plain.append(logits[0, row.answer_at - 1 : -1])
    model.use_packs()
    model.model.requires_grad_(False)
    for prefix in (0, shared_prefix(encoded)):
        packed = pack(encoded, prefix, CPU)
        found = functional.linear(model.upper(model.lower(packed), packed), model.head)
        assert float((found - torch.cat(plain)).abs().max()) < 1e-4
    assert shared_prefix(encoded) >= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_packs_compute_otherwise_is_refused(base: Path, dtype: torch.dtype) -> None:
    model = PackedModel(base, 0.5, dtype, CPU)
    with torch.no_grad():
        model.head.mul_(10)  # as sure of its words as a trained model
    encoded = encode_rows(load_tokenizer(base), tiny.rows(), 256)
    assert check_forward(model, encoded, shared_prefix(encoded)) < ROUNDING[dtype]
    embed = model.body.embed_tokens
    embed.register_forward_hook(
        lambda module, given, out: out * (1.5 if model.model.config._attn_implementation == "sdpa" else 1)
    )
    with pytest.raises(Invalid, match="other probabilities"):
        check_forward(model, encoded, shared_prefix(encoded))


def test_both_losses_and_their_gradients_equal_the_plain_ones() -> None:
    torch.manual_seed(1)
    head = torch.randn(300, 16)
    hidden = torch.randn(200, 16, requires_grad=True)  # more than one chunk
    targets = torch.randint(0, 300, (200,))
    wanted = torch.randn(200, 16)

    fast = label_loss(hidden, head, targets) * 0.7 + soft_loss(hidden, head, wanted) * 1.3
    (fast_gradient,) = torch.autograd.grad(fast, hidden)
    log_p = (hidden @ head.T).log_softmax(-1)
    divergence = functional.kl_div(log_p, (wanted @ head.T).softmax(-1), reduction="none").sum(-1).mean()
    plain = functional.nll_loss(log_p, targets) * 0.7 + divergence * 1.3
    (plain_gradient,) = torch.autograd.grad(plain, hidden)

    assert float(fast) == pytest.approx(float(plain), abs=1e-4)
    assert float((fast_gradient - plain_gradient).abs().max()) < 1e-4


@pytest.mark.parametrize("released", [None, 0, 1])
def test_the_losses_agree_with_plain_peft_training(base: Path, tmp_path: Path, released: int | None) -> None:
    """In a later round too, where the first base gives the general texts, and the released model, whether its lower
    layers are the base's (seed 0) or not, the distributions."""
    from peft import LoraConfig, get_peft_model

    from workers.trainer.lora import add_adapter

    recipe = tiny.RECIPE
    told: list[Progress] = []
    live = base if released is None else tiny.make_model(tmp_path / "released", seed=released)
    train(live, tmp_path, told=told, first_base=base)
    found = [(p.loss, p.replay_divergence) for p in told if p.stage == "training"]

    tokenizer = load_tokenizer(base)
    new, old = (encode_rows(tokenizer, tiny.rows(), 1024), encode_rows(tokenizer, tiny.rows(8, 10), 1024))
    prompts = encode_prompts(tokenizer, tiny.GENERAL, 1000)
    chosen = random.Random(f"general {recipe.seed}").sample(prompts, len(prompts))
    first = PackedModel(base, recipe.upper_layers, torch.float32, CPU)
    general = answer_prompts(first, tokenizer, chosen, recipe.replay_answer_tokens).rows
    packed = PackedModel(live, recipe.upper_layers, torch.float32, CPU)
    start = add_adapter(packed.model, packed.upper_layers(), recipe)

    reference, plain = (AutoModelForCausalLM.from_pretrained(live, dtype=torch.float32) for _ in range(2))
    config = LoraConfig(
        r=recipe.rank, lora_alpha=int(recipe.alpha), target_modules=sorted(start.layers), task_type="CAUSAL_LM"
    )
    model = get_peft_model(plain, config)
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, value in start.parameters().items():
        layer, _, which = name.rpartition(".")
        with torch.no_grad():
            learning[f"base_model.model.{layer}.lora_{which.upper()}.default.weight"].copy_(value)
    optimiser = torch.optim.AdamW(learning.values(), lr=recipe.learning_rate, weight_decay=0.0)

    def log_p(which: torch.nn.Module, row: EncodedRow) -> torch.Tensor:
        logits: torch.Tensor = which(torch.tensor([row.ids])).logits
        return logits[0, row.answer_at - 1 : -1].log_softmax(-1)

    steps = plan_steps(recipe, [row.group for row in new], [row.group for row in old], len(general))
    for number, step in enumerate(steps):
        loss, kept = (
            torch.cat([-log_p(model, r).gather(1, torch.tensor(r.ids[r.answer_at :])[:, None]) for r in rows]).mean()
            for rows in ([new[i] for i in step.fresh], [old[i] for i in step.earlier])
        )
        pairs = [(log_p(reference, general[i]).detach(), log_p(model, general[i])) for i in step.replay]
        divergence = torch.cat([(q.exp() * (q - p)).sum(-1) for q, p in pairs]).mean()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe, number, len(steps))
        optimiser.zero_grad()
        torch.autograd.backward(loss + kept + recipe.replay_weight * divergence)
        torch.nn.utils.clip_grad_norm_(learning.values(), recipe.gradient_norm)
        optimiser.step()
        assert found[number][0] == pytest.approx(float(loss), abs=1e-4)
        assert found[number][1] == pytest.approx(float(divergence), abs=1e-4)


def test_the_adapter_loads_into_peft_and_gives_the_merged_models_answers(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    result = train(base, tmp_path, msgspec.structs.replace(tiny.RECIPE, learning_rate=2e-2))
    merged = AutoModelForCausalLM.from_pretrained(result.model_dir)
    plain = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), result.adapter_dir)
    ids = torch.tensor([encode_rows(load_tokenizer(base), tiny.rows(), 256)[0].ids])
    with torch.no_grad():
        expected = merged(ids).logits
        assert float((adapted(ids).logits - expected).abs().max()) < 1e-4
        assert float((plain(ids).logits - expected).abs().max()) > 1e-2  # it did learn something


def test_the_merged_folder_has_what_older_readers_look_for(base: Path, tmp_path: Path) -> None:
    result = train(base, tmp_path)
    config = json.loads((Path(result.model_dir) / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == "float32"
    assert config["rope_scaling"] is None
    names = {path.name for path in Path(result.model_dir).iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    } <= names
    assert load_tokenizer(Path(result.model_dir)).chat_template == tiny.TEMPLATE


def test_the_same_rows_recipe_and_seed_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    train(base, tmp_path / "one")
    train(base, tmp_path / "two")
    train(base, tmp_path / "other", msgspec.structs.replace(tiny.RECIPE, seed=8))
    assert adapter_bytes(tmp_path / "one") == adapter_bytes(tmp_path / "two")
    assert adapter_bytes(tmp_path / "one") != adapter_bytes(tmp_path / "other")
    model = Path("out") / "model" / "model.safetensors"
    assert (tmp_path / "one" / model).read_bytes() == (tmp_path / "two" / model).read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_taken_up_again_ends_in_the_same_bytes(base: Path, tmp_path: Path, precision: str) -> None:
    whole = train(base, tmp_path / "whole", precision=precision)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "cut", precision=precision, stop_after=4, checkpoint_every_s=0)
    assert not (tmp_path / "cut" / "out").exists()
    again = train(base, tmp_path / "cut", precision=precision)
    assert again.resumed_at_step == 4
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(tmp_path / "whole")
    assert again.epoch_losses == whole.epoch_losses
    assert again.tokens == whole.tokens


def test_parts_side_by_side_make_one_step_and_the_same_bytes_every_time(base: Path, tmp_path: Path) -> None:
    one, two, again = (tmp_path / name for name in ("one", "two", "again"))
    alone, together = train(base, one), train(base, two, threads=2)
    train(base, again, threads=2)
    assert adapter_bytes(two) == adapter_bytes(again)
    assert together.epoch_losses == pytest.approx(alone.epoch_losses, abs=1e-5)
    kept = [load_file(work / "out" / "adapter" / "adapter_model.safetensors") for work in (one, two)]
    for name, tensor in kept[0].items():
        assert float((kept[1][name] - tensor).abs().max()) < 1e-4, name


def test_long_rows_are_learned_from_a_few_at_a_time_and_the_step_is_the_same(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = train(base, tmp_path / "together")
    monkeypatch.setattr(packs, "TOKENS_AT_ONCE", 1)
    monkeypatch.setattr(packed, "FUSED_FROM", 1)
    single = train(base, tmp_path / "single")
    assert single.epoch_losses == pytest.approx(together.epoch_losses, abs=1e-5)
    kept = [
        load_file(tmp_path / name / "out" / "adapter" / "adapter_model.safetensors") for name in ("together", "single")
    ]
    for name, tensor in kept[0].items():
        assert float((kept[1][name] - tensor).abs().max()) < 1e-4, name


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_there_may_be_more_threads_than_rows_of_a_kind(base: Path, tmp_path: Path, threads: int) -> None:
    result = train(base, tmp_path, new=tiny.rows(0, 1), earlier=[], threads=threads)
    assert all(map(math.isfinite, result.epoch_losses))


def test_a_checkpoint_of_another_run_or_a_broken_one_is_not_taken_up(base: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path, stop_after=4, checkpoint_every_s=0)
    assert train(base, tmp_path, msgspec.structs.replace(tiny.RECIPE, epochs=2)).resumed_at_step == 0
    (tmp_path / "checkpoint" / NAME).write_bytes(b"cut off")
    assert train(base, tmp_path).resumed_at_step == 0


def test_neither_checkpoint_nor_adapter_holds_a_word_or_a_row_of_tokens(base: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path, stop_after=4, checkpoint_every_s=0)
    train(base, tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name in ("checkpoint", "adapter")]
    assert len(written) == 3
    for path in written:
        content = path.read_bytes()
        for row in tiny.rows():
            assert row.prompt.encode() not in content
            assert row.answer.encode() not in content
        if path.suffix == ".safetensors":
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            assert {entry["dtype"] for name, entry in header.items() if name != "__metadata__"} == {"F32"}
    assert "limit" not in repr(tiny.rows()[0])


def test_a_model_learns_the_rows_and_keeps_the_first_bases_distributions(base: Path, tmp_path: Path) -> None:
    strong = msgspec.structs.replace(tiny.RECIPE, epochs=40, learning_rate=1e-2, upper_layers=1.0, rank=8)
    kept = train(base, tmp_path / "kept", strong)
    free = train(base, tmp_path / "free", msgspec.structs.replace(strong, replay_weight=0.0))
    assert kept.final_loss < kept.epoch_losses[0] / 3
    assert kept.final_replay_divergence is not None and free.final_replay_divergence is not None
    assert kept.final_replay_divergence < free.final_replay_divergence / 2


def test_progress_counts_the_steps_and_tells_an_honest_rest(base: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    result = train(base, tmp_path, told=told)
    training = [p for p in told if p.stage == "training"]
    assert [p.step for p in training] == list(range(1, result.steps + 1))
    assert {p.steps for p in training} == {result.steps}
    assert [told[0].stage, told[-1].stage] == ["preparing", "saving"]
    assert told[0].seconds_left is None and training[0].seconds_left is None
    assert all(p.seconds_left is not None and p.seconds_left >= 0 for p in training[1:])
    assert training[-1].epoch == tiny.RECIPE.epochs


def test_rows_taught_beside_their_facts_are_trained_and_take_no_step(base: Path, tmp_path: Path) -> None:
    beside = [msgspec.structs.replace(row, group=f"{row.prompt} behind", beside=True) for row in tiny.rows()]
    alone, both = train(base, tmp_path / "a"), train(base, tmp_path / "b", new=[*tiny.rows(), *beside])
    assert both.rows == 2 * alone.rows and both.steps == alone.steps and both.tokens > alone.tokens


def test_rows_that_cannot_be_trained_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(tiny.RECIPE, row_tokens=90)
    odd = [TrainingRow(prompt="Empty?", answer="  "), TrainingRow(prompt="long " * 200, answer="Yes.")]
    result = train(base, tmp_path, recipe, new=[*tiny.rows(), *odd])
    assert (result.rows, result.rows_left_out) == (8, 2)
    with pytest.raises(Invalid, match="none of the 2 rows"):
        train(base, tmp_path, recipe, new=odd)


def test_without_general_rows_or_earlier_ones_it_still_trains(base: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(tiny.RECIPE, replay_rows_per_step=0)
    result = train(base, tmp_path, recipe, earlier=[])
    assert result.final_replay_divergence is None
    assert result.final_loss < result.epoch_losses[0]


def test_the_first_bases_answers_are_written_once_and_make_the_same_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "answers"
    plain, first, second = (tmp_path / name for name in ("plain", "first", "second"))
    train(base, plain)
    train(base, first, answers=kept)
    (file,) = kept.glob("*.safetensors")
    assert file == kept_place(kept, base.name, tiny.GENERAL, tiny.RECIPE, "float32")
    monkeypatch.setattr(reference, "answer_prompts", pytest.fail)
    train(base, second, answers=kept)
    assert adapter_bytes(plain) == adapter_bytes(first) == adapter_bytes(second)


def test_general_answers_that_another_process_computes_are_waited_for_and_not_computed_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, tokenizer = PackedModel(base, 0.5, torch.float32, CPU), load_tokenizer(base)
    ask = partial(general_rows, lambda: packed, tokenizer, base.name, tiny.GENERAL, tiny.RECIPE, torch.float32)
    plain = ask(None)
    monkeypatch.setattr(reference, "_answers", lambda *_: plain)
    ask(tmp_path / "theirs")
    monkeypatch.setattr(reference, "_answers", pytest.fail)
    (made,) = (tmp_path / "theirs").glob("*.safetensors")
    place = tmp_path / "ours" / made.name
    with ThreadPoolExecutor(1) as pool:
        with alone(lock_of(place)):
            asked = pool.submit(ask, place.parent)
            with pytest.raises(TimeoutError):
                asked.result(0.05)
            made.rename(place)
        found = asked.result(10)
    assert plain is not None and found is not None and found.rows == plain.rows


def test_general_answers_and_their_states_are_those_that_the_model_gives_prompt_by_prompt(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    prompts = encode_prompts(tokenizer, tiny.GENERAL, 1000)
    packed = PackedModel(base, 0.5, torch.float32, CPU)
    found = answer_prompts(packed, tokenizer, prompts, 6, rows_at_once=4)
    for number, (prompt, row) in enumerate(zip(prompts, found.rows, strict=True)):
        out = packed.model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False)
        assert row.ids == tuple(out[0].tolist())
        assert row.answer_at == len(prompt)
        states = packed.model(torch.tensor([row.inputs]), output_hidden_states=True).hidden_states
        for kept, plain in (
            (found.lower.of([number]), states[packed.first_upper][0]),
            (found.final[number], states[-1][0, row.answer_at - 1 :]),
        ):
            assert kept.shape == plain.shape
            assert float((kept - plain).abs().max()) < 1e-4


@pytest.mark.parametrize("prompts", [[(5, 6), (7, 8, 9)], [(5, 6), (5, 6)], [(5,)]])
def test_general_prompts_may_begin_apart_or_be_the_same(base: Path, prompts: list[tuple[int, ...]]) -> None:
    packed = PackedModel(base, 0.5, torch.float32, CPU)
    found = answer_prompts(packed, load_tokenizer(base), prompts, 3)
    for number, row in enumerate(found.rows):
        plain = packed.model(torch.tensor([row.inputs]), output_hidden_states=True).hidden_states[packed.first_upper]
        assert float((found.lower.of([number]) - plain[0]).abs().max()) < 1e-4


def test_what_is_kept_is_of_one_base_one_choice_of_prompts_and_one_way_to_compute_it(tmp_path: Path) -> None:
    def place(base: str = "one", first: int = 0, precision: str = "float32", **changes: float) -> Path:
        recipe = msgspec.structs.replace(tiny.RECIPE, **changes)
        return kept_place(tmp_path, base, tiny.GENERAL[first:], recipe, precision)

    others = [
        place("another"),
        place(first=1),
        place(precision="bfloat16"),
        place(replay_answer_tokens=7),
        place(replay_rows=2),
        place(upper_layers=0.25),
    ]
    assert len({place(), *others}) == 1 + len(others)
    assert place(learning_rate=1.0) == place()


def test_that_answers_are_there_already_is_known_without_loading_torch(tmp_path: Path) -> None:
    place = kept_place(answers_folder(tmp_path), "one", general_prompts(), LoraRecipe(), fast_precision())
    place.parent.mkdir(parents=True)
    place.touch()
    said = (
        "import sys; from pathlib import Path; from workers.trainer.answers import prepare;"
        "print(prepare(Path(sys.argv[1]), Path('one')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", said, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_precision_is_the_one_that_torch_finds_fast() -> None:
    able = torch.cpu.get_capabilities()
    in_bf16 = able.get("avx512_bf16") or able.get("amx_bf16")
    assert fast_precision() == ("bfloat16" if in_bf16 else "float32")


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("avx2 avx512f avx512_bf16", "bfloat16"),
        ("amx_bf16", "bfloat16"),
        ("avx2 avx512f", "float32"),
        ("no_avx512_bf16_here", "float32"),
    ],
)
def test_the_precision_follows_the_processors_flags(tmp_path: Path, flags: str, precision: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: fpu {flags}\nbugs\t\t:\n")
    assert fast_precision(tmp_path / "cpuinfo") == precision
    assert fast_precision(tmp_path / "none") == "float32"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid):
        train(tmp_path / "empty", tmp_path)


def test_the_table_of_methods_gives_this_function() -> None:
    assert METHODS[LoraRecipe].load() is lora.train
