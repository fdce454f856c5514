"""What is measured is measured on these: the parameters of well-known models, as shapes alone."""

import jax
import jax.numpy as jnp


def abstract(shapes, dtype):
    """A tree of arrays that take no memory, from a tree of shapes."""
    is_shape = lambda x: isinstance(x, tuple)
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, is_leaf=is_shape)


def dense(n, m):
    return {"w": (n, m), "b": (m,)}


def norm(n):
    return {"scale": (n,), "bias": (n,)}


def convolution(size, n, m):
    """A convolution without a bias, and the batch norm that follows it."""
    return {"w": (size, size, n, m), "norm": norm(m)}


def block(width):
    """One of a transformer: attention, and a perceptron four times as wide."""
    return {
        "attention": {"norm": norm(width), "qkv": dense(width, 3 * width), "out": dense(width, width)},
        "mlp": {"norm": norm(width), "in": dense(width, 4 * width), "out": dense(4 * width, width)},
    }


def gpt2(dtype=jnp.float32):
    """GPT-2 small: 148 leaves, 124.4M parameters; the output shares the token embedding."""
    blocks = {f"block{i:02}": block(768) for i in range(12)}
    return abstract({"token": (50257, 768), "position": (1024, 768), "norm": norm(768), **blocks}, dtype)


def vit_b16(dtype=jnp.float32):
    """ViT-B/16 for 1,000 classes at 224 pixels: 152 leaves, 86.6M parameters."""
    ends = {"class": (1, 1, 768), "position": (1, 197, 768), "norm": norm(768), "head": dense(768, 1000)}
    patches = {"w": (16, 16, 3, 768), "b": (768,)}
    blocks = {f"block{i:02}": block(768) for i in range(12)}
    return abstract({**ends, "patches": patches, **blocks}, dtype)


def resnet50(dtype=jnp.float32):
    """ResNet-50 for 1,000 classes: 161 leaves, 25.6M parameters."""
    shapes, n = {"stem": convolution(7, 3, 64), "head": dense(2048, 1000)}, 64
    for stage, (depth, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for i in range(depth):
            layers = [
                convolution(1, n, width),
                convolution(3, width, width),
                convolution(1, width, 4 * width),
            ]
            layers += [convolution(1, n, 4 * width)] if i == 0 else []
            shapes[f"stage{stage}block{i}"] = layers
            n = 4 * width
    return abstract(shapes, dtype)


def llama_7b(dtype=jnp.float32):
    """LLaMA-7B: 6.74B parameters in 12 leaves, as its 32 layers are stacked along the first axis."""
    attention = dict.fromkeys(["q", "k", "v", "out"], (32, 4096, 4096))
    mlp = {"gate": (32, 4096, 11008), "in": (32, 4096, 11008), "out": (32, 11008, 4096)}
    norms = {"attention": (32, 4096), "mlp": (32, 4096)}
    ends = {"token": (32000, 4096), "norm": (4096,), "head": (4096, 32000)}
    return abstract({**ends, "layers": {"attention": attention, "mlp": mlp, "norm": norms}}, dtype)


def small(n, size=256, dtype=jnp.float32):
    """`n` vectors of `size` elements."""
    return abstract({f"w{i:04}": (size,) for i in range(n)}, dtype)


def one_large(size, dtype=jnp.float32):
    """One vector of `size` elements."""
    return abstract({"w": (size,)}, dtype)
