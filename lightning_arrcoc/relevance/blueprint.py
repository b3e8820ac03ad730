"""What a network of our own parts is built by, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from lightning_arrcoc.relevance.allocation import TokenAllocator
from lightning_arrcoc.relevance.balancing import AdaptiveTensions, FixedTensions
from lightning_arrcoc.relevance.knowing import Knowing
from lightning_arrcoc.relevance.realizer import RelevanceRealizer, build_realizer
from lightning_arrcoc.relevance.textures import TextureGenerator


@dataclass(frozen=True)
class Blueprint:
    """What a small network of ours is built by.

    Attributes:
        channels: names of the texture channels.
        scorers: names of those that are heard.
        adaptive: whether its tensions adapt.
        query_blind, coarse, temperature: as for `RelevanceRealizer` and `TokenAllocator`.
    """

    channels: tuple[str, ...]
    scorers: tuple[str, ...]
    adaptive: bool
    query_blind: bool = False
    coarse: bool = True
    temperature: float = 0.25

    def __call__(self, query_dim: int) -> RelevanceRealizer:
        """A fresh network.

        Raises:
            ValueError: there is no such channel or scorer.
        """
        return build_realizer(
            query_dim,
            texture=TextureGenerator(list(self.channels)),
            knowing=partial(Knowing, scorers=self.scorers),
            balancer=AdaptiveTensions if self.adaptive else FixedTensions(),
            allocator=TokenAllocator(coarse=self.coarse, temperature=self.temperature),
            query_blind=self.query_blind,
        )

    @classmethod
    def of(cls, network: RelevanceRealizer) -> Blueprint:
        """Read it off a network.

        Raises:
            ValueError: a part is not of our own kinds, which nobody could build anew.
        """
        texture, knowing, balancer = network.texture, network.knowing, network.balancer
        allocator = network.allocator
        for part, kinds in (
            (network, (RelevanceRealizer,)),
            (texture, (TextureGenerator,)),
            (knowing, (Knowing,)),
            (balancer, (AdaptiveTensions, FixedTensions)),
            (allocator, (TokenAllocator,)),
        ):
            if type(part) not in kinds:
                raise ValueError(
                    f"ARR-COC holds a {type(part).__name__}; expected "
                    f"{' or '.join(kind.__name__ for kind in kinds)}, since a folder tells how to "
                    "build our own parts alone. Save its state_dict and build it in your code."
                )
        assert isinstance(texture, TextureGenerator)
        assert isinstance(knowing, Knowing)
        return cls(
            tuple(channel.name for channel in texture.channels),
            knowing.scorers,
            isinstance(balancer, AdaptiveTensions),
            network.query_blind,
            allocator.coarse,
            allocator.temperature,
        )
