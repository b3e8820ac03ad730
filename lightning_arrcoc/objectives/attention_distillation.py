"""Look where the backbone's attention goes."""

from __future__ import annotations

from lightning_arrcoc.objectives.attribution_distillation import AttributionDistillation
from lightning_arrcoc.objectives.tension_reward import TensionReward
from lightning_arrcoc.vlm.attention_mass import attend_answers


class AttentionDistillation(AttributionDistillation):
    """Teach ARR-COC to look where the frozen backbone's attention goes: a cheaper target.

    As `AttributionDistillation` in all else: arguments, what is logged, what is learned; but every
    turn sees all tokens, unless `faded_turns` says otherwise. No backward pass is needed, but
    attention is computed in the open, which takes memory that grows with the square of the
    sequence. Attention also rests on tokens that nothing is read from.
    """

    shares_of = staticmethod(attend_answers)

    def __init__(
        self,
        accuracy_every: int = 10,
        tensions: TensionReward | None = None,
        faded_turns: float = 0.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(accuracy_every, tensions, faded_turns, seed)
