"""The model `demur` of lm-eval: any model that demur loads, with a saved intervention."""

from __future__ import annotations

from pathlib import Path

import torch

from demur.generators.local import Local
from demur.harness import Harness
from demur.interventions import load

EXTRA = "eval"


class DemurLM(Harness):
    """`--model demur --model_args model=organism,intervention=FOLDER`; also `revision`, `dtype`.

    lm-eval's `--device` holds where there is a GPU.
    """

    def __init__(
        self,
        model: str = "organism",
        intervention: str = "",
        revision: str = "",
        dtype: str = "auto",
        device: str | None = None,
        batch_size: object = None,
        max_batch_size: object = None,
    ) -> None:
        """Load the model and the intervention; demur makes its batches by their tokens, whatever lm-eval says.

        Raises:
            NotFound, ConfigError: for a model that is not there, or an intervention that words prompts anew;
                DataError: for a folder that holds no intervention.
        """
        named = device or "auto"
        if named.startswith("cuda") and not torch.cuda.is_available():
            named = "auto"  # lm-eval says cuda:0 where its user says nothing
        lm = Local(model=model, revision=revision, dtype=dtype, device=named).lm()
        super().__init__(lm, lm.plan_of(load(Path(intervention)) if intervention else None))
