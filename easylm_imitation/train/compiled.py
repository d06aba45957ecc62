"""The step compiled before the first batch: what it takes of a device's memory is said, and too much has a cure."""
from typing import Any

import jax
from jax.sharding import Mesh

from easylm_imitation import console
from easylm_imitation.schema import UserError
from easylm_imitation.train.state import TrainState, bytes_per_device
from easylm_imitation.train.step import Step

_COMPARED_AT = 3    # updates: by then the first is done, as its scalars have been read


class CompiledStep:
    """A step for one mesh and one shape of batch; called as the step is."""

    def __init__(self, step: Step, state: TrainState, batch: Any, beside: tuple[Any, ...], mesh: Mesh) -> None:
        """`state`, `batch`: abstract, with shardings; `beside`: what the step takes behind them.

        Raises UserError when the compiler finds that it does not fit."""
        self._device = next(d for d in mesh.devices.flat if d.process_index == jax.process_index())
        try:
            self._run = step.lower(state, batch, *beside).compile()
        except jax.errors.JaxRuntimeError as error:
            if any(words in str(error) for words in ("compile option", "fusion for AllReduce")):
                raise UserError(f"overlap_sums=true is for TPU v5e: the compiler of a {self._device.device_kind} "
                                f"refuses it ({_first_line(error)}); leave it out") from None
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise UserError(f"the step does not fit into the memory of a {self._device.device_kind} "
                            f"({_first_line(error)}); raise accumulate, take remat=full or a smaller loss_chunk, lower "
                            "data.batch, or spread it over more devices with --mesh") from None
        self.planned = self._say_plan(state, beside)    # bytes a device needs at most
        self._calls = 0

    def __call__(self, *arguments: Any) -> tuple:
        """One update."""
        self._calls += 1
        if self._calls == _COMPARED_AT:
            self._compare()
        return self._run(*arguments)

    def _compare(self) -> None:
        """Says what the device really held at most, where it keeps count (CPUs do not)."""
        held = (self._device.memory_stats() or {}).get("peak_bytes_in_use")
        if held:
            console.say(f"memory a device: at most {_mega(held)} in use so far, {held / self.planned:.2f} of the plan")

    def _say_plan(self, state: TrainState, beside: tuple[Any, ...]) -> int:
        """Bytes a device needs at most, as the compiler says."""
        found = self._run.memory_analysis()
        whole = (found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
                 + found.temp_size_in_bytes + found.generated_code_size_in_bytes)
        weights, optimizer, frozen = map(bytes_per_device, (state.params, state.optimizer, beside))
        limit = (self._device.memory_stats() or {}).get("bytes_limit")
        rest = whole - weights - optimizer - frozen
        others = f"what is not trained {_mega(frozen)}, " if frozen else ""
        console.say(f"memory a device: weights {_mega(weights)}, optimizer {_mega(optimizer)}, {others}all else "
                    f"(gradients, activations, batch) {_mega(rest)}; together {_mega(whole)}"
                    + (f" of {_mega(limit)}" if limit else ""))
        return whole


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
