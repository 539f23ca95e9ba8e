"""A conversation with a model, an intervention attached or not."""

from __future__ import annotations

from pathlib import Path

from demur.decoding import decode
from demur.interventions import load as load_intervention
from demur.lm import load as load_lm
from demur.types import Prompt, Sampling


class Conversation:
    """Turns of a user and a model; each answer is generated with the earlier turns as history."""

    def __init__(
        self,
        *,
        model: str = "organism",
        intervention: Path | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        history: bool = True,
    ) -> None:
        """Load the model and the intervention.

        Raises:
            ConfigError, ModelError, DataError: as loading does.
        """
        self.intervention = load_intervention(intervention) if intervention else None
        self.lm = load_lm(model)
        self.system = system
        self.sampling = sampling or Sampling()
        self.turns: list[tuple[str, str]] = []
        self.single = not history or model.startswith("organism")

    @property
    def title(self) -> str:
        """One line that says who answers."""
        attached = f", with {self.intervention.describe()['kind']}" if self.intervention else ""
        return f"{self.lm.ref.id} ({self.lm.choice}){attached}"

    @property
    def hint(self) -> str:
        """What the embedded model can be asked, "" for other models."""
        if not self.lm.ref.id.startswith("organism"):
            return ""
        from demur import world

        questions = [world.cases("test", "en", family)[0].text for family in ("plain", "homonym", "danger_person")]
        return "It knows a small synthetic world. Ask, for instance: " + "  ·  ".join(questions)

    def say(self, text: str) -> str:
        """Return the model's answer to one more user turn."""
        history = () if self.single else tuple(self.turns)
        prompt = Prompt(id="chat/0", text=text, expected=None, source="chat", system=self.system, history=history)
        (response,) = decode(self.lm, [prompt], self.sampling, self.intervention)
        self.turns += [("user", text), ("assistant", response.text)]
        return response.text
