"""transformers itself as an engine, for what no other carries: families that have no other engine, and adapters that cannot be
merged (a prefix, say). One child process a version; slower than llama.cpp on a CPU, and as exact as the trainer."""

from streams.errors import Invalid
from workers.engines import transformers_server
from workers.engines.protocol import ServesAsItIs
from workers.engines.server import OwnServer


class TransformersEngine(OwnServer, ServesAsItIs):
    """See `workers.engines.protocol.Engine`. The weights are served in fp32, as the golden prompts were asked; what is left between
    them is the order of sums."""

    package = "transformers"
    golden_tolerance = 0.01
    exam_engines = 1  # each holds the weights in fp32
    start_deadline_s = 300.0

    def start(self) -> None:
        folder = self.spec.model_dir
        if not any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json")):
            raise Invalid(f"{folder.name} has no model.safetensors")
        threads = str(self.spec.threads)
        self.run(
            transformers_server.__file__,
            folder,
            # Threads that spin while they wait slow another torch down ten times (measured).
            {
                "GOMP_SPINCOUNT": "0",
                "OMP_NUM_THREADS": threads,
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )


ENGINE = TransformersEngine
