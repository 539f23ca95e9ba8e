"""lm-eval with demur's model: `python -m demur.ecosystem.lm_eval run --model demur --model_args model=organism …`.

lm-eval finds models by a table of its own, which no entry point reaches; this adds one line to it. With
`from demur.ecosystem.lm_eval import register; register()`, `lm_eval.simple_evaluate(model="demur", …)` works too.
"""

from __future__ import annotations

MODEL = "demur"
TARGET = "demur.ecosystem.lm_eval_model:DemurLM"


def register() -> None:
    """Tell lm-eval where the model `demur` is; nothing is loaded before it is used."""
    import lm_eval.models  # noqa: F401  # fills the table
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target=TARGET)


def main() -> None:
    """Run lm-eval's own command line, with the model `demur` known to it.

    Raises:
        Unavailable: where lm-eval is not installed.
    """
    from demur.capability import require

    require()
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
