"""Families of sequence layers, found by file name (`s5c.lookup`): `model.name=NAME` takes `NAME.py`.

A family's module has

    Config                        a frozen dataclass below `ModelConfig`; its fields are the keys of its yaml
    Layer(config, state_dim)      the Flax module (b, l, h) -> (b, l, h); `state_dim` alone decides its shapes
    PARAMETERS                    its parameters by name, each with role and axis of states (`s5c.model.roles`)
    to_system(params, config)     the `DiagonalSSM` behind a layer; with a leading axis of channels if there is one each
    from_system(system, config)   the parameters of a system, float32; the inverse of `to_system` up to rounding
    accommodating(config, ...)    the configuration whose parameters can hold some systems
    macs_per_step(config, p)      multiply-accumulates per step of a layer with p stored states

A layer must be one linear, time-invariant system: a family whose system depends on its input (Mamba) cannot enter.
"""

from s5c.lookup import extended

__path__ = extended(__path__, __name__)

SURFACE = ("Config", "Layer", "PARAMETERS", "to_system", "from_system", "accommodating", "macs_per_step")
