"""llama.cpp's own server as an engine for CPUs: one child process a version, serving the directory's F16 GGUF."""

from pathlib import Path

from streams.errors import Invalid
from workers.cores import HEAVY_THREADS
from workers.engines import llamacpp_server
from workers.engines.protocol import EngineSpec
from workers.engines.server import OwnServer

MODEL_FILE = "model-f16.gguf"


class LlamaCppEngine(OwnServer):
    """See `workers.engines.protocol.Engine`. F16 keeps within 0.02 of fp32 as measured; 0.05 is asked."""

    package = "xllamacpp"
    golden_tolerance = 0.05
    exam_engines = HEAVY_THREADS
    """Each with one thread, since two threads of one wait for each other hundreds of times a token: the same 584 questions took two
    of them 0.82 of the time on two cores, as measured with 8 at a time each."""
    start_deadline_s = 120.0

    def __init__(self, spec: EngineSpec, key: str, model_file: Path | None = None) -> None:
        """`model_file`: another GGUF than the one in the model directory, to examine it."""
        super().__init__(spec, key)
        self.model_file = model_file or spec.model_dir / MODEL_FILE

    def start(self) -> None:
        if not self.model_file.is_file():
            raise Invalid(f"{self.spec.model_dir.name} has no {self.model_file.name}")
        self.run(llamacpp_server.__file__, self.model_file)

    @staticmethod
    def export(model_dir: Path, source: Path | None) -> None:
        from workers.models.gguf import export_gguf  # a host of engines writes no GGUF

        there = [] if source is None else sorted(source.glob("*.gguf"))
        export_gguf(model_dir, model_dir / MODEL_FILE, template_gguf=next(iter(there), None))

    @staticmethod
    def check(model_dir: Path) -> float:
        from workers.models.check import check_export  # which serves it by this engine

        return check_export(model_dir, model_dir / MODEL_FILE).golden.max_difference


ENGINE = LlamaCppEngine
