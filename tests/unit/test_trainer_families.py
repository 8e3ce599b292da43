"""Every family is trained as transformers and PEFT train it: loss and gradients of packed rows, and what is merged and written."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny_families
from tests.unit import trainer_tiny as tiny
from workers.trainer.loaded import load_tokenizer
from workers.trainer.lora import add_adapter
from workers.trainer.losses import label_loss
from workers.trainer.merge import write_merged
from workers.trainer.packed import PackedModel, check_forward
from workers.trainer.rows import encode_rows, pack, shared_prefix

CPU = torch.device("cpu")


@pytest.mark.parametrize("case", tiny_families.ALL)
def test_a_family_is_trained_merged_and_written_as_peft_does_it(case: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_families.write(tmp_path / "base", case)
    rows = encode_rows(load_tokenizer(base), tiny.rows(), 1024)
    prefix = shared_prefix(rows)
    packed = PackedModel(base, 0.5, torch.float32, CPU)
    assert check_forward(packed, rows, prefix) < 1e-6
    adapter = add_adapter(packed.model, packed.upper_layers(), tiny.RECIPE)
    generator = torch.Generator().manual_seed(1)
    for layer in adapter.layers.values():
        with torch.no_grad():  # B begins at zero, where A has no gradient
            layer.b.normal_(0, 0.1, generator=generator)

    together = pack(rows, prefix, CPU)
    loss = label_loss(packed.upper(packed.lower(together), together), packed.head, together.targets)
    named = adapter.parameters()
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))

    settings = LoraConfig(
        r=tiny.RECIPE.rank,
        lora_alpha=int(tiny.RECIPE.alpha),
        target_modules=sorted(adapter.layers),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    learning = dict(model.named_parameters())
    theirs = {name: learning[_of_peft(name)] for name in named}
    with torch.no_grad():
        for name, value in named.items():
            theirs[name].copy_(value)
    said = [model(torch.tensor([row.ids])).logits[0, row.answer_at - 1 : -1].log_softmax(-1) for row in rows]
    wanted = torch.tensor([token for row in rows for token in row.ids[row.answer_at :]])
    expected = torch.nn.functional.nll_loss(torch.cat(said), wanted)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for name, gradient in gradients.items():
        other = theirs[name].grad
        assert other is not None and float(other.abs().max()) > 0, name
        assert float((gradient - other).abs().max()) < 1e-4 * float(other.abs().max()) + 1e-6, name

    write_merged(base, {name: layer.delta() for name, layer in adapter.layers.items()}, tmp_path / "merged")
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        adapted = model(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
    assert float((merged - adapted).abs().max()) < 1e-3
    assert float((plain - adapted).abs().max()) > 0.1


def _of_peft(name: str) -> str:
    layer, _, which = name.rpartition(".")
    return f"base_model.model.{layer}.lora_{which.upper()}.default.weight"
