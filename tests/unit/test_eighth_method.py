"""What it takes to add a method: a kind of recipe, a file, a row. Done here to a copy of the code, and trained by it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import streams
from tests.unit import trainer_tiny as tiny

HOUSE = Path(streams.__file__).parents[1]
METHOD = '''"""Norms: of the upper layers only what scales their states learns. There for a test."""

from streams.recipes import NormsRecipe
from workers.trainer.job import Job
from workers.trainer.learning import learn, machine
from workers.trainer.loaded import LoadedModel
from workers.trainer.merge import write_changed
from workers.trainer.spec import Outcome


def train(job: Job) -> Outcome:
    named = {}

    def insert(model: LoadedModel) -> dict:
        upper = tuple(model.upper_layers())
        for name, parameter in model.model.named_parameters():
            parameter.requires_grad_("layernorm" in name and name.startswith(upper))
            if parameter.requires_grad:
                named[name] = parameter
        return named

    with machine(job) as clock:
        learnt = learn(job, insert)
        write_changed(job.model_dir, named, job.out_dir / "model")
    return learnt.outcome(job, clock, job.out_dir / "model", job.out_dir / "model", "merged")
'''
RUN = """
import msgspec, sys
from streams.policy import Policy, check_policy
policy = msgspec.convert({"recipe": {"method": "norms", "upper_layers": 0.5}}, Policy)
policy.recipe.check_new(), policy.recipe.check()
from workers.trainer.child import main
sys.exit(main())
"""


def change(path: Path, old: str, new: str) -> None:
    words = path.read_text()
    assert words.count(old) == 1
    path.write_text(words.replace(old, new))


def test_an_eighth_method_is_a_kind_of_recipe_a_file_and_a_row(tmp_path: Path) -> None:
    for part in ("streams", "workers"):
        shutil.copytree(HOUSE / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    change(
        tmp_path / "streams" / "recipes.py",
        "Recipe = (\n    LoraRecipe\n",
        'class NormsRecipe(_Shared, frozen=True, kw_only=True, tag="norms"):\n'
        "    upper_layers: float = 1.0\n\n\n"
        "Recipe = (\n    NormsRecipe\n    | LoraRecipe\n",
    )
    (tmp_path / "workers" / "trainer" / "methods" / "norms.py").write_text(METHOD)
    table = tmp_path / "workers" / "trainer" / "__init__.py"
    change(
        table,
        "    LoraRecipe: Method(",
        '    NormsRecipe: Method("workers.trainer.methods.norms", "merged", 1.5),\n    LoraRecipe: Method(',
    )
    change(table, "    LoraRecipe,\n    Needs,", "    LoraRecipe,\n    Needs,\n    NormsRecipe,")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert sum(before.get(path) != content for path, content in after.items()) == 3

    base = tiny.make_model(tmp_path / "base")
    spec = {
        "model_dir": str(base),
        "rows": [{"prompt": row.prompt, "answer": row.answer} for row in tiny.rows()],
        "earlier": [],
        "replay_prompts": tiny.GENERAL,
        "recipe": {"method": "norms", "upper_layers": 0.5, "epochs": 2, "learning_rate": 0.02},
        "out_dir": str(tmp_path / "out"),
        "checkpoint_dir": str(tmp_path / "checkpoint"),
        "precision": "float32",
    }
    run = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        input=json.dumps(spec).encode(),
        capture_output=True,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, (lines[-1:], run.stderr[-2000:])
    assert lines[-1]["kind"] == "outcome" and lines[-1]["needs"] == "merged" and lines[-1]["steps"] == 2
    written = (tmp_path / "out" / "model" / "model.safetensors").read_bytes()
    assert written != (base / "model.safetensors").read_bytes()
