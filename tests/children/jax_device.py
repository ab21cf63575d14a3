"""Assert that the JAX peers compute in float32 on their device: ``python -m tests.children.jax_device``.

JAX's defaults are set to another device and precision. It needs two CPU devices, which ``XLA_FLAGS`` sets.
"""

import jax
import torch

from benchmarks.peers import Jax, JaxVmap
from simplenet import SimpleNet, xor

if __name__ == "__main__":
    first, second = jax.devices("cpu")
    jax.config.update("jax_default_device", second)  # as with a GPU, which is the default where there is one
    jax.config.update("jax_default_matmul_precision", "bfloat16")  # as TF32 may be
    take = Jax(SimpleNet(), *xor(), scan=False)
    many = JaxVmap(torch.zeros(3, 17), *xor())
    take()
    take.write(take.read())
    results = jax.tree.leaves((take.p, take.state, take.one(take.p, take.state), many.train(many.start, 1)))
    assert {device for result in results for device in result.devices()} == {first}, "a result is on JAX's default"
    for step in (jax.make_jaxpr(take.one)(take.p, take.state), jax.make_jaxpr(many.train, 1)(many.start, 1)):
        products, exact = (str(step).count(text) for text in ("dot_general[", "(Precision.HIGHEST, Precision.HIGHEST)"))
        assert products == exact > 0, f"{exact} of {products} products are in float32"
